"""A small plant: a data set, the fleet that was trained on it, an archive, and a calm night."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from mrkd.config import ArchiveConfig, RowsConfig, ScoreConfig
from mrkd.run_summary import Summary
from mrkd.runs import score, train
from mrkd.runs.in_process import InProcess
from tests.support.models import small_config
from tests.support.parts import make_parts

HERE = InProcess(num_cpus=2)
"""Executor of the tests that need no Ray: as many threads as the Ray of the others has CPUs."""


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
    config = small_config(str(root), str(folder / "workspace"), run="fleet-1")
    return Plant(root, folder / "workspace", train.run(config, HERE))


@pytest.fixture(scope="session")
def archive(plant, tmp_path_factory) -> Path:
    """The test images of plates and rings, twelve each, as `<category>/<name>.png`; not changed."""
    folder = tmp_path_factory.mktemp("archive")
    for category in ("plate", "ring"):
        (folder / category).mkdir()
        for image in (plant.root / category / "test").rglob("*.png"):
            shutil.copy(image, folder / category / f"{image.parent.name}-{image.name}")
    return folder


@pytest.fixture
def own_archive(archive, tmp_path) -> Path:
    """A copy of the archive for a test that changes it."""
    return Path(shutil.copytree(archive, tmp_path / "archive"))


@pytest.fixture(scope="session")
def calm(plant, archive) -> Summary:
    """What scoring the whole archive undisturbed said, as night `calm`."""
    return score.run(plant.score_config(archive, "calm"), HERE)
