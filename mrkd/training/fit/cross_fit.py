"""Cell Gaussians of all good images, and of all but each fold: fitted together, from sums.

An image that is scored by the Gaussians of the other folds is scored as tomorrow's images will be,
and yet the model holds all images.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mrkd.model.cell_gaussian import GRIDS, CellGaussian, Grid, Sums
from mrkd.model.ensemble import Ensemble
from mrkd.model.feature_cache import TeacherFeatures

Labels = NDArray[np.int64]
_State = Mapping[str, Tensor]


class CrossFit:
    """Fits an ensemble's cells, and keeps the cells that leave out each fold.

    Args:
        model: ensemble on its teacher's device; its student, if any, is trained.
        features: features of the good images' squares.
        folds: int64 `[N]`, the fold of each square.
        known: the squares to fit to, with no fold left out; None: all, in folds.
        seed: seed of the projections.
        grids: grids that are fitted.

    Attributes:
        has_folds: whether cells without each fold are kept.
        folds: numbers of the folds.
    """

    def __init__(
        self,
        model: Ensemble,
        features: TeacherFeatures,
        folds: Labels,
        *,
        seed: int,
        known: Labels | None = None,
        grids: Sequence[Grid] = GRIDS,
    ) -> None:
        self.model, self.features = model, features
        self.folds: list[int] = np.unique(folds).tolist()
        self.has_folds = known is None and len(self.folds) > 1
        fitted = features if known is None else features.of(known)
        model.set_feature_statistics(fitted.statistics(roi=model.all_level_roi))
        parts = {0: fitted}
        if self.has_folds:
            parts = {n: features.of(np.flatnonzero(folds == n)) for n in self.folds}
        self._without: dict[int, dict[str, _State]] = {n: {} for n in parts if self.has_folds}
        for grid in grids:
            cells = model.grid(grid.name)
            cells.draw_projection(seed)
            self._fit(cells, parts)

    @torch.inference_mode()
    def _fit(self, cells: CellGaussian, parts: Mapping[int, TeacherFeatures]) -> None:
        own = {n: Sums.over(cells, self._seen(part)) for n, part in parts.items()}
        total = functools.reduce(Sums.plus, own.values())
        for n, sums in own.items() if self.has_folds else ():
            cells.fit(total.plus(sums, sign=-1))
            # A whitening holds float16 numbers: half the memory for so many of them.
            self._without[n][cells.grid.name] = {
                "count": cells.count.clone(),
                "mean": cells.mean.clone(),
                "whitening": cells.whitening.half(),
            }
        cells.fit(total)

    def _seen(self, part: TeacherFeatures) -> Iterator[Sequence[Tensor]]:
        return (self.model.normalise(levels) for levels in part.batches())

    @torch.inference_mode()
    def without(self, fold: int) -> Ensemble:
        """The model with the cells that leave out a fold of `folds`."""
        cells = nn.ModuleDict()
        for name, state in self._without[fold].items():
            cells[name] = copy.deepcopy(self.model.grid(name))
            cells[name].load_state_dict(state, strict=False)
        return self.model.with_cells(cells)
