"""A fleet whose processes are killed at random moments, started again until it is done."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrkd import storage
from mrkd.config import TrainConfig
from mrkd.model import artefact
from mrkd.model.registry import promotions
from tests.support.models import small_config
from tests.support.parts import make_parts
from tests.support.under_fire import ChaosError, UnderFire

_TITLES = {
    # How the processes of a kind name themselves in /proc.
    "worker": ("ray::train\0", "ray::RayTrainWorker"),
    "controller": ("ray::TrainController",),
    "board": ("ray::StatusActor\0",),
    "raylet": ("raylet/raylet\0",),
}
_START_S = 120.0
_END_S = 240.0
_GONE_S = 40.0


CATEGORIES = ("a", "b", "c", "d")


def make_categories(folder: Path) -> Path:
    """Four categories of drawn parts, no two of a size."""
    for number, name in enumerate(CATEGORIES):
        made = make_parts(folder / f"{name}.made", 1, train=32 + 4 * number)
        (made / "plate").rename(folder / name)
        made.rmdir()
    return folder


def long_fleet(root: Path | str, workspace: Path | str, **values: object) -> TrainConfig:
    """Trainings of some seconds, with a checkpoint after each epoch."""
    long = {
        "train.max_steps": 100,
        "train.patience": 1000,
        "fleet.checkpoint_s": 0.0,
        "fleet.max_failures": 100,
        "fleet.backoff_s": 0.1,
        "executor": "ray",
    }
    return small_config(str(root), str(workspace), **long | values)


def run_under_fire(
    config: TrainConfig, folder: Path, kinds: Sequence[str], seed: int = 0
) -> FleetUnderFire:
    """Runs a fleet to its end, one process of each kind killed on the way."""
    folder.mkdir()
    toml = folder / "fleet.toml"
    toml.write_text(config.to_toml())
    fleet_uri = storage.join(config.workspace, "fleets", config.run)
    fire = FleetUnderFire(toml, fleet_uri, folder / "driver.log", random.Random(seed))
    assert fire.run(kinds) == 0, fire.tail()
    return fire


def weights_digests(config: TrainConfig) -> dict[str, str]:
    """Of each category's champion."""
    found = {}
    for name in storage.list_names(storage.join(config.workspace, "models")):
        version = promotions.champion(config.workspace, name).version
        found[name] = artefact.read_card(config.workspace, name, version).weights_digest
    return found


class FleetUnderFire(UnderFire):
    """One fleet, its command and its victims.

    Args:
        toml: path of the fleet's config.
        fleet_uri: of the fleet's folder.
        log: path that the driver's output goes to.
        rng: of the moments.

    Attributes:
        stopped: exit code and verdict of each start that was asked to end.
    """

    def __init__(self, toml: Path, fleet_uri: str, log: Path, rng: random.Random) -> None:
        super().__init__([sys.executable, "-m", "jobs.train", str(toml)], _TITLES, log, rng)
        self.fleet_uri = fleet_uri
        self.stopped: list[tuple[int, dict[str, Any]]] = []

    def run(self, kinds: Sequence[str]) -> int:
        """Kills one process of each kind in turn, and returns the last start's exit code.

        Args:
            kinds: worker, controller, board, raylet, driver; `stop` asks the driver to end.
        """
        try:
            self.start()
            for kind in kinds:
                self._kill_one(kind)
            try:
                return self.driver.wait(_END_S)
            except subprocess.TimeoutExpired as error:
                raise ChaosError(f"not done after {_END_S:g} s: {self.tail()}") from error
        finally:
            self.end()

    def victims(self, kind: str) -> list[int]:
        return super().victims("driver" if kind == "stop" else kind)

    def _kill_one(self, kind: str) -> None:
        """Waits until a training is under way and has a victim, and some moments more."""
        until = time.monotonic() + _START_S
        before = self._checkpoints()
        while True:
            if self.driver.poll() is not None or time.monotonic() > until:
                raise ChaosError(f"no {kind} to kill, driver {self.driver.poll()}: {self.tail()}")
            if self._checkpoints() - before and self.victims(kind):
                break
            time.sleep(0.05)
        time.sleep(self.rng.uniform(0, 1))
        victims = self.victims(kind)
        if victims:
            how = signal.SIGTERM if kind == "stop" else signal.SIGKILL
            os.kill(self.rng.choice(victims), how)
        if kind == "stop":
            self.stopped.append((self.driver.wait(_GONE_S), self._verdict()))
        if kind in ("driver", "raylet", "stop"):
            self.end()
            self.start()

    def _verdict(self) -> dict[str, Any]:
        found: dict[str, Any] = storage.read_json(f"{self.fleet_uri}/summary.json")
        return found

    def _checkpoints(self) -> set[tuple[str, str]]:
        files = storage.list_files(f"{self.fleet_uri}/checkpoints", suffixes=(".safetensors",))
        return {(file.uri, file.etag) for file in files}
