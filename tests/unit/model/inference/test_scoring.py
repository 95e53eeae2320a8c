import dataclasses

import cv2
import numpy as np
import pytest
import torch

from mrkd.config import PoolConfig, RoiConfig, RowsConfig
from mrkd.data import preprocess
from mrkd.data.datasets import Sample
from mrkd.data.images import Geometry, Statistics
from mrkd.data.preprocess import Decoded, Preprocessor
from mrkd.data.roi import Roi
from mrkd.errors import ArtefactError, ConfigError, MemoryShortError
from mrkd.model import artefact
from mrkd.model.artefact import save_load
from mrkd.model.calibration import calibrate
from mrkd.model.detector import infer
from mrkd.model.inference import Scorer, score_images, score_rows, transfers
from mrkd.model.inference.regions import find_regions
from mrkd.storage import schema
from tests.support import models
from tests.support.models import FIT, small_model

POOL = PoolConfig(device="cpu", batch_size=4)
ROWS = RowsConfig(map_size=16, map="float32")
ROI = Roi.from_config(
    RoiConfig(polygons=(((10.0, 10.0), (30.0, 10.0), (30.0, 25.0)),)), size=(40, 60)
)


def png(seed, height=40, width=60):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(".png", noise)[1].tobytes()


def decoded(seed, resize="stretch"):
    return Preprocessor(64, resize)(f"file:///{seed}.png", png(seed), etag=f"e{seed}")


def save(workspace, version, seed=0, low=0.0, roi=None, **values):
    """A model that calls anomalous what scores above `low` + 3."""
    statistics = [Statistics(0.5, 0.1, 1.0)] * 4
    draft = save_load.draft(
        small_model(seed, roi, **values),
        calibrate(np.arange(4) + low, np.arange(4) + low, statistics, false_call_rate=0.2),
        category="plate",
        version=version,
        train=FIT,
        data={},
        metrics={},
        history=schema.METRICS.empty_table(),
        training_scores=schema.METRICS.empty_table(),
    )
    save_load.save(str(workspace), draft)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workspace")
    save(folder, "aa")
    save(folder, "low", low=-10.0)
    save(folder, "bb", seed=1)
    save(folder, "half", precision="float16")
    save(folder, "roi", low=-10.0, roi=ROI)
    return folder


@pytest.fixture(scope="module")
def scorer(workspace):
    return Scorer(str(workspace), POOL)


def score(scorer, images, version="aa", rows=ROWS):
    return scorer.score(images, category="plate", version=version, rows=rows)


# Preprocessor


def test_an_image_is_decoded_to_the_models_size_with_what_its_row_needs():
    image = Preprocessor(64, "stretch")("a.png", png(0), etag="e", attributes={"line": "3"})
    assert image.pixels.shape == (64, 64, 3)
    assert image.geometry.original == (40, 60)
    assert image.num_bytes == len(png(0))
    assert image.attributes == {"line": "3"}
    assert image.error_kind is None


@pytest.mark.parametrize(
    ("data", "kind"), [(b"", "empty"), (b"text, no image", "decode"), (png(0)[:-40], "truncated")]
)
def test_bytes_that_are_no_image_become_an_error_and_never_raise(data, kind):
    image = Preprocessor(64, "stretch")("a.png", data)
    assert (image.error_kind, image.pixels) == (kind, None)
    assert image.error_message


def test_samples_are_decoded_in_order_and_named_by_their_content(tmp_path):
    samples = []
    for n in range(70):
        path = tmp_path / f"{n:02}.png"
        path.write_bytes(png(n, 8, 8))
        samples.append(Sample(str(path), "plate", "test", 0, "good"))
    (tmp_path / "03.png").unlink()
    found = list(preprocess.decode_samples(samples, Preprocessor(32, "stretch")))
    assert [image.image_uri for image in found] == [sample.image_uri for sample in samples]
    assert (found[3].error_kind, found[3].etag) == ("missing", "")
    assert len({image.etag for image in found}) == 70
    assert all(len(image.etag) == 64 for n, image in enumerate(found) if n != 3)


# forward passes


def test_neither_neighbours_nor_place_in_a_batch_change_a_bit():
    model = small_model()
    alone = {n: next(score_images(model, [decoded(n)], batch_size=4)) for n in range(6)}
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4]):
        together = score_images(model, [decoded(n) for n in order], batch_size=4)
        for n, result in zip(order, together, strict=True):
            assert result.image_score == alone[n].image_score
            np.testing.assert_array_equal(result.anomaly_map, alone[n].anomaly_map)


