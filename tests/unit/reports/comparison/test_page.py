"""The page of a comparison: loaded from two nights, rendered from values."""

import base64
import re
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from mrkd import storage
from mrkd.errors import ArtefactError
from mrkd.nights.compare_nights import CHANGES, COMPARISON, CategoryChange, Comparison, compare
from mrkd.reports.comparison import load as load_comparison
from mrkd.reports.comparison.load import ComparisonData, Pair, load_comparison_data
from mrkd.reports.comparison.page import comparison_page
from mrkd.reports.kit.values import Box, ScoredImage
from mrkd.storage import schema
from tests.support.closed_nights import scored, write_night
from tests.support.comparisons import NUM, write_comparison
from tests.support.pictures import pillow, smooth


@pytest.fixture
def written(tmp_path):
    return write_comparison(tmp_path)


def pictures(html):
    return re.findall(r'<image (?:class="heat" )?href="data:image/(\w+);', html)


def test_each_image_is_loaded_as_both_nights_saw_it(written):
    data = load_comparison_data(written.uri)
    first = data.worst[0]
    assert [pair.row["image_uri"] for pair in data.worst] == [
        r["image_uri"] for r in written.worst(NUM)
    ]
    assert first.row["image_uri"].endswith("/0.png")
    assert (first.row["verdict_a"], first.row["verdict_b"]) == ("OK", "NOK")
    assert [seen.anomaly_map.max() for seen in (first.a, first.b)] == [
        pytest.approx(0.2, abs=1e-3),
        2.5,
    ]
    assert [len(seen.row["regions"]) for seen in (first.a, first.b)] == [0, 1]
    assert first.a.pixel_threshold == first.b.pixel_threshold == 2.25  # of the calibration
    assert all(seen.pixels.shape == (64, 64, 3) for p in data.worst for seen in (p.a, p.b))
    assert data.teachers[0].startswith("random:")
    assert data.gaps == []


def test_the_page_shows_pairs_with_both_maps_and_says_what_differs(written):
    html = comparison_page(load_comparison_data(written.uri))
    assert "2 of 5 images in common are judged differently: 2 OK \N{RIGHTWARDS ARROW} NOK." in html
    assert pictures(html).count("jpeg") == pictures(html).count("png") == 2 * NUM
    assert html.count("another verdict") == 2
    assert html.count("A: night-1") == html.count("B: night-2") == 2 * NUM
    assert html.count("RANDOM WEIGHTS") == 1
    row = re.search(r"<tr><th>plate</th>(.*?)</tr>", html, re.DOTALL)[1]
    cells = [" ".join(re.sub("<.*?>", " ", cell).split()) for cell in row.split("</td>")]
    assert cells == ["2", "-1.000", "2", "0", "0", "0", "0", "0", "5", "v1/1", "the same", ""]


def test_no_more_images_are_shown_than_the_page_has_room_for(written, monkeypatch):
    monkeypatch.setattr(load_comparison, "NUM_SHOWN", 1)
    assert len(load_comparison_data(written.uri).worst) == 1


def test_a_night_that_is_gone_leaves_its_figures_and_a_line(written):
    folder = f"{written.workspace}/nights/night-2"
    for file in storage.list_files(folder):
        storage.delete(file.uri)
    data = load_comparison_data(written.uri)
    assert len(data.gaps) == 1
    assert "night-2 has no closed revision" in data.gaps[0]
    assert data.worst[0].b.anomaly_map is None
    assert data.worst[0].row["image_score_b"] == pytest.approx(0.9)
    assert data.worst[0].a.pixels is not None
    html = comparison_page(data)
    assert html.count("can no longer be read") == NUM
    assert "Not shown: " in html


def test_a_model_that_is_gone_leaves_its_maps_and_a_line(written):
    storage.delete(f"{written.workspace}/models/plate/v1/model.json")
    data = load_comparison_data(written.uri)
    assert len(data.gaps) == 1
    assert data.worst[0].b.anomaly_map is not None
    assert data.worst[0].b.pixel_threshold == 2.5
    assert pictures(comparison_page(data)).count("png") == 2 * NUM


