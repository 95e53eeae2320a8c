import gzip
import re
import subprocess
import sys
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mrkd.config import ArchiveConfig
from mrkd.errors import ConfigError
from mrkd.nights.archive import IMAGES, UNMATCHED, list_images, write_manifest
from tests.support.nights import add
from tests.support.tars import put, tar_bytes


def csv(folder, text, name="m.csv"):
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return str(folder / name)


def parquet(folder, columns, name="m.parquet"):
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, folder / name)
    return str(folder / name)


def images(manifest, template="{category}/{name}", **values):
    return list_images(ArchiveConfig(manifest=manifest, template=template, **values))


def only(manifest, **values):
    (row,) = images(manifest, **values).to_pylist()
    return row


def refused(manifest, pattern, **values):
    with pytest.raises(ConfigError, match=pattern) as caught:
        images(manifest, **values)
    assert manifest.rpartition("/")[2] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_csv_names_images_with_category_and_attributes(tmp_path):
    text = (
        "uri,etag,size,category,line,note\n"
        's3://bk/x/1.png,"""e1""",10,plate,l1,"a,\nb"\n'
        "s3://bk/x/2.png,e2,20,0012,,\n"
    )
    rows = images(csv(tmp_path, text)).to_pylist()
    assert [row["image_uri"] for row in rows] == ["s3://bk/x/2.png", "s3://bk/x/1.png"]
    assert [row["category"] for row in rows] == ["0012", "plate"]
    assert [row["image_etag"] for row in rows] == ["e2", "e1"]
    assert [row["image_bytes"] for row in rows] == [20, 10]
    assert [row["attributes"] for row in rows] == [[], [("line", "l1"), ("note", "a,\nb")]]


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_csv_may_be_compressed(tmp_path, compress):
    name = "m.csv" if compress is bytes else "m.csv.gz"
    manifest = csv(tmp_path, compress(b"image_uri\ns3://bk/plate/1.png\n"), name)
    row = only(manifest)
    assert (row["category"], row["image_etag"], row["image_bytes"]) == ("plate", None, None)


def test_parquet_columns_may_be_of_any_type(tmp_path):
    when = datetime(2026, 11, 23, tzinfo=UTC)
    columns = {
        "Image_URI": pa.array(["s3://bk/plate/1.png"]).dictionary_encode(),
        "size": pa.array([10.0]),
        "ETag": pa.array(["e"], pa.large_string()),
        "when": pa.array([when]),
        "n": pa.array([3], pa.int8()),
        "good": pa.array([True]),
        "tags": pa.array([["a", "b"]]),
        "none": pa.array([None], pa.int8()),
    }
    row = only(parquet(tmp_path, columns))
    assert (row["image_bytes"], row["image_etag"]) == (10, "e")
    attributes = dict(row["attributes"])
    assert attributes.pop("when").startswith("2026-11-23")
    assert attributes == {"n": "3", "good": "true", "tags": "['a', 'b']"}


def test_attributes_may_be_a_map_or_a_column_like_any_other(tmp_path):
    columns = {"uri": ["s3://bk/plate/1.png"]}
    pairs = pa.array([[("line", "l1"), ("category", None)]], pa.map_(pa.string(), pa.string()))
    row = only(parquet(tmp_path, columns | {"attributes": pairs}))
    assert (row["category"], row["attributes"]) == ("plate", [("line", "l1")])
    row = only(parquet(tmp_path, columns | {"attributes": ["as text"]}))
    assert row["attributes"] == [("attributes", "as text")]
    lists = pa.array([[("line", ["l1"])]], pa.map_(pa.string(), pa.list_(pa.string())))
    refused(parquet(tmp_path, columns | {"attributes": lists}), "row 1: attributes are of map<")


def test_an_error_that_a_manifest_knows_has_a_message_in_any_case(tmp_path):
    text = "uri,error_kind,error_message\ns3://bk/plate/1.png,decode,no JPEG\n"
    row = only(csv(tmp_path, text + "s3://bk/plate/1.png,decode,no JPEG\n"))
    assert (row["error_kind"], row["error_message"]) == ("decode", "no JPEG")
    row = only(csv(tmp_path, text.replace("no JPEG", " ")))
    assert row["error_kind"] == "decode"
    assert "list the archive again" in row["error_message"]


