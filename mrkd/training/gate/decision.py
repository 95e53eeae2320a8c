"""Decision between two models by their scores of the same images, with the figures."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mrkd.data.datasets import Sample
from mrkd.errors import ArtefactError, CategoryError
from mrkd.evaluation.metrics import Metric
from mrkd.model import artefact
from mrkd.model.artefact import save_load
from mrkd.model.artefact.save_load import LoadedModel
from mrkd.model.registry.promotions import Promotion
from mrkd.training.gate.compare_models import MIN_SHARED, GateTrial, Rival, by_defects, by_labels

log = logging.getLogger(__name__)

MARGIN = 0.005
"""Image AUROC that a new model may lose against the champion."""
CHANCE = 0.01
"""Probability of so many false calls at the promised rate, below which they are too many."""

# Two AUROCs that differ by just the margin may do so by a little more as floats.
_ROUNDING = 1e-9

State = Literal["first", "passed", "held"]


@dataclass(frozen=True)
class GateDecision:
    """The gate's decision on a new model.

    Args:
        state: `first`: the category has no champion; `passed`: promote it; `held`: do not.
        reason: one line, with the figures that decided.
        record: plain values for `Promotion.gate` and the fleet's record, state and reason included.
    """

    state: State
    reason: str
    record: dict[str, Any]


def judge(
    workspace: str,
    challenger: LoadedModel,
    champion: Promotion | None,
    *,
    samples: Sequence[Sample],
    good: Sequence[tuple[Sample, str]],
    max_images: int,
) -> GateDecision:
    """Measures a new model and the champion on the same images, and decides between them.

    Args:
        workspace: URI.
        challenger: the new model, on the device to score on; the champion is brought there.
        champion: the newest promotion, None for the first model of a category. A champion that
            cannot be loaded, or cannot score today's images, does not hold a new model back.
        samples: all images of the category; the labelled ones of its `val` part are used or, where
            a label is missing there, of its `test` part.
        good: its good training images, each with the sha256 of its file; used where labels are
            missing: those that both models held out or, if these are fewer than `MIN_SHARED`, all
            that the challenger held out.
        max_images: largest number of images of each label, chosen by the hash of their URIs.

    Raises:
        CategoryError: the challenger can score none of the images, or a score is not finite.
        StorageError: an image cannot be reached now.
    """
    rivals, trouble = [_rival(workspace, challenger)], ""
    if champion is not None:
        try:
            rivals.append(_rival(workspace, _load(workspace, challenger, champion)))
        except ArtefactError as error:
            trouble = f"cannot be loaded: {error}"
    trial = by_labels(rivals, samples, max_images) or by_defects(rivals, good, max_images)
    if trial is None:
        raise CategoryError(
            f"the gate can score none of the held-out ones of its {len(good)} good images: start "
            "again when they are there"
        )
    if len(trial.scores) < len(rivals):
        trouble = "cannot score these images, or its scores are not finite"
    record = _figures(trial, rivals, champion)
    state, reason = _decide(record, trouble, _described(trial))
    log.info("gate category=%s state=%s reason=%s", challenger.card.category, state, reason)
    return GateDecision(state, reason, {"state": state, "reason": reason, **record})


def _rival(workspace: str, loaded: LoadedModel) -> Rival:
    """A stored model with the sides of its good images."""
    return Rival(loaded, artefact.read_sides(workspace, loaded.card.category, loaded.card.version))


def _load(workspace: str, challenger: LoadedModel, champion: Promotion) -> LoadedModel:
    """The champion on the challenger's device, with one teacher for both where it is the same."""
    teacher = challenger.model.teacher
    loaded = save_load.load(
        workspace,
        challenger.card.category,
        champion.version,
        calibration=champion.calibration,
        teachers={teacher.digest: teacher},
    )
    loaded.model.to(next(challenger.model.parameters()).device)
    return loaded


