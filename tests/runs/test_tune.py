"""Searches in this process, of trainings of a few steps on drawn parts."""

import json
import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from mrkd import storage
from mrkd.config import SearchConfig, TrainConfig
from mrkd.errors import ConfigError
from mrkd.runs import train
from mrkd.runs.in_process import InProcess
from mrkd.runs.tune import run as tune
from mrkd.runs.tune.queue import Queue
from mrkd.training.search import Search
from tests.support.parts import make_parts
from tests.support.plants import HERE
from tests.support.searches import (
    NUM_LEARNING,
    learning_search,
    results_of,
    search_under_fire,
    small_search,
    winners_of,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_parts(tmp_path_factory.mktemp("parts"), test_good=12, test_defect=12)


@pytest.fixture(scope="module")
def calm(root, tmp_path_factory):
    """A search of two categories that nothing disturbed."""
    config = small_search(tmp_path_factory.mktemp("calm"), root)
    return config, tune.run(config, HERE)


def test_a_search_leaves_trials_winner_test_and_page(calm):
    config, summary = calm
    assert (summary.exit_code, summary.state) == (0, "done")
    # A refit each of the best and of the default, for two categories.
    assert summary.counts == {
        "categories": 2,
        "trials": 6,
        "refits": 4,
        "done": 10,
        "pruned": 0,
        "failed": 0,
        "out_of_memory": 0,
    }
    folder = Path(config.workspace) / "searches" / "search-1"
    assert json.loads((folder / "summary.json").read_text()) == summary.to_dict()
    assert {path.name for path in folder.iterdir()} >= {
        "best.toml",
        "report.html",
        "search.json",
        "tests",
        "trials",
        "trials.parquet",
    }
    left = [
        path for name in ("models", "teachers", "checkpoints") for path in folder.rglob(f"{name}/*")
    ]
    assert not [path for path in left if path.is_file()]
    record = json.loads((folder / "search.json").read_text())
    for group in record["groups"]:
        (test,) = group["tests"].values()
        assert 0 <= test["winner"]["image_auroc"]["value"] <= 1
        assert test["by"] == "labels"
        assert test["num_good"] + test["num_defective"] > 4


def test_categories_are_searched_with_the_same_configs(calm):
    rows = pq.read_table(
        f"{Search(calm[0]).uri}/trials.parquet".removeprefix("file://")
    ).to_pylist()
    tried = {
        name: {
            row["config"] for row in rows if row["category"] == name and row["stage"] == "search"
        }
        for name in ("plate", "ring")
    }
    assert tried["plate"] == tried["ring"]
    assert len(tried["plate"]) == 3


def test_a_finished_search_is_not_searched_again(calm):
    config, summary = calm
    folder = Path(config.workspace) / "searches" / "search-1" / "trials"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")}
    began = time.monotonic()
    again = tune.run(config, HERE)
    assert again.counts == summary.counts
    assert time.monotonic() - began < 10
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")} == before


def test_the_best_config_trains_a_fleet_as_it_is(calm):
    config, _ = calm
    best = TrainConfig.from_toml(storage.read(f"{Search(config).uri}/best.toml").decode())
    summary = train.run(best, HERE)
    assert (summary.exit_code, summary.counts["trained"]) == (0, 2)


def test_a_search_whose_driver_is_killed_twice_ends_as_an_undisturbed_one(calm, root, tmp_path):
    config = small_search(
        tmp_path, root, **{"data.categories": ["plate"], "executor": "in_process"}
    )
    search_under_fire(config, tmp_path, [1, 3])
    expected = {key: value for key, value in results_of(calm[0]).items() if key[0] == "plate"}
    assert results_of(config) == expected
    assert winners_of(config) == winners_of(calm[0])[:1]


@pytest.fixture(scope="module")
def one_by_one(root, tmp_path_factory):
    """A search of two categories by TPE that nothing disturbed, one trial at a time."""
    folder = tmp_path_factory.mktemp("one-by-one")
    config = learning_search(folder, root, **{"search.trials_at_once": 1})
    assert tune.run(config, HERE).exit_code == 0
    return config


def test_categories_side_by_side_have_the_trials_and_winners_of_one_after_another(
    one_by_one, root, tmp_path
):
    config = learning_search(tmp_path, root)
    counts = tune.run(config, InProcess(num_cpus=3)).counts
    assert (counts["trials"], counts["done"]) == (2 * NUM_LEARNING, 2 * NUM_LEARNING + 4)
    assert results_of(config) == results_of(one_by_one)
    assert winners_of(config) == winners_of(one_by_one)


def test_a_search_of_two_categories_by_tpe_that_is_killed_twice_draws_what_an_undisturbed_one_does(
    one_by_one, root, tmp_path
):
    config = learning_search(tmp_path, root, executor="in_process")
    # The second kill is among the trials that are drawn from the results of others.
    search_under_fire(config, tmp_path, [3, 2 * (NUM_LEARNING - 2)])
    assert results_of(config) == results_of(one_by_one)
    assert winners_of(config) == winners_of(one_by_one)


def test_a_search_ends_at_its_time_budget_and_goes_on_with_a_larger_one(
    root, tmp_path, monkeypatch
):
    values = {"search.trials_at_once": 1, "fleet.cpus_per_worker": 1.0}
    config = small_search(tmp_path, root, **values, **{"search.time_budget": "100s"})
    # As if a first training had taken a minute, and the second an hour.
    took = iter([60.0, 3600.0])
    monkeypatch.setattr(Queue, "end", lambda *a, put=Queue.end: (put(*a), pass_time(a[0], took)))
    summary = tune.run(config, HERE)
    monkeypatch.undo()
    assert (summary.exit_code, summary.counts["trials"]) == (0, 2)
    reason = (
        "search.time_budget (100s) ended the search after 2 of 6 trials: start it again with a "
        "larger one to go on"
    )
    assert list(summary.reasons) == [reason]
    page = Path(config.workspace) / "searches" / "search-1" / "report.html"
    assert reason in page.read_text()
    assert tune.run(config, HERE).counts == summary.counts  # nothing is left of it
    longer = config.with_values({"search.time_budget": "3h"})
    summary = tune.run(longer, HERE)
    assert (summary.exit_code, summary.counts["trials"], summary.reasons) == (0, 6, [])
    assert reason not in page.read_text()
    other = tmp_path / "other"
    other.mkdir()
    undisturbed = small_search(other, root, **values)
    tune.run(undisturbed, HERE)
    assert winners_of(longer) == winners_of(undisturbed)
    found = results_of(longer)
    assert all(found[key] == value for key, value in results_of(undisturbed).items())
    tests = [
        [group["tests"] for group in storage.read_json(f"{Search(one).uri}/search.json")["groups"]]
        for one in (longer, undisturbed)
    ]
    assert tests[0] == tests[1]


def pass_time(queue, took):
    """Lets a queue believe that time passed."""
    queue._began -= (seconds := next(took, 0.0))
    queue._until -= seconds
    queue._search.put_spent_s(queue._search.get_spent_s() + seconds)


def test_a_config_that_fails_is_a_row_with_its_error_and_the_others_go_on(root, tmp_path):
    # The deepest level of lite1's blocks is not among lite0's: half of the configs cannot be built.
    space = tmp_path / "wild.py"
    space.write_text(
        "from mrkd.training.search.space import choice, uniform\n"
        "SPACE = {'train.weight_decay': uniform(0, 1e-5),"
        " 'model.levels': choice([(), (3,)])}\n"
    )
    values = {"search.trials": 4, "search.refit_seeds": 1, "data.categories": ["plate"]}
    config = small_search(tmp_path, root, **values).with_values({"search.space": str(space)})
    summary = tune.run(config, HERE)
    assert (summary.exit_code, summary.counts["trials"]) == (0, 4)
    failed = [one for one in Search(config).trials() if one.state == "failed"]
    assert 0 < len(failed) == summary.counts["failed"] < 4
    assert {one.error for one in failed} == {
        "model.levels is [3]: efficientnet_lite0 has 2",
    }


def test_a_config_that_is_drawn_again_while_it_is_tried_is_one_trial(root, tmp_path):
    space = tmp_path / "narrow.py"
    space.write_text(
        "from mrkd.training.search.space import choice\n"
        "SPACE = {'train.mask_rate': choice([0.3])}\n"
    )
    values = {"search.trials": 4, "search.refit_seeds": 1, "data.categories": ["plate"]}
    config = small_search(tmp_path, root, **values).with_values({"search.space": str(space)})
    summary = tune.run(config, HERE)
    counts = {name: summary.counts[name] for name in ("trials", "refits", "done", "failed")}
    assert counts == {"trials": 1, "refits": 2, "done": 3, "failed": 0}


def test_a_joint_search_chooses_one_config_for_all(root, tmp_path):
    config = small_search(
        tmp_path,
        root,
        **{"search.scope": "joint", "search.trials": 2, "search.refit_seeds": 1},
    )
    summary = tune.run(config, HERE)
    assert (summary.exit_code, summary.counts["trials"], summary.counts["refits"]) == (0, 4, 4)
    (group,) = storage.read_json(f"{Search(config).uri}/search.json")["groups"]
    assert group["categories"] == ["plate", "ring"]
    assert set(group["tests"]) == {"plate", "ring"}
    best = TrainConfig.from_toml(storage.read(f"{Search(config).uri}/best.toml").decode())
    assert best.category == {}


def test_asha_ends_trials_at_its_rungs_and_optuna_draws_them(root, tmp_path):
    config = small_search(
        tmp_path,
        root,
        **{
            "data.categories": ["plate"],
            "search.searcher": "tpe",
            "search.scheduler": "asha",
            "search.trials": 6,
            "search.refit_seeds": 1,
            "train.max_steps": 24,
            "search.objective": "synthetic",
        },
    )
    summary = tune.run(config, HERE)
    assert summary.exit_code == 0
    assert summary.counts["pruned"] >= 1
    assert summary.counts["pruned"] + summary.counts["done"] == 6 + 2
    rows = pq.read_table(f"{Search(config).uri}/trials.parquet".removeprefix("file://")).to_pylist()
    rungs = [row["epoch"] for row in rows if row["state"] == "pruned" and not row["last"]]
    assert set(rungs) <= {0, 1, 3, 7}
    assert 0 in rungs
    (group,) = storage.read_json(f"{Search(config).uri}/search.json")["groups"]
    assert group["tests"]["plate"]["by"] == "synthetic"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"search.space": "none"}, "search.space is 'none'"),
        ({"model.fmm": False}, "does nothing while model.fmm is false"),
        ({"category": {"plate": {"train": {"mask_rate": 0.1}}}}, "search.space varies it"),
        ({"data.categories": ["nut"]}, "fits none"),
    ],
)
def test_what_cannot_be_searched_is_refused_and_nothing_is_written(root, tmp_path, values, message):
    config = small_search(tmp_path, root, **values)
    with pytest.raises(ConfigError, match=message):
        tune.run(config, HERE)
    assert not (tmp_path / "workspace").exists()