def test_a_size_of_no_number_at_all_is_refused(tmp_path):
    columns = {"uri": ["s3://bk/plate/1.png"], "size": [[1, 2]]}
    refused(parquet(tmp_path, columns), r"row 1: size is '\[1, 2\]'")


def test_the_template_reads_keys_below_the_uri(tmp_path):
    text = "uri\ns3://bk/archive/plate/l1/1.png\ns3://bk/elsewhere/plate/l1/2.png\n"
    table = images(csv(tmp_path, text), template="{category}/{line}/{name}", uri="s3://bk/archive")
    assert table["category"].to_pylist() == ["plate", UNMATCHED]
    assert table["attributes"].to_pylist() == [[("line", "l1")], []]


def test_what_the_manifest_says_goes_before_the_template(tmp_path):
    manifest = csv(tmp_path, "uri,category,line\ns3://bk/plate/l1/1.png,bolt,l2\n")
    row = only(manifest, template="{category}/{line}/{name}")
    assert (row["category"], row["attributes"]) == ("bolt", [("line", "l2")])


def test_a_category_that_is_no_name_is_unmatched(tmp_path):
    manifest = csv(tmp_path, "uri,category\ns3://bk/plate/1.png,../up\n")
    assert only(manifest)["category"] == UNMATCHED


def test_a_relative_uri_is_below_the_archive_or_the_manifest(tmp_path):
    (tmp_path / "lists").mkdir()
    manifest = csv(tmp_path / "lists", "uri\nplate/1.png\n")
    assert only(manifest)["image_uri"] == f"file://{tmp_path}/lists/plate/1.png"
    row = only(manifest, uri=str(tmp_path / "archive"))
    assert row["image_uri"] == f"file://{tmp_path}/archive/plate/1.png"
    assert row["category"] == "plate"


def test_a_member_has_its_offset_and_its_name_is_no_path(tmp_path):
    text = "uri,offset,size\ns3://bk/plate/1.tar#../../x.png,512,10\n/data/a/../1.tar#./y.png,0,1\n"
    rows = images(csv(tmp_path, text), template="{category}/{tar}/{name}").to_pylist()
    found = {row["image_uri"]: (row["category"], row["offset"]) for row in rows}
    assert found == {
        "s3://bk/plate/1.tar#../../x.png": ("plate", 512),
        "file:///data/1.tar#./y.png": ("data", 0),
    }


def test_a_tar_in_a_manifest_is_read(tmp_path):
    uri = put(tmp_path, "plate/1.tar", tar_bytes({"a.png": b"x"}))
    gone = f"file://{tmp_path}/plate/2.tar"
    text = f"uri,category,line\n{uri},bolt,l1\n{gone},bolt,l1\n"
    rows = images(csv(tmp_path, text)).to_pylist()
    assert [row["image_uri"] for row in rows] == [f"{uri}#a.png", gone]
    assert [row["error_kind"] for row in rows] == [None, "missing"]
    assert {row["category"] for row in rows} == {"bolt"}
    assert {tuple(row["attributes"]) for row in rows} == {(("line", "l1"),)}


def test_an_inventory_is_told_by_its_columns(tmp_path):
    columns = {
        "bucket": ["bk"] * 6,
        "key": ["a/plate/1.png", "a/plate/1.png", "a/plate/2.png", "a/n.txt", "z/3.png", "a/"],
        "size": [10, 9, None, 5, 5, 0],
        "e_tag": ["new", "old", None, "e", "e", "e"],
        "is_latest": [True, False, True, True, True, True],
        "is_delete_marker": [False, False, True, False, False, False],
        "storage_class": ["STANDARD"] * 6,
    }
    row = only(parquet(tmp_path, columns), uri="s3://bk/a")
    assert row["image_uri"] == "s3://bk/a/plate/1.png"
    assert (row["image_etag"], row["image_bytes"]) == ("new", 10)
    assert (row["category"], row["attributes"]) == ("plate", [])


