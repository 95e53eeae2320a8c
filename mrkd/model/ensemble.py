"""The student and the cell Gaussians as one detector.

Each has a score of its own; mean and spread of good parts' scores bring them to one scale, on which
they are added. The map is the sum of the student's and the fine grid's, scaled in the same way.

An image that is anomalous everywhere, a dead camera's or one out of focus, has a mean far above
any good part's: its excess over the bound of good parts is added too. No part of a score falls when
a cell becomes more anomalous.

Source: measured on 17 real sets (tests/bench/LOG.md); sum, maximum and product of p-values are
level.

Shape letters: B batch, K maps, D detectors, H W the input's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from mrkd.config import ModelConfig
from mrkd.data import images
from mrkd.data.roi import Roi
from mrkd.model import anomaly_map, mrkd
from mrkd.model.cell_gaussian import GRIDS, SCORED, CellGaussian, packed, unpacked
from mrkd.model.detector import Joined, TeacherModel
from mrkd.model.feature_pairs import FeaturePairs, inside
from mrkd.model.mrkd import MRKD
from mrkd.model.tails import tail_limit
from mrkd.model.teacher import Teacher

STUDENT, FINE = "student", "fine"

_WHOLE_RATE = 0.001
"""Share of good images that may count as anomalous everywhere."""
_LEAST_SPREAD = 0.05
"""Least spread of a score, as a share of its mean; of 17 real sets none has less than 0.08."""


class Normalised(NamedTuple):
    """Features and distances of a batch, which the detectors' maps are made of.

    Args:
        pairs: feature pairs of the student; None where there is none.
        distances: distance map of each grid, float32 `[B, h, w]`.
    """

    pairs: FeaturePairs | None
    distances: Mapping[str, Tensor]


class Ensemble(TeacherModel):
    """A `detector.Detector` of a student, if there is one, and cell Gaussians; errors as its base.

    Args:
        config: the model's configuration; `cells` is on.
        student: a student with this config, teacher and region; None: cells alone.

    Attributes:
        detectors: names of those that are scored.
        names: names of the maps, in the order of `maps`.
    """

    # Cells are fitted to features kept in float16: smaller variations would be rounding noise.
    least_variation = 0.01
    score_mean: Tensor
    score_std: Tensor
    whole_bound: Tensor
    whole_std: Tensor
    map_mean: Tensor
    map_std: Tensor

    def __init__(
        self,
        config: ModelConfig,
        teacher: Teacher,
        roi: Roi | None = None,
        student: MRKD | None = None,
    ) -> None:
        super().__init__(config, teacher, roi)
        self._known: Mapping[str, Tensor] = {}
        self.student = student
        self.cells = nn.ModuleDict(
            {
                grid.name: CellGaussian(
                    grid, teacher.channels, teacher.strides, config.image_size, self.pixel_roi
                )
                for grid in GRIDS
            }
        )
        own = (STUDENT,) if self.student else ()
        self.detectors, self.names = own + SCORED, (*own, *SCORED, FINE)
        sizes = len(self.detectors), len(SCORED), len(own) + 1
        for centre, size in zip(("score_mean", "whole_bound", "map_mean"), sizes, strict=True):
            self.register_buffer(centre, torch.zeros(size))
            self.register_buffer(f"{centre.partition('_')[0]}_std", torch.ones(size))

    def grid(self, name: str) -> CellGaussian:
        """The Gaussians of a grid."""
        found = self.cells[name]
        assert isinstance(found, CellGaussian)
        return found

    @torch.no_grad()
    def forward(self, images_B3HW: Tensor) -> Normalised:
        """float32 `[B, 3, H, W]`, normalised for the teacher, to features and distances."""
        return self.from_features(self.teacher_features(images_B3HW))

    def from_features(self, levels: Sequence[Tensor]) -> Normalised:
        """Features and distances from the teacher's raw features, all levels."""
        pairs = self.student.pairs(levels) if self.student else None
        distances = {}
        # Under a caller's autocast the student alone runs in fewer digits.
        with torch.autocast(levels[0].device.type, enabled=False):
            seen = self.normalise(levels)
            for grid in GRIDS:
                cells = self.grid(grid.name)
                away = cells.deviations(seen)
                known = self._known.get(grid.name)
                distances[grid.name] = cells.distances(away, known_PBD=known)
        return Normalised(pairs, distances)

    def unlearn(self, image_1HW3: Tensor) -> Self:
        """This model as if its cells had been fitted without one of their good images.

        Args:
            image_1HW3: that image, uint8 `[1, S, S, 3]` at the model's size and on its device.
        """
        tensor = images.to_tensor(image_1HW3, self.teacher.normalisation)
        seen = self.normalise(self.teacher_features(tensor))
        other = copy.copy(self)
        other._known = {grid.name: self.grid(grid.name).deviations(seen) for grid in GRIDS}
        return other

    def maps(self, found: Normalised) -> Tensor:
        """Each detector's smoothed map at input size, in the order of `names`: `[B, K, H, W]`."""
        own = []
        if self.student is not None and found.pairs is not None:
            own.append(self.student.maps(found.pairs))
        own += [self.smoothed(name, found.distances[name]) for name in (*SCORED, FINE)]
        return torch.cat(own, 1)

    def smoothed(self, name: str, distances_Bhw: Tensor) -> Tensor:
        """A grid's distances as a map at input size: float32 `[B, 1, H, W]`."""
        size, region = self.config.image_size, self.grid(name).cells_roi
        return anomaly_map.anomaly_map(
            [distances_Bhw],
            size=(size, size),
            roi=None if region is None else [region],
            sigma=self.config.smooth * size / 256,
            pixel_roi=self.pixel_roi,
        )

    def raw_scores(self, maps_BKHW: Tensor) -> Tensor:
        """The score of each detector's map by itself: float32 `[B, D + 2]`.

        The mean of the highest share of each scored map and, of the cells' maps, the mean.
        """
        tops = [self._top(maps_BKHW[:, n : n + 1]) for n in range(len(self.detectors))]
        cells = maps_BKHW[:, [self.names.index(name) for name in SCORED]]
        return torch.cat([torch.stack(tops, 1), inside(cells, self.pixel_roi).mean(2)], 1)

    def cell_scores(self, levels: Sequence[Tensor]) -> Tensor:
        """Each scored grid's part of `raw_scores` from the teacher's raw features: `[B, G]`."""
        seen = self.normalise(levels)
        maps = [self.smoothed(name, self.grid(name)(seen)) for name in SCORED]
        return torch.stack([self._top(map_B1HW) for map_B1HW in maps], 1)

    def _top(self, map_B1HW: Tensor) -> Tensor:
        return anomaly_map.image_score(
            map_B1HW,
            rule=self.config.image_score,
            top_share=self.config.top_share,
            roi=self.pixel_roi,
        )

    def join(self, maps_BKHW: Tensor, found: Normalised | None = None) -> Joined:
        """The joint map, and the joint score."""
        shown = maps_BKHW[:, self.shown]
        size = (1, -1, 1, 1)
        joint = ((shown - self.map_mean.view(size)) / self.map_std.view(size)).sum(1)
        if self.pixel_roi is not None:
            joint = joint * self.pixel_roi
        raw = self.raw_scores(maps_BKHW)
        return Joined(joint, self.joint_score(raw), raw)

    @property
    def shown(self) -> list[int]:
        """Indices of the maps that make the joint one."""
        return [n for n, name in enumerate(self.names) if name in (STUDENT, FINE)]

    def joint_score(self, raw_BS: Tensor) -> Tensor:
        """`raw_scores` as one: float32 `[B]`."""
        tops, means = raw_BS.split([len(self.detectors), len(SCORED)], 1)
        joint: Tensor = ((tops - self.score_mean) / self.score_std).sum(1)
        joint += ((means - self.whole_bound) / self.whole_std).clamp_min(0).sum(1)
        return joint

    def set_map_scales(self, mean: Tensor, std: Tensor) -> None:
        """Takes mean and standard deviation of each shown map over good images' pixels."""
        self.map_mean.copy_(mean)
        self.map_std.copy_(std.clamp_min(1e-6))

    def set_score_scales(self, raw_NS: Tensor, held_out: Tensor | None = None) -> None:
        """Takes the scales of `joint_score` from raw scores of good images.

        Args:
            raw_NS: `raw_scores` of images that the cells did not know.
            held_out: bool `[N]`, those that the student did not know either; None: all.
        """
        tops, means = raw_NS.double().split([len(self.detectors), len(SCORED)], 1)
        for n, name in enumerate(self.detectors):
            own = tops[held_out, n] if name == STUDENT and held_out is not None else tops[:, n]
            self.score_mean[n], self.score_std[n] = own.mean(), _spread(own)
        for n in range(len(SCORED)):
            rising = np.sort(means[:, n].cpu().numpy())
            self.whole_bound[n] = max(rising[-1], tail_limit(rising, _WHOLE_RATE))
            self.whole_std[n] = _spread(means[:, n])

    def with_cells(self, cells: nn.ModuleDict) -> Self:
        """This model with other Gaussians; all else is shared."""
        other = copy.copy(self)
        other._modules = {**self._modules, "cells": cells}
        return other

    def trained_state(self) -> dict[str, Tensor]:
        """All parameters and buffers that training made, whitenings as float16 lower triangles."""
        return {
            name: packed(tensor) if name.endswith(".whitening") else tensor
            for name, tensor in super().trained_state().items()
        }

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Sets what `trained_state` gave; errors as there."""
        full = dict(state)
        for name in [one for one in state if one.endswith(".whitening")]:
            width = self.state_dict()[name].shape[-1] if name in self.state_dict() else 0
            try:
                full[name] = unpacked(state[name], width)
            except ValueError as error:
                raise RuntimeError(f"{name}: {error}") from error
        super().load_trained_state(full)


def _spread(values: Tensor) -> Tensor:
    """Standard deviation, at least a share of the mean: a few images may be alike by chance."""
    least = (_LEAST_SPREAD * values.mean().abs()).clamp_min(1e-6)
    return torch.maximum(values.std(correction=0), least)


Model = MRKD | Ensemble


def model_of(
    config: ModelConfig, teacher: Teacher, roi: Roi | None = None, *, seed: int = 0
) -> Model:
    """A fresh model as a config describes it; its initial weights depend on config and seed alone.

    Raises:
        CategoryError, ConfigError: as `MRKD`.
    """
    student = mrkd.build(config, teacher, seed=seed, roi=roi) if config.student else None
    if config.cells:
        return Ensemble(config, teacher, roi, student)
    assert student is not None
    return student
