import numpy as np
import pyarrow as pa
import pytest

from mrkd.evaluation import metrics
from mrkd.evaluation.category_metrics import LEFT_OUT, MEAN, Pixels, evaluate_category
from mrkd.storage import schema
from tests.support.pixel_metrics import exact_figure

SIDE = 16


class Case:
    """20 good images, 10 with a crack, 10 with a hole and 6 of which nobody is sure."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.defects = ["good"] * 20 + ["crack"] * 10 + ["hole"] * 10 + ["unsure"] * 6
        self.labels = [int(d != "good") for d in self.defects]
        self.headline = [d != "unsure" for d in self.defects]
        strength = {"good": 0.0, "crack": 1.0, "hole": 2.0, "unsure": 0.3}
        self.scores = rng.normal(size=46) + [strength[d] for d in self.defects]
        self.maps = rng.gamma(2, 1, (46, SIDE, SIDE)).astype(np.float32)
        self.gt_masks = np.zeros(self.maps.shape, bool)
        for n, defect in enumerate(self.defects):
            if defect == "crack":
                self.gt_masks[n, 3, 2:6] = True
            if defect == "hole":
                self.gt_masks[n, 8:15, 4:12] = True
            self.maps[n][self.gt_masks[n]] += strength[defect]

    def rows(self, *, pixels=(), **more):
        told = Pixels()
        for number, *maps in pixels:
            told.add(number, *maps, gt_label=self.labels[number])
        found = evaluate_category(
            "ring",
            self.scores,
            self.labels,
            self.defects,
            headline=self.headline,
            pixels=told,
            **({"resamples": 200} | more),
        )
        return {(row["metric"], row["defect"]): row for row in found}

    def pixels(self, left_out=()):
        for n, (anomaly_map, gt_mask) in enumerate(zip(self.maps, self.gt_masks, strict=True)):
            if self.defects[n] != "unsure":
                yield n, anomaly_map, gt_mask & (n not in left_out)


def value(row):
    assert row["reason"] is None
    return row["value"]


def test_rows_fit_the_stored_schema():
    rows = list(Case().rows(seed=7, model_version="ab12").values())
    table = pa.Table.from_pylist(rows, schema.METRICS)
    assert table.num_rows == len(rows)
    assert {(r["category"], r["seed"], r["model_version"]) for r in rows} == {("ring", 7, "ab12")}


def test_figures_over_all_defects_leave_uncertain_images_out():
    case = Case()
    rows = case.rows()
    sure = np.array(case.headline)
    for metric in metrics.IMAGE_METRICS:
        expected = metrics.bootstrap_interval(
            metric, case.scores[sure], np.array(case.labels)[sure], resamples=200
        )
        row = rows[metric, None]
        assert (row["value"], row["low"], row["high"]) == (
            expected.value,
            expected.low,
            expected.high,
        )


def test_each_defect_stands_against_all_good_images():
    case = Case()
    rows = case.rows()
    for defect in ("crack", "hole", "unsure"):
        keep = [n for n, d in enumerate(case.defects) if d in ("good", defect)]
        expected = metrics.image_auroc(case.scores[keep], np.array(case.labels)[keep])
        row = rows["image_auroc", defect]
        assert value(row) == pytest.approx(expected.value)
        assert row["low"] < row["value"] < row["high"]


def test_the_mean_weighs_every_defect_alike_but_uncertain_ones():
    rows = Case().rows(pixels=Case().pixels())
    for metric in ("image_auroc", "pixel_auroc", "aupro"):
        each = [value(rows[metric, defect]) for defect in ("crack", "hole")]
        mean = rows[metric, MEAN]
        assert value(mean) == pytest.approx(np.mean(each))
        assert mean["low"] < mean["value"] < mean["high"]


def test_pixel_metrics_are_those_of_the_defects_images_and_the_good_ones():
    case = Case()
    rows = case.rows(pixels=case.pixels())
    for defect, kinds in (("crack", ["crack"]), ("hole", ["hole"]), (None, ["crack", "hole"])):
        keep = [n for n, d in enumerate(case.defects) if d in ("good", *kinds)]
        maps, gt_masks = case.maps[keep], case.gt_masks[keep]
        for metric in ("aupro", "pixel_auroc"):
            found = value(rows[metric, defect])
            assert found == pytest.approx(exact_figure(metric, maps, gt_masks).value, abs=1e-3)


def test_the_pooled_figure_follows_the_defects_with_the_most_pixels():
    rows = Case().rows(pixels=Case().pixels())
    pooled, crack, hole = (value(rows["pixel_auroc", d]) for d in (None, "crack", "hole"))
    assert abs(pooled - hole) < abs(pooled - crack) / 3


def test_anomalous_images_without_a_defective_pixel_are_left_out_and_counted():
    case = Case()
    rows = case.rows(pixels=case.pixels(left_out=(20, 21, 31)))
    assert value(rows[LEFT_OUT, "crack"]) == 2
    assert value(rows[LEFT_OUT, "hole"]) == 1
    keep = [n for n, d in enumerate(case.defects) if d in ("good", "crack") and n not in (20, 21)]
    expected = exact_figure("aupro", case.maps[keep], case.gt_masks[keep])
    assert value(rows["aupro", "crack"]) == pytest.approx(expected.value, abs=1e-3)
    assert value(rows["image_auroc", "crack"]) == value(case.rows()["image_auroc", "crack"])


def test_a_defect_without_any_mask_has_a_reason_and_so_has_the_mean():
    case = Case()
    rows = case.rows(pixels=case.pixels(left_out=range(20, 30)))
    assert rows["aupro", "crack"]["value"] is None
    assert rows["aupro", "crack"]["reason"] == "all pixels of the 20 images are good"
    assert rows["aupro", MEAN]["value"] is None
    assert rows["aupro", MEAN]["reason"].startswith("crack has no figure")
    assert value(rows["aupro", "hole"]) > 0.5


@pytest.mark.parametrize(
    ("defects", "reason"),
    [(["good"] * 3, "all 3 images are good"), (["hole"] * 3, "all 3 images are anomalous")],
)
def test_one_class_alone_gives_rows_with_a_reason(defects, reason):
    labels = [int(d != "good") for d in defects]
    rows = evaluate_category("ring", [1, 2, 3], labels, defects)
    assert {(row["value"], row["low"]) for row in rows} == {(None, None)}
    assert all(row["reason"].endswith(reason) for row in rows)


def test_no_images_at_all_give_rows_with_a_reason():
    assert {row["reason"] for row in evaluate_category("ring", [], [], [])} == {"no images"}


def test_without_resamples_there_are_figures_and_no_intervals():
    case = Case()
    for row in case.rows(pixels=case.pixels(), resamples=0).values():
        assert (row["value"] is not None, row["low"], row["high"]) == (True, None, None)


def test_groups_widen_the_intervals():
    case = Case()
    for name in ("scores", "labels", "defects", "headline"):
        setattr(case, name, np.repeat(getattr(case, name), 4))
    alone = case.rows()["image_auroc", MEAN]
    grouped = case.rows(groups=np.repeat(np.arange(46), 4).tolist())["image_auroc", MEAN]
    assert grouped["value"] == alone["value"]
    assert grouped["high"] - grouped["low"] > 1.5 * (alone["high"] - alone["low"])


def test_a_defect_that_some_resamples_of_groups_lack_still_has_an_interval():
    case = Case()
    # All ten holes in two of twelve anomalous groups: one resample in nine draws neither.
    groups = [f"good{n}" for n in range(20)] + [f"crack{n}" for n in range(10)]
    groups += ["hole0", "hole1"] * 5 + ["unsure"] * 6
    rows = case.rows(groups=groups, pixels=case.pixels())
    for metric in ("image_auroc", "pixel_auroc", "aupro"):
        for defect in ("hole", MEAN):
            row = rows[metric, defect]
            assert row["low"] < row["high"]


def test_maps_are_read_one_by_one_and_sizes_may_differ():
    case, alive = Case(), []

    def pixels():
        for n, anomaly_map, gt_mask in case.pixels():
            alive.append(n)
            cut = SIDE - n % 2
            yield n, anomaly_map[:cut].copy(), gt_mask[:cut]

    rows = case.rows(pixels=pixels())
    assert len(alive) == 40
    assert 0 < value(rows["aupro", None]) < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_scores": [1, np.nan]}, "1 of 2 image scores are NaN"),
        ({"defects": ["good"]}, r"are \[2, 2, 1, 1\] long"),
        ({"groups": ["a"]}, r"are \[2, 2, 2, 2, 1\] long"),
        ({"defects": ["good", "good"]}, "label 1 and the defect 'good'"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    whole = {"image_scores": [1, 2], "gt_labels": [0, 1], "defects": ["good", "hole"]}
    with pytest.raises(ValueError, match=message):
        evaluate_category("ring", **(whole | change))
