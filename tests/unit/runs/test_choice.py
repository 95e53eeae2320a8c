"""Which executor a run gets, and what its log says about it."""

import logging
import sys

import pytest

from mrkd.errors import ConfigError, MrkdError
from mrkd.runs import choice
from mrkd.runs.choice import Auto, executor_of, for_one_machine
from mrkd.runs.in_process import InProcess
from mrkd.runs.on_ray.executor import OnRay


@pytest.fixture(autouse=True)
def log_of_mrkd(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "mrkd")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if "ray" in sys.modules:  # another test of this process may hold a Ray
        monkeypatch.setattr(sys.modules["ray"], "is_initialized", lambda: False)
    return caplog


@pytest.mark.parametrize(("name", "kind"), [("ray", OnRay), ("in_process", InProcess)])
def test_the_config_has_the_first_word(name, kind, monkeypatch, log_of_mrkd):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    executor = executor_of(name)
    assert isinstance(executor, kind)
    assert executor.for_work(lambda: 1 / 0) is executor  # its length does not matter
    assert f"executor name={name} reason=the config asks for it" in log_of_mrkd.text


def test_a_cluster_is_used(monkeypatch, log_of_mrkd):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert isinstance(executor_of("auto"), OnRay)
    assert isinstance(for_one_machine("auto"), OnRay)
    assert "name=ray reason=RAY_ADDRESS names a cluster" in log_of_mrkd.text


def test_a_ray_of_this_process_is_used(monkeypatch, log_of_mrkd):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    assert isinstance(executor_of("auto"), OnRay)
    assert "reason=a Ray runs in this process" in log_of_mrkd.text


@pytest.mark.parametrize(
    ("seconds", "kind", "name"),
    [
        (choice.RAY_START_S - 1, InProcess, "in_process"),
        (choice.RAY_START_S, OnRay, "ray"),
        (float("inf"), OnRay, "ray"),
    ],
)
def test_without_a_cluster_the_length_of_the_run_decides(seconds, kind, name, log_of_mrkd):
    auto = executor_of("auto")
    assert isinstance(auto, Auto)
    assert len(auto.nodes) == 1
    assert isinstance(auto.for_work(lambda: seconds), kind)
    assert f"executor name={name} reason=forecast {seconds:.0f} s, Ray's start" in log_of_mrkd.text


def test_a_demo_of_one_machine_waits_for_no_ray(log_of_mrkd):
    assert isinstance(for_one_machine("auto"), InProcess)
    assert isinstance(for_one_machine("ray"), OnRay)


def test_where_ray_is_not_installed_it_is_not_chosen(monkeypatch):
    monkeypatch.setattr(choice, "_has_ray", lambda: False)
    assert isinstance(executor_of("auto"), InProcess)
    with pytest.raises(ConfigError, match="Ray is not installed"):
        executor_of("ray")


def test_a_forecast_that_fails_leaves_the_run_to_ray(log_of_mrkd):
    def fails():
        raise MrkdError("fleet.json is damaged")

    assert isinstance(executor_of("auto").for_work(fails), OnRay)
    assert "the length of the run is not known: fleet.json is damaged" in log_of_mrkd.text
