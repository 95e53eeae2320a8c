"""A search over real photographs of solar cells, small enough for every run of the tests."""

import pytest

from mrkd import storage
from mrkd.config import DataConfig, SearchConfig
from mrkd.data import datasets
from mrkd.runs.tune import run as tune
from mrkd.training.search import Search
from tests.runs.test_real_fleet import CELLS, labelled, take
from tests.support.folders import put
from tests.support.plants import HERE


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Cells to train on, twenty labelled of each kind to choose by and twenty to report."""
    folder = tmp_path_factory.mktemp("cells")
    samples = datasets.load(DataConfig(str(CELLS), "elpv", categories=("mono",)))["mono"]
    samples = [one for one in samples if one.headline]
    tested = [one for label in (0, 1) for one in take(samples, "test", label, 20)]
    put(folder / "mono", [*take(samples, "train", 0, 64), *labelled(samples), *tested])
    return folder


def test_a_search_over_real_cells_finds_a_config_and_says_what_it_is_worth(root, tmp_path):
    config = SearchConfig.from_dict(
        {
            "workspace": str(tmp_path),
            "run": "cells",
            "data": {"root": str(root)},
            "model": {"preset": "masked", "image_size": 64},
            "train": {"max_steps": 16, "warmup_steps": 4},
            "search": {"trials": 3, "scheduler": "asha", "refit_best": 1, "refit_seeds": 1},
        }
    )
    summary = tune.run(config, HERE)
    assert summary.exit_code == 0
    assert (summary.counts["trials"], summary.counts["failed"]) == (3, 0)
    assert summary.counts["pruned"] + summary.counts["done"] == 3 + 2
    assert {one.values["model.backbone"] for one in Search(config).trials() if one.values} >= {
        "efficientnet_lite0"
    }
    (group,) = storage.read_json(f"{Search(config).uri}/search.json")["groups"]
    test = group["tests"]["mono"]
    assert (test["num_good"], test["num_defective"]) == (20, 20)
    # Sixteen steps at 64 pixels are no model for a plant, but they tell sound cells from broken.
    assert test["winner"]["image_auroc"]["value"] > 0.6
    assert test["difference"]["low"] <= test["difference"]["value"] <= test["difference"]["high"]