def _figures(
    trial: GateTrial, rivals: Sequence[Rival], champion: Promotion | None
) -> dict[str, Any]:
    """What was measured, as plain values."""
    compared = len(trial.scores) == 2
    record: dict[str, Any] = {
        "by": "labels" if trial.part else "synthetic",
        "part": trial.part,
        "num_good": trial.num_good,
        "num_defective": trial.num_anomalous,
        "num_left_out": trial.num_left_out,
        "image_auroc": _interval(trial.auroc(0)),
        "champion": None,
        "difference": _interval(trial.difference()) if compared else None,
        "margin": MARGIN,
        "false_calls": _false_calls(trial, rivals),
    }
    if champion is not None:
        figure = _interval(trial.auroc(1)) if compared else None
        record["champion"] = {"version": champion.version, "image_auroc": figure}
    return record


def _false_calls(trial: GateTrial, rivals: Sequence[Rival]) -> dict[str, Any]:
    calls = [
        trial.false_calls(n, rival.loaded.calibration.threshold)
        for n, rival in enumerate(rivals[: len(trial.scores)])
    ]
    promised = rivals[0].loaded.calibration.supported_false_call_rate
    return {
        "num_images": trial.num_good,
        "num_shared": trial.num_shared,
        "challenger": calls[0],
        "champion": calls[1] if len(calls) == 2 else None,
        "supported_rate": promised,
        "far_above": _is_far_above(calls[0], trial.num_good, promised),
    }


def _is_far_above(calls: int, num_images: int, rate: float) -> bool:
    """Whether so many calls or more would come by chance less often than `CHANCE` at that rate."""
    if calls <= rate * num_images:
        return False
    chances = (
        math.lgamma(num_images + 1) - math.lgamma(n + 1) - math.lgamma(num_images - n + 1)
        + n * math.log(rate) + (num_images - n) * math.log1p(-rate)
        for n in range(calls, num_images + 1)
    )  # fmt: skip
    return sum(map(math.exp, chances)) < CHANCE


def _decide(record: dict[str, Any], trouble: str, where: str) -> tuple[State, str]:
    """State and reason, from the figures."""
    own = f"image AUROC {record['image_auroc']['value']:.4f}"
    calls = record["false_calls"]
    overcalls = ""
    if calls["far_above"]:
        kind = "labelled" if record["part"] else "held-out"
        overcalls = (
            f"it calls {calls['challenger']} of {calls['num_images']} {kind} good images "
            f"defective, and its calibration promises {calls['supported_rate']:.2%}"
        )
    also = "set its threshold by parts of the line (mrkd models calibrate)"
    also = f"; {overcalls}: {also}" if overcalls else ""
    if record["champion"] is None:
        return "first", f"the category's first model: {own} on {where}{also}"
    if trouble:
        return "passed", f"the champion {trouble}; {own} on {where}{also}"
    figures = f"{own}, the champion's {record['champion']['image_auroc']['value']:.4f}, on {where}"
    reasons = []
    if record["difference"]["value"] < -MARGIN - _ROUNDING:
        reasons.append(f"worse by more than {MARGIN}: {figures}")
    if overcalls and calls["challenger"] > calls["champion"]:
        reasons.append(f"{overcalls}; the champion calls {calls['champion']}")
    if reasons:
        return "held", "; ".join(reasons)
    return "passed", figures + also


def _described(trial: GateTrial) -> str:
    """The images of a trial, in words."""
    if trial.part:
        return f"{trial.num_good} good and {trial.num_anomalous} defective images ({trial.part})"
    text = f"{trial.num_good} held-out good images and {trial.num_anomalous} made defects"
    if trial.num_shared is None or trial.num_shared >= MIN_SHARED:
        return text
    return f"{text}, of which the champion held out {trial.num_shared} alone"


def _interval(metric: Metric) -> dict[str, float | None]:
    return {"value": metric.value, "low": metric.low, "high": metric.high}
