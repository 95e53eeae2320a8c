import base64
import gzip
import json
import re
from dataclasses import replace

import cv2
import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from mrkd import storage
from mrkd.errors import ArtefactError
from mrkd.images import Geometry
from mrkd.nights import Night
from mrkd.reports import charts, evaluation_page, load, load_page_data, pictures
from mrkd.reports.content import Archive, Category, ImageError, MetricRow, Model, PageData, Picture
from tests.support import nights
from tests.support.evaluations import write_evaluation


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """URI of an evaluation's folder, and what is loaded of it."""
    uri = write_evaluation(tmp_path_factory.mktemp("evaluation"))
    return uri, load_page_data(uri)


@pytest.fixture(scope="module")
def page(stored):
    return evaluation_page(stored[1])


def data_of(category):
    return PageData("eval-1", "", "test", "file:///parts", (category,))


def model(**changed):
    facts = Model("v1", 1, "resnet18-0123456789ab", 1.0, 1.0, 0.01, 0.01, 200)
    return replace(facts, **changed)


def test_the_stored_rows_become_categories_in_order_of_name(stored):
    _, data = stored
    assert [category.name for category in data.categories] == ["0012", "plate", "ring"]
    assert data.categories[0].failure == "it has no champion: train it"
    plate = data.categories[1]
    assert len(plate.scores) == len(plate.gt_labels) == len(plate.defects) == 15
    assert {row.metric for row in plate.metrics} >= {"image_auroc", "f1_max", "fpr_at_95_recall"}
    assert [error.kind for error in plate.errors] == ["empty"]
    assert data.scored_at == "2026-11-23T04:12:00+00:00"


def test_the_pictures_are_the_highest_and_the_nearest_in_order(stored):
    plate = stored[1].categories[1]
    high = [picture.image_score for picture in plate.highest]
    near = [abs(picture.image_score - 1) for picture in plate.nearest]
    assert high == sorted(plate.scores.tolist(), reverse=True)[:12]
    assert near == sorted(abs(float(score) - 1) for score in plate.scores)[:12]
    scratch = next(picture for picture in plate.highest if picture.defect == "scratch")
    assert scratch.gt_mask.shape == (64, 64)
    assert scratch.gt_mask.any()
    assert scratch.anomaly_map.shape == (64, 64)
    assert len(scratch.regions) == 1


def test_an_image_that_is_gone_leaves_its_card(tmp_path):
    uri = write_evaluation(tmp_path)
    for path in (tmp_path / "parts" / "ring" / "test").rglob("*.png"):
        path.unlink()
    data = load_page_data(uri)
    assert all(picture.pixels is None for picture in data.categories[2].highest)
    assert "cannot be read any more" in evaluation_page(data)


def test_many_categories_share_the_room_for_pictures(stored, monkeypatch):
    monkeypatch.setattr(load, "_PICTURES_IN_ALL", 9)
    assert [len(c.highest) for c in load_page_data(stored[0]).categories] == [0, 3, 3]


def test_a_record_of_another_version_is_refused(tmp_path):
    storage.write_json(str(tmp_path / "evaluation.json"), {"schema": 2})
    with pytest.raises(ArtefactError, match=r"evaluation\.json has schema 2.*evaluate again"):
        load_page_data(str(tmp_path))


def test_a_night_beside_the_evaluation_is_counted_by_category(tmp_path, stored):
    nights.add(tmp_path / "archive", "plate/a.png", "plate/b.png", "new/c.png")
    nights.add(tmp_path / "archive", "plate/d.png", content=b"")
    night = Night(str(tmp_path / "workspace"), "night-1")
    nights.run(night, nights.config(night.workspace, tmp_path / "archive"))
    archive = load_page_data(stored[0], night_uri=night.uri).archive
    ok, nok, errors = archive.counts["plate"]
    assert (archive.run, ok + nok, errors, archive.counts["new"]) == ("night-1", 2, 1, (0, 0, 1))
    assert archive.num_errors == {"empty": 1, "no_model": 1}
    assert sorted(error.kind for error in archive.errors) == ["empty", "no_model"]


def test_a_map_with_borders_lies_past_the_edges_of_its_picture():
    box = load._map_box(Geometry((100, 200), (64, 64), "letterbox"))
    assert (box.x, box.y, box.width, box.height) == (0, -50, 200, 200)


