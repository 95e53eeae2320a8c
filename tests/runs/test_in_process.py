"""What is special to the executor in this process: threads, their end, and bugs of the code."""

import json
import logging
import random
import re
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from mrkd import storage
from mrkd.errors import ConfigError
from mrkd.nights.manifest import open_night
from mrkd.runs import category_training, score, train
from mrkd.runs.in_process import InProcess
from mrkd.runs.resources import Resources
from mrkd.runs.shards import read_images, shard_work
from mrkd.training import category
from tests.support.chaos import weights_digests
from tests.support.models import small_config, small_model
from tests.support.night_runs import events
from tests.support.plants import HERE
from tests.support.under_fire import UnderFire

EACH = Resources(1.0)


def fleet_config(plant, workspace, **values):
    """A fleet of two categories."""
    values = {"data.categories": ["plate", "ring"], "fleet.backoff_s": 0.0} | values
    return small_config(str(plant.root), str(workspace), **values)


def wait_until(is_so, seconds=120):
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_fleet_that_is_told_to_end_does_within_seconds_and_goes_on_from_its_checkpoints(
    plant, tmp_path, caplog
):
    values = {"train.max_steps": 50, "train.patience": 1000, "fleet.checkpoint_s": 0.0}
    config = fleet_config(plant, tmp_path / "w", executor="in_process", **values)
    toml = tmp_path / "fleet.toml"
    toml.write_text(config.to_toml())
    command = [sys.executable, "-m", "jobs.train", str(toml)]
    fire = UnderFire(command, {}, tmp_path / "log", random.Random(0))
    folder = tmp_path / "w" / "fleets" / "test"

    def checkpoints():
        return list(folder.glob("checkpoints/*/*.safetensors"))

    try:
        fire.start()

        def is_under_way():
            assert fire.driver.poll() is None, fire.tail()
            return checkpoints() and "epoch_end category=" in fire.log.read_text()

        wait_until(is_under_way)
        fire.driver.send_signal(signal.SIGTERM)
        assert fire.driver.wait(10) == 1, fire.tail()
    finally:
        fire.end()
    summary = json.loads((folder / "summary.json").read_text())
    assert json.loads(fire.log.read_text().splitlines()[-1]) == summary
    assert (summary["exit_code"], summary["state"]) == (1, "failed")
    assert (summary["counts"]["trained"], summary["counts"]["not_started"]) == (0, 2)
    assert summary["reasons"][0] == "2 categories are not done: start the fleet again to go on"
    ends = [json.loads(file.read_text()) for file in (folder / "categories").iterdir()]
    assert len(ends) == 2
    text = r"the fleet was stopped (after epoch \d+|before) .*: start the fleet again to go on"
    assert all(re.fullmatch(text, end["reason"]) for end in ends)
    num_checkpoints = len(checkpoints())
    assert num_checkpoints
    assert not (tmp_path / "w" / "models").exists()

    caplog.set_level(logging.INFO, "mrkd")
    assert train.run(config, HERE).counts["trained"] == 2
    steps = [int(step) for step in re.findall(r"checkpoint_resumed .* step=(\d+)", caplog.text)]
    assert len(steps) == num_checkpoints
    assert all(0 < step < 50 for step in steps)
    undisturbed = fleet_config(plant, tmp_path / "other", **values)
    train.run(undisturbed, HERE)
    assert weights_digests(config) == weights_digests(undisturbed)


def test_students_that_are_built_side_by_side_have_the_weights_of_those_that_are_built_alone():
    """Other threads draw from the one generator of the process meanwhile, and it is left alone."""
    alone = [small_model(seed).state_dict() for seed in range(4)]
    ended = threading.Event()

    def draw():
        while not ended.is_set():
            torch.nn.Linear(8, 8)

    with ThreadPoolExecutor(5) as threads:
        threads.submit(draw)
        together = [model.state_dict() for model in threads.map(small_model, range(4))]
        ended.set()
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    before = torch.get_rng_state()
    small_model(0)
    assert torch.equal(torch.get_rng_state(), before)


