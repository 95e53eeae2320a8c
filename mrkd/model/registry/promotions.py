"""Versions of a category's model, the inputs that made them, and their promotions.

    models/<category>/<version>/model.json      written last: the version is complete
    models/<category>/promotions/<n>.json       {version, calibration, by, at, why, gate}
    models/<category>/champion.json             copy of the newest promotion, to look at
    models/<category>/holds/<version>.json      {version, by, at, reason, gate}
    models/<category>/inputs/<hash>.json        the result that a listing of the category had

The newest promotion is the champion. The copy is written after it and may lag behind when a
process dies between the two, so nothing here reads it. A version that its gate held back becomes
champion only if a person promotes it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from mrkd import storage
from mrkd.config import NAME, FitConfig, ModelConfig
from mrkd.errors import ArtefactError, StorageError

log = logging.getLogger(__name__)

# Fields whose content is in the hash in another form (the resolved values, the teacher's digest),
# or that decide where and how fast a training runs, not what it computes.
_NOT_IN_VERSION = {
    "model": ("preset", "weights", "weights_sha256"),
    "train": ("device", "precision", "cache_bytes", "micro_batch_size"),
}
_NO_VERSIONS = ("promotions", "holds", "inputs")
"""Folders of a category that are not versions."""


@dataclass(frozen=True)
class Promotion:
    """One entry of a category's promotions; never changed.

    Args:
        number: counts up from 1.
        version: the model that scores from then on.
        calibration: the number of the calibration by which it decides.
        by: who promoted it.
        at: when, UTC, ISO 8601.
        why: `first`, `retrained`, or a person's words.
        gate: what a gate measured of the version; None where there was no gate.
    """

    number: int
    version: str
    calibration: int
    by: str
    at: str
    why: str
    gate: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Hold:
    """Record that a gate kept a version from becoming the champion; never changed.

    Args:
        version: the version that was held.
        by: who held it.
        at: when, UTC, ISO 8601.
        reason: one line.
        gate: what the gate measured.
    """

    version: str
    by: str
    at: str
    reason: str
    gate: Mapping[str, Any]


def version_of(
    model: ModelConfig,
    train: FitConfig,
    *,
    data_fingerprint: str,
    teacher_digest: str,
    model_version: int,
    num_micro_batches: int,
    roi: Mapping[str, Any] | None,
) -> str:
    """The name of the model that these inputs make: 16 hex digits, the same on every machine.

    Args:
        model: network's config; its preset counts by its values alone.
        train: training's config, without device, precision, cache and size of a micro-batch.
        data_fingerprint: hash over the good images in use; excluding an image changes it.
        teacher_digest: sha256 of the teacher's weights.
        model_version: `model.MODEL_VERSION` of the code.
        num_micro_batches: pieces of a batch that batch norm sees one by one, on any worker.
        roi: what draws the region of interest, plain values; None: the whole image.
    """
    sections: dict[str, dict[str, Any]] = {"model": model.to_dict(), "train": train.to_dict()}
    for section, names in _NOT_IN_VERSION.items():
        for name in names:
            del sections[section][name]
    if not model.tiles:  # as it was named before there were tiles
        del sections["model"]["tiles"], sections["model"]["overlap"]
    if model.precision == "float32":  # as it was named when all scored in it
        del sections["model"]["precision"]
    inputs = {
        **sections,
        "data": data_fingerprint,
        "teacher": teacher_digest,
        "model_version": model_version,
        "num_micro_batches": num_micro_batches,
        "roi": roi,
    }
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions(workspace: str, category: str) -> list[str]:
    """The complete versions of a category, sorted by name."""
    folder = f"{storage.join(workspace, 'models', category)}/"
    # By one listing: a request for each version took as long as a category has versions.
    cards = storage.list_files(folder, suffixes=("/model.json",))
    names = (card.uri.removeprefix(folder).removesuffix("/model.json") for card in cards)
    return sorted(name for name in names if "/" not in name and name not in _NO_VERSIONS)


def exists(workspace: str, category: str, version: str) -> bool:
    """Whether a version is complete."""
    uri = storage.join(workspace, "models", category, version, "model.json")
    return storage.stat(uri) is not None


def next_version(workspace: str, category: str, version: str) -> str:
    """The version's own name if it is free, else the first free of `<version>-2`, `-3`, ..."""
    name, number = version, 1
    while exists(workspace, category, name):
        number += 1
        name = f"{version}-{number}"
    return name


def champion(workspace: str, category: str) -> Promotion | None:
    """The newest promotion, None where the category has no model yet.

    Raises:
        ArtefactError: it cannot be read as one.
    """
    numbers = _numbers(workspace, category)
    return _read(workspace, category, numbers[-1]) if numbers else None


def promotions(workspace: str, category: str) -> list[Promotion]:
    """All promotions of a category, the newest last; errors as `champion`."""
    return [_read(workspace, category, number) for number in _numbers(workspace, category)]


