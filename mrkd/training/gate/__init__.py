"""Decision whether a new model replaces the champion.

With labelled images both models score them, and the new model's image AUROC may lie below the
champion's by no more than `MARGIN`; nor may it call far more of the good ones than its calibration
promises, and more than the champion. Without labels the gate uses good images that neither student
was trained on, and that the cells of both unlearn before they score them: equal defects are drawn
on them for both. A category's first model has no rival and is measured all the same.
"""

from mrkd.training.gate.decision import judge

__all__ = ["judge"]
