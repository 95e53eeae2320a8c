"""A threshold from the first parts of the line: by verdicts, by median, and carried over."""

import json
import shutil
from typing import Any

import cv2
import numpy as np
import pytest

from mrkd import cli, storage
from mrkd.config import RowsConfig
from mrkd.data import datasets
from mrkd.data.images import Statistics
from mrkd.data.preprocess import Preprocessor
from mrkd.errors import NightError
from mrkd.model import artefact
from mrkd.model.artefact import save_load
from mrkd.model.calibration import asked_rate, at_rate, at_threshold, calibrate, threshold_at
from mrkd.model.inference import score_rows
from mrkd.model.registry import promotions
from mrkd.nights import commissioning, try_threshold
from mrkd.nights.reviews import import_labels
from mrkd.nights.reviews.labels_csv import Label
from mrkd.training.category import train_category
from tests.support.closed_nights import scored, write_night
from tests.support.models import small_config
from tests.support.parts import make_parts
from tests.support.versions import store_version

LOOK: dict[str, Any] = {"brightness": 0.5, "contrast": 0.1, "sharpness": 1.0}
AT = "2026-11-24T06:30:00+00:00"


def calibration_of(scores, rate=0.01):
    statistics = [Statistics(0.4, 0.2, 2.0)] * len(scores)
    return calibrate(scores, 2 * np.array(scores), statistics, false_call_rate=rate)


def row(uri, score, **values):
    return scored(uri, score, **LOOK, map_max=score / 2, regions=[], **values)


def night(folder, scores, **values):
    rows = [row(f"{n:03}", score, **values) for n, score in enumerate(scores)]
    return write_night(str(folder), "night-1", rows)


def say(folder, verdicts):
    labels = [Label(uri, verdict, "Ann", AT) for uri, verdict in verdicts.items()]
    import_labels.bring(str(folder), labels, by="test")


def commission(folder, own, how, rate=0.01, defect_rate=0.0):
    line = commissioning.read_line(str(folder), "night-1", "plate", "v1")
    return commissioning.commission(
        own, line, how=how, false_call_rate=rate, defect_rate=defect_rate
    )


def test_by_verdicts_the_images_that_people_call_good_make_the_calibration(tmp_path):
    night(tmp_path, [3.0, 4.0, 5.0, 6.0, 7.0, 40.0])
    say(tmp_path, dict.fromkeys(["000", "001", "002", "003", "004"], "OK") | {"005": "NOK"})
    own = calibration_of(np.arange(99))
    found = commission(tmp_path, own, "verdicts")
    assert found.scores == (3, 4, 5, 6, 7)
    assert found.threshold == threshold_at([3, 4, 5, 6, 7], 0.01)
    # Below the model's own pixel threshold no region tells how high a peak was.
    assert found.pixel_threshold == own.pixel_threshold
    assert found.pixel_maxima == own.pixel_maxima
    assert found.statistics["brightness"] == (0.5,) * 5
    assert found.supported_false_call_rate == pytest.approx(1 / 6)
    assert found.line == {
        "run": "night-1", "how": "verdicts", "num_images": 5, "defect_rate": 0.0,
    }  # fmt: skip


def test_a_peak_is_that_of_the_highest_region_where_one_was_drawn(tmp_path):
    regions = [{"x": 0, "y": 0, "width": 1, "height": 1, "area": 1, "peak": 9.0, "mean": 8.0}]
    rows = [row(str(n), 1.0 + n) for n in range(4)]
    rows[3]["regions"] = regions
    write_night(str(tmp_path), "night-1", rows)
    line = commissioning.read_line(str(tmp_path), "night-1", "plate", "v1")
    assert line.peaks.tolist() == [0.5, 1.0, 1.5, 9.0]


def test_by_median_the_models_own_scores_are_moved_to_where_the_line_lies(tmp_path):
    own = calibration_of(np.arange(99.0))
    line = 200 + 2 * np.random.default_rng(0).permutation(99)
    night(tmp_path, [*line, 1e6, 2e6])
    found = commission(tmp_path, own, "median", defect_rate=0.02)
    # Three of 101 are taken for defective; the rest lies twice as wide around 200 + 2 x 48.
    assert found.threshold == pytest.approx(200 + 2 * own.threshold, rel=0.03)
    assert found.pixel_threshold == pytest.approx(found.threshold / 2, rel=0.03)
    assert found.line["num_images"] == 98
    assert found.line["defect_rate"] == 0.02
    assert found.num_groups == 98


