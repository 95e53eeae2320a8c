"""Files of an archive that are not images: counted in the plan, the summary and the page."""

import shutil

import pytest

from mrkd.errors import ConfigError
from mrkd.nights.cost_estimate import forecast_night
from mrkd.reports import load_night_data
from mrkd.reports.night.page import night_page
from mrkd.runs import score
from tests.support.plants import HERE

LINE = "3 files were passed over, as their names end in none of archive.suffixes and archive.tars"


def test_they_are_told_in_plan_summary_and_page(plant, own_archive):
    for name in ("1.gif", "2.gif", "more.tar.gz"):
        (own_archive / "plate" / name).touch()
    config = plant.score_config(own_archive, "passed")
    planned = forecast_night(config).summary("passed")
    assert any(LINE in reason for reason in planned.reasons)
    summary = score.run(config, HERE)
    assert f"{LINE}: .gif 2, .tar.gz 1" in summary.reasons
    assert LINE in night_page(load_night_data(str(plant.night("passed"))))


def test_an_archive_of_images_alone_says_nothing(plant, archive, calm):
    assert not any("passed over" in reason for reason in calm.reasons)
    assert "passed over" not in night_page(load_night_data(str(plant.night("calm"))))


def test_a_folder_with_one_packed_archive_says_what_is_there(plant, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "night.tar.gz").touch()
    with pytest.raises(ConfigError, match=r"1 files were passed over.*\.tar\.gz 1.*unpack them"):
        score.run(plant.score_config(tmp_path / "a", "packed"), HERE)


def test_jpegs_of_other_suffixes_are_scored(plant, tmp_path, archive):
    folder = tmp_path / "archive" / "plate"
    folder.mkdir(parents=True)
    good = next((archive / "plate").iterdir())
    for suffix in (".jfif", ".jpe", ".JPE"):
        shutil.copy(good, folder / f"1{suffix}")  # a PNG: the bytes decide, not the name
    summary = score.run(plant.score_config(tmp_path / "archive", "jfif"), HERE)
    assert summary.counts["images"] == summary.counts["ok"] + summary.counts["nok"] == 3


def test_a_folder_that_is_not_looked_into_is_named_in_plan_summary_and_page(plant, own_archive):
    (own_archive / "plate" / "up").symlink_to(own_archive)
    said = f"1 folders were not looked into: file://{own_archive}/plate/up: it links to a folder"
    config = plant.score_config(own_archive, "loop")
    assert any(said in reason for reason in forecast_night(config).summary("loop").reasons)
    assert any(said in reason for reason in score.run(config, HERE).reasons)
    assert said in night_page(load_night_data(str(plant.night("loop"))))