def test_the_page_counts_ok_nok_and_error_apart(page):
    totals = re.findall(r'<li><strong>(\d+)</strong> <span class="badge (\w+)">', page)
    assert totals == [("12", "OK"), ("18", "NOK"), ("2", "ERROR")]
    assert "8 of 8" in page
    assert "1 of 7" in page
    assert page.count("false call</strong>") == 4, "among the highest and the nearest, twice"


def test_the_page_says_what_a_reader_must_know(page):
    assert "RANDOM WEIGHTS: the teacher <code>random:resnet18-0123456789ab</code>" in page
    assert "24 held-out images support a false-call rate of 4.00%" in page
    assert "it has no champion: train it" in page
    assert "it holds 0 bytes: copy it again" in page


def test_an_image_whose_label_is_unsure_is_neither_missed_nor_a_false_call():
    sure = Picture("a.png", 0.5, 0.1, False, 64, 64, gt_label=1, defect="p33")
    for picture, remark in ((sure, True), (replace(sure, headline=False), False)):
        page = evaluation_page(data_of(Category("plate", model=model(), highest=(picture,))))
        assert ("missed</strong>" in page) == remark


def test_a_trained_teacher_raises_no_alarm():
    page = evaluation_page(data_of(Category("plate", model=model())))
    assert "RANDOM" not in page


def test_the_page_refers_to_nothing_outside_itself(page):
    without_plotly = re.sub(r'<script type="text/plain" id="plotly">.*?</script>', "", page)
    links = re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', without_plotly)
    assert links == []
    assert "default-src 'none'" in page
    assert len(page) < 4_000_000


def test_plotly_js_is_in_the_page_once_and_whole(page):
    packed = re.findall(r'<script type="text/plain" id="plotly">(.*?)</script>', page)
    assert len(packed) == 1
    assert gzip.decompress(base64.b64decode(packed[0])).decode() == get_plotlyjs()


def test_equal_rows_give_the_same_page(stored, page):
    assert evaluation_page(load_page_data(stored[0])) == page


def test_the_rows_of_a_night_stand_beside_the_evaluation():
    error = ImageError("file:///archive/plate/a.png", "empty", "it holds 0 bytes")
    counts = {"plate": (5, 2, 0), "ring": (4, 1, 1)}
    night = Archive("night-1", counts, (error,), {"empty": 1})
    page = evaluation_page(replace(data_of(Category("plate", model=model())), archive=night))
    assert "nobody labelled: 9 OK, 3 NOK, 1 ERROR." in page
    assert "file:///archive/plate/a.png" in page


def test_names_from_outside_are_text_and_not_markup():
    hostile = "<script>alert(1)</script>"
    data = PageData("eval-1", "", "test", hostile, (Category("plate", failure=hostile),))
    page = evaluation_page(replace(data, config={"root": hostile}))
    assert hostile not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_metric_without_a_value_shows_its_reason():
    rows = (MetricRow("pixel_auroc", None, None, reason="no image has a mask"),)
    page = evaluation_page(data_of(Category("plate", model=model(), metrics=rows)))
    assert "no image has a mask" in page


def test_a_metric_without_words_is_shown_under_its_own_name_and_last():
    rows = (MetricRow("furlongs", None, 2.0), MetricRow("image_auroc", None, 0.9))
    page = evaluation_page(data_of(Category("plate", model=model(), metrics=rows)))
    assert 0 < page.index("(image AUROC)<br>") < page.index("<td>furlongs")


def test_the_charts_are_what_plotly_draws(page):
    specs = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert len(specs) == 4, "a histogram and a curve for each of two categories"
    for spec in specs:
        go.Figure(json.loads(spec))


def test_the_histogram_holds_every_image_once():
    scores = np.array([0.0, 0.1, 0.2, 0.9, 1.0], np.float32)
    gt_labels = np.array([0, 0, 1, 1, 1], np.int8)
    headline = np.array([True, True, True, True, False])
    spec = charts.histogram(scores, gt_labels, headline, threshold=3.0)
    counts = {trace["name"]: sum(trace["y"]) for trace in spec["data"] if trace["type"] == "bar"}
    assert counts == {"good": 2, "defective": 2, "reported apart": 1}
    assert max(spec["data"][0]["x"]) < 3.0, "the threshold lies inside the chart"


def test_a_histogram_of_equal_scores_still_has_a_width():
    same = np.zeros(3, np.float32)
    spec = charts.histogram(same, np.zeros(3, np.int8), np.ones(3, bool), threshold=0.0)
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