def promote(
    workspace: str,
    category: str,
    version: str,
    *,
    calibration: int = 1,
    by: str,
    why: str,
    gate: Mapping[str, Any] | None = None,
    after: int | None = None,
) -> Promotion:
    """Makes a version the champion.

    Two versions at once cannot both win: the next number is written on the condition that it is
    free. A later promotion of the same version and calibration finds it done.

    Args:
        workspace: URI.
        category: its name.
        version: a complete version.
        calibration: number of the calibration by which it decides.
        by: who promotes it.
        why: reason.
        gate: what a gate measured of the version.
        after: number of the promotion that this one was decided against, 0: there was none; a
            newer one wins. None: the newest.

    Raises:
        ArtefactError: the version is not complete, or another promotion came first.
    """
    if not exists(workspace, category, version):
        raise ArtefactError(
            f"category {category!r} has no complete version {version!r} in {workspace}: it has "
            f"{', '.join(versions(workspace, category)) or 'none; train it'}"
        )
    if after is None:
        after = max(_numbers(workspace, category), default=0)
    promotion = Promotion(
        number=after + 1,
        version=version,
        calibration=calibration,
        by=by,
        at=_now(),
        why=why,
        gate=gate,
    )
    content = asdict(promotion)
    if not storage.write_json(_uri(workspace, category, promotion.number), content, if_absent=True):
        found = _read(workspace, category, promotion.number)
        if (found.version, found.calibration) == (version, calibration):
            return found
        raise ArtefactError(
            f"category {category!r}: {found.by} promoted {found.version} with calibration "
            f"{found.calibration} ({found.why}) at the same time as {version}, which is not "
            "promoted: compare the two, then try again"
        )
    storage.write_json(storage.join(workspace, "models", category, "champion.json"), content)
    log.info("promoted category=%s version=%s why=%s", category, version, why)
    return promotion


def hold(
    workspace: str, category: str, version: str, *, by: str, reason: str, gate: Mapping[str, Any]
) -> Hold:
    """Records that a gate keeps a version from being promoted, unless it is recorded already.

    Returns:
        The stored record.

    Raises:
        ArtefactError: the stored record is damaged.
    """
    held = Hold(version=version, by=by, at=_now(), reason=reason, gate=gate)
    uri = storage.join(workspace, "models", category, "holds", f"{version}.json")
    if not storage.write_json(uri, asdict(held), if_absent=True):
        return _read_hold(uri)
    log.warning("held category=%s version=%s reason=%s", category, version, reason)
    return held


def holds(workspace: str, category: str) -> dict[str, Hold]:
    """The versions of a category that a gate held, whether a person promoted them since or not.

    Raises:
        ArtefactError: one of the records cannot be read.
    """
    folder = storage.join(workspace, "models", category, "holds")
    found = [_read_hold(file.uri) for file in storage.list_files(folder, suffixes=(".json",))]
    return {held.version: held for held in found}


def record_inputs(workspace: str, category: str, inputs: str, made: Mapping[str, Any]) -> None:
    """Stores the result that a category's inputs had, over an earlier one of these inputs.

    `inputs` is a hash over all that decides a version, hexadecimal; `made` holds plain values,
    among them the name under `version`.
    """
    content = {"inputs": inputs, "made": dict(made)}
    storage.write_json(_inputs_uri(workspace, category, inputs), content)


def made_from(workspace: str, category: str, inputs: str) -> dict[str, Any] | None:
    """What `record_inputs` stored of these inputs, by one small read.

    Returns:
        None where nothing was stored, it is damaged, or its version is no longer complete.

    Raises:
        StorageError: the workspace cannot be read.
    """
    uri = _inputs_uri(workspace, category, inputs)
    try:
        content = json.loads(storage.read(uri))
        made = dict(content["made"])
        is_valid = content["inputs"] == inputs and exists(workspace, category, made["version"])
    except StorageError as error:
        if error.kind != "missing":
            raise
        return None
    except (ValueError, LookupError, TypeError) as error:
        log.warning("inputs_dropped uri=%s reason=%r", uri, error)
        return None
    return made if is_valid else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _inputs_uri(workspace: str, category: str, inputs: str) -> str:
    return storage.join(workspace, "models", category, "inputs", f"{inputs[:16]}.json")


def _read_hold(uri: str) -> Hold:
    try:
        return Hold(**storage.read_json(uri))
    except TypeError as error:
        raise ArtefactError(
            f"{uri} is not a record of a held version: restore the file, or delete it"
        ) from error


def _uri(workspace: str, category: str, number: int) -> str:
    return storage.join(workspace, "models", category, "promotions", f"{number}.json")


def _numbers(workspace: str, category: str) -> list[int]:
    return storage.list_numbers(storage.join(workspace, "models", category, "promotions"))


def _read(workspace: str, category: str, number: int) -> Promotion:
    uri = _uri(workspace, category, number)
    try:
        found = Promotion(**storage.read_json(uri))
        if not NAME.fullmatch(found.version) or type(found.calibration) is not int:
            raise TypeError("its version is not a name, or its calibration not a number")
        return found
    except TypeError as error:
        raise ArtefactError(
            f"{uri} is not a promotion: restore it, or delete it to fall back to the one before"
        ) from error