def rows(plant, run):
    return {
        row["image_uri"].rpartition("/")[2]: row
        for row in open_night(str(plant.night(run))).to_table().to_pylist()
        if row["category"] == "plate"
    }


@pytest.fixture
def bug(monkeypatch):
    """Breaks the decoding of the images whose URIs hold a text."""

    def put(text):
        def decode(decoder, row, got):
            if text in row["image_uri"]:
                raise ValueError("a bug of the code")
            return read_images.decode(decoder, row, got)

        monkeypatch.setattr(shard_work, "decode", decode)

    return put


def test_an_image_on_which_the_code_fails_is_an_internal_row_and_all_others_are_scored(
    plant, archive, calm, bug
):
    bug("plate/good-002.png")
    summary = score.run(plant.score_config(archive, "one-bug"), HERE)
    assert (summary.exit_code, summary.state) == (3, "partial")
    assert events(summary.reasons) == ["1 of 24 images have no score: internal 1"]
    found, expected = rows(plant, "one-bug"), rows(plant, "calm")
    assert found.keys() == expected.keys()
    for name, row in found.items():
        if name == "good-002.png":
            assert (row["error_kind"], row["image_score"]) == ("internal", None)
        else:
            assert row == expected[name]
    crashes = [json.loads(file.read_text()) for file in plant.night("one-bug").glob("attempts/*/*")]
    named = {one["image_uri"] for one in crashes if one["at"] == "decode"}
    assert named == {f"file://{archive}/plate/good-002.png"}
    reasons = {one["reason"] for one in crashes if one["at"] == "decode"}
    assert reasons == {"ValueError: a bug of the code"}


def test_code_that_fails_on_more_than_sixteen_images_ends_the_night_by_its_bug(plant, archive, bug):
    bug(".png")
    with pytest.raises(ValueError, match="a bug of the code"):
        score.run(plant.score_config(archive, "all-bugs"), HERE)
    assert not (plant.night("all-bugs") / "_MANIFEST.json").exists()
    assert not (plant.night("all-bugs") / "summary.json").exists()


def test_a_bug_that_no_image_has_in_hand_ends_the_night(plant, archive, monkeypatch):
    def score_shard(*_):
        raise ValueError("a bug of the scoring")

    monkeypatch.setattr(shard_work, "score_shard", score_shard)
    with pytest.raises(ValueError, match="a bug of the scoring"):
        score.run(plant.score_config(archive, "scoring-bug"), HERE)
    assert not list(plant.night("scoring-bug").rglob("shard-*.parquet"))


def test_a_group_of_workers_is_refused():
    with pytest.raises(
        ConfigError, match=r"workers_per_category is above 1, and a group of workers needs Ray: set"
    ):
        HERE.connected("train_each", group_size=2)


def test_a_bug_in_one_category_ends_it_alone_with_its_traceback(plant, tmp_path, monkeypatch):
    train_category = category.train_category

    def train_or_fail(config, category, *arguments, **options):
        if category == "plate":
            raise ZeroDivisionError("a bug of the training")
        return train_category(config, category, *arguments, **options)

    monkeypatch.setattr(category_training, "train_category", train_or_fail)
    summary = train.run(fleet_config(plant, tmp_path), HERE)
    assert (summary.exit_code, summary.counts["trained"], summary.counts["failed"]) == (3, 1, 1)
    assert summary.reasons[0] == "category plate: ZeroDivisionError: a bug of the training"
    folder = tmp_path / "fleets" / "test"
    record = json.loads((folder / "categories" / "plate.json").read_text())
    assert (record["status"], record["attempts"]) == ("failed", 1)
    text = storage.read(record["traceback"]).decode()
    assert "in train_or_fail" in text
    assert text.splitlines()[-1] == "ZeroDivisionError: a bug of the training"
    assert not (tmp_path / "models" / "plate").exists()
    assert (tmp_path / "models" / "ring").exists()