@pytest.mark.parametrize("own", [False, True])
def test_a_search_that_is_done_is_not_done_for_another_mask_at_the_same_path(root, tmp_path, own):
    mask = tmp_path / "mask.png"
    Image.new("L", (64, 64), 255).save(mask)
    values = {"search.trials": 1, "data.categories": ["plate"]}
    config = small_search(tmp_path, root, **values)
    table = {"roi": {"mask": str(mask)}}
    raw = config.to_dict() | ({"category": {"pl*": table}} if own else table)
    config = SearchConfig.from_dict(raw)
    assert tune.run(config, HERE).exit_code == 0
    assert tune.run(config, HERE).exit_code == 0
    half = Image.new("L", (64, 64), 255)
    half.paste(0, (0, 0, 64, 32))
    half.save(mask)
    with pytest.raises(ConfigError, match=r"searched with other content of .*roi\.mask"):
        tune.run(config, HERE)


@pytest.mark.parametrize("change", ["space", "image"])
def test_a_search_that_is_done_is_not_done_for_another_space_or_other_images(
    root, tmp_path, change
):
    own = tmp_path / "parts"
    shutil.copytree(root, own)
    config = small_search(tmp_path, own, **{"search.trials": 1, "data.categories": ["plate"]})
    assert tune.run(config, HERE).exit_code == 0
    if change == "space":
        space = Path(config.search.space)
        space.write_text(space.read_text().replace("0.9", "0.5"))
    else:
        good = own / "plate" / "train" / "good"
        shutil.copy(next(good.iterdir()), good / "another.png")
    with pytest.raises(ConfigError, match="searched with other content of"):
        tune.run(config, HERE)
    # The page goes on to name what was searched.
    stored = storage.read_json(f"{Search(config).uri}/search.json")
    assert stored["space"]["train.mask_rate"] == "0 to 0.9"