def test_equal_rows_are_one(tmp_path):
    lines = ["s3://bk/plate/2.png,e,,x", "s3://bk/plate/1.png,e,1,x", "s3://bk/plate/2.png,e,,x"]
    manifest = csv(tmp_path, "\n".join(["uri,etag,size,line", *lines, lines[2], ""]))
    assert images(manifest)["image_uri"].to_pylist() == [
        "s3://bk/plate/1.png",
        "s3://bk/plate/2.png",
    ]


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        ("e1,1,plate,x", "e2,1,plate,x", "image_etag 'e1' and 'e2'"),
        (",1,plate,x", "e2,1,plate,x", "image_etag"),
        ("e1,1,plate,x", "e1,1,bolt,x", "category"),
        ("e1,1,plate,x", "e1,1,plate,y", "attributes"),
    ],
)
def test_rows_of_one_image_that_differ_are_refused(tmp_path, one, other, what):
    uri = "s3://bk/plate/1.png"
    lines = ["uri,etag,size,category,line", f"{uri},{one}", f"{uri},{other}", ""]
    refused(csv(tmp_path, "\n".join(lines)), re.escape(uri) + ".*twice.*" + what)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("", "Empty CSV"),
        ("uri,size\n", "no rows"),
        ("name,size\nx,1\n", "columns name, size: it needs image_uri"),
        ("bucket,size\nx,1\n", "columns bucket, size"),
        ("uri,size\ns3://bk/1.png,1\ns3://bk/2.png\n", r"Row #3: Expected 2 columns, got 1"),
        ("uri,size\ns3://bk/1.png,1\ns3://bk/2.png,1x\n", r"row 3: size is '1x'"),
        ("uri,size\ns3://bk/1.png,1\ns3://bk/2.png,-1\n", r"row 3: size is -1"),
        ("uri,size\n,1\n", r"row 2: it has no URI"),
        ("uri,size\nftp://b/1.png,1\n", r"row 2: ftp://b/1.png is of no kind"),
        ("bucket,key\nbk,\n", r"row 2: it has no bucket or no key"),
        ("uri,offset\ns3://bk/1.tar#a.png,512\n", r"row 2: a tar's member has no size"),
        ("uri,error_kind\ns3://bk/1.png,odd\n", r"row 2: error_kind is 'odd'"),
        (b"uri\ns3://bk/\xff.png\n", "UTF8"),
    ],
)
def test_a_manifest_that_cannot_be_meant_is_refused(tmp_path, text, pattern):
    refused(csv(tmp_path, text), pattern)


def test_a_bad_row_is_told_by_its_number_far_into_the_file(tmp_path):
    lines = ["uri,size", *[f"s3://bk/{n}.png,{n}" for n in range(40_000)], "s3://bk/x.png,?", ""]
    refused(csv(tmp_path, "\n".join(lines)), r"row 40,002: size is '\?'")


def test_a_file_that_is_damaged_missing_or_of_another_kind_is_refused(tmp_path):
    refused(csv(tmp_path, b"no parquet", "m.parquet"), "cannot be read")
    refused(csv(tmp_path, gzip.compress(b"uri\nx\n" * 99)[:-9], "m.csv.gz"), "cannot be read")
    refused(csv(tmp_path, "uri\nx\n", "m.txt"), "of no kind")
    refused(str(tmp_path / "gone.csv"), "is not there")
    refused(str(tmp_path / "gone.json"), "is not there")
    refused(csv(tmp_path, "[1]", "m.json"), "is not a manifest.json")
    refused(csv(tmp_path, "{", "m.json"), "is not JSON")


@pytest.mark.parametrize("text", ["uri,straße\na,1\n", "uri,line\na,straße\n"])
def test_a_csv_that_is_not_utf_8_is_refused(tmp_path, text):
    refused(csv(tmp_path, text.encode("latin-1")), r"UTF-?8")


def test_a_parquet_file_whose_text_is_not_utf_8_is_refused(tmp_path):
    wrong = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xffx")]
    )
    refused(parquet(tmp_path, {"uri": ["a.png"], "line": wrong}), r"UTF-?8")


def test_a_written_manifest_reads_back_as_the_archive(tmp_path):
    add(tmp_path / "a", "plate/l1/1.png", "plate/l1/2.png", "stray.png")
    put(tmp_path / "a", "bolt/1.tar", tar_bytes({"x.png": b"x", "y.png": b"y"})[:2000])
    template, out = "{category}/{line}/{name}", str(tmp_path / "m.parquet")
    counts = write_manifest(str(tmp_path / "a"), out, template)
    listed = list_images(ArchiveConfig(uri=str(tmp_path / "a"), template=template))
    again = images(out, template="{name}")
    assert again.schema.equals(IMAGES)
    assert again.equals(listed)
    assert counts == {"images": 6, "members": 2, "errors": 1, "bytes": 5 * 3 + 2 + 2000}