def test_a_threshold_set_by_hand_asks_for_no_rate(tmp_path):
    own = calibration_of(np.arange(200.0), rate=0.02)
    assert asked_rate(own, default=0.01) == 0.02
    assert asked_rate(at_rate(own, 0.05), default=0.01) == 0.05
    assert asked_rate(at_threshold(own, 100.5), default=0.01) == 0.01
    assert asked_rate(at_threshold(own, -1), default=0.01) == 0.01


def test_a_night_of_good_parts_gives_back_what_the_training_found(tmp_path):
    own = calibration_of(np.random.default_rng(1).normal(0, 1, 400))
    night(tmp_path, np.random.default_rng(2).normal(0, 1, 400))
    found = commission(tmp_path, own, "median", defect_rate=0.0)
    assert found.threshold == pytest.approx(own.threshold, abs=0.6)


def test_a_night_without_maps_leaves_regions_as_they_are(tmp_path):
    own = calibration_of(np.arange(99.0))
    night(tmp_path, np.arange(10.0))
    rows = [{**row(str(n), float(n)), "map_max": None, "regions": None} for n in range(10)]
    write_night(str(tmp_path), "night-2", rows)
    line = commissioning.read_line(str(tmp_path), "night-2", "plate", "v1")
    found = commissioning.commission(own, line, how="median", false_call_rate=0.01, defect_rate=0.0)
    assert (found.pixel_threshold, found.pixel_maxima) == (own.pixel_threshold, own.pixel_maxima)


def test_verdicts_stand_for_a_night_once_they_are_on_half_of_it(tmp_path):
    night(tmp_path, np.arange(10.0))
    say(tmp_path, dict.fromkeys(["000", "001", "002", "003"], "OK"))
    line = commissioning.read_line(str(tmp_path), "night-1", "plate", "v1")
    assert line.usual == "median"
    say(tmp_path, {"009": "NOK"})
    line = commissioning.read_line(str(tmp_path), "night-1", "plate", "v1")
    assert line.usual == "verdicts"


def test_too_few_good_images_and_other_models_rows_are_refused(tmp_path):
    night(tmp_path, [1.0, 2.0, 3.0])
    with pytest.raises(NightError, match="3 images of it that are taken for good, at least 4"):
        commission(tmp_path, calibration_of(np.arange(9.0)), "median")
    with pytest.raises(NightError, match="0 images of it that are taken for good by reviewers"):
        commission(tmp_path, calibration_of(np.arange(9.0)), "verdicts")
    with pytest.raises(NightError, match="no image of 'plate' that version v2 scored"):
        commissioning.read_line(str(tmp_path), "night-1", "plate", "v2")
    with pytest.raises(NightError, match="holds no category 'plat'; did you mean 'plate'"):
        commissioning.read_line(str(tmp_path), "night-1", "plat", "v1")


def test_the_command_tries_stores_promotes_and_tells_the_way_back(tmp_path, capsys):
    workspace = str(tmp_path)
    store_version(workspace, "v1")
    promotions.promote(workspace, "plate", "v1", by="fleet", why="first")
    night(tmp_path, 2 + np.arange(20) / 16, threshold=1.125)
    say(tmp_path, {f"{n:03}": "OK" for n in range(20)})
    argv = ["models", "calibrate", "plate", "--night", "night-1", "--workspace", workspace]
    argv += ["--why", "the line differs"]

    def run(*more):
        code = cli.main([*argv, *more])
        return code, json.loads(capsys.readouterr().out.splitlines()[-1])

    code, tried = run("--dry-run")
    assert code == 0
    assert promotions.champion(workspace, "plate").calibration == 1
    assert "was not stored" in tried["reasons"][-1]
    code, summary = run()
    assert code == 0
    champion = promotions.champion(workspace, "plate")
    assert champion.calibration == summary["counts"]["calibration"] == 2
    stored = artefact.read_calibration(workspace, "plate", "v1", 2)
    assert stored.why == "the line differs"
    assert stored.line["how"] == "verdicts"
    # The same numbers as the command that asks stored scores alone.
    night_uri = storage.join(workspace, "nights", "night-1")
    again = try_threshold.try_threshold(night_uri, "plate", stored.threshold)
    assert {name: summary["counts"][name] for name in again.counts} == again.counts
    assert (again.counts["nok"], again.counts["nok_then"]) == (20, 0)
    assert "mrkd models promote plate v1 --calibration 1" in summary["reasons"][-1]


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    """A category trained, and a closed night of its champion over an archive of good parts."""
    folder = tmp_path_factory.mktemp("plant")
    root = make_parts(folder / "parts", categories=1, train=32)
    line = make_parts(folder / "line", categories=1, train=24) / "plate" / "train" / "good"
    config = small_config(str(root), str(folder / "workspace"))
    samples = datasets.load(config.data)["plate"]
    result = train_category(config, "plate", samples)
    close_night(config, result, line)
    return folder, config, samples, result, line


