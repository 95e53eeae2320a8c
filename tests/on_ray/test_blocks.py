import weakref

import numpy as np
import pyarrow as pa
import pytest

from mrkd.errors import StorageError
from mrkd.runs.on_ray.score import object_rows


def test_an_object_comes_back_with_its_arrays_where_they_lie():
    arrays = [np.full((2, 3), n, np.uint8) for n in range(3)]
    packed = object_rows.pack({"arrays": arrays, "name": "shard"})
    found = object_rows.unpack(packed)
    assert packed.num_rows == 1
    assert found["name"] == "shard"
    np.testing.assert_equal(found["arrays"], arrays)
    assert not found["arrays"][0].flags.owndata


def test_what_was_packed_is_let_go():
    array = np.ones((64, 64, 3), np.uint8)
    seen, packed = weakref.ref(array), object_rows.pack([array, np.empty(0)])
    del array
    assert seen() is None
    assert [len(found) for found in object_rows.unpack(packed)] == [64, 0]


def test_tables_keep_their_metadata_and_errors_their_kind():
    table = pa.table({"a": [1, 2]}).replace_schema_metadata({"category": "0012"})
    found, error = object_rows.unpack(object_rows.pack((table, StorageError("gone", "missing"))))
    assert found.equals(table, check_metadata=True)
    assert (error.kind, str(error)) == ("missing", "gone")


def test_a_row_of_a_larger_table_is_its_own_object():
    both = pa.concat_tables([object_rows.pack([np.zeros(2)]), object_rows.pack([np.ones(3)])])
    np.testing.assert_equal(object_rows.unpack(both.slice(1, 1)), [np.ones(3)])


def test_two_rows_are_not_one_object():
    with pytest.raises(AssertionError, match="2 rows"):
        object_rows.unpack(pa.concat_tables([object_rows.pack(1), object_rows.pack(2)]))
