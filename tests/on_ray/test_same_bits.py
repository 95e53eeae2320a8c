"""Each verb on Ray and in this process, into two workspaces: the results are equal to the bit."""

import json
import random

import pyarrow.parquet as pq
import pytest
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from mrkd import storage
from mrkd.config import ArchiveConfig, DataConfig, EvalConfig, RowsConfig, ScoreConfig
from mrkd.config.tune import SearchOptions
from mrkd.nights.manifest import open_night
from mrkd.runs import score, train
from mrkd.runs.evaluate import run as evaluate
from mrkd.runs.trials import Rungs
from mrkd.runs.tune import run as search
from mrkd.training.search import spaces
from mrkd.training.search.sampler import sampler_of
from mrkd.training.search.space import NumberRange, OneOf
from tests.support.models import small_config
from tests.support.plants import HERE
from tests.support.rays import RAY
from tests.support.searches import small_search

EVALUATED = ("scores", "metrics", "operating")
NUM_DRAWS = 50


def run_each_verb(executor, folder, root, archive):
    """The workspace after a fleet, a night, an evaluation and a search, with their summaries."""
    folder.mkdir()
    workspace = folder / "workspace"
    fleet = small_config(str(root), str(workspace), **{"data.categories": ["plate", "ring"]})
    rows = RowsConfig(shard_rows=4)
    night = ScoreConfig(str(workspace), "night-1", ArchiveConfig(str(archive)), rows)
    data = DataConfig(str(root), categories=("plate", "ring"))
    evaluation = EvalConfig(str(workspace), "evaluation-1", data, resamples=20)
    # One at a time: otherwise, which trials end at a rung depends on which arrives there first.
    values = {"search.trials_at_once": 1, "search.scheduler": "asha", "train.max_steps": 12}
    tried = small_search(folder, root, **values, **{"data.categories": ["plate"]})
    done = {
        "train": train.run(fleet, executor),
        "score": score.run(night, executor),
        "evaluate": evaluate.run(evaluation, executor),
        "tune": search.run(tried, executor),
    }
    return workspace, done


@pytest.fixture(scope="module")
def both(plant, archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bits")
    return [
        run_each_verb(executor, folder / executor.name, plant.root, archive)
        for executor in (RAY, HERE)
    ]


def test_every_run_ends_well_with_the_same_counts(both):
    (_, on_ray), (_, here) = both
    assert {verb: one.exit_code for verb, one in on_ray.items()} == dict.fromkeys(on_ray, 0)
    for verb, one in on_ray.items():
        assert dict(one.counts) == dict(here[verb].counts), verb


def test_the_models_are_the_same_files(both):
    def files(workspace):
        paths = (path for path in (workspace / "models").rglob("*") if path.is_file())
        return {str(path.relative_to(workspace)): _content(path) for path in paths}

    on_ray, here = (files(workspace) for workspace, _ in both)
    assert len(on_ray) >= 2 * 8
    assert on_ray == here


def _content(path):
    """The bytes of a file; of one that holds a time all but that."""
    if path.parent.name not in ("promotions", "inputs") and path.name != "champion.json":
        return path.read_bytes()
    content = json.loads(path.read_text())
    content.pop("at", None)
    content.get("made", {}).pop("images_per_s", None)
    return content


def test_the_rows_of_the_night_are_the_same(both):
    def rows(workspace):
        return open_night(str(workspace / "nights" / "night-1")).to_table().sort_by("image_uri")

    on_ray, here = (rows(workspace) for workspace, _ in both)
    assert on_ray.num_rows == 24
    assert on_ray["image_score"].null_count == 0
    assert on_ray.equals(here)


@pytest.mark.parametrize("name", EVALUATED)
def test_the_tables_of_the_evaluation_are_the_same(both, name):
    on_ray, here = (
        pq.read_table(workspace / "evaluations" / "evaluation-1" / f"{name}.parquet")
        for workspace, _ in both
    )
    assert on_ray.num_rows > 0
    assert on_ray.equals(here)


def test_the_trials_of_the_search_and_its_winner_are_the_same(both):
    def found(workspace):
        folder = workspace / "searches" / "search-1"
        order = [(name, "ascending") for name in ("category", "config", "seed", "epoch")]
        trials = pq.read_table(folder / "trials.parquet").drop_columns(["seconds"]).sort_by(order)
        best = (folder / "best.toml").read_text().replace(str(workspace), "workspace")
        return trials, best, storage.read_json(str(folder / "search.json"))["groups"]

    on_ray, here = (found(workspace) for workspace, _ in both)
    assert on_ray[0].num_rows > 3
    assert on_ray[0].equals(here[0])
    assert on_ray[1:] == here[1:]
    (group,) = on_ray[2]
    assert group["winner"]


def as_ray_has_it(domain):
    """The domain of `ray.tune`."""
    match domain:
        case OneOf(values):
            return tune.choice(list(values))
        case NumberRange(low, high, True, False, 0.0):
            return tune.loguniform(low, high)
        case NumberRange(low, high, False, False, 0.0):
            return tune.uniform(low, high)
        case NumberRange(low, high, False, True, 0.0):
            return tune.randint(int(low), int(high))
    raise NotImplementedError(domain)


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("name", spaces.names())
def test_a_search_draws_the_configs_that_ray_tune_draws(name, seed):
    space = spaces.load(name)
    ours = sampler_of(SearchOptions(seed=seed), space)
    of_ray = {key: as_ray_has_it(domain) for key, domain in space.items()}
    theirs = BasicVariantGenerator(random_state=seed)
    theirs.add_configurations(
        {"search": {"run": print, "config": of_ray, "num_samples": NUM_DRAWS}}
    )
    for number in range(NUM_DRAWS):
        assert ours.ask(str(number)) == theirs.next_trial().config
    assert theirs.next_trial() is None


@pytest.mark.parametrize(("grace", "reduction"), [(1, 2), (2, 2), (1, 3), (3, 4)])
def test_a_rung_ends_the_trials_that_the_scheduler_of_ray_tune_ends(grace, reduction):
    rng = random.Random(11)
    scheduler = ASHAScheduler(
        "epoch", "objective", "max", max_t=10**6, grace_period=grace, reduction_factor=reduction
    )
    rungs = Rungs(grace, reduction)
    trials = {Trial("unnamed", stub=True): 0 for _ in range(40)}
    for trial in trials:
        scheduler.on_trial_add(None, trial)
    stopped = reports = 0
    while trials:
        trial = rng.choice(list(trials))
        trials[trial] += 1
        epoch, objective = trials[trial], rng.choice([rng.random(), 0.5])
        row = {"epoch": epoch, "objective": objective}
        ends = scheduler.on_trial_result(None, trial, row) == TrialScheduler.STOP
        assert rungs.is_below(epoch, objective) == ends, row
        stopped, reports = stopped + ends, reports + 1
        if ends or epoch == 70:
            del trials[trial]
    assert 10 < stopped < 40
    assert reports > 80
