"""Requirements of each protocol of an evaluation on its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mrkd.config import EvalConfig
from mrkd.data.datasets import Sample
from mrkd.errors import ConfigError

_LAYOUTS = {
    "mvtec": "mvtec",
    "visa": "visa",
    "mtd": "mvtec",
    "elpv": "elpv",
    "cifar10_one_class": "cifar10",
}
_IN_GROUPS = ("mtd", "elpv")


def check(config: EvalConfig, samples: Mapping[str, Sequence[Sample]]) -> None:
    """Checks that the data can be judged by the protocol.

    Args:
        config: configuration of the evaluation; its protocol is not `champions`.
        samples: all images of each category.

    Raises:
        ConfigError: they are of another layout, lack labelled images of the part, or have good
            images of one group on both sides where the protocol keeps groups whole.
    """
    layout = _LAYOUTS[config.protocol]
    if config.data.layout != layout:
        raise ConfigError(
            f"protocol is {config.protocol!r} and data.layout {config.data.layout!r}: it must be "
            f"{layout!r}"
        )
    for category, of_category in samples.items():
        _check_labels(config, category, of_category)
        if config.protocol in _IN_GROUPS:
            _check_groups(config, category, of_category)


def _check_labels(config: EvalConfig, category: str, samples: Sequence[Sample]) -> None:
    parts = ("val", "test") if config.part == "all" else (config.part,)
    judged = [one for one in samples if one.split in parts and one.headline]
    for label, kind in enumerate(("good", "defective")):
        if not any(one.gt_label == label for one in judged):
            raise ConfigError(
                f"protocol is {config.protocol!r}, and category {category!r} has no {kind} image "
                f"in part {config.part!r}"
            )


def _check_groups(config: EvalConfig, category: str, samples: Sequence[Sample]) -> None:
    """Refuses good images of a part that training saw: the figures would be too good."""
    trained = {one.group for one in samples if one.split == "train"}
    if trained == {None}:
        raise ConfigError(
            f"protocol is {config.protocol!r}, which keeps groups whole, and category "
            f"{category!r} names none: put a split.csv with a column `group` beside it"
        )
    judged = {one.group for one in samples if one.split != "train" and not one.gt_label}
    both = sorted(group for group in trained & judged if group is not None)
    if both:
        raise ConfigError(
            f"protocol is {config.protocol!r}, which keeps groups whole, and in category "
            f"{category!r} {len(both)} groups have good images on both sides, the first "
            f"{both[0]!r}"
        )
