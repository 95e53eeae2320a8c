"""Rows and maps survive Parquet, whatever they hold."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrkd.storage import schema

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FLOATS = st.floats(0, 100, width=32)
MAPS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.floats(-60000, 60000, width=32, allow_subnormal=False),
)
ROW = {"image_uri": TEXT, "attributes": st.none() | st.dictionaries(TEXT, TEXT, max_size=3)}
SCORED = st.fixed_dictionaries(
    ROW
    | {
        "image_score": FLOATS,
        "is_anomalous": st.booleans(),
        "p_value": st.none() | FLOATS,
        "image_bytes": st.integers(0, 2**63 - 1),
        "map": st.none() | MAPS,
    }
)
FAILED = st.fixed_dictionaries(
    ROW
    | {
        "error_kind": st.sampled_from(schema.ERROR_KINDS),
        "error_message": TEXT.filter(lambda text: text.splitlines() == [text]),
    }
)


def as_row(drawn):
    row = {key: value for key, value in drawn.items() if key != "map"}
    anomaly_map = drawn.get("map")
    return row if anomaly_map is None else row | schema.encode_map(anomaly_map, "float32")


@settings(max_examples=30)
@given(st.lists(SCORED | FAILED, max_size=6, unique_by=lambda row: row["image_uri"]), TEXT)
def test_rows_survive_parquet(drawn, run):
    rows = [as_row(one) for one in drawn]
    table = schema.score_table(rows, category="c", metadata={"run": run})
    read = schema.from_parquet(schema.to_parquet(table))
    assert read.equals(table)
    assert read.schema.metadata[b"run"].decode() == run
    uris = read.column("image_uri").to_pylist()
    assert uris == sorted(row["image_uri"] for row in rows)
    found = dict(zip(uris, read.to_pylist(), strict=True))
    for one, row in zip(drawn, rows, strict=True):
        stored = found[row["image_uri"]]
        attributes = None if row["attributes"] is None else list(row["attributes"].items())
        for key, value in (row | {"attributes": attributes}).items():
            assert stored[key] == value
        if one.get("map") is not None:
            np.testing.assert_array_equal(schema.read_map(stored), one["map"])


@settings(max_examples=50)
@given(MAPS)
def test_stored_maps_stay_within_the_rounding_of_their_type(anomaly_map):
    span = float(anomaly_map.max()) - float(anomaly_map.min())
    size = float(np.abs(anomaly_map).max())
    allowed: dict[schema.MapType, float] = {
        "float32": 0.0,
        "float16": size * 2**-11 + 2**-25,
        "uint8": span / 509 + size * 1e-6,
    }
    for dtype, error in allowed.items():
        row = schema.encode_map(anomaly_map, dtype)
        read = schema.read_map({**row, "anomaly_map": memoryview(row["anomaly_map"])})
        assert read.shape == anomaly_map.shape
        assert np.abs(read.astype(float) - anomaly_map).max() <= error


@settings(max_examples=100)
@given(
    hnp.arrays(
        np.float16,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.floats(width=16, allow_nan=False, allow_infinity=False),
    )
)
def test_a_float16_map_comes_back_to_the_bit(stored):
    row = schema.encode_map(stored.astype(np.float32), "float16")
    read = schema.read_map(row).astype(np.float16)
    np.testing.assert_array_equal(read.view(np.uint16), stored.view(np.uint16))


@settings(max_examples=100)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_any_steps_of_a_uint8_map_come_back(steps):
    # With both ends there, steps are stored as they are.
    steps.flat[0] = 0
    steps.flat[-1] = 255 if steps.size > 1 else 0
    row = schema.encode_map(steps.astype(np.float32), "uint8")
    np.testing.assert_array_equal(schema.read_map(row), steps)
