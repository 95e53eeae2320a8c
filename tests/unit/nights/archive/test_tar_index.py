import io
import json
import tarfile

import pytest

from mrkd.config import ArchiveConfig
from mrkd.nights.archive import UNMATCHED, known_tars, list_images
from tests.support.tars import Content, images, only, problems, put, special, tar_bytes


def test_a_member_is_an_image_with_the_offset_of_its_bytes(tmp_path):
    data = tar_bytes({"a.png": b"first", "deep/er/b.JPG": b"second!", "notes.txt": b"no"})
    uri = put(tmp_path, "plate/1.tar", data)
    rows = images(tmp_path)
    assert [row["image_uri"] for row in rows] == [f"{uri}#a.png", f"{uri}#deep/er/b.JPG"]
    assert [row["category"] for row in rows] == ["plate", "plate"]
    assert [row["attributes"] for row in rows] == [[("tar", "1.tar")]] * 2
    contents = [data[row["offset"] :][: row["image_bytes"]] for row in rows]
    assert contents == [b"first", b"second!"]
    assert {row["error_kind"] for row in rows} == {None}
    assert len({row["image_etag"] for row in rows}) == 1


def test_files_and_members_stand_side_by_side(tmp_path):
    put(tmp_path, "plate/l1/1.png", b"alone")
    put(tmp_path, "plate/2.TAR", tar_bytes({"a.png": b"member"}))
    rows = images(tmp_path)
    assert [row["offset"] is None for row in rows] == [False, True]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_may_be_long_or_in_any_script(tmp_path, format):
    names = ["short.png", f"{'d' * 90}/{'n' * 90}.png", "ü/光.png"]
    if format != tarfile.USTAR_FORMAT:
        names.append("/".join(["x" * 200] * 5) + ".png")
    data = tar_bytes({name: name.encode() for name in names}, format=format)
    uri = put(tmp_path, "plate/1.tar", data)
    rows = images(tmp_path)
    assert sorted(row["image_uri"] for row in rows) == sorted(f"{uri}#{name}" for name in names)
    for row in rows:
        content = data[row["offset"] :][: row["image_bytes"]].decode()
        assert row["image_uri"] == f"{uri}#{content}"


def test_the_times_in_an_incremental_tar_are_no_part_of_a_name(tmp_path):
    data = bytearray(tar_bytes({"l1/a.png": b"x"}, format=tarfile.GNU_FORMAT))
    data[345:369] = b"15301342630\0" * 2  # as tar --listed-incremental puts atime and ctime
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    uri = put(tmp_path, "plate/1.tar", bytes(data))
    assert only(tmp_path)["image_uri"] == f"{uri}#l1/a.png"


def test_a_hostile_name_is_only_text(tmp_path):
    names = ["../../etc/a.png", "/etc/a.png", "a\nb.png", "a#b.png", "c:\\a.png"]
    uri = put(tmp_path, "plate/1.tar", tar_bytes(dict.fromkeys(names, b"x")))
    rows = images(tmp_path)
    assert sorted(row["image_uri"] for row in rows) == sorted(f"{uri}#{name}" for name in names)
    assert {row["category"] for row in rows} == {"plate"}
    assert all("\n" not in (row["error_message"] or "") for row in rows)


def test_a_dot_before_a_name_is_no_folder_of_the_key(tmp_path):
    put(tmp_path, "1.tar", tar_bytes({"./plate/a.png": b"x"}))
    row = only(tmp_path, template="{tar}/{category}/{name}")
    assert row["category"] == "plate"
    assert row["image_uri"].endswith("1.tar#./plate/a.png")


def test_of_members_with_one_name_the_last_counts(tmp_path):
    data = tar_bytes([("a.png", b"old"), ("b.png", b"b"), ("a.png", b"newer")])
    put(tmp_path, "plate/1.tar", data)
    rows = images(tmp_path)
    assert len(rows) == 2
    assert data[rows[0]["offset"] :][: rows[0]["image_bytes"]] == b"newer"


def test_a_member_that_is_no_regular_file_is_unsupported(tmp_path):
    members: dict[str, Content] = {
        "link.png": special(tarfile.SYMTYPE, "/etc/passwd"),
        "hard.png": special(tarfile.LNKTYPE, "good.png"),
        "pipe.png": special(tarfile.FIFOTYPE),
        "folder.png": special(tarfile.DIRTYPE),
        "good.png": b"x",
    }
    put(tmp_path, "plate/1.tar", tar_bytes(members))
    found = problems(tmp_path)
    unsupported = {f"1.tar#{name}.png": "unsupported" for name in ("link", "hard", "pipe")}
    assert found == unsupported | {"1.tar#good.png": None}


def test_a_sparse_member_is_unsupported_and_the_next_one_is_found(tmp_path):
    sparse = special(tarfile.REGTYPE)
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "holes.png"}
    put(tmp_path, "plate/1.tar", tar_bytes({"GNUSparseFile.0/holes.png": sparse, "b.png": b"b"}))
    assert problems(tmp_path) == {"1.tar#holes.png": "unsupported", "1.tar#b.png": None}


