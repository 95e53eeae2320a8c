"""Regions of interest: drawn, stored, brought to the model's size, and what they keep out."""

import json

import cv2
import numpy as np
import pytest

from mrkd.config import RoiConfig
from mrkd.data.images import Geometry
from mrkd.data.preprocess import Preprocessor
from mrkd.data.roi import Roi
from mrkd.errors import ArtefactError, CategoryError, StorageError
from mrkd.model.inference import score_images
from mrkd.model.inference.regions import find_regions
from tests.support.models import small_model

SIZE = (40, 60)
SQUARE = ((10.0, 5.0), (19.0, 5.0), (19.0, 14.0), (10.0, 14.0))


def polygons(*outlines):
    return RoiConfig.from_dict({"polygons": [[list(point) for point in one] for one in outlines]})


def mask_file(path, grey):
    assert cv2.imwrite(str(path), grey)
    return RoiConfig(mask=str(path))


def test_without_mask_and_outlines_there_is_no_region():
    assert Roi.from_config(RoiConfig(), size=SIZE) is None


def test_an_outline_is_filled_and_part_of_its_region():
    roi = Roi.from_config(polygons(SQUARE), size=SIZE)
    expected = np.zeros(SIZE, bool)
    expected[5:15, 10:20] = True
    np.testing.assert_array_equal(roi.mask, expected)
    assert roi.size == SIZE


def test_where_two_outlines_overlap_is_inside():
    moved = tuple((x + 5, y + 5) for x, y in SQUARE)
    roi = Roi.from_config(polygons(SQUARE, moved), size=SIZE)
    assert roi.mask[5:15, 10:20].all()
    assert roi.mask[10:20, 15:25].all()
    assert roi.mask.sum() == 100 + 100 - 25


def test_an_outline_along_the_pictures_edges_holds_all_of_it():
    whole = ((0, 0), (60, 0), (60, 40), (0, 40))
    assert Roi.from_config(polygons(whole), size=SIZE).mask.all()


@pytest.mark.parametrize("brightest", [1, 120, 255])
def test_a_mask_image_is_inside_where_it_is_brighter_than_half_its_brightest(tmp_path, brightest):
    grey = np.zeros(SIZE, np.uint8)
    grey[3:9], grey[9:12] = brightest, brightest // 2
    roi = Roi.from_config(mask_file(tmp_path / "roi.png", grey), size=SIZE)
    assert roi.mask[3:9].all()
    assert roi.mask.sum() == 6 * 60


def test_a_mask_image_of_another_size_than_the_images_is_refused_with_both(tmp_path):
    config = mask_file(tmp_path / "roi.png", np.full((30, 60), 255, np.uint8))
    with pytest.raises(CategoryError, match=r"roi\.png' is 60x30, the images are 60x40: draw it"):
        Roi.from_config(config, size=SIZE)


def test_a_mask_that_is_no_image_or_is_not_there_is_named(tmp_path):
    (tmp_path / "roi.png").write_text("no picture")
    with pytest.raises(CategoryError, match=r"roi\.png' cannot be read"):
        Roi.from_config(RoiConfig(mask=str(tmp_path / "roi.png")), size=SIZE)
    with pytest.raises(StorageError, match=r"gone\.png"):
        Roi.from_config(RoiConfig(mask=str(tmp_path / "gone.png")), size=SIZE)


@pytest.mark.parametrize("point", [(-1, 5), (61, 5), (5, 40.5)])
def test_an_outline_that_leaves_the_picture_is_refused_with_its_point(point):
    with pytest.raises(CategoryError, match=r"polygons\[1\] has the point .* images are 60x40"):
        Roi.from_config(polygons(SQUARE, (*SQUARE, point)), size=SIZE)


def test_a_region_without_a_pixel_is_refused(tmp_path):
    black = mask_file(tmp_path / "roi.png", np.zeros(SIZE, np.uint8))
    edge = polygons(((60, 0), (60, 40), (60, 20)))
    for config, named in ((black, r"roi\.mask"), (edge, r"roi\.polygons")):
        with pytest.raises(CategoryError, match=rf"{named}.* holds no pixel of the 60x40 images"):
            Roi.from_config(config, size=SIZE)


def test_letterbox_borders_are_outside():
    roi = Roi(np.ones(SIZE, bool), RoiConfig())
    assert roi.at(Geometry(SIZE, (60, 60), "stretch")).all()
    inside = roi.at(Geometry(SIZE, (60, 60), "letterbox"))
    assert inside[10:50].all()
    assert inside.sum() == 40 * 60