def test_a_map_is_reduced_by_the_mean_over_each_stored_pixels_area():
    (result,) = score_images(small_model(), [decoded(0)], map_size=16)
    expected = result.anomaly_map.reshape(16, 4, 16, 4).mean((1, 3))
    np.testing.assert_allclose(result.reduced_map, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("map_size", [None, 64, 4096])
def test_a_map_is_never_enlarged(map_size):
    (result,) = score_images(small_model(), [decoded(0)], map_size=map_size)
    np.testing.assert_array_equal(result.reduced_map, result.anomaly_map)


def test_the_inside_of_a_letterboxed_map_leaves_its_borders_out():
    (result,) = score_images(small_model(), [decoded(0, "letterbox")])
    x, y, width, height = result.decoded.geometry.valid
    assert (x, y, width, height) == (0, 10, 64, 43)
    np.testing.assert_array_equal(result.inside, result.anomaly_map[10:53])


def test_float16_gives_nearly_the_scores_of_float32():
    images = [decoded(n) for n in range(3)]
    exact = [s.image_score for s in score_images(small_model(), images)]
    rough = [s.image_score for s in score_images(small_model(), images, precision=torch.float16)]
    assert rough != exact
    np.testing.assert_allclose(rough, exact, rtol=1e-3)


def test_a_model_scores_in_the_precision_of_its_thresholds(scorer):
    images = [decoded(n) for n in range(3)]
    exact, rough = (
        [one.image_score for one in score_images(small_model(), images, batch_size=4, precision=p)]
        for p in (torch.float32, torch.float16)
    )
    found = {v: [row["image_score"] for row in score(scorer, images, v)] for v in ("aa", "half")}
    assert found == {"aa": exact, "half": rough}
    assert exact != rough


@pytest.mark.parametrize(("version", "asked"), [("aa", "float16"), ("half", "float32")])
def test_a_model_of_another_precision_than_asked_for_is_refused(workspace, version, asked):
    scorer = Scorer(str(workspace), dataclasses.replace(POOL, precision=asked))
    with pytest.raises(ConfigError, match=f"{version} of plate was calibrated in float"):
        score(scorer, [decoded(0)], version)
    other = {"aa": "half", "half": "aa"}[version]
    assert len(score(scorer, [decoded(0)], other)) == 1


def limited(most, model=None, trap=lambda images: False):
    """A model with room for so many images, and for none of those that `trap` picks."""
    model, seen = model or small_model(), []

    def room(module, inputs):
        seen.append(len(inputs[0]))
        if len(inputs[0]) > most or trap(inputs[0]):
            raise torch.OutOfMemoryError("no room")

    model.teacher.register_forward_pre_hook(room)
    return model, seen


@pytest.fixture
def own_teacher(monkeypatch):
    """Models of this test have a teacher that no other test has."""
    monkeypatch.setattr(models, "_teacher", models._teacher.__wrapped__)


def test_a_lack_of_memory_halves_the_batch_and_changes_no_score(own_teacher):
    images = [decoded(n) for n in range(6)]
    expected = [one.image_score for one in score_images(small_model(), images, batch_size=1)]
    model, seen = limited(1)
    found = [one.image_score for one in score_images(model, images, batch_size=4)]
    assert seen == [4, 2, *[1] * 6]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_an_image_that_memory_does_not_suffice_for_is_an_error_row_among_the_others(own_teacher):
    bright = np.full((40, 60, 3), 250, np.uint8)
    one = Preprocessor(64, "stretch")("white.png", cv2.imencode(".png", bright)[1].tobytes())
    model, _ = limited(4, trap=lambda images: (images.mean((1, 2, 3)) > 0.8).any())
    stored = calibrate(np.arange(4), np.arange(4), [Statistics(0, 0, 0)] * 4, false_call_rate=0.2)
    images = [decoded(0), one, decoded(1)]
    rows = score_rows(model, stored, images, batch_size=4, rows=ROWS)
    assert [row.get("error_kind") for row in rows] == [None, "internal", None]
    assert "out of memory with this image alone" in rows[1]["error_message"]
    schema.score_table(rows, category="plate", metadata={})
    with pytest.raises(MemoryShortError, match=r"white\.png: out of memory"):
        list(score_images(model, images, batch_size=4))


def test_another_error_of_torch_is_not_taken_for_a_lack_of_memory(own_teacher):
    model = small_model()

    def fail(module, inputs):
        raise RuntimeError("CUDA error: device-side assert triggered")

    model.teacher.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="device-side"):
        list(score_images(model, [decoded(0)]))


