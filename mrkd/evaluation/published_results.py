"""Figures that others published, and the conditions under which a run compares with them.

They are in `published.toml`, in percent as printed, each table with its source.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

Sizes = Mapping[str, tuple[int, int]]
"""Number of training and of test images of each category."""


@dataclass(frozen=True)
class Figure:
    """One number of one table."""

    protocol: str
    """Data set and protocol: `mvtec` or `cifar10_one_class`."""
    table: str
    """`results`, or the ablation: `backbone`, `fmm`, `scsatt`, `levels`."""
    arm: str
    """The method: MRKD, RD4AD, MKD, or the row of the ablation."""
    backbone: str
    """As mrkd names it; empty where it was a network that mrkd does not have."""
    category: str | None
    """None: the mean over all categories."""
    metric: str
    """`image_auroc`, `pixel_auroc` or `aupro`."""
    value: float
    """As a share, in (0, 1]."""
    source: str
    """Who published it where, with the number of the table where it is known."""
    remark: str = ""
    """What is uncertain about it."""


def figures(protocol: str, table: str = "results") -> tuple[Figure, ...]:
    """The figures of a protocol's table in the order of the file; none where none is published."""
    return tuple(f for f in _figures() if (f.protocol, f.table) == (protocol, table))


def sizes(protocol: str) -> Sizes:
    """The categories of a protocol's data set, by which it is recognised; none of an unknown one.

    Source: of MVTec AD, Bergmann et al., CVPR 2019, Table 2.
    """
    facts = _content()["protocols"].get(protocol, {})
    return {name: (train, test) for name, (train, test) in facts.get("sizes", {}).items()}


def differs(
    protocol: str,
    *,
    backbone: str,
    teacher_is_random: bool,
    image_size: int,
    counts: Sizes,
    published_backbone: str = "wide_resnet50_2",
) -> tuple[str, ...]:
    """In words, every way in which a run is not what the protocol's figures were measured on.

    Args:
        protocol: protocol of the figures.
        backbone: backbone of the run's teacher.
        teacher_is_random: its weights are drawn, not trained on ImageNet.
        image_size: side of the model's input in pixels.
        counts: numbers of the run's images, held-out training images among the training ones.
        published_backbone: `Figure.backbone` of the figures to compare with.

    Returns:
        One clause for each difference; none: the two compare.
    """
    facts = _content()["protocols"].get(protocol)
    if facts is None:
        return (f"no figures are published for the protocol {protocol!r}",)
    ways = []
    if backbone != published_backbone:
        published = published_backbone or "with another network that mrkd does not have"
        ways.append(f"the backbone is {backbone}, published {published}")
    if teacher_is_random:
        ways.append("the teacher's weights are random, published those of ImageNet")
    published_size = facts.get("image_size", image_size)
    if image_size != published_size:
        ways.append(f"images are {image_size} px, published {published_size} px")
    return *ways, *_other_data(facts["name"], sizes(protocol), counts)


def _other_data(name: str, expected: Sizes, counts: Sizes) -> list[str]:
    """Differences of the run's categories from the data set's, the first of each kind by name."""
    ways = []
    missing = [category for category in expected if category not in counts]
    if missing:
        share = f"{len(missing)} of {name}'s {len(expected)} categories"
        ways.append(f"the run lacks {share}, {missing[0]} among them")
    foreign = [category for category in counts if category not in expected]
    if foreign:
        ways.append(f"{foreign[0]} is not a category of {name}")
    for category in expected:
        for kind, want, have in zip(
            ("training", "test"), expected[category], counts.get(category, ()), strict=False
        ):
            if have != want:
                return [*ways, f"{category} has {have} {kind} images, {name} {want}"]
    return ways


@functools.cache
def _content() -> dict[str, Any]:
    text = (resources.files("mrkd.evaluation") / "published.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


@functools.cache
def _figures() -> tuple[Figure, ...]:
    content = _content()
    found = []
    for table in content["tables"]:
        metrics = content["protocols"][table["protocol"]]["metrics"]
        source = content["sources"][table["source"]]
        if "number" in table:
            source += f", Table {table['number']}"
        for row in table["rows"]:
            both = table | row
            found += [
                Figure(
                    **{name: both[name] for name in ("protocol", "table", "arm", "backbone")},
                    category=both.get("category"),
                    metric=metric,
                    value=round(percent / 100, 6),
                    source=source,
                    remark=both.get("remark", ""),
                )
                for metric, percent in zip(metrics, both["values"], strict=True)
            ]
    return tuple(found)
