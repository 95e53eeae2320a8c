"""One local Ray of two CPUs for all tests here, and a small plant with models and an archive."""

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

from mrkd.config import ArchiveConfig, RowsConfig, ScoreConfig
from mrkd.on_ray import train
from mrkd.summary import Summary
from tests.support.models import small_config
from tests.support.parts import make_parts


@pytest.fixture(scope="session", autouse=True)
def local_ray():
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level=logging.WARNING)
    yield
    ray.shutdown()


@dataclass(frozen=True)
class Plant:
    """A data set, the fleet that was trained on it, and where to write."""

    root: Path
    workspace: Path
    trained: Summary

    def score_config(self, archive: Path, run: str, **values: object) -> ScoreConfig:
        config = ScoreConfig(
            str(self.workspace), run, ArchiveConfig(str(archive)), RowsConfig(shard_rows=4)
        )
        return config.with_values(values)

    def night(self, run: str) -> Path:
        return self.workspace / "nights" / run


@pytest.fixture(scope="session")
def plant(tmp_path_factory) -> Plant:
    """Plates and rings have a model; `broken` holds text instead of images."""
    folder = tmp_path_factory.mktemp("plant")
    root = make_parts(folder / "parts")
    broken = root / "broken" / "train" / "good"
    broken.mkdir(parents=True)
    (broken / "notes.txt").write_text("no image")
    summary = train.run(small_config(str(root), str(folder / "workspace"), run="fleet-1"))
    return Plant(root, folder / "workspace", summary)


@pytest.fixture
def archive(plant, tmp_path) -> Path:
    """The test images of plates and rings, twelve each, as `<category>/<name>.png`."""
    for category in ("plate", "ring"):
        (tmp_path / "archive" / category).mkdir(parents=True)
        for image in (plant.root / category / "test").rglob("*.png"):
            name = f"{image.parent.name}-{image.name}"
            shutil.copy(image, tmp_path / "archive" / category / name)
    return tmp_path / "archive"