def test_an_image_that_was_overwritten_since_is_not_shown_as_what_was_scored(written):
    storage.write(written.worst(1)[0]["image_uri"], pillow(smooth(64, 64, 99), "PNG") + b"x")
    data = load_comparison_data(written.uri)
    assert (data.worst[0].a.pixels, data.worst[0].b.pixels) == (None, None)
    assert data.worst[1].a.pixels is not None


def test_an_image_is_shown_of_the_night_that_scored_these_bytes_alone(written):
    night = f"{written.workspace}/nights/night-2"
    (shard,) = storage.list_files(f"{night}/scores")
    table = schema.from_parquet(storage.read(shard.uri))
    other = pa.array(["another"] * table.num_rows)
    place = table.schema.get_field_index("image_etag")
    table = table.set_column(place, table.schema.field(place), other)
    storage.write(shard.uri, schema.to_parquet(table))
    compare(written.workspace, "night-1", "night-2").store()
    pair = load_comparison_data(written.uri).worst[0]
    assert pair.a.pixels is not None
    assert pair.b.pixels is None


def test_heat_begins_at_what_is_usual_in_each_night_s_own_maps():
    def seen(low, high):
        anomaly_map = np.full((8, 8), low, np.float32)
        anomaly_map[2:4, 2:4] = high
        row = {"image_uri": "x.png", "image_height": 8, "image_width": 8}
        return ScoredImage(row, smooth(8, 8), anomaly_map, Box(0, 0, 8, 8), pixel_threshold=high)

    change = CategoryChange("plate", (), (), 1, 1, dict.fromkeys(CHANGES, 0), 0, None)
    found = Comparison("workspace", "a", "b", (change,), COMPARISON.empty_table())
    row: dict[str, Any] = {"image_uri": "x.png", "category": "plate"}
    for side in ("a", "b"):
        row |= {f"verdict_{side}": "OK", f"rank_{side}": 0.5, f"p_value_{side}": 0.5}
        row |= {f"image_score_{side}": 1.0, f"threshold_{side}": 1.0}
    pair = Pair(row, seen(0.1, 0.2), seen(100, 200))
    html = comparison_page(ComparisonData(found, (pair,)))
    heats = re.findall(r'class="heat" href="data:image/png;base64,(.*?)"', html)
    for heat in heats:
        bgra = cv2.imdecode(np.frombuffer(base64.b64decode(heat), np.uint8), cv2.IMREAD_UNCHANGED)
        assert (bgra[0, 0, 3], bgra[3, 3, 3]) == (0, round(255 * 0.5))
    assert len(heats) == 2


def test_nights_that_agree_say_so(tmp_path):
    for run in ("x", "y"):
        write_night(str(tmp_path), run, [scored("file:///no/1.png", 0.1)])
    found = compare(str(tmp_path), "x", "y")
    found.store()
    html = comparison_page(load_comparison_data(found.uri))
    assert "alike, 1 in all" in html
    assert '<td class="number" data-value="">\N{EN DASH}</td>' in html


def test_nights_without_an_image_in_common_say_so(tmp_path):
    write_night(str(tmp_path), "x", [scored("file:///no/1.png", 0.1)])
    write_night(str(tmp_path), "y", [scored("file:///no/2.png", 0.1)])
    found = compare(str(tmp_path), "x", "y")
    found.store()
    data = load_comparison_data(found.uri)
    assert data.worst == []
    assert "The nights have no image in common." in comparison_page(data)


def test_names_from_outside_are_text(tmp_path):
    uri = "file:///no/<script>alert(1)</script>.png"
    for run, score in (("x", 0.1), ("y", 0.9)):
        write_night(str(tmp_path), run, [scored(uri, score)])
    found = compare(str(tmp_path), "x", "y")
    found.store()
    assert "<script>alert" not in comparison_page(load_comparison_data(found.uri))


def test_a_damaged_comparison_is_refused(written):
    storage.write(f"{written.uri}/comparison.parquet", b"PAR1")
    with pytest.raises(ArtefactError, match="not a whole Parquet file"):
        load_comparison_data(written.uri)
