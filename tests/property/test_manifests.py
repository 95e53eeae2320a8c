"""Manifests: any bytes are rows, or refused by our own errors."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrkd.config import ArchiveConfig
from mrkd.errors import MrkdError
from mrkd.nights.archive import list_images, manifest_files

CSV = b"image_uri,etag,size,category,line\ns3://bk/a/1.png,e,10,plate,l1\na/2.png,,,,\n"
TABLE = pa.table({"image_uri": ["s3://bk/a/1.png", "b.png"], "size": [1, None], "x": ["y", "z"]})
INVENTORY = {
    "sourceBucket": "bk",
    "destinationBucket": "arn:aws:s3:::bk",
    "fileFormat": "CSV",
    "fileSchema": "Bucket, Key, Size",
    "files": [{"key": "x.csv.gz", "size": 1, "MD5checksum": "0"}],
}

CELLS = st.sampled_from(
    ["", "a", "text", '5" pipe', 'x"', ' "q"', '"a,b"', '"two\nlines"', '"q""q"', '"\n\n"', '",\n"']
)
MARKS = st.text(alphabet='",;\t\r\n a5', max_size=60)


def parquet():
    sink = io.BytesIO()
    pq.write_table(TABLE, sink)
    return sink.getvalue()


WHOLE = {"m.csv": CSV, "m.csv.gz": gzip.compress(CSV), "m.parquet": parquet(),
         "manifest.json": json.dumps(INVENTORY).encode()}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_a_damaged_manifest_is_read_or_refused(name, tmp_path_factory, monkeypatch):
    # An inventory's files lie on S3, which nothing here may ask.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    folder = tmp_path_factory.mktemp("manifest")
    path, whole = folder / name, WHOLE[name]

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data):
        content = bytearray(whole)
        if data.draw(st.integers(0, 9)) == 0:
            content = bytearray(data.draw(st.binary(max_size=400)))
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, max(len(content) - 1, 0)))
            if name == "manifest.json":  # what it names would be fetched: text alone is changed
                content[at : at + data.draw(st.integers(1, 9))] = b"}"
            else:
                content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        path.write_bytes(bytes(content))
        try:
            assert list_images(ArchiveConfig(manifest=str(path))).num_rows >= 0
        except MrkdError as error:
            assert "\n" not in str(error)

    check()


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(header=MARKS, rows=MARKS)
def test_a_csv_of_marks_alone_is_read_or_refused(tmp_path_factory, header, rows):
    path = tmp_path_factory.mktemp("marks") / "m.csv"
    path.write_bytes(f"image_uri{header}\na/1.png{rows}".encode())
    try:
        assert list_images(ArchiveConfig(manifest=str(path))).num_rows >= 0
    except MrkdError as error:
        assert "\n" not in str(error)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=6), data=st.data())
def test_where_a_csv_is_cut_into_blocks_changes_no_row(tmp_path_factory, rows, data):
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    path = tmp_path_factory.mktemp("cut") / "m.csv"
    text = end.join(["image_uri,x,y", *(",".join(["a/1.png", *row]) for row in rows)])
    path.write_bytes(f"{text}{data.draw(st.sampled_from(['', end, 2 * end]))}".encode())
    file = manifest_files.DataFile(str(path))

    def read(block_bytes):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(manifest_files, "_CSV_BYTES", block_bytes)
            return [row for batch in manifest_files.batches(file) for row in batch.to_pylist()]

    assert len(read(2**20)) == len(rows)
    for block_bytes in (16, 23):
        assert read(block_bytes) == read(2**20)
