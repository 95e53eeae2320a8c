import random

import pyarrow as pa
import pytest

from mrkd.config import ArchiveConfig
from mrkd.errors import StorageError
from mrkd.nights.archive import known_tars, list_images, read_members, spans, split_member
from mrkd.storage import Fetched
from tests.support.tars import put, tar_bytes

TARS = (".tar", ".wds")
MIB = 2**20


def planned(folder, *keys):
    rows = list_images(ArchiveConfig(uri=str(folder))).to_pylist()
    return [row for row in rows if not keys or row["image_uri"].rpartition("#")[2] in keys]


def contents(rows, **limits):
    return {
        row["image_uri"].rpartition("#")[2]: found
        if isinstance(found, StorageError)
        else found.data
        for row, found in read_members(rows, TARS, **limits)
    }


@pytest.fixture
def images():
    draw = random.Random(7)
    return {f"{n}.png": draw.randbytes(draw.randrange(3000)) for n in range(100)}


def test_each_member_is_read_as_it_was_put(tmp_path, images):
    put(tmp_path, "plate/1.tar", tar_bytes(images))
    rows = planned(tmp_path)
    random.Random(1).shuffle(rows)
    assert contents(rows) == images
    assert contents(rows[:7]) == {
        (name := row["image_uri"].rpartition("#")[2]): images[name] for row in rows[:7]
    }


def test_members_that_lie_near_are_one_request(tmp_path, images):
    put(tmp_path, "plate/1.tar", tar_bytes(images))
    put(tmp_path, "plate/2.tar", tar_bytes(images))
    assert len(spans(planned(tmp_path), TARS)) == 2


@pytest.mark.parametrize(("gap", "num_spans"), [(60_000, 1), (70_000, 2)])
def test_a_wide_gap_is_not_read(tmp_path, gap, num_spans):
    put(tmp_path, "plate/1.tar", tar_bytes({"a.png": b"a", "x": bytes(gap), "b.png": b"b"}))
    found = spans(planned(tmp_path), TARS)
    assert len(found) == num_spans
    assert sum(len(span.rows) for span in found) == 2


def test_a_request_has_at_most_8_mib_unless_one_member_has_more(tmp_path):
    sizes = {"a.png": 3 * MIB, "b.png": 3 * MIB, "c.png": 3 * MIB, "d.png": 9 * MIB, "e.png": 1}
    put(tmp_path, "plate/1.tar", tar_bytes({name: bytes(size) for name, size in sizes.items()}))
    found = spans(planned(tmp_path), TARS)
    assert [len(span.rows) for span in found] == [2, 1, 1, 1]
    assert max(span.num_bytes for span in found) == 9 * MIB
    read = {name: len(data) for name, data in contents(planned(tmp_path)).items()}
    assert read == sizes


def test_an_empty_member_is_read_as_no_bytes(tmp_path):
    put(tmp_path, "plate/1.tar", tar_bytes({"a.png": b"", "b.png": b"b"}))
    assert contents(planned(tmp_path)) == {"a.png": b"", "b.png": b"b"}
    assert contents(planned(tmp_path, "a.png")) == {"a.png": b""}


@pytest.mark.parametrize("near", [True, False])
def test_a_member_above_the_limit_is_too_large_and_the_others_are_read(tmp_path, near):
    gap = {} if near else {"x": bytes(100_000), "y": bytes(100_000)}
    members = {"a.png": b"a" * 10, "b.png": bytes(11), **gap, "c.png": b"c"}
    put(tmp_path, "plate/1.tar", tar_bytes(members))
    found = contents(planned(tmp_path), max_bytes=10)
    assert found["b.png"].kind == "too_large"
    assert (found["a.png"], found["c.png"]) == (b"a" * 10, b"c")
    assert contents(planned(tmp_path, "b.png"), max_bytes=10)["b.png"].kind == "too_large"


def test_a_tar_that_was_overwritten_or_removed_gives_no_bytes(tmp_path):
    put(tmp_path, "plate/1.tar", tar_bytes({"a.png": b"a", "b.png": b"b"}))
    rows = planned(tmp_path)
    put(tmp_path, "plate/1.tar", tar_bytes({"a.png": b"A", "b.png": b"B"}))
    assert {error.kind for error in contents(rows).values()} == {"changed"}
    (tmp_path / "plate/1.tar").unlink()
    assert {error.kind for error in contents(rows).values()} == {"missing"}


def test_a_row_that_points_behind_the_end_is_truncated(tmp_path):
    put(tmp_path, "plate/1.tar", tar_bytes({"a.png": b"a", "b.png": b"b"}))
    rows = planned(tmp_path)
    rows[1]["image_bytes"] = 10**6
    found = contents(rows)
    assert found["a.png"] == b"a"
    assert found["b.png"].kind == "truncated"


def test_the_etag_is_the_tars_and_need_not_be_known(tmp_path):
    put(tmp_path, "plate/1.tar", tar_bytes({"a.png": b"a"}))
    (row,) = planned(tmp_path)
    ((_, found),) = read_members([row | {"image_etag": None}], TARS)
    assert isinstance(found, Fetched)
    assert (found.data, found.etag) == (b"a", row["image_etag"])


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://b/x.tar#a.png", ("s3://b/x.tar", "a.png")),
        ("s3://b/x#1.TAR#a#2.png", ("s3://b/x#1.TAR", "a#2.png")),
        ("s3://b/x.wds#y.tar#z.png", ("s3://b/x.wds", "y.tar#z.png")),
        ("s3://b/x.bin#a.png", ("s3://b/x.bin", "a.png")),
        ("s3://b/x.tar", ("s3://b/x.tar", "")),
    ],
)
def test_a_members_uri_is_its_tars_and_its_name(uri, parts):
    assert split_member(uri, TARS) == parts


def test_the_newest_etag_of_a_tar_is_known(tmp_path):
    uris = ["s3://b/1.tar#a.png", "s3://b/c.png", "s3://b/2.tar", "s3://b/1.tar#b#.png"]
    rows = pa.table({"image_uri": uris, "image_etag": ["1", "2", "3", "4"]})
    assert known_tars(rows, TARS) == {"s3://b/1.tar": "4", "s3://b/2.tar": "3"}
