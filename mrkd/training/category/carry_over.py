"""Threshold of a champion that a night of the line set, carried over to a new version."""

from __future__ import annotations

import logging
from dataclasses import replace

from mrkd.errors import ArtefactError, CategoryError, NightError, StorageError
from mrkd.model import artefact
from mrkd.model.artefact import Calibration
from mrkd.model.artefact.save_load import LoadedModel
from mrkd.model.registry.promotions import Promotion
from mrkd.nights import commissioning
from mrkd.training.category.inputs import Job

log = logging.getLogger(__name__)

MAX_CARRIED = 1000
"""Images of a night that are scored again for a new version's threshold."""


def carried_over(
    job: Job, champion: Promotion, loaded: LoadedModel
) -> tuple[Calibration | None, str]:
    """A new version's calibration by the night of the line that set the champion's threshold.

    Returns:
        The calibration, not stored yet, None where it cannot be made; and the reason in one line,
        empty where the champion's threshold is the training's own.
    """
    workspace, category = job.config.workspace, job.category
    try:
        before = artefact.read_calibration(
            workspace, category, champion.version, champion.calibration
        )
    except ArtefactError:
        return None, ""  # the gate reports it
    if before.line is None:
        return None, ""
    run = before.line["run"]
    try:
        wanted = commissioning.carry_over(
            workspace, category, before, loaded, max_images=MAX_CARRIED
        )
    except (NightError, ArtefactError, CategoryError, StorageError) as error:
        reason = (
            f"the champion's threshold was set by night {run!r} and is not carried over: {error}; "
            "set it again (mrkd models calibrate)"
        )
        log.warning("not_commissioned category=%s reason=%s", category, reason)
        return None, reason
    why = f"as calibration {before.number} of {champion.version}, by night {run}: {before.why}"
    reason = f"its threshold is carried over from the champion's, by the images of night {run!r}"
    return replace(wanted, by=before.by, why=why), reason
