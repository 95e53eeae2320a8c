"""The images of a shard, read and used."""

from pathlib import Path

from mrkd import storage
from mrkd.config import ArchiveConfig
from mrkd.runs.shards.read_images import read_images
from mrkd.runs.shards.timings import Meter


def test_an_image_of_unknown_size_is_used_before_the_next_one_is_read(tmp_path):
    """So that the bytes of few are held, though their shard was not cut by bytes."""
    uris = [storage.join(str(tmp_path), f"{n}.png") for n in range(3)]
    for uri in uris:
        storage.write(uri, b"image")
    rest = {"image_etag": None, "image_bytes": None, "attributes": None, "offset": None}
    rows = [{"image_uri": uri, **rest, "error_kind": None, "error_message": None} for uri in uris]

    def use(row, got):
        for uri in uris[1:]:
            Path(uri.removeprefix("file://")).unlink(missing_ok=True)
        return got.data

    config = ArchiveConfig(str(tmp_path))
    first, *later = read_images(rows, config, use, threads=1, last=True, meter=Meter())
    assert first == b"image"
    assert [one.error_kind for one in later] == ["missing"] * 2
