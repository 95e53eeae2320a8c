"""anomalib's models behind the few calls that are measured; needs anomalib.

Imported late or not at all by whoever measures mrkd's memory.

Images are float32 `[B, 3, 256, 256]`, normalised; every model has mrkd's teacher.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from mrkd.model.teacher import Teacher

# Neither has types, and both are in an environment of their own alone.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from anomalib.engine import Engine  # type: ignore[import-not-found, unused-ignore]
    from anomalib.models import (  # type: ignore[import-not-found, unused-ignore]
        Patchcore,
        ReverseDistillation,
    )
    from lightning.pytorch import Callback  # type: ignore[import-not-found, unused-ignore]


class Reverse:
    """anomalib's reverse distillation, its own optimiser and loss; ResNets alone.

    Args:
        teacher: whose name and weights its encoder takes.
    """

    def __init__(self, teacher: Teacher) -> None:
        torch.manual_seed(0)
        self.module = ReverseDistillation(backbone=teacher.name, pre_trained=False)
        encoder: nn.Module = self.module.model.encoder.feature_extractor
        state = safetensors.torch.load(teacher.to_safetensors())
        missing, unexpected = encoder.load_state_dict(state, strict=False)
        assert not unexpected
        assert all(name.endswith("num_batches_tracked") for name in missing)
        self._optimiser = self.module.configure_optimizers()

    def step(self, images_B3HW: Tensor) -> float:
        """One optimiser step, without Lightning around it; returns the loss."""
        self.module.train()
        self._optimiser.zero_grad()
        loss = self.loss(images_B3HW)
        loss.backward()
        self._optimiser.step()
        return loss.item()

    def loss(self, images_B3HW: Tensor) -> Tensor:
        """As its own training step has it; in training mode."""
        loss: Tensor = self.module.loss(*self.module.model(images_B3HW))
        return loss

    def score(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Maps `[B, H, W]` and scores `[B]`: the bare model."""
        return _scored(self.module.model, images_B3HW)

    def predict(self, folder: Path, out: Path) -> float:
        """Images a second of `Engine.predict` on a folder, all defaults, without its start."""
        clock = _Clock()
        # No bar: its lines would stand among the figures.
        engine = Engine(default_root_dir=out, callbacks=[clock], enable_progress_bar=False)
        found = engine.predict(model=self.module, data_path=folder)
        return len(found) / clock.seconds


class PatchCore:
    """anomalib's PatchCore over the two deeper levels of a teacher, a coreset of 10 %.

    Its feature extractor is the teacher itself, so that it can be one that RD cannot have.
    """

    def __init__(self, teacher: Teacher) -> None:
        self.module = Patchcore(backbone="resnet18", pre_trained=False)
        self.module.model.feature_extractor = _Levels(teacher, self.module.model.layers)

    def fit(self, batches: Sequence[Tensor]) -> None:
        """Takes good images."""
        self.module.train()
        for images_B3HW in batches:
            self.module.model(images_B3HW)
        self.module.fit()

    def score(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """As `Reverse.score`."""
        return _scored(self.module.model, images_B3HW)


class _Levels(nn.Module):
    """A teacher's deeper levels under the names that anomalib asks for."""

    def __init__(self, teacher: Teacher, names: Sequence[str]) -> None:
        super().__init__()
        self.teacher, self.names = teacher, names

    def forward(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        levels: list[Tensor] = self.teacher(images_B3HW)
        return dict(zip(self.names, levels[-len(self.names) :], strict=True))


class _Clock(Callback):  # type: ignore[misc, unused-ignore]
    """Seconds between the first batch and the last."""

    def on_predict_start(self, *_: Any) -> None:
        self._began = time.perf_counter()

    def on_predict_end(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self._began


@torch.inference_mode()
def _scored(model: nn.Module, images_B3HW: Tensor) -> tuple[Tensor, Tensor]:
    model.eval()
    found = model(images_B3HW)
    return found.anomaly_map[:, 0], found.pred_score.flatten()
