"""Any tar: what tarfile finds in it is found, and whatever is damaged is told and never raised."""

import io
import tarfile

from hypothesis import given, settings
from hypothesis import strategies as st

from mrkd.config import ArchiveConfig
from mrkd.nights.archive import IMAGES, Template, list_images, read_members, write_manifest
from mrkd.nights.archive.key_template import to_category
from mrkd.storage import Fetched
from tests.support.nights import add, folder_in_memory
from tests.support.tars import put, tar_bytes

letters = st.characters(codec="utf-8", exclude_characters="\0/")
names = st.lists(st.text(letters, min_size=1, max_size=60), min_size=1, max_size=4).map(
    lambda parts: "/".join(parts) + ".png"
)
members = st.lists(st.tuples(names, st.binary(max_size=1500)), max_size=8)
formats = st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


def images(folder):
    return list_images(ArchiveConfig(uri=str(folder)))


@settings(max_examples=50)
@given(members, formats)
def test_what_tarfile_finds_is_found_and_read(content, format):
    data = tar_bytes(content, format=format)
    with folder_in_memory() as folder:
        uri = put(folder, "plate/1.tar", data)
        rows = images(folder).to_pylist()
        read = {
            row["image_uri"].removeprefix(f"{uri}#"): found.data
            for row, found in read_members(rows)
            if isinstance(found, Fetched)
        }
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = {info.name: tar.extractfile(info).read() for info in tar}
    assert read == expected == dict(content)
    assert {row["error_kind"] for row in rows} <= {None}


@settings(max_examples=50)
@given(members, formats, st.floats(0, 1))
def test_of_a_tar_that_was_cut_the_whole_members_are_found(content, format, share):
    data = tar_bytes(content, format=format)
    cut = data[: int(share * len(data))]
    with folder_in_memory() as folder:
        uri = put(folder, "plate/1.tar", cut)
        rows = {row["image_uri"]: row for row in images(folder).to_pylist()}
        good = [row for row in rows.values() if row["error_kind"] is None]
        for row, found in read_members(good):
            assert isinstance(found, Fetched)
            assert (row["image_uri"].removeprefix(f"{uri}#"), found.data) in content
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        whole = {info.name for info in tar if info.offset_data + info.size <= len(cut)}
        end = tar.offset
    assert {row["image_uri"].removeprefix(f"{uri}#") for row in good} == whole
    damaged = rows.get(uri, {}).get("error_kind")
    assert damaged == (None if len(cut) > end else "truncated" if cut else "empty")


@settings(max_examples=50)
@given(members, formats, st.lists(st.tuples(st.floats(0, 0.9999), st.integers(1, 255))))
def test_damage_never_raises(content, format, flips):
    data = bytearray(tar_bytes(content, format=format))
    for at, value in flips:
        data[int(at * len(data))] ^= value
    with folder_in_memory() as folder:
        put(folder, "plate/1.tar", bytes(data))
        table = images(folder)
        assert table.schema.equals(IMAGES)
        table.validate(full=True)
        rows = table.to_pylist()
        good = [row for row in rows if row["error_kind"] is None]
        assert all(isinstance(found, Fetched) for _, found in read_members(good))
    assert all((row["error_kind"] is None) == (row["error_message"] is None) for row in rows)
    assert len({row["image_uri"] for row in rows}) == len(rows)


keys = st.lists(
    st.text(st.characters(codec="utf-8", categories=["L", "N", "Zs", "P"]), min_size=1, max_size=9)
    .filter(lambda part: not set(part) & set("/\\") and part.strip(".") and part[0] != ".")
    .map(lambda part: f"plate/{part}.png"),
    min_size=1,
    max_size=4,
    unique=True,
)


@settings(max_examples=30)
@given(keys, members, st.sampled_from(["", "{category}/{name}"]))
def test_a_manifest_holds_what_the_archive_does(files, content, template):
    with folder_in_memory() as folder:
        add(folder / "a", *files)
        put(folder / "a", "plate/1.tar", tar_bytes(content))
        listed = images(folder / "a")
        out = str(folder / "m.parquet")
        counts = write_manifest(str(folder / "a"), out, template)
        again = list_images(ArchiveConfig(uri=str(folder / "a"), manifest=out))
    assert again.equals(listed)
    assert counts["images"] == listed.num_rows


pieces = st.sampled_from(["{category}", "{line}", "/", "-", "a", "é"])
templates = st.lists(pieces, max_size=5, unique=True).map(
    lambda found: "".join([*found, "/{name}"])
)
key_pieces = st.sampled_from(["a", "b-c", "/", "-", "é", "\n", "{name}"])


@given(templates, st.lists(st.lists(key_pieces, max_size=7).map("".join), max_size=5))
def test_keys_of_one_folder_are_read_as_each_by_itself(template, keys):
    reader = Template(template)
    for key in keys:
        assert reader.parse(key) == to_category(Template(template).fields(key))
