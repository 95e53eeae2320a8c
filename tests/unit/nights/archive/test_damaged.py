import re
import tarfile

import pytest

from mrkd.config import ArchiveConfig
from mrkd.nights.archive import UNMATCHED, known_tars, list_images
from tests.support.tars import block_of, images, only, problems, put, tar_bytes


def test_a_tar_may_follow_another_ones_end(tmp_path):
    data = tar_bytes({"a.png": b"a"}) + tar_bytes({"b.png": b"b"})
    put(tmp_path, "plate/1.tar", data)
    rows = images(tmp_path)
    assert [data[row["offset"] :][:1] for row in rows] == [b"a", b"b"]


def test_what_stands_behind_the_end_is_nobodys(tmp_path):
    put(tmp_path, "plate/1.tar", tar_bytes({"a.png": b"a"}) + b"garbage" * 100)
    assert only(tmp_path)["error_kind"] is None


def test_a_tar_that_was_cut_in_a_member_says_so_of_both(tmp_path):
    data = tar_bytes({"a.png": b"a" * 600, "b.png": b"b" * 600})
    put(tmp_path, "plate/1.tar", data[: data.index(b"b" * 600) + 100])
    rows = {row["image_uri"].rpartition("/")[2]: row for row in images(tmp_path)}
    kinds = {name: row["error_kind"] for name, row in rows.items()}
    assert kinds == {"1.tar#a.png": None, "1.tar#b.png": "truncated", "1.tar": "truncated"}
    assert "100 of its 600 bytes" in rows["1.tar#b.png"]["error_message"]
    assert "its later members are unknown" in rows["1.tar"]["error_message"]


@pytest.mark.parametrize("cut", [0, 200])
def test_a_tar_that_was_cut_before_its_end_mark_says_so(tmp_path, cut):
    data = tar_bytes({"a.png": b"a" * 600, "b.png": b"b"})
    put(tmp_path, "plate/1.tar", data[: block_of(data, b"b" + bytes(511)) + cut])
    assert problems(tmp_path) == {"1.tar#a.png": None, "1.tar": "truncated"}


def test_a_damaged_header_ends_the_tar_where_it_stands(tmp_path):
    data = bytearray(tar_bytes({"a.png": b"first", "b.png": b"second", "c.png": b"third"}))
    at = block_of(bytes(data), b"second")
    data[at + 10] ^= 0xFF
    put(tmp_path, "plate/1.tar", bytes(data))
    assert problems(tmp_path) == {"1.tar#a.png": None, "1.tar": "decode"}
    (row,) = [row for row in images(tmp_path) if row["error_kind"]]
    assert re.search(rf"damaged at byte {at:,} .*later members are unknown", row["error_message"])


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (b"no tar at all" * 100, "decode"),
        (b"short", "truncated"),
        (b"\x1f\x8b" + bytes(range(256)) * 4, "unsupported"),
    ],
)
def test_what_is_no_tar_is_one_row(tmp_path, data, kind):
    put(tmp_path, "plate/1.tar", data)
    assert problems(tmp_path) == {"1.tar": kind}


@pytest.mark.parametrize("size", [-1, 2**62, 2**80])
def test_a_header_may_claim_any_size(tmp_path, size):
    data = bytearray(tar_bytes({"a.png": b"first", "b.png": b"second"}))
    at = block_of(bytes(data), b"second")
    header = data[at : at + 512]
    header[124:136] = b"\x80" + size.to_bytes(11, "big") if size > 0 else b"\xff" * 12
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[at : at + 512] = header
    put(tmp_path, "plate/1.tar", bytes(data))
    found = problems(tmp_path)
    assert found["1.tar#a.png"] is None
    assert found["1.tar"] in ("decode", "truncated")


def test_a_name_of_a_megabyte_is_no_name(tmp_path):
    data = tar_bytes({"n" * 2**20 + ".png": b"x"}, format=tarfile.GNU_FORMAT)
    put(tmp_path, "plate/1.tar", data)
    assert problems(tmp_path) == {"1.tar": "decode"}


def test_the_damage_of_a_tar_has_the_category_of_the_tars_own_key(tmp_path):
    put(tmp_path, "plate/1.tar", b"no tar at all" * 100)
    put(tmp_path, "x.tar", b"no tar at all" * 100)
    assert [row["category"] for row in images(tmp_path, template="{category}/{name}")] == [
        "plate",
        UNMATCHED,
    ]


def test_a_damaged_tar_is_known_too(tmp_path):
    put(tmp_path, "plate/1.tar", b"")
    config = ArchiveConfig(uri=str(tmp_path), template="{category}/{name}")
    assert list_images(config, known_tars(list_images(config), config.tars)).num_rows == 0


def test_one_tar_that_may_not_be_read_is_a_row_of_its_own(tmp_path):
    put(tmp_path, "plate/1.tar", tar_bytes({"a.png": b"x"}))
    (tmp_path / "plate/2.tar").symlink_to("gone")
    assert problems(tmp_path) == {"1.tar#a.png": None, "2.tar": "missing"}


def test_a_file_named_as_a_member_is_one_row_with_an_error(tmp_path):
    uri = put(tmp_path, "plate/1.tar", tar_bytes({"a.png": b"x", "b.png": b"y"}))
    put(tmp_path, "plate/1.tar#a.png", b"x")
    rows = {row["image_uri"]: row["error_kind"] for row in images(tmp_path)}
    assert rows == {f"{uri}#a.png": "unsupported", f"{uri}#b.png": None}


def test_a_tar_named_as_a_member_is_not_opened(tmp_path):
    put(tmp_path, "plate/1.tar#2.tar", tar_bytes({"a.png": b"x"}))
    assert problems(tmp_path) == {"1.tar#2.tar": "unsupported"}
