import json
import re

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pytest

from mrkd import storage
from mrkd.errors import ArtefactError
from mrkd.model.registry import promotions
from mrkd.reports import write_page
from mrkd.reports.fleet.load import FleetData, Training, load_fleet_data
from mrkd.reports.fleet.page import fleet_page
from mrkd.reports.kit import read as stored
from mrkd.reports.kit.values import Box, ScoredImage
from mrkd.storage import schema
from mrkd.training.category.result import CategoryResult
from tests.support.fleets import (
    CHAMPION,
    FAILURE,
    HELD_REASON,
    NO_STUDENT,
    NUM_IMAGES,
    VERSION,
    folder_of,
    write_fleet,
)
from tests.support.pictures import smooth


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """URI of a fleet's folder, and what is loaded of it by category."""
    uri = write_fleet(tmp_path_factory.mktemp("fleet"))
    return uri, {one.record["category"]: one for one in load_fleet_data(uri).trainings}


@pytest.fixture(scope="module")
def html(written):
    return fleet_page(load_fleet_data(written[0]))


def page_of(*trainings, **changed):
    start = "2026-11-23T02:00:00+00:00"
    record = {"run": "fleet-1", "root": "parts", "state": "done", "config": {}}
    record |= {"started_at": start, "finished_at": start, **changed}
    return fleet_page(FleetData(record, "file:///w", trainings))


def model(category="plate", *, gate=None, warnings=(), **values):
    """A trained category; `values` are those of `Training`."""
    result = CategoryResult(
        category, "trained", VERSION, NUM_IMAGES, 64, "stretch", 0, 1.0, 0.04, 600, gate or {}
    )
    record = {**result.to_dict(), "warnings": list(warnings), "attempts": 1}
    return Training(record, **values)


def ended(category, status, **values):
    """A category without a new model."""
    return Training({"category": category, "status": status, "attempts": 1, **values})


def table_rows(html):
    """Cells of the table of all categories, by category; without tags, with plain dashes."""
    html = html.replace("\N{MINUS SIGN}", "-").replace("\N{EN DASH}", "-")
    table = re.search(r'<table class="sortable">.*?<tbody>(.*?)</tbody>', html, re.DOTALL)[1]
    rows = [
        [" ".join(re.sub("<.*?>", " ", cell).split()) for cell in re.split("</t[hd]>", row)]
        for row in re.findall("<tr.*?>(.*?)</tr>", table, re.DOTALL)
    ]
    return {cells[0]: cells[1:] for cells in rows}


def test_every_category_is_loaded_with_how_it_ended(written):
    trainings = written[1]
    assert list(trainings) == ["0012", "cap", "gear", "nut", "plate", "ring"]
    cap = trainings["cap"].record
    assert (cap["error"], cap["attempts"]) == (FAILURE, 2)
    assert trainings["nut"].record["reason"].endswith("start the fleet again to go on")
    assert trainings["ring"].is_held
    assert trainings["ring"].gate["champion"]["version"] == CHAMPION
    assert trainings["0012"].record["images_per_s"] is None
    assert trainings["0012"].losses.num_rows == 60
    assert not any(one.gaps for one in trainings.values())


def test_suspects_are_what_was_trained_on_and_lies_above_the_threshold(written):
    plate = written[1]["plate"]
    scores = [image.row["image_score"] for image in plate.suspects]
    assert scores == pytest.approx([1.6, 1.4, 1.2])
    assert [image.uri for image in plate.suspects] == list(plate.suspect_uris)
    assert all(image.anomaly_map.shape == (64, 64) for image in plate.suspects)
    assert all(image.pixels.shape == (64, 64, 3) for image in plate.suspects)
    assert not written[1]["gear"].suspects


