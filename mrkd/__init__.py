"""Defects in product images, found by masked reverse knowledge distillation, at scale on Ray."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrkd.model.artefact.save_load import load
    from mrkd.nights.manifest import open_night
    from mrkd.storage import schema
    from mrkd.storage.schema import SCORES, read_map

__all__ = ["SCORES", "__version__", "load", "open_night", "read_map", "schema"]
__version__ = "0.1.0"

_HOMES = {
    "SCORES": "mrkd.storage.schema",
    "load": "mrkd.model.artefact.save_load",
    "open_night": "mrkd.nights.manifest",
    "read_map": "mrkd.storage.schema",
}


def __getattr__(name: str) -> Any:
    # On first use, so that `import mrkd` stays light.
    if name == "schema":  # the text of older Parquet files names mrkd.schema.read_map
        return importlib.import_module("mrkd.storage.schema")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
