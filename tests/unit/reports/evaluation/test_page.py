import base64
import gzip
import json
import re
from dataclasses import replace

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from mrkd import storage
from mrkd.data.images import Geometry
from mrkd.errors import ArtefactError, StorageError
from mrkd.evaluation.evaluate_model import LABELLED
from mrkd.nights.night import Night
from mrkd.reports import write_page
from mrkd.reports.evaluation.load import Archive, Category, PageData, load_page_data
from mrkd.reports.evaluation.page import evaluation_page
from mrkd.reports.kit import page
from mrkd.reports.kit import read as stored
from mrkd.reports.kit.values import ScoredImage
from tests.support import nights
from tests.support.evaluations import MODEL, write_evaluation


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """URI of an evaluation's folder, and what is loaded of it."""
    uri = write_evaluation(tmp_path_factory.mktemp("evaluation"))
    return uri, load_page_data(uri)


@pytest.fixture(scope="module")
def html(written):
    return evaluation_page(written[1])


def data_of(category, root="file:///parts"):
    config = {"part": "test", "data": {"root": root}}
    return PageData({"run": "eval-1", "config": config}, (category,))


def plate(**values):
    """A category of a trained teacher, without rows."""
    facts = {"status": "done", **MODEL, "teacher": "resnet18-0123456789ab", "warning": ""}
    return Category("plate", facts, LABELLED.empty_table(), **values)


def metric(name, value, reason=None):
    """A row of `schema.METRICS` over all defects."""
    figures = {"value": value, "low": None, "high": None, "reason": reason}
    return {"metric": name, "defect": None, **figures}


def test_the_stored_rows_become_categories_in_order_of_name(written):
    _, data = written
    assert [category.name for category in data.categories] == ["0012", "plate", "ring"]
    assert data.categories[0].failure == "it has no champion: train it"
    plate = data.categories[1]
    assert plate.scored.num_rows == 15
    assert {row["metric"] for row in plate.metrics} >= {"image_auroc", "f1_max", "fpr_at_95_recall"}
    assert plate.errors["error_kind"].to_pylist() == ["empty"]
    assert data.scored_at == "2026-11-23T04:12:00+00:00"


def test_the_pictures_are_the_highest_and_the_nearest_in_order(written):
    plate = written[1].categories[1]
    scores = plate.scored["image_score"].to_pylist()
    high = [image.row["image_score"] for image in plate.highest]
    near = [abs(image.row["image_score"] - 1) for image in plate.nearest]
    assert high == sorted(scores, reverse=True)[:12]
    assert near == sorted(abs(score - 1) for score in scores)[:12]
    scratch = next(image for image in plate.highest if image.row["defect"] == "scratch")
    assert scratch.gt_mask.shape == (64, 64)
    assert scratch.gt_mask.any()
    assert scratch.anomaly_map.shape == (64, 64)
    assert len(scratch.row["regions"]) == 1


def test_an_image_that_is_gone_leaves_its_card(tmp_path):
    uri = write_evaluation(tmp_path)
    for path in (tmp_path / "parts" / "ring" / "test").rglob("*.png"):
        path.unlink()
    data = load_page_data(uri)
    assert all(image.pixels is None for image in data.categories[2].highest)
    assert "can no longer be read" in evaluation_page(data)


def test_many_categories_share_the_room_for_pictures(written, monkeypatch):
    monkeypatch.setattr(stored, "PICTURES_IN_ALL", 9)
    assert [len(c.highest) for c in load_page_data(written[0]).categories] == [0, 3, 3]


def test_a_record_of_another_version_is_refused(tmp_path):
    storage.write_json(str(tmp_path / "evaluation.json"), {"schema": 3})
    with pytest.raises(ArtefactError, match=r"evaluation\.json has schema 3.*evaluate again"):
        load_page_data(str(tmp_path))


def test_the_page_of_a_run_is_told_by_its_record(tmp_path):
    uri = write_evaluation(tmp_path)
    assert write_page(uri) == f"{uri}/report.html"
    assert "<title>Evaluation eval-1</title>" in storage.read(f"{uri}/report.html").decode()


def test_a_folder_without_a_record_has_no_page(tmp_path):
    with pytest.raises(StorageError, match=r"neither evaluation\.json nor fleet\.json nor"):
        write_page(str(tmp_path))


def test_a_night_beside_the_evaluation_is_counted_by_category(tmp_path, written):
    nights.add(tmp_path / "archive", "plate/a.png", "plate/b.png", "new/c.png")
    nights.add(tmp_path / "archive", "plate/d.png", content=b"")
    night = Night(str(tmp_path / "workspace"), "night-1")
    nights.run(night, nights.config(night.workspace, tmp_path / "archive"))
    archive = load_page_data(written[0], night_uri=night.uri).archive
    ok, nok, errors = archive.counts["plate"]
    assert (archive.run, ok + nok, errors, archive.counts["new"]) == ("night-1", 2, 1, (0, 0, 1))
    assert archive.num_errors == {"empty": 1, "no_model": 1}
    assert sorted(error["error_kind"] for error in archive.errors) == ["empty", "no_model"]