def test_a_held_out_image_above_the_threshold_is_no_suspect(tmp_path):
    uri = write_fleet(tmp_path, {"plate": "first"}, odd={})
    scores_uri = storage.join(folder_of(uri, "plate"), "training_scores.parquet")
    rows = schema.from_parquet(storage.read(scores_uri)).to_pylist()
    for row in rows:
        row["is_anomalous"] = row["side"] != "train"
    for dropped in ((), ("is_suspect", "group", "fold")):  # as before there were folds
        table = pa.Table.from_pylist(rows).drop_columns(list(dropped))
        storage.write(scores_uri, schema.to_parquet(table))
        assert load_fleet_data(uri).trainings[0].suspect_uris == []


def test_no_category_has_a_second_picture_before_each_has_its_first(tmp_path, monkeypatch):
    kinds = dict.fromkeys(("plate", "ring", "gear"), "first")
    uri = write_fleet(tmp_path, kinds, odd={"gear": 1, "plate": 5, "ring": 20})
    counts = [len(one.suspects) for one in load_fleet_data(uri).trainings]
    assert counts == [1, 5, stored.PICTURES_PER_CATEGORY]
    monkeypatch.setattr(stored, "PICTURES_IN_ALL", 6)
    data = load_fleet_data(uri)
    assert [len(one.suspects) for one in data.trainings] == [1, 3, 2]
    assert "look at the first 2 of 20 images" in fleet_page(data)


def test_a_model_that_a_person_promoted_since_is_held_no_more(tmp_path):
    uri = write_fleet(tmp_path, {"ring": "held"})
    assert load_fleet_data(uri).trainings[0].is_held
    workspace = uri.rsplit("/", 2)[0]
    promotions.promote(workspace, "ring", VERSION, by="Ada", why="new lamps")
    ring = load_fleet_data(uri).trainings[0]
    assert (ring.is_held, ring.promoted_since) == (False, "Ada: new lamps")
    assert 'id="held"' not in fleet_page(load_fleet_data(uri))


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("history.parquet", "losses"),
        ("training_scores.parquet", "scores"),
        ("model.json", "teacher"),
    ],
)
def test_a_file_that_is_gone_leaves_its_part_out_with_a_word(tmp_path, name, left_out):
    uri = write_fleet(tmp_path, {"plate": "first", "ring": "passed"})
    storage.delete(storage.join(folder_of(uri, "plate"), name))
    data = load_fleet_data(uri)
    plate, ring = data.trainings
    assert not getattr(plate, left_out)
    assert getattr(ring, left_out)
    assert len(plate.gaps) == 1
    assert name in plate.gaps[0]
    assert not ring.gaps
    assert fleet_page(data).count("Not shown: ") == 1


def test_a_column_that_is_gone_leaves_its_part_out_with_a_word(tmp_path):
    uri = write_fleet(tmp_path, {"plate": "first"})
    history_uri = storage.join(folder_of(uri, "plate"), "history.parquet")
    storage.write(history_uri, schema.to_parquet(pa.table({"epoch": [0], "loss": [1.0]})))
    plate = load_fleet_data(uri).trainings[0]
    assert plate.losses is None
    assert "has no column validation_loss: another version of mrkd wrote it" in plate.gaps[0]


def test_a_fleet_of_another_version_is_refused(tmp_path):
    storage.write_json(str(tmp_path / "fleet.json"), {"schema": 2})
    with pytest.raises(ArtefactError, match=r"fleet\.json has schema 2.*start the fleet again"):
        load_fleet_data(str(tmp_path))


def test_a_workspace_that_was_moved_is_read_where_it_is_now(tmp_path):
    write_fleet(tmp_path / "old", {"plate": "first"})
    (tmp_path / "old" / "workspace").rename(tmp_path / "new")
    plate = load_fleet_data(str(tmp_path / "new" / "fleets" / "fleet-1")).trainings[0]
    assert plate.gaps == []


