"""Defects in product images, found by masked reverse knowledge distillation, at scale on Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrkd.nights.manifest import open_night

__all__ = ["__version__", "open_night"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # On first use, so that `import mrkd` stays light.
    if name == "open_night":
        from mrkd.nights.manifest import open_night

        return open_night
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
