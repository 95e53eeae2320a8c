"""What the page of a fleet shows, as plain values: nothing is read after this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrkd.reports.kit.values import UNKNOWN, Losses, Measure, Picture


@dataclass(frozen=True)
class Gate:
    """What decided whether a new model is put to use.

    Args:
        state: first, passed or held; empty where nothing decided.
        reason: one line.
        by: labels or synthetic; empty where nothing was measured.
        num_good: good images that measured it.
        num_defective: defective ones, labelled or made.
        image_auroc: of the new model.
        champion: version that it would take the place of; empty: none.
        champion_auroc: of that one, on the same images.
        difference: the new model's less the champion's.
        promoted_since: who put a held model to use nevertheless, and why; empty: nobody.
    """

    state: str = ""
    reason: str = ""
    by: str = ""
    num_good: int = 0
    num_defective: int = 0
    image_auroc: Measure = UNKNOWN
    champion: str = ""
    champion_auroc: Measure = UNKNOWN
    difference: Measure = UNKNOWN
    promoted_since: str = ""

    @property
    def holds(self) -> bool:
        """Whether it keeps the model from being used, to this day."""
        return self.state == "held" and not self.promoted_since


@dataclass(frozen=True)
class Training:
    """How the training of one category ended.

    Args:
        category: its name.
        status: trained, up_to_date, failed or not_started.
        attempts: how often it was started.
        reason: why there is no new model, one line; empty where there is one.
        traceback_uri: of the last attempt, where that failed.
        version: of the model; empty where there is none. So are all below.
        teacher: name of its teacher; empty where the model's card cannot be read.
        num_images: good images by side: train, validation, calibration.
        image_size: side of the model's input in pixels.
        threshold: of its first calibration; an image is anomalous strictly above it.
        pixel_threshold: the same for pixels.
        seconds: of each stage; none for one that is up to date.
        images_per_s: images through the student; None for one that is up to date.
        model_bytes: size of its files, without the teacher.
        skipped: images that could not be decoded, each with its reason.
        warnings: what a person should know, one line each.
        doubts: what people should know of it before they trust it, one line each.
        no_student: why it has none though its config has one; else empty.
        num_groups: that its good images come in; 0: not known.
        groups: the largest groups of more than one image, each with its size and a few names.
        gate: what decided on its use.
        losses: of each epoch; None where they are not stored.
        scores: float32 `[n]` of its own good images.
        sides: object `[n]`, train, validation or calibration.
        suspect_uris: images it was trained on that lie above its threshold, the highest first.
        suspects: pictures of the first of them.
        gaps: one line for each file that could not be read.
    """

    category: str
    status: str
    attempts: int
    reason: str = ""
    traceback_uri: str = ""
    version: str = ""
    teacher: str = ""
    num_images: Mapping[str, int] = field(default_factory=dict)
    image_size: int = 0
    threshold: float = 0.0
    pixel_threshold: float = 0.0
    seconds: Mapping[str, float] = field(default_factory=dict)
    images_per_s: float | None = None
    model_bytes: int = 0
    skipped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    no_student: str = ""
    num_groups: int = 0
    groups: tuple[tuple[int, tuple[str, ...]], ...] = ()
    gate: Gate = Gate()
    losses: Losses | None = None
    scores: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    sides: NDArray[np.object_] = field(default_factory=lambda: np.zeros(0, np.object_))
    suspect_uris: tuple[str, ...] = ()
    suspects: tuple[Picture, ...] = ()
    gaps: tuple[str, ...] = ()


@dataclass(frozen=True)
class FleetData:
    """Everything the page of a fleet shows.

    Args:
        run: of the fleet.
        workspace: URI of the workspace that holds it.
        root: URI of the images.
        state: running, done or stopped.
        started_at: UTC, ISO 8601.
        finished_at: empty while it is running.
        trainings: of the categories that have ended, sorted by name.
        config: the resolved config.
    """

    run: str
    workspace: str
    root: str
    state: str
    started_at: str
    finished_at: str
    trainings: tuple[Training, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
