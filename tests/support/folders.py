"""Samples of any layout as a category in MVTec AD layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mrkd.data import datasets
from mrkd.data.datasets import Sample


def put(folder: Path, samples: Sequence[Sample]) -> None:
    """Writes the images, their parts and groups in a `split.csv`."""
    lines = ["path,group,part"]
    for number, one in enumerate(samples):
        path = Path(one.split, one.defect, f"{number:05}.png")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(datasets.read_image(one))
        lines.append(f"{path},{one.group or number},{one.split}")
    (folder / "split.csv").write_text("\n".join(lines) + "\n")


def put_broken(folder: Path) -> None:
    """A category whose images are texts."""
    good = folder / "train" / "good"
    good.mkdir(parents=True)
    for n in range(20):
        (good / f"{n}.png").write_text(f"no image {n}")