def close_night(config, result, line):
    """Scores a folder by the champion, as night-1."""
    loaded = save_load.load(config.workspace, "plate", result.version)
    decoder = Preprocessor.of(loaded.card.model)
    images = []
    for path in sorted(line.iterdir()):
        data, etag = storage.fetch(str(path))
        images.append(decoder(storage.join(str(path)), data, etag=etag))
    rows = score_rows(
        loaded.model,
        loaded.calibration,
        images,
        batch_size=4,
        rows=RowsConfig(),
    )
    pinned = {"category": "plate", "model_version": result.version, "calibration": 1}
    night_rows = [{**one, **pinned, "teacher": "t", "attributes": []} for one in rows]
    write_night(config.workspace, "night-1", night_rows)


def commissioned(folder, config, result):
    """The champion decides by the line."""
    argv = ["models", "calibrate", "plate", "--night", "night-1", "--by", "median"]
    argv += ["--workspace", config.workspace, "--why", "the line"]
    assert cli.main(argv) == 0
    return artefact.read_calibration(config.workspace, "plate", result.version, 2)


def test_a_new_version_takes_the_lines_threshold_over(plant, tmp_path, capsys):
    folder, config, samples, result, _ = plant
    workspace = str(shutil.copytree(folder / "workspace", tmp_path / "workspace"))
    config = config.with_values({"workspace": workspace, "fleet.force": True})
    before = commissioned(folder, config, result)
    again = train_category(config, "plate", samples)
    champion = promotions.champion(workspace, "plate")
    assert champion.version == again.version != result.version
    assert champion.calibration == 2
    after = artefact.read_calibration(workspace, "plate", again.version, 2)
    assert (after.line, after.false_call_rate) == (before.line, before.false_call_rate)
    # Made of the same weights, of the same images by the path that scores a night.
    assert after.threshold == pytest.approx(before.threshold, rel=1e-3)
    assert "by night night-1: the line" in after.why
    told = again.gate["commissioned"]
    assert told["calibration"] == 2
    assert "carried over" in told["reason"]


def test_the_gate_judges_a_new_version_by_the_threshold_it_will_decide_by(tmp_path, capsys):
    root = make_parts(tmp_path / "parts", categories=1, train=32, test_good=12)
    config = small_config(str(root), str(tmp_path / "workspace"), **{"model.cells": True})
    line = tmp_path / "line"
    line.mkdir()
    good = root / "plate" / "test" / "good"
    for path in sorted(good.iterdir()):
        # Another camera: all good parts of the line are called defective.
        cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
        shutil.copy(path, line / path.name)
    samples = datasets.load(config.data)["plate"]
    result = train_category(config, "plate", samples)
    assert result.gate["false_calls"]["challenger"] == 12
    assert "mrkd models calibrate" in result.gate["reason"]
    close_night(config, result, line)
    commissioned(tmp_path, config, result)
    again = train_category(config.with_values({"fleet.force": True}), "plate", samples)
    assert again.gate["state"] == "passed"
    assert again.gate["false_calls"]["challenger"] < 4
    assert promotions.champion(config.workspace, "plate").calibration == 2


def test_a_threshold_that_calls_most_good_parts_is_not_carried_over(plant, tmp_path, capsys):
    folder, config, samples, result, _ = plant
    workspace = str(shutil.copytree(folder / "workspace", tmp_path / "workspace"))
    config = config.with_values({"workspace": workspace, "fleet.force": True})
    commissioned(folder, config, result)
    argv = ["models", "set-threshold", "plate", "--threshold", "-1000"]
    assert cli.main([*argv, "--workspace", workspace, "--why", "all are looked at"]) == 0
    told = train_category(config, "plate", samples).gate["commissioned"]
    assert told["calibration"] is None
    assert "it calls 100% of the good images" in told["reason"]


def test_a_line_whose_images_are_gone_is_said_and_not_guessed(plant, tmp_path, capsys):
    folder, config, samples, result, line = plant
    workspace = str(shutil.copytree(folder / "workspace", tmp_path / "workspace"))
    config = config.with_values({"workspace": workspace, "fleet.force": True})
    commissioned(folder, config, result)
    away = line.rename(tmp_path / "away")
    try:
        again = train_category(config, "plate", samples)
    finally:
        away.rename(line)
    told = again.gate["commissioned"]
    assert told["calibration"] is None
    assert (
        "is not carried over: of 24 images of night 'night-1' 0 can still be read"
        in (told["reason"])
    )
    assert promotions.champion(workspace, "plate").calibration == 1
