import base64
import re

import cv2
import numpy as np
import plotly.graph_objects as go
import pytest

from mrkd.reports.kit import charts, pictures
from mrkd.reports.kit.charts import Series


def series(name, *scores):
    return Series(name, charts.GOOD_COLOUR, "", np.array(scores, np.float32))


def test_the_histogram_holds_every_image_once():
    kinds = [series("good", 0.0, 0.1), series("defective", 0.2, 0.9), series("reported apart", 1.0)]
    spec = charts.histogram([*kinds, series("none")], threshold=3.0)
    counts = {trace["name"]: sum(trace["y"]) for trace in spec["data"] if trace["type"] == "bar"}
    assert counts == {"good": 2, "defective": 2, "reported apart": 1}
    assert max(spec["data"][0]["x"]) < 3.0, "the threshold lies inside the chart"


def test_a_histogram_of_shares_shows_few_images_beside_many():
    many, few = series("trained on", *np.linspace(0, 1, 50)), series("held out", 0.1, 0.9)
    bars = charts.histogram([many, few], threshold=1.0, share=True, small=True)["data"][:2]
    assert [sum(bar["y"]) for bar in bars] == pytest.approx([1, 1])
    assert [sum(bar["customdata"]) for bar in bars] == [50, 2], "the numbers are told on hovering"


def test_a_histogram_of_equal_scores_still_has_a_width():
    spec = charts.histogram([series("good", 0, 0, 0)], threshold=0.0)
    assert sum(spec["data"][0]["y"]) == 3
    assert spec["data"][0]["width"] > 0


def test_the_roc_goes_from_all_to_none_and_marks_the_threshold():
    scores = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    spec = charts.roc(scores, np.array([0, 1, 0, 1], np.int8), threshold=float(np.float32(0.3)))
    _, curve, used = spec["data"]
    points = [(1.0, 1.0), (0.5, 1.0), (0.5, 0.5), (0.0, 0.5), (0.0, 0.0)]
    assert list(zip(curve["x"], curve["y"], strict=True)) == points
    assert (used["x"], used["y"]) == ([0.0], [0.5])


def test_the_roc_of_many_images_is_thinned_and_keeps_its_ends():
    scores = np.arange(5000, dtype=np.float32)
    spec = charts.roc(scores, (scores > 2000).astype(np.int8), threshold=1.0)
    curve = spec["data"][1]
    assert len(curve["x"]) < 500
    assert (curve["x"][0], curve["y"][-1]) == (1.0, 0.0)


def test_there_is_no_roc_of_one_kind_alone():
    assert charts.roc(np.ones(3, np.float32), np.zeros(3, np.int8), threshold=0.5) is None


def losses(*validation):
    values = np.array(validation, float)
    return charts.losses(np.arange(len(values)), values * 2, values)


def test_the_losses_mark_the_epoch_that_was_kept():
    training, validation, kept = losses(0.4, 0.2, 0.3)["data"]
    assert training["y"] == [0.8, 0.4, 0.6]
    assert validation["y"] == [0.4, 0.2, 0.3]
    assert (kept["x"], kept["y"]) == ([1], [0.2])


def test_a_loss_that_was_no_number_leaves_a_gap():
    spec = losses(0.4, np.nan, np.inf, 0.2)
    _, validation, kept = spec["data"]
    assert validation["y"] == [0.4, None, None, 0.2]
    assert kept["x"] == [3]
    go.Figure(spec)


def test_the_losses_of_many_epochs_are_thinned_and_keep_their_ends():
    line = losses(*np.linspace(1, 0.1, 5000))["data"][1]
    assert len(line["x"]) <= 200
    assert (line["x"][0], line["x"][-1]) == (0, 4999)


def test_only_losses_above_zero_are_drawn_by_their_magnitude():
    assert losses(1.0, 0.1)["layout"]["yaxis"]["type"] == "log"
    assert "type" not in losses(0.1, 0.0)["layout"]["yaxis"]


def decode(uri):
    data = base64.b64decode(uri.partition(",")[2])
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def test_a_thumbnail_keeps_the_shape_and_a_small_picture_as_it_is():
    assert pictures.thumbnail(np.zeros((1000, 500, 3), np.uint8)).shape == (220, 110, 3)
    assert pictures.thumbnail(np.zeros((4, 9000, 3), np.uint8)).shape == (1, 220, 3)
    assert pictures.thumbnail(np.zeros((50, 60, 3), np.uint8)).shape == (50, 60, 3)


def test_the_jpeg_shows_red_as_red():
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    blue, green, red_out = decode(pictures.jpeg_uri(red))[16, 16]
    assert red_out > 240
    assert max(blue, green) < 20


def test_the_heat_map_is_clear_where_usual_and_grows_to_magenta():
    bgra = decode(pictures.heat_uri(np.array([[0, 1, 2, 9]], np.float32), low=0, high=1))[0]
    clear, amber, magenta, beyond = bgra.astype(int).tolist()
    assert clear[3] == 0
    assert amber == [0, 176, 255, 128]
    assert magenta == beyond == [127, 38, 220, 204]


def test_the_outline_is_in_original_pixels():
    gt_mask = np.zeros((10, 20), bool)
    gt_mask[2:5, 4:8] = True
    path = pictures.outline(gt_mask, height=100, width=400)
    xs, ys = np.array(re.findall(r"([\d.]+) ([\d.]+)", path), float).T
    assert path.startswith("M")
    assert path.endswith("Z")
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (90, 150, 25, 45)
