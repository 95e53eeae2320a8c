"""Views of a part to one verdict."""

import csv
import io

import pytest

from mrkd import storage
from mrkd.config import PartsConfig
from mrkd.errors import NightError
from mrkd.nights import part_verdicts
from mrkd.storage import schema
from tests.support.closed_nights import failed, scored, write_night


def view(part, name, score, **values):
    """An image of a part; the score None is an error."""
    attributes = {"part": part, "line": "l1"} | ({"view": name} if name else {})
    uri = values.pop("uri", f"file:///a/{part}/{name}.png")
    if score is None:
        return failed(uri, attributes=attributes, **values)
    return scored(uri, score, attributes=attributes, **values)


def decided(tmp_path, *rows, views=()):
    """The rows of `parts.parquet` by part."""
    table = part_verdicts.part_table(write_night(str(tmp_path), "night-1", rows), views)
    return {row["part"]: row for row in table.to_pylist()}


@pytest.mark.parametrize(
    ("scores", "verdict", "worst"),
    [
        ((0.1, 0.2), "OK", "right"),
        ((0.1, 0.9), "NOK", "right"),
        ((0.8, 0.6), "NOK", "left"),
        ((0.1, None), "ERROR", "right"),
        ((None, 0.9), "NOK", "right"),
    ],
)
def test_the_worst_view_decides_nok_over_error_over_ok(tmp_path, scores, verdict, worst):
    left, right = scores
    found = decided(tmp_path, view("p1", "left", left), view("p1", "right", right))["p1"]
    assert (found["verdict"], found["view"]) == (verdict, worst)
    assert found["image_uri"] == f"file:///a/p1/{worst}.png"
    assert (found["num_views"], found["missing_views"]) == (2, [])


def test_a_verdict_says_why_it_is_not_ok(tmp_path):
    rows = [view("bad", "top", 0.9), view("gone", "top", None), view("good", "top", 0.1)]
    found = decided(tmp_path, *rows)
    assert found["bad"]["reason"] == "image_score 0.9 above threshold 0.5"
    assert found["gone"]["reason"] == "decode: it is damaged: send it again"
    assert found["gone"]["image_score"] is None
    assert found["good"]["reason"] is None


def test_of_two_equally_rare_scores_the_one_farther_above_its_threshold_is_worse(tmp_path):
    rows = [view("p1", "left", 0.7, p_value=0.05), view("p1", "right", 0.9, p_value=0.05)]
    assert decided(tmp_path, *rows)["p1"]["view"] == "right"


def test_a_view_that_others_have_is_named_and_changes_no_verdict(tmp_path):
    rows = [view("p1", "left", 0.1), view("p1", "right", 0.1), view("p2", "left", 0.1)]
    found = decided(tmp_path, *rows)
    assert (found["p2"]["verdict"], found["p2"]["missing_views"]) == ("OK", ["right"])
    assert found["p1"]["missing_views"] == []


def test_what_views_another_category_has_is_nothing_to_this_one(tmp_path):
    rows = [view("p1", "left", 0.1), view("p2", "top", 0.1, category="ring")]
    found = decided(tmp_path, *rows)
    assert [found[part]["missing_views"] for part in ("p1", "p2")] == [[], []]


def test_a_part_without_a_configured_view_is_an_error_unless_it_is_defective(tmp_path):
    rows = [view("p1", "left", 0.1), view("p2", "left", 0.9), view("p3", "left", None)]
    found = decided(tmp_path, *rows, views=("left", "top", "bottom"))
    assert [found[part]["verdict"] for part in ("p1", "p2", "p3")] == ["ERROR", "NOK", "ERROR"]
    assert found["p1"]["reason"] == "no image of view top, bottom: photograph the part again"
    assert (found["p1"]["image_uri"], found["p1"]["image_score"]) == (None, None)
    assert all(row["missing_views"] == ["top", "bottom"] for row in found.values())
    assert found["p3"]["reason"].startswith("decode: ")


def test_parts_that_are_decided_in_turns_are_all_there_once(tmp_path, monkeypatch):
    monkeypatch.setattr(part_verdicts, "_AT_ONCE", 2)
    found = decided(tmp_path, *[view(f"p{n}", "left", n / 10) for n in (3, 9, 0, 4, 7)])
    assert [found[part]["verdict"] for part in found] == ["OK", "OK", "OK", "NOK", "NOK"]
    assert list(found) == ["p0", "p3", "p4", "p7", "p9"]


