"""Tables of trained models: the arms of a protocol or an ablation, their figures and differences.

An arm is a config under some values, trained on every category with every seed: each of these is a
run. Arms of several tables that come to the same config share their runs.
"""

from mrkd.evaluation.ablation.store import STUDY_VERSION, Run, Study, images_of, inputs_of
from mrkd.evaluation.ablation.tables import outcome
from mrkd.evaluation.ablation.variants import Variant, runs_of, tables_of

__all__ = [
    "STUDY_VERSION",
    "Run",
    "Study",
    "Variant",
    "images_of",
    "inputs_of",
    "outcome",
    "runs_of",
    "tables_of",
]