def test_a_name_that_is_not_utf8_is_unsupported(tmp_path):
    name = b"\xff\xfe.png".decode("utf-8", "surrogateescape")
    put(tmp_path, "plate/1.tar", tar_bytes({name: b"x"}, format=tarfile.GNU_FORMAT))
    row = only(tmp_path)
    assert row["image_uri"].endswith("1.tar#\\xff\\xfe.png")
    assert row["error_kind"] == "unsupported"


def test_a_tar_without_images_gives_none(tmp_path):
    put(tmp_path, "plate/1.tar", tar_bytes({"a.txt": b"x"}))
    put(tmp_path, "plate/2.tar", tar_bytes({}))
    assert images(tmp_path) == []


def test_only_tars_of_the_stated_suffixes_are_opened(tmp_path):
    put(tmp_path, "plate/1.tar", tar_bytes({"a.png": b"x"}))
    put(tmp_path, "plate/1.wds", tar_bytes({"b.png": b"x"}))
    assert only(tmp_path, tars=(".wds",))["image_uri"].endswith("1.wds#b.png")
    assert images(tmp_path, tars=()) == []


def test_json_beside_an_image_gives_what_the_template_lacks(tmp_path):
    fields = {
        "category": "bolt",
        "serial": "7",
        "gain": 1.5,
        "n": 3,
        "ok": True,
        "x": [1],
        "y": None,
    }
    members = {
        "0001.jpg": b"x",
        "0001.json": json.dumps(fields).encode(),
        "0002.json": json.dumps({"category": "nut", "line": "other"}).encode(),
        "0002.seg.png": b"y",
        "0002.cls": b"3",
        "0003.png": b"z",
    }
    put(tmp_path, "l1/1.tar", tar_bytes(members))
    rows = images(tmp_path, template="{line}/{name}")
    found = {row["image_uri"].rpartition("#")[2]: row for row in rows}
    assert found["0001.jpg"]["category"] == "bolt"
    expected = {"serial": "7", "gain": "1.5", "n": "3", "line": "l1"}
    assert dict(found["0001.jpg"]["attributes"]) == expected
    assert found["0002.seg.png"]["category"] == "nut"
    assert dict(found["0002.seg.png"]["attributes"]) == {"line": "l1"}
    assert found["0003.png"]["category"] == UNMATCHED


def test_the_templates_category_goes_before_that_of_the_json(tmp_path):
    put(tmp_path, "plate/1.tar", tar_bytes({"1.png": b"x", "1.json": b'{"category": "bolt"}'}))
    row = only(tmp_path)
    assert (row["category"], row["attributes"]) == ("plate", [("tar", "1.tar")])


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[1]",
        b"\xff",
        b"[" * 60_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b'"' + b"x" * 2**17 + b'"',
    ],
)
def test_a_json_that_is_none_leaves_the_image_and_is_told(tmp_path, caplog, text):
    put(tmp_path, "plate/1.tar", tar_bytes({"1.png": b"x", "1.json": text}))
    row = only(tmp_path)
    assert (row["category"], row["error_kind"]) == ("plate", None)
    assert "json_ignored" in caplog.text


def test_half_a_character_in_a_json_is_text_all_the_same(tmp_path):
    put(tmp_path, "plate/1.tar", tar_bytes({"1.png": b"x", "1.json": b'{"serial": "\\ud800"}'}))
    assert dict(only(tmp_path)["attributes"])["serial"] == "\\ud800"


def test_a_known_tar_is_not_read_again_until_it_changes(tmp_path):
    uri = put(tmp_path, "plate/1.tar", tar_bytes({"a.png": b"x"}))
    put(tmp_path, "plate/l/1.png", b"x")
    config = ArchiveConfig(uri=str(tmp_path), template="{category}/{name}")
    known = known_tars(list_images(config), config.tars)
    assert list(known) == [uri]
    assert list_images(config, known)["offset"].to_pylist() == [None]
    put(tmp_path, "plate/1.tar", tar_bytes({"a.png": b"x", "b.png": b"y"}))
    assert list_images(config, known).num_rows == 3


def test_tars_are_read_by_headers_alone(tmp_path, monkeypatch):
    from mrkd import storage

    sizes = []
    fetch_range = storage.fetch_range

    def counted(uri, start, length, *, if_match):
        found = fetch_range(uri, start, length, if_match=if_match)
        sizes.append(len(found.data))
        return found

    put(tmp_path, "plate/1.tar", tar_bytes({f"{n}.png": bytes(6 * 2**20) for n in range(4)}))
    monkeypatch.setattr(storage, "fetch_range", counted)
    assert len(images(tmp_path)) == 4
    assert sum(sizes) <= 6 * 2**20


def test_a_stream_reads_any_part_as_the_file_has_it(tmp_path):
    from mrkd import storage
    from mrkd.nights.archive.range_file import RangeFile

    data = bytes(range(256)) * 20_000
    stream = RangeFile(storage.stat(put(tmp_path, "x", data)))
    assert stream.read() == data
    for position in (0, 5_000_000, 1_000_000, 1_048_570, 5_119_999, 6_000_000):
        stream.seek(position)
        assert stream.read(100) == data[position : position + 100]
    assert stream.seek(-10, io.SEEK_END) == len(data) - 10
    assert stream.read(100) == data[-10:]