def test_the_page_of_a_fleet_is_told_by_its_record(tmp_path):
    uri = write_fleet(tmp_path, {"plate": "first"})
    assert write_page(uri) == f"{uri}/report.html"
    assert "<title>Fleet fleet-1</title>" in storage.read(f"{uri}/report.html").decode()


def test_the_top_counts_every_state(html):
    totals = re.findall(r'<li><strong>(\d+)</strong> <span class="badge (\w+)">', html)
    assert {state: int(count) for count, state in totals} == {
        "trained": 3,
        "up_to_date": 1,
        "held": 1,
        "failed": 1,
        "not_started": 1,
    }
    assert "4 of 6 categories have a model of today&#39;s images, 1 of them held back" in html
    assert "This fleet was stopped." in html


def test_the_table_tells_each_category_its_own(html):
    rows = table_rows(html)
    assert rows["cap"][:2] == ["failed", FAILURE]
    assert rows["ring"][0] == "held back"
    assert rows["ring"][1].startswith("0.942 0.930 to 0.954")
    assert rows["ring"][2] == "-0.039 -0.045 to -0.033"
    assert rows["plate"][2] == "first model"
    assert rows["plate"][3:5] == ["94", "3"]
    assert rows["0012"][5:7] == ["-", "-"]


def test_failures_stand_with_their_attempts_and_traceback(html):
    failed = re.search(r'<section id="failed">(.*?)</section>', html, re.DOTALL)[1]
    for text in (FAILURE, ">2<", "cap-2.txt"):
        assert text in failed


def test_what_was_held_stands_with_its_reason_and_both_models(html):
    held = re.search(r'<section id="held">(.*?)</section>', html, re.DOTALL)[1]
    for text in ("by more than 0.005", VERSION, CHAMPION, "0.981", "mrkd models promote"):
        assert text in held


def test_what_the_models_promise_stands_on_top_by_category(html):
    doubts = re.search(r'<section id="doubts">(.*?)</section>', html, re.DOTALL)[1]
    assert html.index('id="doubts"') < html.index('id="failed"')
    for text in ("plate", "gear", "24 good images vouch for a false-call rate of 4.00%"):
        assert text in doubts
    assert HELD_REASON in doubts
    assert "cap" not in doubts
    assert 'id="doubts"' not in page_of(model())


def test_a_training_says_what_groups_it_found_and_why_it_has_no_student(html, written):
    gear = written[1]["gear"]
    assert len(set(gear.scores["group"].to_pylist())) == 32
    assert gear.record["no_student"] == NO_STUDENT
    text = " ".join(re.sub("<.*?>", " ", html).split())
    assert f"Student none: {NO_STUDENT}" in text
    assert "Groups 32; images of a group are held out together. The largest: 3: 0000.png" in text


def test_a_random_teacher_raises_the_alarm_once(html):
    assert html.count("RANDOM WEIGHTS") == 1
    assert "RANDOM" not in page_of(model(teacher="resnet18-0123456789ab"))


def test_images_to_look_at_can_be_left_out_by_copying_them(html, written):
    lines = re.search(r"exclude = \[\n(.*?)\n\]", html, re.DOTALL)[1].splitlines()
    uris = [json.loads(line.strip(" ,").replace("&#34;", '"')) for line in lines]
    assert uris == list(written[1]["plate"].suspect_uris)
    assert html.count('class="heat"') == 3


def test_charts_of_many_categories_are_folded_away():
    few = page_of(*(model(f"part-{n}") for n in range(24)))
    many = page_of(*(model(f"part-{n}") for n in range(25)))
    assert len(re.findall(r'<details class="category".*? open>', few)) == 24
    assert not re.findall(r'<details class="category".*? open>', many)
    assert many.count('<details class="category"') == 25


def test_the_charts_are_what_plotly_draws(html):
    specs = re.findall(r'<script type="application/json">(.*?)</script>', html)
    assert len(specs) == 8, "losses and scores of four models"
    for spec in specs:
        go.Figure(json.loads(spec))


