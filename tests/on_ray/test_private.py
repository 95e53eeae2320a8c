"""Each private part of Ray that `mrkd.runs.on_ray.private` uses is there and serves its purpose."""

from importlib import import_module
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayActorError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from mrkd.data import datasets
from mrkd.errors import CategoryError
from mrkd.model.registry import promotions
from mrkd.runs.category_training import TrainingTask
from mrkd.runs.on_ray import cluster, private, workers
from mrkd.runs.on_ray.cluster import is_autoscaled
from mrkd.runs.resources import Node, Resources
from tests.support.models import small_config
from tests.support.rays import RAY

RAYLET = Path(ray.__file__).parent / "core" / "src" / "ray" / "raylet" / "raylet"


@pytest.fixture
def autoscaled():
    """This Ray, as if it had an autoscaler with some groups of nodes."""
    gpus, off, cpus = {"CPU": 8.0, "GPU": 1.0}, {"CPU": 64.0}, {"CPU": 2.0}
    private.report_groups([(gpus, 4), (off, 0), (cpus, 2)])
    yield
    private.report_groups([])


def test_the_kinds_of_nodes_that_an_autoscaler_may_add_are_known(autoscaled):
    assert private.autoscaled_groups() == [({"CPU": 8.0, "GPU": 1.0}, 4), ({"CPU": 2.0}, 2)]
    assert is_autoscaled()
    # The live node counts as one of its kind.
    assert cluster.nodes() == [Node(2.0)] + [Node(8.0, 1.0)] * 4 + [Node(2.0)]
    assert cluster.live_nodes() == [Node(2.0)]


def test_a_ray_without_an_autoscaler_has_no_such_nodes():
    assert private.autoscaled_groups() == []
    assert not is_autoscaled()


def test_a_group_trains_a_category_and_the_error_of_its_workers_is_the_one_of_a_category(
    plant, tmp_path
):
    config = small_config(str(plant.root), str(tmp_path / "workspace"))
    config = config.with_values({"fleet.workers_per_category": 2})
    samples = datasets.load(config.data)
    tasks = {
        name: TrainingTask(
            config, name, samples[name], str(tmp_path / "checkpoints" / name), RAY.new_status()
        )
        for name in ("plate", "broken")
    }
    found = RAY.train_each(tasks, Resources(1.0), group_size=2, max_failures=0, backoff_s=0.0)
    ends = {end.category: end for end in found}
    assert (ends["plate"].error, ends["plate"].result.status) == ("", "trained")
    champion = promotions.champion(config.workspace, "plate")
    assert champion.version == ends["plate"].result.version
    # It was raised as a `TrainingFailedError`, by a trainer that took both configs.
    assert (
        ends["broken"].error
        == "0 good images, at least 4 are needed: add good images to its part train"
    )


def test_what_a_worker_raised_is_told_from_the_loss_of_a_group():
    died = WorkerHealthCheckFailedError("no answer", RuntimeError("killed"))
    for lost in (
        ControllerError(RuntimeError("no room")),
        WorkerGroupError("a worker was lost", {0: RayActorError(), 1: died}),
    ):
        assert isinstance(lost, private.TrainingFailedError)
        assert private.worker_exceptions(lost) == []
        assert "its group of workers was lost" in str(workers._cause(lost))
    failure = CategoryError("no image")
    both = WorkerGroupError("of two", {0: RayActorError(), 1: failure})
    assert private.worker_exceptions(both) == [failure]
    assert workers._cause(both) is failure


def test_the_logger_of_progress_bars_is_the_one_that_says_they_are_off():
    module = import_module(private.DATA_PROGRESS_LOGGER)
    assert module.logger.name == private.DATA_PROGRESS_LOGGER
    assert "Progress bars disabled" in Path(module.__file__).read_text()


@pytest.mark.parametrize(
    "text", [private.IDLE_WORKER_VARIABLE.removeprefix("RAY_"), private.LOW_MEMORY]
)
def test_a_raylet_knows_the_setting_of_idle_workers_and_says_whom_it_ended_for_memory(text):
    assert private.IDLE_WORKER_VARIABLE.startswith("RAY_")
    assert text.encode() in RAYLET.read_bytes()
