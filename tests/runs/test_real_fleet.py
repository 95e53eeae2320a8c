"""A fleet of real photographs: solar cells cut into four categories, and one of texts."""

import importlib.util
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from mrkd.config import DataConfig, TrainConfig
from mrkd.data import datasets
from mrkd.model.registry import promotions
from mrkd.runs import train
from tests.support.folders import put, put_broken
from tests.support.plants import HERE

CELLS = Path(importlib.util.find_spec("elpv_dataset").origin).parent / "data"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Every other block of a kind of cell on either side, so that no module is on both."""
    folder = tmp_path_factory.mktemp("cells")
    for kind, samples in datasets.load(DataConfig(str(CELLS), "elpv")).items():
        for half in (0, 1):
            # So few images cannot be held out by whole blocks.
            own = [
                replace(one, group=None)
                for one in samples
                if one.headline and int(one.group.removeprefix("block")) % 2 == half
            ]
            put(folder / f"{kind}-{half}", [*take(own, "train", 0, 80), *labelled(own)])
    put_broken(folder / "broken")
    return folder


def take(samples, split, label, number):
    found = (one for one in samples if one.split == split and one.gt_label == label)
    return islice(found, number)


def labelled(samples):
    return [one for label in (0, 1) for one in take(samples, "val", label, 20)]


def test_four_real_categories_train_one_fails_and_the_next_start_tries_that_alone(root, tmp_path):
    config = TrainConfig.from_dict(
        {
            "workspace": str(tmp_path),
            "run": "cells",
            "data": {"root": str(root)},
            "model": {"image_size": 64},
            "train": {"max_steps": 30, "warmup_steps": 5},
        }
    )
    first = train.run(config, HERE)
    assert (first.exit_code, first.counts["trained"], first.counts["failed"]) == (3, 4, 1)
    assert "0 good images, at least 4 are needed" in first.reasons[0]
    assert "20 more cannot be used" in first.reasons[0]
    second = train.run(config, HERE)
    assert (second.exit_code, second.counts["up_to_date"], second.counts["failed"]) == (3, 4, 1)
    folder = tmp_path / "fleets" / "cells" / "categories"
    records = {path.stem: json.loads(path.read_text()) for path in folder.iterdir()}
    assert {name: one["attempts"] for name, one in records.items()} == {
        "mono-0": 0,
        "mono-1": 0,
        "poly-0": 0,
        "poly-1": 0,
        "broken": 1,
    }
    # Thirty steps at 64 pixels are no model for a plant, but they tell sound cells from broken.
    aurocs = [one["gate"]["image_auroc"]["value"] for one in records.values() if "gate" in one]
    assert sum(aurocs) / 4 > 0.6
    assert len(list((tmp_path / "teachers").iterdir())) == 1
    assert all(
        promotions.champion(str(tmp_path), name).why == "first"
        for name in records
        if name != "broken"
    )
