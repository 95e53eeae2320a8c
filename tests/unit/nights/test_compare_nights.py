"""Two nights over the same images, row by row."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from mrkd import storage
from mrkd.errors import ArtefactError, ConfigError, NightError
from mrkd.nights import compare_nights
from mrkd.nights.compare_nights import Comparison, compare
from mrkd.storage import schema
from tests.support.closed_nights import failed, scored, write_night


def compared(tmp_path, a, b):
    write_night(str(tmp_path), "a", a)
    write_night(str(tmp_path), "b", b)
    return compare(str(tmp_path), "a", "b")


def by_uri(found):
    return {row["image_uri"]: row for row in found.rows.to_pylist()}


def test_every_image_of_either_night_is_one_row_with_what_changed(tmp_path):
    a = [scored("same", 0.1), scored("up", 0.2), scored("down", 0.9), failed("came")]
    b = [scored("same", 0.3), scored("up", 0.7), scored("down", 0.4), scored("came", 0.1)]
    a += [scored("went", 0.1), scored("old", 0.1), failed("both")]
    b += [failed("went"), scored("new", 0.1), failed("both", "empty")]
    found = compared(tmp_path, a, b)
    assert {uri: row["change"] for uri, row in by_uri(found).items()} == {
        "same": None,
        "up": "ok_to_nok",
        "down": "nok_to_ok",
        "came": "from_error",
        "went": "to_error",
        "old": "only_a",
        "new": "only_b",
        "both": None,
    }
    assert found.counts == {
        "images": 8,
        "both": 3,
        **dict.fromkeys(compare_nights.CHANGES, 1),
        "other_images": 0,
    }


def test_a_row_holds_both_sides_and_nulls_where_a_night_has_not_the_image(tmp_path):
    a = [scored("x", 0.25, p_value=0.5), scored("old", 0.1)]
    b = [scored("x", 0.75, p_value=0.125, model_version="v2", calibration=4), failed("y", "empty")]
    rows = by_uri(compared(tmp_path, a, b))
    x = rows["x"]
    assert (x["verdict_a"], x["verdict_b"]) == ("OK", "NOK")
    assert (x["image_score_a"], x["image_score_b"]) == (0.25, 0.75)
    assert (x["p_value_a"], x["p_value_b"]) == (0.5, 0.125)
    assert (x["model_version_b"], x["calibration_b"]) == ("v2", 4)
    assert (rows["y"]["verdict_a"], rows["y"]["error_kind_b"]) == (None, "empty")
    assert all(value is None for name, value in rows["old"].items() if name.endswith("_b"))


def test_the_rank_correlation_is_spearman_s_with_ties_over_what_both_scored(tmp_path):
    draw = np.random.default_rng(0)
    scores = draw.integers(0, 8, (2, 40)) / 8
    a = [scored(f"{n:02}", value) for n, value in enumerate(scores[0])]
    b = [scored(f"{n:02}", value * 7 + 3) for n, value in enumerate(scores[1])]
    extra = [failed("x"), scored("y", 0.9)], [scored("x", 0.9), failed("y")]
    found = compared(tmp_path, a + extra[0], b + extra[1])
    expected = spearmanr(scores[0], scores[1]).statistic
    assert found.categories[0].rank_correlation == pytest.approx(expected, abs=1e-6)
    assert found.categories[0].both == 40


@pytest.mark.parametrize(("a", "b"), [([0.1], [0.9]), ([0.1, 0.2], [0.5, 0.5])])
def test_without_an_order_there_is_no_rank_correlation(a, b):
    assert compare_nights.rank_correlation(np.array(a), np.array(b)) is None


def test_another_scale_changes_no_rank(tmp_path):
    a = [scored(f"{n}", n / 10) for n in range(5)]
    b = [scored(f"{n}", 100 + n**3) for n in range(5)]
    found = compared(tmp_path, a, b)
    assert found.categories[0].rank_correlation == pytest.approx(1)
    rows = by_uri(found).values()
    assert [row["rank_a"] for row in rows] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    assert [row["rank_b"] for row in rows] == [row["rank_a"] for row in rows]


def test_the_worst_are_by_p_value_then_by_rank_and_were_scored_twice(tmp_path):
    def night(p_values, scores):
        rows = zip("stuv", p_values, scores, strict=True)
        return [scored(uri, score, p_value=p) for uri, p, score in rows]

    a = [*night((0.9, 0.5, 0.5, 0.5), (0.1, 0.2, 0.3, 0.4)), failed("err"), scored("old", 0.9)]
    b = [*night((0.1, 0.5, 0.4, 0.5), (0.1, 0.9, 0.3, 0.4)), scored("err", 0.9)]
    found = compared(tmp_path, a, b)
    assert [row["image_uri"] for row in found.worst(10)] == ["s", "u", "t", "v"]
    assert [row["image_uri"] for row in found.worst(2)] == ["s", "u"]


def test_categories_stand_by_themselves_each_with_its_models(tmp_path):
    a = [
        scored("x", 0.1),
        scored("y", 0.1, category="0012"),
        failed("z", "no_model", category="new"),
    ]
    a[-1] |= {"model_version": None, "calibration": None}
    b = [scored("x", 0.9, model_version="v2"), scored("y", 0.1, category="0012"), a[-1]]
    found = compared(tmp_path, a, b)
    told = {
        one.category: (one.changes["ok_to_nok"], one.models_a, one.models_b)
        for one in found.categories
    }
    assert told == {
        "0012": (0, ("v1/1",), ("v1/1",)),
        "new": (0, (), ()),
        "plate": (1, ("v1/1",), ("v2/1",)),
    }
    assert found.rows["category"].to_pylist() == ["0012", "new", "plate"]


def test_an_image_that_was_overwritten_between_the_nights_is_counted(tmp_path):
    a = [scored("x", 0.1), scored("y", 0.1)]
    b = [scored("x", 0.1, image_etag="e2"), scored("y", 0.1)]
    found = compared(tmp_path, a, b)
    assert found.counts["other_images"] == 1
    assert [row["same_image"] for row in by_uri(found).values()] == [False, True]


def test_only_rows_that_count_are_compared(tmp_path):
    write_night(str(tmp_path), "a", [scored("x", 0.1)], [scored("x", 0.9), scored("y", 0.1)])
    write_night(str(tmp_path), "b", [scored("x", 0.9), scored("y", 0.1)])
    found = compare(str(tmp_path), "a", "b")
    assert (found.counts["images"], found.counts["ok_to_nok"]) == (2, 0)


def test_nights_without_an_image_in_common_share_nothing(tmp_path):
    found = compared(tmp_path, [scored("x", 0.1)], [scored("y", 0.1, category="ring")])
    assert (found.counts["only_a"], found.counts["only_b"], found.counts["both"]) == (1, 1, 0)
    assert found.worst(5) == []


def test_what_is_stored_reads_back_and_any_reader_opens_it(tmp_path):
    found = compared(
        tmp_path, [scored("x", 0.1), scored("y", 0.2)], [scored("x", 0.9), failed("y")]
    )
    uri = found.store()
    assert uri == f"file://{tmp_path}/comparisons/a--b/comparison.parquet"
    assert Comparison.read(found.uri) == found
    assert schema.from_parquet(storage.read(uri)).schema.equals(compare_nights.COMPARISON)


def test_a_workspace_that_was_moved_is_read_where_it_is(tmp_path):
    compared(tmp_path / "old", [scored("x", 0.1)], [scored("x", 0.9)]).store()
    (tmp_path / "old").rename(tmp_path / "new")
    folder = str(tmp_path / "new" / "comparisons" / "a--b")
    assert Comparison.read(folder).workspace == f"file://{tmp_path}/new"


def test_another_parquet_file_is_no_comparison(tmp_path):
    found = compared(tmp_path, [scored("x", 0.1)], [scored("x", 0.9)])
    storage.write(
        f"{found.uri}/comparison.parquet", schema.to_parquet(found.rows.select(["change"]))
    )
    with pytest.raises(ArtefactError, match=r"not a comparison of this version.*compare again"):
        Comparison.read(found.uri)


@pytest.mark.parametrize(
    ("runs", "error", "words"),
    [
        (("a", "a"), ConfigError, "both nights are 'a': name two"),
        (("a", "../b"), ConfigError, "run '../b' is not a name"),
        (("a", "c"), NightError, "nights/c has no closed revision"),
    ],
)
def test_what_cannot_be_compared_is_said(tmp_path, runs, error, words):
    write_night(str(tmp_path), "a", [scored("x", 0.1)])
    with pytest.raises(error, match=words):
        compare(str(tmp_path), *runs)


def test_a_line_for_each_category_is_what_the_command_prints(tmp_path):
    found = compared(tmp_path, [scored("x", 0.1)], [scored("x", 0.9, model_version="v2")])
    (line,) = found.table()
    assert list(line)[:3] == ["category", "images", "ok_to_nok"]
    assert (line["models_a"], line["models_b"]) == (("v1/1",), ("v2/1",))
    assert line["rank_correlation"] is None
