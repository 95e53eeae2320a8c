"""The schema of system.md section 3, its builder, its maps, and what readers see of them."""

import cv2
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from mrkd.errors import ArtefactError
from mrkd.storage import schema

MAP = np.random.default_rng(0).uniform(0, 3, (5, 7)).astype(np.float32)
REGION = {"x": 1, "y": 2, "width": 3, "height": 4, "area": 5, "peak": 0.5, "mean": 0.25}


def scored(uri, **values):
    return {
        "image_uri": uri,
        "image_score": np.float32(0.5),
        "is_anomalous": False,
        "attributes": {"line": "7"},
        "regions": [REGION],
        **schema.encode_map(MAP, "float16"),
        **values,
    }


def failed(uri, kind="empty"):
    return {"image_uri": uri, "error_kind": kind, "error_message": "send it again"}


def table(*rows):
    return schema.score_table(rows, category="0012", metadata={"run": "night-1"})


def test_scores_has_the_columns_of_the_contract():
    columns = {field.name: str(field.type) for field in schema.SCORES}
    region = (
        "x: int32, y: int32, width: int32, height: int32, area: int32, peak: float, mean: float"
    )
    assert columns.pop("regions") == f"list<item: struct<{region}>>"
    assert columns == {
        "image_uri": "string",
        "revision": "int32",
        "attributes": "map<string, string>",
        "image_etag": "string",
        "image_bytes": "int64",
        "image_height": "int32",
        "image_width": "int32",
        "image_score": "float",
        "p_value": "float",
        "threshold": "float",
        "is_anomalous": "bool",
        "anomaly_map": "binary",
        "map_height": "int32",
        "map_width": "int32",
        "map_dtype": "string",
        "map_min": "float",
        "map_max": "float",
        "brightness": "float",
        "contrast": "float",
        "sharpness": "float",
        "error_kind": "dictionary<values=string, indices=int8, ordered=0>",
        "error_message": "string",
        "model_version": "string",
        "calibration": "int32",
        "teacher": "string",
    }
    assert [field.name for field in schema.SCORES if not field.nullable] == ["image_uri"]


@pytest.mark.parametrize("known", [schema.SCORES, schema.PLAN, schema.METRICS])
def test_every_column_says_what_it_is_and_the_file_its_version(known):
    assert all(field.metadata[b"doc"] for field in known)
    assert known.metadata[b"schema_version"] == b"1"


def test_rows_are_sorted_and_the_file_names_category_and_time():
    built = table(scored("b"), failed("a"), scored("é"))
    assert built.column("image_uri").to_pylist() == ["a", "b", "é"]
    assert built.schema.equals(schema.SCORES)
    assert built.schema.metadata[b"category"] == b"0012"
    assert built.schema.metadata[b"run"] == b"night-1"
    assert b"scored_at" in built.schema.metadata
    assert built.column("is_anomalous").to_pylist() == [None, False, False]


def test_a_table_of_errors_or_of_nothing_has_the_same_types():
    assert table(failed("a")).schema.equals(schema.SCORES)
    assert table().schema.equals(schema.SCORES)


def test_an_error_message_is_one_line():
    built = table(failed("a") | {"error_message": "a\nb.png is not there: check the path"})
    assert built.column("error_message").to_pylist() == ["a b.png is not there: check the path"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image_uri": "a"}, "needs an image_score or an error_kind"),
        (scored("a", error_kind="empty", error_message="x"), "never both"),
        (scored("a", is_anomalous=None), "is decided"),
        (failed("a") | {"is_anomalous": False}, "an error never is"),
        (scored("a", image_score=float("nan")), "image_score is nan"),
        (failed("a", kind="odd"), "not of ERROR_KINDS"),
        (failed("a") | {"error_message": ""}, "no message"),
        (scored("a", colour="red"), "no column colour"),
    ],
)
def test_a_row_that_breaks_the_contract_is_refused(row, message):
    with pytest.raises(ValueError, match=message):
        table(row)


def test_parquet_keeps_types_metadata_and_values():
    built = table(scored("a"), failed("b"))
    read = schema.from_parquet(schema.to_parquet(built))
    assert read.schema.equals(schema.SCORES)
    assert read.equals(built)
    assert read.schema.metadata == built.schema.metadata
    assert read.schema.field("p_value").metadata[b"doc"].startswith(b"share of")


def test_damaged_parquet_is_an_artefact_error_with_its_name():
    data = schema.to_parquet(table(scored("a")))
    for damaged in (b"", data[:-20], data[:10], b"text"):
        with pytest.raises(ArtefactError, match=r"x\.parquet is not a whole Parquet file"):
            schema.from_parquet(damaged, name="x.parquet")


@pytest.mark.parametrize(
    ("dtype", "error"), [("float32", 0), ("float16", 3 * 2**-11), ("uint8", 3 / 509)]
)
def test_a_stored_map_comes_back(dtype, error):
    row = schema.encode_map(MAP, dtype)
    read = schema.read_map(row)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, MAP, rtol=0, atol=error)
    assert (row["map_min"], row["map_max"]) == (MAP.min(), MAP.max())


