import dataclasses

import pytest

from mrkd.config import EvalConfig
from mrkd.data.datasets import Sample
from mrkd.errors import ConfigError
from mrkd.evaluation import protocols


def config(protocol="mvtec", layout="mvtec", part="test"):
    raw = {"workspace": "w", "run": "r", "data": {"root": "parts", "layout": layout}}
    return EvalConfig.from_dict(raw | {"protocol": protocol, "part": part})


def samples(groups=("a", "b", "c")):
    train, good, bad = groups
    return {
        "ring": [
            Sample("1.png", "ring", "train", 0, "good", group=train),
            Sample("2.png", "ring", "test", 0, "good", group=good),
            Sample("3.png", "ring", "test", 1, "scratch", group=bad),
        ]
    }


def test_data_of_the_protocol_are_taken():
    protocols.check(config(), samples())
    protocols.check(config("mtd"), samples())
    protocols.check(config("elpv", "elpv"), samples(groups=("a", "b", "a")))


def test_another_layout_is_refused():
    with pytest.raises(ConfigError, match=r"data\.layout 'mvtec': it must be 'cifar10'"):
        protocols.check(config("cifar10_one_class"), samples())


def test_a_part_without_one_of_both_kinds_is_refused():
    only_good = {"ring": samples()["ring"][:2]}
    with pytest.raises(ConfigError, match="category 'ring' has no defective image in part 'test'"):
        protocols.check(config(), only_good)
    with pytest.raises(ConfigError, match="no good image in part 'val'"):
        protocols.check(config(part="val"), samples())
    # What is reported apart makes no figure over all.
    apart = [dataclasses.replace(one, headline=not one.gt_label) for one in samples()["ring"]]
    with pytest.raises(ConfigError, match="no defective image"):
        protocols.check(config(), {"ring": apart})


def test_good_pictures_of_a_part_that_trains_are_refused_where_groups_are_kept_whole():
    both = samples(groups=("a", "a", "b"))
    protocols.check(config(), both)
    with pytest.raises(ConfigError, match=r"1 groups have good images on both sides.*'a'"):
        protocols.check(config("mtd"), both)
    with pytest.raises(ConfigError, match="names none"):
        protocols.check(config("mtd"), samples(groups=(None, None, None)))