def test_a_manifest_without_template_leaves_the_category_to_the_night(tmp_path):
    add(tmp_path / "a", "plate/l1/1.png", "bolt/l2/2.png")
    put(tmp_path / "a", "bolt/1.tar", tar_bytes({"x.png": b"x"}))
    out = str(tmp_path / "m.parquet")
    write_manifest(str(tmp_path / "a"), out)
    template = "{category}/{line}/{name}"
    listed = list_images(ArchiveConfig(uri=str(tmp_path / "a"), template=template))
    assert images(out, template=template, uri=str(tmp_path / "a")).equals(listed)


def test_a_manifest_of_categories_that_jsons_give_needs_the_template(tmp_path):
    members = {"1.png": b"x", "1.json": b'{"category": "nut", "line": "other"}', "2.png": b"y"}
    put(tmp_path / "a", "l1/1.tar", tar_bytes(members))
    out, template = str(tmp_path / "m.parquet"), "{line}/{name}"
    with pytest.raises(ConfigError, match="--template"):
        write_manifest(str(tmp_path / "a"), out)
    write_manifest(str(tmp_path / "a"), out, template)
    listed = list_images(ArchiveConfig(uri=str(tmp_path / "a"), template=template))
    assert images(out, template=template, uri=str(tmp_path / "a")).equals(listed)
    assert listed["category"].to_pylist() == ["nut", UNMATCHED]


def test_a_manifest_is_written_under_a_name_that_says_what_it_is(tmp_path):
    with pytest.raises(ConfigError, match=r"\.parquet"):
        write_manifest(str(tmp_path), str(tmp_path / "m.csv"))


@pytest.mark.parametrize(
    "data",
    [
        b"uri, category, line\ns3://bk/1.png,plate,l1\n",
        b"uri;category;line\r\ns3://bk/1.png;plate;l1\r\n",
        b"uri\tcategory\tline\ns3://bk/1.png\tplate\tl1\n",
        b"\xef\xbb\xbfuri,category,line\ns3://bk/1.png,plate,l1\n",
        b'\xef\xbb\xbf"uri";" category";line\ns3://bk/1.png;plate;l1\n',
    ],
)
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_csv_as_a_spreadsheet_saves_it_is_read(tmp_path, data, compress):
    name = "m.csv" if compress is bytes else "m.csv.gz"
    row = only(csv(tmp_path, compress(data), name))
    assert row["image_uri"] == "s3://bk/1.png"
    assert (row["category"], row["attributes"]) == ("plate", [("line", "l1")])


def test_relative_uris_are_read_by_the_template_as_they_are(tmp_path):
    manifest = csv(tmp_path, "image_uri\nplate/l1/1.png\n")
    row = only(manifest, template="{category}/{line}/{name}")
    assert row["image_uri"] == f"file://{tmp_path}/plate/l1/1.png"
    assert (row["category"], row["attributes"]) == ("plate", [("line", "l1")])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_a_csv_in_another_encoding_is_refused(tmp_path, encoding):
    refused(csv(tmp_path, "image_uri,ä\nplate/ü.png,1\n".encode(encoding)), "UTF-8|columns|read")


SCRIPT = """
import sys
from mrkd.config import ArchiveConfig
from mrkd.errors import ConfigError
from mrkd.nights.archive import list_images
try:
    list_images(ArchiveConfig(manifest=sys.argv[1]))
except ConfigError:
    sys.exit(2)
"""


def test_rows_are_cut_into_blocks_at_their_ends_and_counted_over_all_of_them(tmp_path):
    """A note with line breaks and quotation marks, longer than a block, and a bad row behind it."""
    note = '"a ""note""\n' + "x\n" * 700_000 + '"'
    text = f"uri,note\ns3://bk/a/1.png,{note}\n" + "s3://bk/a/{n}.png,b\n" * 3
    rows = images(csv(tmp_path, text.replace("{n}", "2")))
    assert rows["image_uri"].to_pylist() == ["s3://bk/a/1.png", "s3://bk/a/2.png"]
    assert rows["attributes"].to_pylist()[0][0][1].startswith('a "note"\nx\n')
    many = "uri,size\n" + "s3://bk/a/1.png,1\n" * 100_000 + "s3://bk/a/2.png,1,2\n"
    refused(csv(tmp_path, many), "Row #100002: Expected 2 columns, got 3")


