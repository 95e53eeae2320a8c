"""Whether a new model takes the champion's place.

With labelled images both models score them, and the newcomer's image AUROC may lie below the
champion's by no more than `MARGIN`; nor may it call far more of the good ones than its calibration
promises, and more than the champion. Without labels good images stand in that neither student was
trained on, and that the cells of both unlearn before they judge: defects are drawn on them, the
same for both. A category's first model has nobody to beat and is measured all the same.
"""

from mrkd.training.gate.compare_models import MIN_SHARED
from mrkd.training.gate.decision import MARGIN, GateDecision, judge

__all__ = ["MARGIN", "MIN_SHARED", "GateDecision", "judge"]
