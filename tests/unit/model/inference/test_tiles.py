"""Large pictures in tiles: cut, scored and stored; what a category makes of them is beside this."""

import cv2
import numpy as np
import pytest
import torch

from mrkd.config import PoolConfig, RoiConfig, RowsConfig
from mrkd.data import images
from mrkd.data.images import Geometry, Statistics, Tiling
from mrkd.data.preprocess import Preprocessor
from mrkd.data.roi import Roi
from mrkd.errors import ConfigError
from mrkd.model.artefact import save_load
from mrkd.model.calibration import calibrate
from mrkd.model.detector import infer
from mrkd.model.inference import Scorer, score_images
from mrkd.storage import schema
from tests.support.models import FIT, small_model
from tests.support.pictures import smooth

TILES = {"tiles": 64, "overlap": 16}


def tiled_model(seed=0, **values):
    return small_model(seed, **{**TILES, **values})


def png(seed, height, width):
    picture = smooth(height, width, seed)
    # A speck, so that there is something to find.
    picture[height // 2 : height // 2 + 4, width // 2 : width // 2 + 4] = (255, 0, 0)
    return cv2.imencode(".png", picture[..., ::-1])[1].tobytes()


def decoded(model, seed=0, height=100, width=150):
    return Preprocessor.of(model.config)(f"{seed}.png", png(seed, height, width))


# cutting


def starts(length, side, overlap):
    rows, _ = Tiling((length, 1), side, overlap, 32, "stretch").axes
    return [span.original for span in rows]


def test_the_last_tile_is_pushed_back_to_the_border():
    assert starts(150, 64, 16) == [(0, 64), (48, 112), (86, 150)]
    assert starts(112, 64, 16) == [(0, 64), (48, 112)]
    assert starts(65, 64, 0) == [(0, 64), (1, 65)]


def test_a_picture_smaller_than_a_tile_is_one_tile_that_it_cuts_off():
    assert starts(64, 64, 16) == [(0, 64)]
    assert starts(40, 64, 16) == [(0, 40)]
    tiling = Tiling((40, 64), 64, 16, 32, "letterbox")
    assert (len(tiling), tiling.canvas) == (1, (20, 32))
    assert tiling.tile_geometry(0).valid == (0, 6, 32, 20)


def test_tiles_are_cut_in_reading_order_and_resized_as_pictures_are():
    rgb = smooth(100, 150)
    tiling = Tiling((100, 150), 64, 16, 32, "stretch")
    tiles = tiling.cut(rgb)
    assert tiles.shape == (6, 32, 32, 3)
    np.testing.assert_array_equal(tiles[4], images.resize(rgb[36:100, 48:112], 32, "stretch")[0])
    assert tiling.geometry == Geometry((100, 150), (50, 75), "stretch")


def test_maps_are_blended_by_ramps_over_what_neighbours_share():
    rows, _ = Tiling((112, 64), 64, 16, 64, "stretch").axes
    up = (np.arange(16) + 0.5) / 16
    np.testing.assert_allclose(rows[1].weights, [*up, *np.ones(48)], rtol=1e-6)
    np.testing.assert_allclose(rows[0].weights, [*np.ones(48), *up[::-1]], rtol=1e-6)


# scoring


def test_the_map_is_that_of_the_tiles_and_score_and_peak_are_the_maps():
    model = tiled_model()
    image = decoded(model)
    (found,) = score_images(model, [image], map_size=16)
    tiles, _, _ = infer(model, torch.from_numpy(image.pixels))
    # Where one tile lies alone, its map is the whole's.
    np.testing.assert_allclose(
        found.anomaly_map[:36, :48], tiles[0, :36, :48], rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        found.anomaly_map[64:, 112:], tiles[5, 28:, 26:], rtol=1e-4, atol=1e-4
    )
    assert found.anomaly_map.shape == (100, 150)
    assert found.image_score == found.peak == found.anomaly_map.max()
    assert found.reduced_map.shape == (16, 16)
    assert found.reduced_map.mean() == pytest.approx(found.anomaly_map.mean(), abs=0.02)


def test_a_picture_of_one_tile_has_the_map_and_score_of_a_model_without_tiles():
    whole, tiled = small_model(), tiled_model()
    data = png(3, 64, 64)
    (expected,) = score_images(whole, [Preprocessor(64, "stretch")("a.png", data)])
    (found,) = score_images(tiled, [Preprocessor.of(tiled.config)("a.png", data)])
    np.testing.assert_array_equal(found.anomaly_map, expected.anomaly_map)
    assert found.image_score == expected.image_score


@pytest.mark.parametrize("size", [(40, 40), (40, 150), (64, 30), (1, 1)])
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_pictures_smaller_than_a_tile_have_a_map_of_their_own_shape(size, resize):
    model = tiled_model(resize=resize)
    (found,) = score_images(model, [decoded(model, 0, *size)], map_size=16)
    assert found.anomaly_map.shape == size
    assert found.reduced_map.shape == (min(size[0], 16), min(size[1], 16))
    assert np.isfinite(found.anomaly_map).all()


def test_the_result_does_not_hang_on_the_batch_size():
    model = tiled_model()
    pictures = [decoded(model, n, 100, 150 - 40 * n) for n in range(3)]
    results = [list(score_images(model, pictures, batch_size=n)) for n in (1, 4, 16)]
    for first, *others in zip(*results, strict=True):
        for other in others:
            np.testing.assert_allclose(other.anomaly_map, first.anomaly_map, rtol=0, atol=1e-5)
            assert other.image_score == pytest.approx(first.image_score, abs=1e-5)


def test_neither_neighbours_nor_place_change_a_bit():
    model = tiled_model()
    pictures = [decoded(model, n, 100, 150 - 40 * n) for n in range(3)]
    alone = [next(score_images(model, [one], batch_size=4)) for one in pictures]
    for order in ([0, 1, 2], [2, 0, 1]):
        found = score_images(model, [pictures[n] for n in order], batch_size=4)
        for n, result in zip(order, found, strict=True):
            assert result.decoded is pictures[n]
            assert result.image_score == alone[n].image_score
            np.testing.assert_array_equal(result.anomaly_map, alone[n].anomaly_map)


def test_the_canvas_is_at_the_scale_of_the_tiles_maps():
    model = tiled_model(tiles=128, overlap=32)
    (found,) = score_images(model, [decoded(model, 0, 200, 301)])
    assert found.anomaly_map.shape == (100, 151)


def test_pixels_that_were_cut_for_another_model_are_a_callers_fault():
    model = tiled_model()
    with pytest.raises(ValueError, match="another size"):
        next(score_images(model, [decoded(tiled_model(overlap=32))]))
    with pytest.raises(ValueError, match="another size"):
        next(score_images(model, [Preprocessor(64, "stretch")("a.png", png(0, 100, 150))]))


def test_a_region_of_interest_and_tiles_are_refused():
    roi = Roi.from_config(RoiConfig(polygons=(((1.0, 1), (9, 1), (9, 9)),)), size=(100, 150))
    with pytest.raises(ConfigError, match=r"model\.tiles is 64 .* drop \[roi\]"):
        tiled_model(roi=roi)


# rows


def row_of(tmp_path, model, low=0.0, **rows):
    """The row of a picture whose model calls anomalous what scores above `low` + 3."""
    values, workspace = np.arange(4) + low, str(tmp_path / "workspace")
    calibration = calibrate(values, values, [Statistics(0.5, 0.1, 1.0)] * 4, false_call_rate=0.2)
    empty = schema.METRICS.empty_table()
    draft = save_load.draft(
        model, calibration, category="web", version="v", train=FIT, data={},
        metrics={}, history=empty, training_scores=empty,
    )  # fmt: skip
    save_load.save(workspace, draft)
    scorer = Scorer(workspace, PoolConfig(device="cpu", batch_size=4))
    image, wanted = decoded(model), RowsConfig(map_size=16, **rows)
    (row,) = scorer.score([image], category="web", version="v", rows=wanted)
    (scored,) = score_images(model, [image], batch_size=4, map_size=16)
    schema.score_table([row], category="web", metadata={})
    return row, scored


@pytest.mark.parametrize(("tiles", "shape"), [(0, (64, 64)), (64, (100, 150))])
@pytest.mark.parametrize("low", [0.0, -10.0])
def test_an_anomalous_rows_map_is_stored_in_full_where_asked_for(tmp_path, low, tiles, shape):
    model = tiled_model(tiles=tiles)
    row, scored = row_of(tmp_path, model, low, map="float32", map_full="anomalous")
    assert row["is_anomalous"] is (low < 0)
    expected = scored.anomaly_map if row["is_anomalous"] else scored.reduced_map
    assert expected.shape == (shape if row["is_anomalous"] else (16, 16))
    np.testing.assert_array_equal(schema.read_map(row), expected)


def test_no_map_is_stored_in_full_unless_asked_for(tmp_path):
    row, _ = row_of(tmp_path, tiled_model(), -10.0)
    assert (row["is_anomalous"], row["map_height"], row["map_width"]) == (True, 16, 16)


def test_a_tiled_rows_regions_are_in_original_pixels(tmp_path):
    row, scored = row_of(tmp_path, tiled_model(), -10.0)
    assert (row["image_height"], row["image_width"]) == (100, 150)
    assert row["image_score"] == scored.image_score
    (region,) = row["regions"]
    assert (region["x"], region["y"], region["width"], region["height"]) == (0, 0, 150, 100)