def test_a_map_with_borders_lies_past_the_edges_of_its_picture():
    box = stored.map_box(Geometry((100, 200), (64, 64), "letterbox"))
    assert (box.x, box.y, box.width, box.height) == (0, -50, 200, 200)


def test_the_page_counts_ok_nok_and_error_apart(html):
    totals = re.findall(r'<li><strong>(\d+)</strong> <span class="badge (\w+)">', html)
    assert totals == [("12", "OK"), ("18", "NOK"), ("2", "ERROR")]
    assert "8 of 8" in html
    assert "1 of 7" in html
    assert html.count("false call</strong>") == 4, "among the highest and the nearest, twice"


def test_the_page_says_what_a_reader_must_know(html):
    assert "RANDOM WEIGHTS: the teacher <code>random:resnet18-0123456789ab</code>" in html
    assert "24 held-out images support a false-call rate of 4.00%" in html
    assert "it has no champion: train it" in html
    assert "it holds 0 bytes: copy it again" in html


def test_an_image_whose_label_is_unsure_is_neither_missed_nor_a_false_call():
    row = {"image_uri": "a.png", "image_score": 0.5, "p_value": 0.1, "is_anomalous": False}
    row |= {"gt_label": 1, "defect": "p33"}
    for headline, remark in ((True, True), (False, False)):
        image = ScoredImage(row | {"headline": headline})
        html = evaluation_page(data_of(plate(highest=(image,))))
        assert ("missed</strong>" in html) == remark


def test_a_trained_teacher_raises_no_alarm():
    html = evaluation_page(data_of(plate()))
    assert "RANDOM" not in html


def test_the_page_refers_to_nothing_outside_itself(html):
    without_plotly = re.sub(r'<script type="text/plain" id="plotly">.*?</script>', "", html)
    links = re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', without_plotly)
    assert links == []
    assert "default-src 'none'" in html
    assert len(html) < 4_000_000


def test_plotly_js_is_in_the_page_once_and_whole(html):
    packed = re.findall(r'<script type="text/plain" id="plotly">(.*?)</script>', html)
    assert len(packed) == 1
    assert gzip.decompress(base64.b64decode(packed[0])).decode() == get_plotlyjs()


def test_equal_rows_give_the_same_page(written, html):
    assert evaluation_page(load_page_data(written[0])) == html


def test_the_rows_of_a_night_stand_beside_the_evaluation():
    error = {"image_uri": "file:///archive/plate/a.png", "error_kind": "empty"}
    error |= {"error_message": "it holds 0 bytes"}
    counts = {"plate": (5, 2, 0), "ring": (4, 1, 1)}
    night = Archive("night-1", counts, (error,), {"empty": 1})
    html = evaluation_page(replace(data_of(plate()), archive=night))
    assert "</a> without labels: 9 OK, 3 NOK, 1 ERROR." in html
    assert "file:///archive/plate/a.png" in html


def test_names_from_outside_are_text_and_not_markup():
    hostile = "<script>alert(1)</script>"
    facts = {"status": "failed", "reason": hostile}
    html = evaluation_page(data_of(Category("plate", facts, LABELLED.empty_table()), hostile))
    assert hostile not in html
    assert "&lt;script&gt;alert(1)" in html


def test_a_metric_without_a_value_shows_its_reason():
    rows = (metric("pixel_auroc", None, "no image has a mask"),)
    html = evaluation_page(data_of(plate(metrics=rows)))
    assert "no image has a mask" in html


def test_a_metric_without_words_is_shown_under_its_own_name_and_last():
    rows = (metric("furlongs", 2.0), metric("image_auroc", 0.9))
    html = evaluation_page(data_of(plate(metrics=rows)))
    assert 0 < html.index("(image AUROC)<br>") < html.index("<td>furlongs")


def test_the_charts_are_what_plotly_draws(html):
    specs = re.findall(r'<script type="application/json">(.*?)</script>', html)
    assert len(specs) == 4, "a histogram and a curve for each of two categories"
    for spec in specs:
        go.Figure(json.loads(spec))


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "+0.012"), (-0.0051, "-0.005"), (-0.0001, "+0.000")]
)
def test_a_change_always_has_its_sign(value, text):
    assert page.change(value) == text.replace("-", "\N{MINUS SIGN}")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (90, "1.5 min"), (9000, "2.5 h")]
)
def test_a_time_has_its_own_unit(seconds, text):
    assert page.duration(seconds) == text.replace(" ", "\u00a0")