@pytest.mark.parametrize("policy", ["stretch", "letterbox"])
@pytest.mark.parametrize("roi", [None, ROI])
def test_figures_that_a_gpu_computes_are_those_of_the_map(policy, roi):
    """The computation is the GPU's, run here on the CPU."""
    model = small_model(roi=roi, resize=policy)
    images = [decoded(n, policy) for n in range(2)]
    upright = Preprocessor(64, policy)("up.png", png(2, 60, 40))
    images += [upright] if roi is None else []
    expected = list(score_images(model, images, batch_size=4, map_size=16))
    pixels = torch.zeros(4, 64, 64, 3, dtype=torch.uint8)
    for row, image in zip(pixels, images, strict=False):
        row.copy_(torch.from_numpy(image.pixels))
    joined = infer(model, pixels)
    reduced = torch.nn.functional.avg_pool2d(joined.anomaly_map, 4)
    kept = None if roi is None else model.pixel_roi.numpy() > 0
    found = list(transfers.scored(images, joined, reduced, model.pixel_roi, kept))
    assert len(found) == len(images)
    for one, other in zip(found, expected, strict=True):
        assert one.measured is not None
        assert other.measured is None
        assert (one.image_score, one.peak, one.is_finite) == (other.image_score, other.peak, True)
        assert one.map_mean == pytest.approx(other.map_mean, rel=1e-12)
        for name in ("anomaly_map", "inside", "raw_scores"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_allclose(one.reduced_map, other.reduced_map, rtol=1e-5)


def test_a_map_that_is_not_finite_is_found_where_it_lies():
    maps = torch.zeros(2, 64, 64)
    maps[1, 5, 5] = torch.inf
    figures = transfers.measures(maps, [decoded(0), decoded(1)], None)
    assert figures[:, 2].tolist() == [1.0, 0.0]


def test_an_image_of_another_size_or_with_an_error_is_a_callers_fault():
    with pytest.raises(ValueError, match="another size"):
        next(score_images(small_model(), [Preprocessor(32, "stretch")("a.png", png(0))]))
    with pytest.raises(ValueError, match="empty"):
        next(score_images(small_model(), [Preprocessor(64, "stretch")("a.png", b"")]))


# regions


def regions_of(points, original=(8, 8), policy="stretch", threshold=1.0, limit=32):
    anomaly_map = np.zeros((8, 8), np.float32)
    for (y, x), value in points.items():
        anomaly_map[y, x] = value
    geometry = Geometry(original, (8, 8), policy)
    return find_regions(anomaly_map, geometry, threshold=threshold, limit=limit)


def test_pixels_that_touch_by_a_corner_are_one_region():
    (region,) = regions_of({(1, 1): 2.0, (2, 2): 4.0})
    assert region == {"x": 1, "y": 1, "width": 2, "height": 2, "area": 2, "peak": 4.0, "mean": 3.0}


def test_regions_come_with_the_highest_peak_first_and_at_most_as_many_as_asked_for():
    points = {(0, 0): 2.0, (0, 4): 5.0, (4, 0): 3.0, (4, 4): 5.0}
    assert [r["peak"] for r in regions_of(points)] == [5.0, 5.0, 3.0, 2.0]
    first, second = regions_of(points, limit=2)
    assert ((first["x"], first["y"]), (second["x"], second["y"])) == ((4, 0), (4, 4))
    assert regions_of(points, limit=0) == []


def test_a_pixel_at_the_threshold_is_not_above_it():
    assert regions_of({(1, 1): 1.0}) == []


def test_boxes_and_areas_are_in_original_pixels():
    (region,) = regions_of({(2, 4): 2.0, (2, 5): 2.0}, original=(80, 160))
    assert (region["x"], region["y"]) == (80, 20)
    assert (region["width"], region["height"], region["area"]) == (40, 10, 400)


def test_letterbox_borders_hold_no_region():
    (region,) = regions_of({(0, 3): 9.0, (4, 4): 2.0}, original=(40, 80), policy="letterbox")
    assert (region["x"], region["y"], region["peak"]) == (40, 20, 2.0)


def test_regions_lie_in_the_region_of_interest_even_below_zero():
    anomaly_map, roi = np.zeros((8, 8), np.float32), np.zeros((8, 8), bool)
    roi[2:5, 2:6] = True
    anomaly_map[roi] = -3.0
    anomaly_map[3, 3] = -1.0
    anomaly_map[7, 7] = 9.0
    (region,) = find_regions(
        anomaly_map, Geometry((8, 8), (8, 8), "stretch"), threshold=-2.0, limit=32, roi=roi
    )
    assert (region["x"], region["y"], region["area"], region["peak"]) == (3, 3, 1, -1.0)


# Scorer


def test_rows_fit_the_schema_one_for_each_image_in_order(scorer):
    images = [decoded(n) for n in range(6)]
    images.insert(2, Preprocessor(64, "stretch")("file:///broken.png", b""))
    rows = score(scorer, images)
    assert [row["image_uri"] for row in rows] == [image.image_uri for image in images]
    table = schema.score_table(rows, category="plate", metadata={})
    (broken,) = [row for row in table.to_pylist() if row["error_kind"]]
    assert (broken["error_kind"], broken["is_anomalous"], broken["anomaly_map"]) == (
        "empty", None, None,
    )  # fmt: skip
    assert table["model_version"].to_pylist() == ["aa"] * 7
    assert set(table["teacher"].to_pylist()) == {rows[0]["teacher"]}
    assert rows[0]["teacher"].startswith("random:efficientnet_lite0-")


def test_a_row_holds_what_the_model_said(scorer):
    (row,) = score(scorer, [decoded(0)])
    (result,) = score_images(small_model(), [decoded(0)], batch_size=4, map_size=16)
    assert row["image_score"] == result.image_score
    np.testing.assert_array_equal(schema.read_map(row), result.reduced_map)
    assert (row["image_height"], row["image_width"]) == (40, 60)
    assert (row["image_etag"], row["image_bytes"]) == ("e0", len(png(0)))
    assert row["brightness"] == decoded(0).statistics.brightness


@pytest.mark.parametrize(("version", "anomalous"), [("aa", False), ("low", True)])
def test_verdict_p_value_and_regions_are_the_calibrations(scorer, version, anomalous):
    (row,) = score(scorer, [decoded(0)], version)
    calibration = artefact.read_calibration(scorer._workspace, "plate", version, 1)
    assert row["is_anomalous"] is anomalous
    assert row["threshold"] == calibration.threshold
    assert row["p_value"] == pytest.approx(float(calibration.p_values(row["image_score"])))
    assert bool(row["regions"]) is anomalous


def test_a_map_of_none_leaves_the_rest(scorer):
    (row,) = score(scorer, [decoded(0)], rows=RowsConfig(map="none"))
    assert row["anomaly_map"] is None
    assert row["image_score"] is not None


def test_what_a_row_says_is_of_the_region_of_interest(scorer):
    (row,) = score(scorer, [decoded(0)], "roi")
    (result,) = score_images(small_model(roi=ROI), [decoded(0)], batch_size=4)
    assert row["image_score"] == result.image_score == result.peak
    assert result.peak == result.anomaly_map[result.roi].max()
    (region,) = row["regions"]
    assert 9 <= region["x"] <= region["x"] + region["width"] <= 32
    assert 9 <= region["y"] <= region["y"] + region["height"] <= 27
    stored = schema.read_map(row)
    assert (stored[:3] == 0).all()
    assert stored[6].any()


def test_an_image_of_another_size_than_the_region_of_interest_is_an_error_row(scorer):
    other = Preprocessor(64, "stretch")("file:///other.png", png(1, 60, 40))
    first, row, last = score(scorer, [decoded(0), other, decoded(1)], "roi")
    assert (row["image_uri"], row["error_kind"]) == ("file:///other.png", "unsupported")
    assert "40x60, its category's region of interest is drawn for 60x40" in row["error_message"]
    assert (row["image_height"], row["image_width"]) == (60, 40)
    assert [first, last] == score(scorer, [decoded(0), decoded(1)], "roi")
    schema.score_table([row], category="plate", metadata={})
    with pytest.raises(ValueError, match="region of interest"):
        next(score_images(small_model(roi=ROI), [other]))


def test_a_model_that_gives_no_number_gives_error_rows(workspace, scorer):
    scorer = Scorer(str(workspace), POOL)
    score(scorer, [decoded(0)])
    with torch.no_grad():
        next(iter(scorer._models.values())).model.level_std.fill_(float("nan"))
    (row,) = score(scorer, [decoded(0)])
    assert row["error_kind"] == "internal"
    schema.score_table([row], category="plate", metadata={})


def test_only_the_last_used_models_stay_and_their_teacher_is_one(workspace):
    scorer = Scorer(str(workspace), dataclasses.replace(POOL, models_in_memory=2))
    for version in ("aa", "bb", "aa", "low"):
        score(scorer, [decoded(0)], version)
    assert [version for _, version, _ in scorer._models] == ["aa", "low"]
    assert len({id(loaded.model.teacher) for loaded in scorer._models.values()}) == 1
    assert len(scorer._teachers) == 1
    scorer._models.clear()
    assert len(scorer._teachers) == 0


def test_a_model_that_is_not_there_is_an_error_and_no_row(scorer):
    with pytest.raises(ArtefactError, match=r"model\.json is missing"):
        score(scorer, [Decoded("a.png", error_kind="empty", error_message="send it")], "zz")
