"""Whether a new model takes the champion's place.

With labelled images both models score them, and the newcomer's image AUROC may lie below the
champion's by no more than `MARGIN`. Without labels, images that neither was trained on stand in:
defects are drawn on them, the same for both, and the pictures as they are count the false calls. A
category's first model has nobody to beat and is measured all the same.
"""

from mrkd.gate.trial import MIN_SHARED
from mrkd.gate.verdict import MARGIN, Verdict, judge

__all__ = ["MARGIN", "MIN_SHARED", "Verdict", "judge"]
