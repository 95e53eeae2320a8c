import json
import math
from dataclasses import asdict

import pyarrow.parquet as pq
import pytest

from mrkd import storage
from mrkd.config import SearchConfig, TrainConfig
from mrkd.config.tune import SearchOptions
from mrkd.errors import ConfigError
from mrkd.training.search import Search, Trial, comparable, importances, key_of, objectives, ranked
from mrkd.training.search.effects import effects
from tests.support.searches import small_search, write_search


def done(category, rate, objective, seed=0):
    values = {"train.mask_rate": rate}
    return Trial(category, values, seed, "done", [], {"objective": objective})


def test_a_config_has_one_name_whatever_the_order_of_its_values_and_lists_or_tuples():
    assert key_of({"a": 1, "b": (1, 2)}) == key_of({"b": [1, 2], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})


def test_objectives_are_means_over_seeds_of_what_came_to_its_end():
    failed = Trial("a", {"train.mask_rate": 0.1}, 3, "failed", [], {"objective": 0.1})
    trials = [done("a", 0.1, 0.8), done("a", 0.1, 0.9, seed=1), done("b", 0.1, 0.5), failed]
    (found,) = objectives(trials).values()
    assert found == {"a": pytest.approx(0.85), "b": 0.5}


def test_the_best_mean_rank_over_categories_wins_and_not_the_best_mean():
    found = {
        "steady": {"a": 0.70, "b": 0.70, "c": 0.70},
        "wild": {"a": 0.99, "b": 0.60, "c": 0.60},
        "low": {"a": 0.60, "b": 0.65, "c": 0.65},
        "half": {"a": 1.0},
    }
    best = ranked(found, ["a", "b", "c"])
    assert [key for key, _ in best] == ["steady", "wild", "low"]
    assert [rank for _, rank in best] == pytest.approx([4 / 3, 7 / 3, 7 / 3])


def test_equal_objectives_share_their_ranks():
    found = {"x": {"a": 0.5}, "y": {"a": 0.5}, "z": {"a": 0.4}}
    assert [rank for _, rank in ranked(found, ["a"])] == [1.5, 1.5, 3.0]
    assert ranked({}, ["a"]) == []


def test_where_few_trials_came_to_their_end_all_are_compared_at_their_first_rung():
    def tried(number, state):
        rows = [{"epoch": n, "loss": 1.0} for n in range(3)]
        rows[1] |= {"objective": number / 10}
        rows[2] |= {"objective": 0.99}
        marks = {"objective": 0.9} if state == "done" else {}
        return Trial("a", {"train.mask_rate": number / 10}, 0, state, rows, marks)

    few = [tried(n, "done" if n < 2 else "pruned") for n in range(6)]
    found, epochs = comparable([*few, Trial("a", {}, 0, "failed", error="no")], ["a"])
    assert sorted(found.values()) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert epochs == 2
    many = [tried(n, "done" if n < 8 else "pruned") for n in range(9)]
    found, epochs = comparable(many, ["a"])
    assert (len(found), set(found.values()), epochs) == (8, {0.9}, None)
    assert comparable([], ["a"]) == ({}, None)


def test_the_key_that_decides_has_the_largest_importance():
    values = [
        {"train.mask_rate": n / 20, "train.learning_rate": (n * 7 % 20) / 2e3 + 1e-3}
        for n in range(20)
    ]
    shares, why_not = importances(values, [v["train.mask_rate"] for v in values])
    assert why_not == ""
    assert next(iter(shares)) == "train.mask_rate"
    assert sum(shares.values()) == pytest.approx(1)


def test_few_or_equal_trials_have_no_importance_and_a_reason():
    assert importances([{"a": 0.1}] * 3, [1, 2, 3]) == (
        {},
        "3 trials tell nothing of single keys: 8 may",
    )
    assert importances([{"a": n / 9} for n in range(9)], [0.5] * 9)[0] == {}


def test_a_key_without_effect_is_said_to_make_no_difference():
    values = [{"train.mask_rate": n / 30} for n in range(30)]
    noise = [0.9 + 0.01 * math.sin(37 * n) for n in range(30)]
    (effect,) = effects(values, noise)
    assert effect.words == (
        "train.mask_rate: between 0 and 0.97 makes no difference that these data can show"
    )


def test_a_key_with_an_effect_is_said_to_cost_where_it_does():
    values = [{"train.mask_rate": n / 30} for n in range(30)]
    falling = [0.9 - (0.2 if n >= 24 else 0) + 0.002 * math.sin(37 * n) for n in range(30)]
    (effect,) = effects(values, falling)
    assert len(effect.parts) == 5
    assert effect.words == (
        "train.mask_rate: between 0 and 0.77 serve alike; 0.8 to 0.97 costs 0.200"
    )


def test_choices_are_compared_by_name_and_few_trials_tell_nothing():
    values = [{"model.levels": levels} for levels in [[], [1, 2]] * 4]
    (effect,) = effects(values, [0.9, 0.5, 0.91, 0.51, 0.9, 0.5, 0.91, 0.51])
    assert effect.words == "model.levels: all is best; 1, 2 costs 0.400"
    (effect,) = effects(values[:2], [0.9, 0.5])
    assert effect.words == "model.levels: too few trials to tell what it does"
    assert effects([], []) == []