def test_losses_that_are_no_numbers_leave_a_page_that_can_be_drawn(tmp_path):
    uri = write_fleet(tmp_path, {"plate": "first"})
    history = {"epoch": [0, 1], "loss": [1.0, np.nan], "validation_loss": [1.0, np.inf]}
    history_uri = storage.join(folder_of(uri, "plate"), "history.parquet")
    storage.write(history_uri, schema.to_parquet(pa.table(history)))
    html = fleet_page(load_fleet_data(uri))
    spec = re.search(r'<script type="application/json">(.*?)</script>', html)[1]
    assert "NaN" not in spec
    assert "Infinity" not in spec


def test_a_fleet_that_is_running_says_so():
    html = page_of(model(), state="running", finished_at="")
    assert "This fleet has not ended." in html
    assert "took" not in html.partition("<ul")[0]


def test_a_fleet_without_categories_has_a_page():
    assert "0 of 0 categories" in page_of()


def test_a_model_that_nothing_measured_has_no_figure():
    cells = table_rows(page_of(model(gate={"state": "first"})))["plate"]
    assert cells[1:3] == ["-", "first model"]


def test_the_figure_says_by_which_images():
    auroc = {"image_auroc": {"value": 0.9, "low": None, "high": None}}
    labels = {"state": "first", "by": "labels", "num_good": 40, "num_defective": 30, **auroc}
    painted = labels | {"by": "synthetic", "num_defective": 120}
    for gate, words in ((labels, "40 good, 30 defective"), (painted, "120 painted defects")):
        assert table_rows(page_of(model(gate=gate)))["plate"][1] == f"0.900 {words}"


def test_what_was_not_started_is_told_by_reason():
    names = ("a", "b", "c")
    html = page_of(*(ended(n, "not_started", reason="it was stopped") for n in names))
    assert "3 categories:</strong> it was stopped.<br>a, b, c" in html


def test_names_from_outside_are_text_and_not_markup():
    hostile = "<script>alert(1)</script>"
    failed = ended("plate", "failed", error=hostile, traceback=hostile)
    odd = model("ring", suspect_uris=(hostile,), warnings=(hostile,), gaps=(hostile,))
    html = page_of(failed, odd, root=hostile, config={"root": hostile})
    assert hostile not in html


def test_the_page_refers_to_nothing_outside_itself(html):
    without_plotly = re.sub(r'<script type="text/plain" id="plotly">.*?</script>', "", html)
    assert re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', without_plotly) == []
    ids = re.findall(r' id="([^"]+)"', without_plotly)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', without_plotly)) <= set(ids)


def test_equal_rows_give_the_same_page(written, html):
    assert fleet_page(load_fleet_data(written[0])) == html


def test_the_page_of_hundreds_of_categories_stays_below_15_mb():
    rng = np.random.default_rng(0)
    heat = rng.random((64, 64)).astype(np.float32)
    pixels = smooth(220, 220) // 2 + rng.integers(0, 24, (220, 220, 3), np.uint8)
    row = {"image_uri": "a.png", "image_score": 2.0, "image_height": 220, "image_width": 220}
    image = ScoredImage(row, pixels, heat, Box(0, 0, 1, 1))
    losses = {"loss": rng.random(1000), "validation_loss": rng.random(1000)}
    sides = ["train", "validation", "calibration"] * 200
    full = {
        "losses": pa.table({"epoch": np.arange(1000), **losses}),
        "scores": pa.table({"image_score": rng.random(600).astype(np.float32), "side": sides}),
        "warnings": ("24 held-out images support a false-call rate of 4.00%, not 1.00%",) * 3,
    }
    odd = {"suspect_uris": ("s3://plant/parts/a.png",) * 48, "suspects": (image,)}
    trainings = [model(f"part-{n}", **full, **(odd if n < 240 else {})) for n in range(300)]
    assert 5_000_000 < len(page_of(*trainings)) < 15_000_000
