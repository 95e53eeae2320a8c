"""Frames that show no part: none of them is OK, and a night of them is an alert."""

import cv2
import numpy as np
import pytest

from mrkd.nights import alerts
from mrkd.nights.manifest import open_night
from mrkd.reports import load_night_data
from mrkd.reports.night.page import night_page
from mrkd.runs import score
from tests.support.plants import HERE


@pytest.fixture
def night(plant, tmp_path):
    """A night of these images of plates: its summary and rows."""

    def scored(run, images, **values):
        folder = tmp_path / run / "plate"
        folder.mkdir(parents=True)
        for name, bgr in images.items():
            assert cv2.imwrite(str(folder / f"{name}.png"), bgr)
        summary = score.run(plant.score_config(tmp_path / run, run, **values), HERE)
        rows = open_night(str(plant.night(run))).to_table().to_pylist()
        return summary, rows

    return scored


@pytest.fixture
def good(archive):
    return cv2.imread(str(archive / "plate" / "good-000.png"))


def test_no_frame_without_a_part_is_ok(night, good):
    rng = np.random.default_rng(0)
    frames = {
        "black": good * 0,
        "white": good * 0 + 255,
        "grey": good * 0 + 128,
        "mean": np.full_like(good, good.reshape(-1, 3).mean(0).astype(np.uint8)),
        "noise": rng.integers(0, 256, good.shape, np.uint8),
        "blur": cv2.GaussianBlur(good, (0, 0), max(good.shape) / 12),
        "dark": good // 16,
        "px1": good[:1, :1],
        "px16": cv2.resize(good, (16, 16)),
        "overexposed": np.minimum(good.astype(np.uint16) * 4, 255).astype(np.uint8),
        "stripes": np.tile(np.array([[[0, 0, 255], [255, 0, 0]]], np.uint8), (64, 32, 1)),
    }
    _, rows = night("frames", frames)
    assert len(rows) == len(frames)
    ok = [row["image_uri"] for row in rows if row["is_anomalous"] is False]
    assert ok == []
    for row in rows:
        if row["error_kind"] is not None:
            assert row["error_kind"] == "unlike"
            assert "good images" in row["error_message"]


def test_a_whole_night_of_black_frames_is_an_alert_and_not_green(night, good, plant):
    summary, rows = night("dead-camera", {f"{n:02}": good * 0 for n in range(60)})
    assert summary.counts["ok"] == 0
    assert summary.counts["alerts"] >= 1
    assert alerts.read(str(plant.night("dead-camera")))
    assert len(rows) == 60
    page = night_page(load_night_data(str(plant.night("dead-camera"))))
    assert "attention" in page


def test_who_accepts_them_gets_a_score(night, good):
    """So that a line that looks otherwise can set its threshold by its own images."""
    brighter = {"brighter": np.clip(good.astype(int) + 120, 0, 255).astype(np.uint8)}
    _, (row,) = night("brighter", brighter)
    assert row["error_kind"] == "unlike" or row["is_anomalous"]
    _, (row,) = night("accepted", brighter, **{"rows.unlike": "accept"})
    assert row["error_kind"] is None
    assert row["image_score"] is not None