def test_maps_at_the_edges_of_their_types_come_back():
    flat = np.full((2, 3), 0.25, np.float32)
    np.testing.assert_array_equal(schema.read_map(schema.encode_map(flat, "uint8")), flat)
    big = np.array([[1e6, 0]], np.float32)
    assert schema.read_map(schema.encode_map(big, "float16")).tolist() == [[65504, 0]]
    assert schema.read_map(schema.encode_map(MAP, "none")) is None
    turned = np.asfortranarray(MAP)
    np.testing.assert_array_equal(schema.read_map(schema.encode_map(turned, "float32")), MAP)


@pytest.mark.parametrize("wrong", [np.zeros(3), np.zeros((0, 3)), np.array([[np.nan]])])
def test_a_map_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="a map is"):
        schema.encode_map(wrong.astype(np.float32), "float16")


def test_maps_that_were_stored_before_they_were_packed_are_still_read():
    plain = schema.encode_map(MAP, "float16") | {
        "anomaly_map": MAP.astype("<f2").tobytes(),
        "map_dtype": "float16",
    }
    np.testing.assert_array_equal(schema.read_map(plain), MAP.astype("<f2"))
    steps = np.arange(6, dtype=np.uint8).reshape(2, 3) * 51
    shape = {"map_height": 2, "map_width": 3, "map_min": 1.0, "map_max": 2.0}
    old = {"anomaly_map": steps.tobytes(), "map_dtype": "uint8", **shape}
    np.testing.assert_allclose(schema.read_map(old).ravel(), [1, 1.2, 1.4, 1.6, 1.8, 2], rtol=1e-6)


def test_a_packed_map_is_what_its_description_says():
    row = schema.encode_map(np.array([[1, 1.5], [1.25, 1.75]], np.float32), "float16")
    # Codes 0x3c00 0x3e00 / 0x3d00 0x3f00; rows, then columns: 0x3c00 0x0200 / 0x0100 0x0000;
    # doubled: 0x7800 0x0400 / 0x0200 0x0000; the four low bytes first.
    assert row["anomaly_map"] == bytes([0, 0, 0, 0, 0x78, 0x04, 0x02, 0x00])
    assert row["map_dtype"] == "float16_packed"
    small = schema.encode_map(np.array([[1, 0], [0, 1]], np.float32), "uint8")
    # 255 0 / 0 255; rows, then columns: -1 1 / 1 -2 (modulo 256); 2d or -2d - 1.
    assert small["anomaly_map"] == bytes([1, 2, 2, 3])


@pytest.mark.parametrize(("dtype", "most"), [("float16", 6 * 1024), ("uint8", 2.5 * 1024)])
def test_a_clean_row_of_a_night_is_small(dtype, most):
    # As smooth as the maps of solar cells: a spread of 2, and 0.3 from a pixel to the next. Not
    # packed, such rows take 7.7 KB of float16 and 4 KB of uint8.
    rng, rows = np.random.default_rng(3), []
    for n in range(64):
        cells = cv2.resize(rng.normal(0, 3, (8, 8)).astype(np.float32), (256, 256))
        smooth = cv2.GaussianBlur(cells, (33, 33), 4)
        reduced = cv2.resize(smooth, (64, 64), interpolation=cv2.INTER_AREA)
        uri = f"s3://plant/archive/line-7/2026-11-23/{n:06}.png"
        rows.append(scored(uri, **schema.encode_map(np.asarray(reduced, np.float32), dtype)))
    size = len(schema.to_parquet(table(*rows))) / len(rows)
    assert 1024 < size < most


def test_map_bytes_that_do_not_fit_are_refused():
    row = schema.encode_map(MAP, "float16")
    with pytest.raises(ValueError, match="not 5 x 8"):
        schema.read_map(row | {"map_width": 8})
    with pytest.raises(ValueError, match="allowed: float16"):
        schema.read_map(row | {"map_dtype": "object"})


def test_pyarrow_pandas_and_duckdb_read_the_same_rows_and_maps(tmp_path):
    for number, rows in enumerate([(scored("a"), failed("b")), (failed("c", "decode"),)]):
        path = tmp_path / "category=0012" / f"shard-{number}.parquet"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(schema.to_parquet(table(*rows)))
    expected = MAP.astype(np.float16).astype(np.float32)

    hive = ds.partitioning(pa.schema([("category", pa.string())]), flavor="hive")
    rows = ds.dataset(tmp_path, partitioning=hive).to_table().to_pylist()
    assert [row["error_kind"] for row in rows] == [None, "empty", "decode"]
    assert {row["category"] for row in rows} == {"0012"}
    np.testing.assert_array_equal(schema.read_map(rows[0]), expected)

    frame = pd.read_parquet(tmp_path, partitioning=hive)
    np.testing.assert_array_equal(schema.read_map(frame.iloc[0]), expected)
    assert schema.read_map(frame.iloc[1]) is None

    query = (
        f"select * from read_parquet('{tmp_path}/*/*.parquet', hive_partitioning = true, "
        "hive_types = {'category': varchar}) order by image_uri"
    )
    found = duckdb.sql(query)
    named = [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
    np.testing.assert_array_equal(schema.read_map(named[0]), expected)
    assert named[0]["attributes"] == {"line": "7"}
    assert named[0]["category"] == "0012"
    assert schema.read_map(named[1]) is None
    np.testing.assert_array_equal(schema.read_map(found.df().iloc[0]), expected)
