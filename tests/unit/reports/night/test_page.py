import json
import re
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest

from mrkd import storage
from mrkd.errors import NightError
from mrkd.model import artefact
from mrkd.nights import drift
from mrkd.nights.drift import Lights
from mrkd.nights.manifest import open_night
from mrkd.nights.reviews import import_labels
from mrkd.nights.reviews.labels_csv import Label
from mrkd.reports import load_night_data, write_page
from mrkd.reports.night import rows as night_rows
from mrkd.reports.night.page import night_page
from mrkd.reports.night.texts import ERROR_WORDS
from mrkd.storage import schema
from tests.support.night_pages import RUN, Plant, write_plant
from tests.support.page_text import open_items, section, text_of

PLANT = Plant(
    looks={("plate", "L2"): {"brightness": 0.85}},
    scores={("ring", "L1"): 1.3},
    nok_rate={("0012", ""): 0.3},
    silent=(("ring", "L2"),),
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """URI of the last night of a plant, and what is loaded of it."""
    uri = write_plant(tmp_path_factory.mktemp("plant"), PLANT)
    return uri, load_night_data(uri)


@pytest.fixture(scope="module")
def data(written):
    return written[1]


@pytest.fixture(scope="module")
def html(data):
    return night_page(data)


def table_rows(html):
    """Cells of the table of all lines, by category and line."""
    table = re.search(r'<table class="sortable">.*?<tbody>(.*?)</tbody>', html, re.DOTALL)[1]
    rows = [
        [text_of(cell) for cell in re.split("</t[hd]>", row)]
        for row in re.findall("<tr.*?>(.*?)</tr>", table, re.DOTALL)
    ]
    return {tuple(cells[:2]): cells[2:] for cells in rows}


def test_each_drift_turns_its_own_light_and_no_other(data):
    worst = {
        key: [Lights.worst(f) for f in (one.quality, one.scores, one.nok_rate)]
        for key, one in data.lights.items()
    }
    assert worst == {
        ("0012", ""): ["green", "green", "red"],
        ("new", "L1"): ["unknown", "unknown", "unknown"],
        ("plate", "L1"): ["green", "green", "green"],
        ("plate", "L2"): ["red", "green", "green"],
        ("ring", "L1"): ["green", "red", "green"],
    }


def test_the_darker_line_is_told_with_figure_and_limits(html):
    section_of = re.search(r'<section id="line-plate/L2".*?</section>', html, re.DOTALL)[0]
    told = text_of(section_of)
    assert re.search(r"red Image quality: \d\.\d\d spreads darker\. Look at lamps", told)
    assert re.search(
        r"Brightness earlier nights 0\.4\d+ 0\.5\d* \d\.\d\d spreads darker 0\.\d\d spreads "
        r"1\.\d\d spreads ■ red",
        told,
    )


def test_the_top_counts_all_images_and_names_what_needs_attention(html):
    totals = re.findall(r'<li><strong>([\d,]+)</strong> <span class="badge (\w+)">', html)
    assert totals == [("145", "OK"), ("15", "NOK"), ("5", "ERROR")]
    told = open_items(html)
    assert told[0] == "ring, line L2: nothing came; images came in 30 of 30 nights before"
    assert [one.rpartition(",")[0] for one in told[1:4]] == [
        "0012: NOK rate red",
        "plate, line L2: Image quality red",
        "ring, line L1: Scores of OK parts red",
    ]
    assert told[4] == "new: it had no model: its images were not scored"
    assert told[5] == "3 % of the images have no score, 1 % are allowed"
    assert len(told) == 6


def test_a_night_without_anything_odd_needs_no_attention(data):
    quiet = replace(
        data, compared=data.compared[2:3], models={}, config={**data.config, "max_error_share": 0.5}
    )
    assert "Nothing needs attention." in night_page(quiet)


def test_the_table_tells_each_line_its_own(html):
    rows = table_rows(html)
    assert list(rows) == [
        ("0012", "-"),
        ("new", "L1"),
        ("plate", "L1"),
        ("plate", "L2"),
        ("ring", "L1"),
        ("ring", "L2"),
    ]
    assert re.fullmatch(r"41 3\d to 4\d", rows["plate", "L1"][0])
    assert rows["0012", "-"][1].startswith("30 % high 0 % to")
    assert rows["new", "L1"][2] == "100 %"
    assert rows["plate", "L2"][3] == "■ red darker"
    assert rows["plate", "L1"][6:9] == ["39", "1", "1"]
    assert rows["ring", "L2"][1].startswith("nothing came")


def test_where_no_image_names_a_line_there_is_no_column_of_lines(data, html):
    assert ">Line</th>" in html
    assert ">Line</th>" not in night_page(replace(data, compared=data.compared[:1]))


def test_defective_images_are_shown_furthest_first_each_category_in_turn(data):
    shown = data.highest
    assert all(one.image.row["is_anomalous"] for one in shown)
    assert {one.category for one in shown[:3]} == {"0012", "plate", "ring"}
    margins = [one.margin for one in shown[:3]]
    assert margins == sorted(margins, reverse=True)
    assert len(shown) == 15
    assert all(one.image.anomaly_map.shape == (64, 64) for one in shown)
    assert all(one.image.pixels.shape == (64, 64, 3) for one in shown)
    assert all(one.image.row["regions"] for one in shown)


def test_borderline_images_are_those_nearest_their_threshold_on_either_side(written):
    uri, data = written
    rows = open_night(uri).to_table().to_pylist()
    spreads = {
        name: float(np.diff(np.quantile(_held_out(uri, name), (0.25, 0.75)))[0]) / 1.349
        for name in ("0012", "plate", "ring")
    }
    apart = sorted(
        (abs(row["image_score"] - row["threshold"]) / spreads[row["category"]], row["image_uri"])
        for row in rows
        if row["error_kind"] is None
    )
    assert [one.image.uri for one in data.borderline] == [uri for _, uri in apart[:20]]


def _held_out(uri, category):
    return artefact.read_calibration(uri.rsplit("/", 2)[0], category, "v1", 1).scores


def test_images_for_audit_are_twenty_good_ones_the_same_in_every_draw(written):
    uri, data = written
    audit = [one.image for one in data.audit]
    assert len({one.uri for one in audit}) == 20
    assert not any(one.row["is_anomalous"] for one in audit)
    again = [one.image.uri for one in load_night_data(uri).audit]
    assert again == [one.uri for one in audit]
    chosen = [
        {
            one.image_uri
            for one in night_rows.choose(open_night(uri), spreads={}, num_ok=145, run=run).audit
        }
        for run in (RUN, "another")
    ]
    assert chosen[0] == {one.uri for one in audit} != chosen[1]


def test_every_good_image_may_be_drawn_for_audit(written):
    uri, _ = written
    rows = open_night(uri)
    seen = set()
    for number in range(60):
        choice = night_rows.choose(rows, spreads={}, num_ok=145, run=f"night-{number}")
        seen |= {one.image_uri for one in choice.audit}
    assert len(seen) == 145


def test_errors_stand_by_kind_with_counts_examples_and_advice(html):
    errors = text_of(section(html, "errors"))
    assert "4 empty empty files They hold 0 bytes" in errors
    assert "plate 2, 0012 1, ring 1" in errors
    assert "zz-empty.png empty 0 bytes: copy the image again" in errors
    assert "1 no_model of a category without a model" in errors


def test_every_kind_of_error_has_its_words():
    assert set(ERROR_WORDS) == set(schema.ERROR_KINDS)


def test_models_stand_with_calibration_and_what_it_supports(html):
    models = text_of(section(html, "models"))
    assert "plate v1 1 1 1 % asked, 1.6 % vouched for 60 random:resnet18-0123456789ab" in models
    assert "60 good images vouch for a false-call rate of 1.64%" in models
    assert "RANDOM WEIGHTS" in html


def test_a_model_that_is_gone_leaves_its_part_out_with_a_word(tmp_path):
    uri = write_plant(tmp_path, Plant(num_nights=6, num_images=20))
    folder = artefact.folder_of(uri.rsplit("/", 2)[0], "plate", "v1")
    storage.delete(storage.join(folder, "model.json"))
    data = load_night_data(uri)
    assert [name for name, model in data.models.items() if model.gap] == ["new", "plate"]
    finding = data.lights["plate", "L1"].quality[0]
    assert (finding.against, finding.light) == ("calibration", "unknown")
    assert any(one.category == "plate" for one in data.audit)
    assert "model.json" in text_of(section(night_page(data), "models"))


def test_how_it_ran_stands_with_memory_requests_and_seconds(html):
    ran = text_of(section(html, "running"))
    assert "2026-11-23 02:00 UTC 6.5 min 206 41.3 3456.8 1 1" in ran
    assert "list (s) read (s) decode (s) score (s) commit (s) close (s)" in ran
    assert "GET PUT HEAD LIST retried slowed" in ran
    assert "1.2 61.0 88.4 301.9 12.5 0.8 230 17 3 4 2 1" in ran


def test_the_page_stores_the_profile_that_later_nights_read(tmp_path):
    uri = write_plant(tmp_path, Plant(num_nights=0, num_images=8))
    assert write_page(uri) == f"{uri}/report.html"
    assert f"<title>Night {RUN}</title>" in storage.read(f"{uri}/report.html").decode()
    assert drift.read(uri).run == RUN


def test_a_night_that_is_not_closed_has_no_page(tmp_path):
    with pytest.raises(NightError, match="no closed revision"):
        load_night_data(str(tmp_path / "nights" / RUN))


def test_a_workspace_that_was_moved_is_read_where_it_is_now(tmp_path):
    write_plant(tmp_path / "old", Plant(num_nights=6, num_images=8))
    (tmp_path / "old" / "workspace").rename(tmp_path / "new")
    data = load_night_data(str(tmp_path / "new" / "nights" / RUN))
    assert len(data.before.profiles) == 6
    assert [name for name, model in data.models.items() if model.gap] == ["new"]


def test_the_charts_hold_every_night_and_are_valid(html):
    specs = [
        json.loads(text)
        for text in re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    ]
    assert len(specs) == 8, "two of each line that sent images tonight and before"
    for spec in specs:
        go.Figure(spec)
        assert len(spec["data"][0]["x"]) == 30
        assert len(spec["layout"]["shapes"]) == 2


def test_all_pages_of_a_thousand_lines_are_small(data):
    many = tuple(replace(data.compared[2], line=f"L{n}") for n in range(1000))
    lights = {(one.category, one.line): data.lights["plate", "L1"] for one in many}
    assert len(night_page(replace(data, compared=many, lights=lights))) < 15e6


def test_what_people_say_is_counted_and_too_few_words_propose_no_threshold(tmp_path):
    uri = write_plant(tmp_path, Plant(num_nights=0))
    workspace, run = uri.rsplit("/nights/", 1)
    rows = open_night(uri).to_table(columns=["category", "image_uri", "is_anomalous"]).to_pylist()
    assert "<h2>Reviews</h2>" not in night_page(load_night_data(uri))

    def label(category, called, verdict, number):
        own = [r for r in rows if (r["category"], r["is_anomalous"]) == (category, called)]
        at = "2026-11-24T00:00:00+00:00"
        return [Label(row["image_uri"], verdict, "Ann", at) for row in own[:number]]

    labels = label("ring", True, "NOK", 2) + label("ring", False, "OK", 20)
    import_labels.bring(workspace, labels + label("plate", True, "OK", 1), by="test")
    page = night_page(load_night_data(uri))
    words = text_of(section(page, "reviews"))
    assert "ring 2 2 0, 0 % 0 % to 66 % 78 20 0, 0 % 0 % to 16 %" in words
    assert "plate 2 1 1, 100 % 21 % to 100 % 78 0 -" in words
    assert "nobody has looked at images that were called good" in words
    assert "100 % of the defective found" in words

    storage.write(f"{workspace}/reviews/imports/1.parquet", b"damaged")
    broken = text_of(night_page(load_night_data(uri)))
    assert "Not shown: " in broken
    assert "imports/1.parquet is not a whole Parquet file" in broken
    assert run in broken