def test_trials_stand_in_a_table_with_a_row_a_rung_and_one_for_the_end(tmp_path):
    table = pq.read_table(f"{write_search(tmp_path)}/trials.parquet".removeprefix("file://"))
    rows = [
        row for row in table.to_pylist() if row["category"] == "plate" and row["stage"] == "search"
    ]
    assert len(rows) == 2 * 16
    ends = [row for row in rows if row["last"]]
    assert sorted({row["state"] for row in ends}) == ["done", "failed", "pruned"]
    assert {row["objective"] is None for row in ends if row["state"] != "done"} == {False, True}
    (failed,) = [row for row in ends if row["state"] == "failed"]
    assert failed["error"].startswith("the training diverged")
    assert all(0 <= row["train.mask_rate"] <= 0.9 for row in rows)
    assert {row["stage"] for row in table.to_pylist()} == {"search", "refit"}


def test_the_best_config_is_a_fleet_with_a_table_for_each_category(tmp_path):
    uri = write_search(tmp_path)
    best = TrainConfig.from_toml(storage.read(f"{uri}/best.toml").decode())
    assert best.run == "search-1-best"
    record = storage.read_json(f"{uri}/search.json")
    for group in record["groups"]:
        (name,) = group["categories"]
        own = best.for_category(name)
        assert own.train.mask_rate == group["values"]["train.mask_rate"]
        assert own.model.simam == group["values"]["model.simam"]


def test_another_config_under_the_same_name_is_refused_and_force_begins_anew(tmp_path):
    config = small_search(tmp_path, tmp_path / "parts")
    search = Search(config)
    search.begin()
    search.put(done("plate", 0.1, 0.9))
    Search(config.with_values({"search.trials": 9})).begin()
    other = config.with_values({"train.learning_rate": 0.5})
    with pytest.raises(
        ConfigError, match=r"searched with train\.learning_rate = 0\.001, now it is 0\.5"
    ):
        Search(other).begin()
    assert len(search.trials()) == 1
    Search(other.with_values({"fleet.force": True})).begin()
    assert search.trials() == []


@pytest.mark.parametrize("key", ["search.space", "data.root", "model.weights"])
def test_other_content_behind_the_same_name_is_refused(tmp_path, key):
    config = small_search(tmp_path, tmp_path / "parts")
    made_of = dict.fromkeys(("search.space", "data.root", "model.weights"), "a")
    search = Search(config)
    search.begin(made_of)
    search.store({"state": "done", "groups": []})
    Search(config).begin(made_of)
    with pytest.raises(ConfigError, match=f"other content of {key}.*--force"):
        Search(config).begin({**made_of, key: "b"})
    Search(config.with_values({"fleet.force": True})).begin({**made_of, key: "b"})


def test_a_search_of_before_says_nothing_of_its_content_and_goes_on(tmp_path):
    search = Search(small_search(tmp_path, tmp_path / "parts"))
    search.begin()
    content = storage.read_json(f"{search.uri}/search.json")
    del content["made_of"]
    storage.write_json(f"{search.uri}/search.json", content)
    search.begin({"search.space": "a"})
    assert storage.read_json(f"{search.uri}/search.json")["made_of"] == {"search.space": "a"}


def test_a_trial_survives_its_file_and_one_under_way_is_no_result(tmp_path):
    search = Search(small_search(tmp_path, tmp_path / "parts"))
    trial = Trial("plate", {"model.levels": (1, 2)}, 0, rows=[{"epoch": 0, "loss": None}])
    search.put(trial)
    assert search.trials() == []
    stored = search.get("plate", trial.key, 0)
    assert (stored.key, stored.rows) == (trial.key, trial.rows)
    assert search.get("plate", "0" * 12, 0) is None
    assert json.loads(json.dumps(asdict(trial)))["state"] == "running"


def test_a_trial_is_the_fleet_with_its_values_and_a_seed(tmp_path):
    config = small_search(tmp_path, tmp_path / "parts")
    trial = config.trial({"train.mask_rate": 0.7}, seed=5)
    assert isinstance(trial, TrainConfig)
    assert not isinstance(trial, SearchConfig)
    assert (trial.train.mask_rate, trial.train.seed) == (0.7, 5)
    assert config.base().train == config.train


@pytest.mark.parametrize(("budget", "seconds"), [("", math.inf), ("90m", 5400), ("2h", 7200)])
def test_a_time_budget_is_a_span_of_time(budget, seconds):
    assert SearchOptions(time_budget=budget).budget_s == seconds


@pytest.mark.parametrize(
    ("budget", "message"), [("0h", "no trial could"), ("2 h", "a unit, as in")]
)
def test_a_time_budget_without_time_is_refused(budget, message):
    with pytest.raises(ConfigError, match=message):
        SearchOptions(time_budget=budget)


def test_a_test_is_of_the_winner_it_was_made_of_and_one_of_before_of_any(tmp_path):
    search = Search(small_search(tmp_path, tmp_path))
    search.put_test("plate", "abc", {"by": "labels"})
    assert search.get_test("plate", "abc") == {"by": "labels"}
    assert search.get_test("plate", "abd") is None
    search.write_json({"by": "synthetic"}, "tests", "ring.json")
    assert search.get_test("ring", "abc") == {"by": "synthetic"}