def test_one_part_number_in_two_categories_is_two_parts(tmp_path):
    rows = [view("7", "left", 0.1), view("7", "left", 0.9, category="ring", uri="file:///r/7.png")]
    table = part_verdicts.part_table(write_night(str(tmp_path), "night-1", rows))
    found = {(row["category"], row["part"]): row["verdict"] for row in table.to_pylist()}
    assert found == {("plate", "7"): "OK", ("ring", "7"): "NOK"}


def test_views_without_a_name_are_counted_by_image(tmp_path):
    rows = [view("p1", "", 0.1, uri=f"file:///a/{n}.png") for n in range(3)]
    found = decided(tmp_path, *rows)["p1"]
    assert (found["num_views"], found["view"], found["missing_views"]) == (3, None, [])


def test_an_empty_view_is_none(tmp_path):
    nameless = scored("file:///a/2.png", 0.1, attributes={"part": "p2", "view": ""})
    found = decided(tmp_path, view("p1", "left", 0.1), nameless)
    assert found["p1"]["missing_views"] == []
    assert (found["p2"]["view"], found["p2"]["num_views"]) == (None, 1)
    assert found["p2"]["missing_views"] == ["left"]


def test_a_view_that_was_taken_twice_is_one_view_and_both_images_count(tmp_path):
    rows = [view("p1", "left", score, uri=f"file:///a/{score}.png") for score in (0.1, 0.9)]
    found = decided(tmp_path, *rows)["p1"]
    assert (found["num_views"], found["verdict"]) == (1, "NOK")


def test_images_without_a_part_are_left_out_and_counted(tmp_path):
    rows = [view("p1", "left", 0.1), scored("file:///a/x.png", 0.9), view("", "left", 0.9)]
    table = part_verdicts.part_table(write_night(str(tmp_path), "night-1", rows))
    assert table["part"].to_pylist() == ["p1"]
    assert table.schema.metadata[b"images_without_part"] == b"2"


def test_a_night_whose_images_name_no_part_has_no_file_of_them(tmp_path):
    uri = write_night(str(tmp_path), "night-1", [scored("file:///a/x.png", 0.9)])
    assert part_verdicts.store(uri, PartsConfig()) == {}
    assert storage.stat(f"{uri}/parts.parquet") is None


def test_a_view_that_comes_late_changes_the_verdict(tmp_path):
    first = [view("p1", "left", 0.1), view("p1", "right", None)]
    config = PartsConfig(views=("left", "right"))
    uri = write_night(str(tmp_path), "night-1", first)
    part_verdicts.store(uri, config)
    uri = write_night(str(tmp_path), "night-1", first, [view("p1", "right", 0.2)])
    written = part_verdicts.store(uri, config)
    table = schema.from_parquet(storage.read(written["parts"]))
    assert table["verdict"].to_pylist() == ["OK"]
    assert table.schema.equals(part_verdicts.PARTS)


def test_the_file_for_the_plant_has_one_line_a_part_and_its_missing_views(tmp_path):
    rows = [view('p,"1"', "left", 0.9), view("p2", "left", 0.1)]
    uri = write_night(str(tmp_path), "night-1", rows)
    written = part_verdicts.store(uri, PartsConfig(views=("left", "top", "back")))
    text = storage.read(written["parts_csv"]).decode()
    found = list(csv.DictReader(io.StringIO(text)))
    assert [row["part"] for row in found] == ['p,"1"', "p2"]
    assert [row["verdict"] for row in found] == ["NOK", "ERROR"]
    assert found[0]["image_score"] == "0.9"
    assert found[1]["missing_views"] == "top;back"
    assert found[1]["image_uri"] == ""


def test_counts_are_of_parts(tmp_path):
    rows = [view("p1", "left", 0.1), view("p2", "left", 0.9), view("p2", "top", 0.1)]
    table = part_verdicts.part_table(write_night(str(tmp_path), "night-1", rows))
    assert part_verdicts.counts(table) == {"OK": 1, "NOK": 1, "ERROR": 0, "incomplete": 1}


def test_an_open_night_has_no_parts(tmp_path):
    with pytest.raises(NightError, match="no closed revision"):
        part_verdicts.part_table(str(tmp_path / "nights" / "night-1"))
