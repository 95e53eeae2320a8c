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
from mrkd.nights.archive import list_images

CSV = b"image_uri,etag,size,category,line\ns3://bk/a/1.png,e,10,plate,l1\na/2.png,,,,\n"
TABLE = pa.table({"image_uri": ["s3://bk/a/1.png", "b.png"], "size": [1, None], "x": ["y", "z"]})
INVENTORY = {
    "sourceBucket": "bk",
    "destinationBucket": "arn:aws:s3:::bk",
    "fileFormat": "CSV",
    "fileSchema": "Bucket, Key, Size",
    "files": [{"key": "x.csv.gz", "size": 1, "MD5checksum": "0"}],
}


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