def test_a_quotation_mark_that_does_not_close_is_refused(tmp_path):
    text = 'uri,note\ns3://bk/a/1.png,"' + "s3://bk/a/2.png,b\n" * 1_000_000
    refused(csv(tmp_path, text), "a row of more than 16,777,216 bytes: a quotation mark")


@pytest.mark.parametrize(
    "head", ["image_uri,size\nplate/0.png,many\n", "image_uri,size\nplate/0.png,1,2,3\n"]
)
def test_a_process_that_refuses_a_long_manifest_ends_and_is_not_aborted(tmp_path, head):
    """A reader of pyarrow's that asks a Python file for more while Python ends would abort it."""
    manifest = csv(tmp_path, head + "plate/1.png,1\n" * 300_000)
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", SCRIPT, manifest], check=False, timeout=60)
        assert done.returncode == 2


@pytest.mark.parametrize(
    "data",
    [
        b"image_uri,size\rplate/1.png,1\rplate/2.png,2\r",
        b'image_uri,"a\nnote"\nplate/1.png,x\nplate/2.png,y\n',
        b'image_uri,"a\r\nnote"\r\nplate/1.png,x\r\nplate/2.png,y\r\n',
        b"\xef\xbb\xbf\r\n\nimage_uri,size\nplate/1.png,1\nplate/2.png,2\n\n",
        b'image_uri,5" pipe\nplate/1.png,x\nplate/2.png,y\n',
    ],
)
def test_line_ends_of_any_kind_and_in_a_header_are_read(tmp_path, data):
    for name, content in (("m.csv", data), ("m.csv.gz", gzip.compress(data))):
        found = images(csv(tmp_path, content, name))["image_uri"].to_pylist()
        assert found == [f"file://{tmp_path}/plate/{n}.png" for n in (1, 2)]


def test_a_quotation_mark_within_a_cell_is_a_character_however_long_the_file_is(tmp_path):
    rows = "".join(f"plate/{n:07}.png,{'as before and after' * 2}\n" for n in range(350_000))
    found = images(csv(tmp_path, f'image_uri,note\nplate/x.png,5" pipe\n{rows}'))
    assert found.num_rows == 350_001


def test_a_quotation_mark_within_a_cell_does_not_cut_a_note_of_many_lines(tmp_path):
    note = '"' + "line, of a note\n" * 100_000 + '"'
    text = f'image_uri,note\na/1.png,5" pipe\na/2.png,{note}\na/3.png,{note}\na/4.png,b\n'
    assert images(csv(tmp_path, text)).num_rows == 4


def test_a_header_longer_than_any_name_is_refused(tmp_path):
    refused(csv(tmp_path, f"image_uri,{'x' * 140_000}\na/1.png,1\n"), "cannot be read.*field limit")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"files":' * 100_000])
def test_an_inventory_of_brackets_in_brackets_is_refused(tmp_path, text):
    refused(csv(tmp_path, text, "manifest.json"), "is not JSON")


def test_a_header_that_is_not_utf_8_is_refused_behind_an_empty_line_too(tmp_path):
    refused(csv(tmp_path, b"\n\x80image_uri\nplate/1.png\n"), "UTF-?8")


def test_a_parquet_file_whose_column_is_not_utf_8_is_refused(tmp_path):
    manifest = tmp_path / "m.parquet"
    pq.write_table(pa.table({"uri": ["a.png"], "line": ["l"]}), manifest, store_schema=False)
    manifest.write_bytes(manifest.read_bytes().replace(b"line", b"l\xffne"))
    refused(str(manifest), "UTF-?8|cannot be read")


def test_names_of_columns_do_not_break_a_message(tmp_path):
    with pytest.raises(ConfigError, match="has the columns a name, size") as caught:
        images(csv(tmp_path, '"a\nname",size\nx,1\n'))
    assert "\n" not in str(caught.value)
