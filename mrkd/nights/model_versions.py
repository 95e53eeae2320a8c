"""Versions that score in the champions' stead: a night side by side with another.

A set names the version of some categories; the others have their champion. It is a file,
`{"plate": "1f0c..."}` in JSON or `plate = "1f0c..."` in TOML, or the folder of a fleet and then all
that the fleet made or found up to date, also what its gate held.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from mrkd import storage
from mrkd.config import check_name
from mrkd.config.text import decoded
from mrkd.config.toml import nearest, parsed
from mrkd.data.preprocess import Preprocessor
from mrkd.errors import ArtefactError, ConfigError
from mrkd.model import artefact
from mrkd.model.registry import promotions, queries
from mrkd.nights.shards import Pin
from mrkd.storage.thread_map import in_threads

log = logging.getLogger(__name__)


def read(uri: str, workspace: str) -> dict[str, str]:
    """The version of each category that a set names, by category; all of them are complete.

    Raises:
        ConfigError: it is neither, it names nothing, it names what cannot be a name, or a version
            that is not in the workspace.
        ArtefactError: a record of the fleet is damaged.
        StorageError: the set or the workspace cannot be read.
    """
    if not uri:
        return {}
    found = _of_file(uri) if storage.stat(uri) else _of_fleet(uri)
    if not found:
        raise ConfigError(f"models is {uri!r}: it names no version")
    for category, version in found.items():
        check_name(f"{uri}: category", category)
        check_name(f"{uri}: version of {category}", version)
    stand = in_threads(lambda item: promotions.exists(workspace, *item), found.items())
    missing = [item for item, there in zip(found.items(), stand, strict=True) if not there]
    if missing:
        category, version = missing[0]
        known = promotions.versions(workspace, category)
        raise ConfigError(
            f"models is {uri!r}: {len(missing)} of its {len(found)} versions are not in "
            f"{workspace}, the first {version!r} of category {category!r}"
            + (nearest(version, known) if known else ", which has none")
        )
    log.info("version_set uri=%s categories=%d", uri, len(found))
    return dict(sorted(found.items()))


def pin(workspace: str, category: str, versions: Mapping[str, str] | None = None) -> Pin | None:
    """The model of a category, to be kept for a whole revision; None where there is none.

    A version in `versions`, by category, scores instead of the champion. It decides by the
    calibration that it was promoted with last, else by its newest.

    Raises:
        ArtefactError: the model, or a record of the category, is damaged.
        StorageError: the workspace cannot be read.
    """
    version = (versions or {}).get(category)
    if version is None:
        promotion = promotions.champion(workspace, category)
        if promotion is None:
            return None
        version, calibration = promotion.version, promotion.calibration
    else:
        calibration = queries.shelf(workspace, category).calibration(version)
    card = artefact.read_card(workspace, category, version)
    pixels = Preprocessor.of(card.model).num_bytes(1) or 0
    return Pin(version, calibration, card.teacher.name, pixels)


def _of_file(uri: str) -> dict[str, str]:
    """What a file names."""
    if not uri.lower().endswith((".json", ".toml")):
        raise ConfigError(f"models is {uri!r}: its name must end in .json or .toml")
    data, fault = storage.read(uri), f"models is {uri!r}, which cannot be read"
    if uri.lower().endswith(".toml"):
        content: Any = parsed(decoded(data, f"{fault}: it"), fault)
    else:
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{fault}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"models is {uri!r}: it must be a table, category = version")
    for category, version in content.items():
        if not isinstance(version, str):
            raise ConfigError(
                f"models is {uri!r}: the version of {category!r} must be text, found "
                f"{type(version).__name__}"
            )
    return content


def _of_fleet(uri: str) -> dict[str, str]:
    """What a fleet made or found up to date."""
    files = storage.list_files(storage.join(uri, "categories"), suffixes=(".json",))
    if not files:
        raise ConfigError(
            f"models is {uri!r}: there is neither such a file nor a fleet's folder with "
            "categories: correct the URI"
        )
    try:
        records = list(in_threads(storage.read_json, [file.uri for file in files]))
        found = {str(r["category"]): str(r["version"]) for r in records if "version" in r}
        without = sorted(str(r["category"]) for r in records if "version" not in r)
    except (KeyError, TypeError) as error:
        raise ArtefactError(
            f"{uri}/categories holds a file that is not a fleet's record ({error!r}): take it away"
        ) from error
    if without:
        log.warning("version_set uri=%s champions_of=%s", uri, ",".join(without))
    return found
