"""Tables of trained models: what each arm of a protocol or an ablation is, does and differs by.

An arm is a config under some values, trained on every category with every seed: each of these is a
run. Arms of several tables that come to the same config share their runs.
"""

from mrkd.evaluation.ablation.statistics import SAME, difference, mean, words
from mrkd.evaluation.ablation.store import STUDY_VERSION, Run, Study, images_of, inputs_of
from mrkd.evaluation.ablation.tables import Outcome, outcome
from mrkd.evaluation.ablation.variants import Table, Variant, runs_of, tables_of

__all__ = [
    "SAME",
    "STUDY_VERSION",
    "Outcome",
    "Run",
    "Study",
    "Table",
    "Variant",
    "difference",
    "images_of",
    "inputs_of",
    "mean",
    "outcome",
    "runs_of",
    "tables_of",
    "words",
]