@pytest.mark.parametrize("max_failures", [0, 2])
def test_a_failure_of_a_device_is_tried_again_so_often_and_not_more(
    plant, tmp_path, monkeypatch, max_failures
):
    train_category, begun = category.train_category, []

    def train_or_fail(config, category, *arguments, **options):
        begun.append(category)
        if category == "plate":
            raise RuntimeError("CUDA error")
        return train_category(config, category, *arguments, **options)

    monkeypatch.setattr(category_training, "train_category", train_or_fail)
    config = fleet_config(plant, tmp_path, **{"fleet.max_failures": max_failures})
    summary = train.run(config, HERE)
    assert (summary.counts["trained"], summary.counts["failed"]) == (1, 1)
    assert (begun.count("plate"), begun.count("ring")) == (max_failures + 1, 1)
    folder = tmp_path / "fleets" / "test"
    record = json.loads((folder / "categories" / "plate.json").read_text())
    assert (record["attempts"], record["error"]) == (max_failures + 1, "RuntimeError: CUDA error")
    names = {path.name for path in (folder / "tracebacks").iterdir()}
    assert names == {f"plate-{number}.txt" for number in range(1, max_failures + 2)}


def most_at_once(executor, crowd, each=EACH, **options):
    """The most of twice as many calls that are under way at once, which wait for a crowd."""
    lock = threading.Lock()
    now = most = 0

    def call():
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        wait_until(lambda: most >= crowd, 30)
        time.sleep(0.2)  # for one more, were there room for it
        with lock:
            now -= 1

    calls = {str(number): () for number in range(2 * crowd)}
    ends = list(executor.run_each(call, calls, each, max_failures=0, **options))
    assert [one.error for one in ends] == [""] * 2 * crowd
    return most


@pytest.mark.parametrize(
    ("cpus", "at_once", "expected"), [(3, 2, 2), (3, None, 3), (2, 4, 2), (1, None, 1)]
)
def test_no_more_calls_are_under_way_than_are_allowed_or_there_are_cpus(cpus, at_once, expected):
    assert most_at_once(InProcess(num_cpus=cpus), expected, at_once=at_once) == expected


def test_calls_of_more_than_a_cpu_each_are_fewer():
    assert most_at_once(InProcess(num_cpus=5), 2, Resources(2.0)) == 2


def test_whoever_leaves_before_the_last_ends_the_calls_under_way():
    begun, ended = threading.Event(), threading.Event()
    started = []

    def call(name):
        started.append(name)
        if name == "short":
            assert begun.wait(60)
            return
        begun.set()
        try:
            while True:
                time.sleep(0.01)
        finally:
            ended.set()

    names = {name: (name,) for name in ("long", "short", "last")}
    calls = InProcess(num_cpus=2).run_each(call, names, EACH, max_failures=3, at_once=2)
    assert next(calls).category == "short"
    calls.close()
    assert ended.wait(10)
    assert sorted(started) == ["long", "short"]
    wait_until(lambda: not [one for one in threading.enumerate() if "mrkd-call" in one.name], 10)


@pytest.fixture
def hasty():
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
def test_a_status_keeps_what_threads_report_at_the_same_time():
    status, both = HERE.new_status(), threading.Barrier(2)

    def call(name):
        both.wait(60)
        for number in range(5000):
            status.report(f"{name}-{number}", {"step": number})

    list(HERE.run_each(call, {name: (name,) for name in "ab"}, EACH, max_failures=0))
    assert status.reports() == {f"{a}-{n}": {"step": n} for a in "ab" for n in range(5000)}


def test_a_folder_is_forgotten(tmp_path: Path):
    (tmp_path / "features" / "a").mkdir(parents=True)
    HERE.forget(str(tmp_path / "features"))
    HERE.forget(str(tmp_path / "absent"))
    assert not list(tmp_path.iterdir())