def test_a_region_that_the_models_size_loses_is_refused():
    thin = np.zeros((400, 600), bool)
    thin[201] = True
    roi = Roi(thin, RoiConfig(mask="roi.png"))
    assert roi.at(Geometry((400, 600), (400, 400), "stretch")).any()
    with pytest.raises(CategoryError, match="lost where the 600x400 images become 32x32"):
        roi.at(Geometry((400, 600), (32, 32), "stretch"))


def test_an_image_of_another_size_is_told_from_one_that_fits():
    roi = Roi(np.ones(SIZE, bool), RoiConfig())
    assert roi.misfit(SIZE) == ""
    assert "the image is 40x60, its category's region of interest is drawn for 60x40" in (
        roi.misfit(SIZE[::-1])
    )


@pytest.mark.parametrize("side", [1, 7, 64])
def test_a_stored_region_is_read_back_as_it_was(side):
    mask = np.random.default_rng(side).random((side, side + 3)) < 0.5
    mask[0, 0] = True
    roi = Roi(mask, polygons(SQUARE))
    found = Roi.from_json(json.loads(json.dumps(roi.to_json())))
    np.testing.assert_array_equal(found.mask, mask)
    assert found.source == roi.source
    assert found.to_json() == roi.to_json()


def test_a_large_region_takes_little_room():
    roi = Roi.from_config(polygons(SQUARE), size=(3000, 4000))
    assert len(json.dumps(roi.to_json())) < 10_000


@pytest.mark.parametrize(
    "change",
    [
        {"png": "%%"},
        {"png": "AAAA"},
        {"png": 3},
        {"height": 41},
        {"source": {"outline": "x"}},
        {"source": None},
    ],
)
def test_a_stored_region_that_is_not_ours_is_refused(change):
    stored = Roi(np.ones(SIZE, bool), RoiConfig()).to_json() | change
    with pytest.raises(ArtefactError, match="region of interest"):
        Roi.from_json(stored)
    with pytest.raises(ArtefactError, match="png"):
        Roi.from_json({})


# the whole path, from a picture to score and regions

PART = polygons(((20, 10), (45, 12), (40, 30), (18, 28)))
RULES = [
    {"image_score": "max"},
    {"image_score": "top_share_mean"},
    {"image_score": "top_share_mean", "mean_weight": 0.5},
]


def picture(seed=0):
    return np.random.default_rng(seed).integers(60, 120, (*SIZE, 3), np.uint8)


def scored_of(model, rgb):
    image = Preprocessor(64, model.config.resize)("a.png", cv2.imencode(".png", rgb)[1].tobytes())
    return next(score_images(model, [image], batch_size=2))


def seen(model, rgb):
    """Score, map, peak and regions of a picture."""
    scored = scored_of(model, rgb)
    threshold = float(np.quantile(scored.anomaly_map[scored.roi], 0.9))
    regions = find_regions(
        scored.anomaly_map, scored.decoded.geometry, threshold=threshold, limit=9, roi=scored.roi
    )
    return scored.image_score, scored.anomaly_map, scored.peak, regions


def region_model(roi, **values):
    model = small_model(roi=roi, **values)
    # Most distances lie below the levels' means: a calibrated map is negative inside.
    model.get_buffer("level_mean").fill_(1.5)
    model.get_buffer("level_std").fill_(0.1)
    return model


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("combine", ["add", "multiply", "calibrated"])
@pytest.mark.parametrize("rule", RULES)
def test_a_fixture_that_changes_outside_moves_neither_score_nor_regions(rule, combine, resize):
    roi = Roi.from_config(PART, size=SIZE)
    model = region_model(roi, resize=resize, combine=combine, **rule)
    good, other_fixture, defect = picture(), picture(), picture()
    # A pixel of the model's square at the region's edge shows a little of its neighbours.
    outside = cv2.dilate(roi.mask.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
    other_fixture[outside] = np.random.default_rng(1).integers(0, 256, (outside.sum(), 3))
    defect[15:22, 26:34] = 255
    before = score, anomaly_map, peak, regions = seen(model, good)
    for found, expected in zip(seen(model, other_fixture), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert seen(model, defect)[0] != score
    assert regions
    inside = model.pixel_roi.numpy() > 0
    assert (anomaly_map[~inside] == 0).all()
    assert peak == anomaly_map[inside].max()
    assert (peak < 0) == (combine == "calibrated")


def test_without_a_region_the_same_fixture_moves_the_score():
    model = region_model(None, combine="add")
    good, other_fixture = picture(), picture()
    other_fixture[:5] = 255
    assert scored_of(model, good).image_score != scored_of(model, other_fixture).image_score
    assert scored_of(model, good).roi is None
