"""Nights by date, from the command line: a day, and what came late for the days before."""

import json
import shutil

import pytest

from mrkd import cli
from mrkd.nights.manifest import read_manifests
from mrkd.nights.night import Night
from tests.support.night_runs import events

DAYS = ("2026-11-21", "2026-11-22", "2026-11-23")


@pytest.fixture
def name(tmp_path):
    """The run of a day: all tests share one workspace."""
    return lambda day: f"{tmp_path.name}-{day}"


@pytest.fixture
def by_day(plant, archive, tmp_path, capsys, name):
    """Runs the nights of a day; four pictures of plates lie in each of three days' folders."""
    pictures = sorted((archive / "plate").iterdir())
    for number, day in enumerate(DAYS):
        folder = tmp_path / "archive" / day / "plate"
        folder.mkdir(parents=True)
        for picture in pictures[4 * number :][:4]:
            shutil.copy(picture, folder)
    toml = tmp_path / "score.toml"
    toml.write_text(
        f'workspace = "{plant.workspace}"\nrun = "{name("{date}")}"\n'
        f'[archive]\nuri = "{tmp_path}/archive/{{date}}"\n'
    )

    def run(day, *flags):
        words = ["score", str(toml), "--date", day, "--executor", "in_process", *flags]
        exit_code = cli.main(words)
        summary = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert summary["exit_code"] == exit_code
        return summary

    return run


def test_a_day_is_scored_and_late_images_join_the_nights_of_their_own_days(
    plant, by_day, name, tmp_path, archive
):
    first = by_day(DAYS[1])
    assert (first["run"], first["counts"]["images"]) == (name(DAYS[1]), 4)
    assert not plant.night(name(DAYS[0])).exists()

    late = tmp_path / "archive" / DAYS[1] / "plate"
    shutil.copy(next((archive / "plate").iterdir()), late / "late.png")
    (late / "broken.png").touch()
    # Of the 20th nothing was ever sent, of the 21st nothing was scored yet.
    found = by_day(DAYS[2], "--late-window", "3d")
    assert (found["run"], found["exit_code"], found["state"]) == (name(DAYS[2]), 3, "partial")
    assert (found["counts"]["images"], found["counts"]["ok"] + found["counts"]["nok"]) == (4, 4)
    assert (found["counts"]["late_images"], found["counts"]["late_nights"]) == (6, 2)
    assert events(found["reasons"]) == [
        f"{name(DAYS[1])}: 1 of 2 images have no score: empty 1",
        f"{name(DAYS[1])}: 2 images came late",
        f"{name(DAYS[0])}: 4 images came late",
    ]
    revisions = [len(read_manifests(str(plant.night(name(day))))) for day in DAYS]
    assert revisions == [1, 2, 1]

    again = by_day(DAYS[2], "--late-window", "3d")
    assert (again["exit_code"], again["counts"]["late_images"], again["reasons"]) == (0, 0, [])

    # One that fails is told, and keeps no other one.
    (plant.night(name(DAYS[1])) / "manifests" / "manifest-2.json").write_text("{}")
    part = next((archive / "plate").iterdir())
    shutil.copy(part, tmp_path / "archive" / DAYS[0] / "plate" / "later.png")
    found = by_day(DAYS[2], "--late-window", "2d")
    assert (found["exit_code"], found["state"], found["counts"]["late_images"]) == (1, "failed", 1)
    assert [reason.partition(":")[0] for reason in events(found["reasons"])] == [
        name(day) for day in (DAYS[1], DAYS[0])
    ]
    assert "is not a manifest of this version" in events(found["reasons"])[0]


def test_a_day_without_images_fails_and_the_days_before_are_looked_through(
    by_day, name, tmp_path, archive
):
    by_day(DAYS[1])
    part = next((archive / "plate").iterdir())
    shutil.copy(part, tmp_path / "archive" / DAYS[1] / "plate" / "late.png")
    for path in (tmp_path / "archive" / DAYS[2] / "plate").iterdir():
        path.unlink()
    found = by_day(DAYS[2], "--late-window", "1d")
    assert (found["run"], found["exit_code"], found["state"]) == (name(DAYS[2]), 2, "refused")
    assert found["counts"]["late_images"] == 1
    assert found["reasons"][-1] == f"{name(DAYS[1])}: 1 images came late"


def test_a_day_whose_night_another_start_holds_keeps_no_late_image_waiting(
    plant, by_day, name, tmp_path, archive
):
    by_day(DAYS[1])
    part = next((archive / "plate").iterdir())
    shutil.copy(part, tmp_path / "archive" / DAYS[1] / "plate" / "late.png")
    with Night(str(plant.workspace), name(DAYS[2])).lease():
        found = by_day(DAYS[2], "--late-window", "1d")
    assert (found["exit_code"], found["state"]) == (1, "failed")
    assert found["counts"]["late_images"] == 1


def test_an_earlier_day_whose_archive_cannot_be_looked_for_does_not_end_the_others(
    by_day, name, tmp_path
):
    """A day's folder that leads to itself; the day before it has images."""
    for path in (folder := tmp_path / "archive" / DAYS[1] / "plate").iterdir():
        path.unlink()
    folder.rmdir()
    folder.parent.rmdir()
    folder.parent.symlink_to(folder.parent)
    found = by_day(DAYS[2], "--late-window", "2d")
    assert (found["run"], found["exit_code"], found["state"]) == (name(DAYS[2]), 1, "failed")
    assert (found["counts"]["images"], found["counts"]["late_images"]) == (4, 4)
    assert any(reason.startswith(f"{name(DAYS[1])}: ") for reason in found["reasons"])


def test_a_window_past_the_first_year_is_refused(by_day):
    with_window = by_day("0001-01-02", "--late-window", "3d")
    assert with_window["exit_code"] == 2
    assert "past the year 1" in with_window["reasons"][0]
