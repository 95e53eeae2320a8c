"""A night without a model: an image's row is made of its URI, its ETag and the pin alone."""

import hashlib
import os
import struct
import tempfile
from contextlib import contextmanager
from pathlib import Path

from mrkd import storage
from mrkd.config import ScoreConfig
from mrkd.nights.manifest import open_night
from mrkd.nights.shards import Pin
from mrkd.storage import schema


@contextmanager
def folder_in_memory():
    """A new folder, in memory where there is such a place: thousands of fsyncs take minutes."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as name:
        yield Path(name)


def config(workspace, archive, **values):
    """A small night's config: shards of 3 images."""
    raw = {"workspace": str(workspace), "run": "night-1", "archive": {"uri": str(archive)}}
    return ScoreConfig.from_dict(raw).with_values({"rows.shard_rows": 3} | values)


def pins(category):
    """Each category has a model, but for `new`."""
    known = Pin(f"{category}-v1", 1, "resnet18-0123456789ab", pixels=8 * 8 * 3)
    return None if category == "new" else known


def add(folder, *keys, content=b"image"):
    """Writes images below a folder, or overwrites them, and returns their URIs."""
    uris = [storage.join(str(folder), key) for key in keys]
    for uri in uris:
        if uri.startswith("s3://"):
            storage.write(uri, content)
        else:  # without storage's fsync, as an archive is not what is tested
            path = Path(uri.removeprefix("file://"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return uris


def touch(folder, key, mtime_ns):
    """Gives a local image the ETag of that time."""
    os.utime(folder / key, ns=(mtime_ns, mtime_ns))


def score(shard, device="cpu"):
    """The rows of a shard; another device rounds in another way, some images cannot be read."""
    if shard.pin is None:
        return shard.without_model()
    return schema.score_table(
        [_row(shard, planned, device) for planned in shard.rows.to_pylist()],
        category=shard.category,
        metadata={},
    )


def _row(shard, planned, device):
    columns = ("image_uri", "revision", "attributes", "image_etag", "image_bytes")
    row = {name: planned[name] for name in columns} | {
        "model_version": shard.pin.version,
        "calibration": shard.pin.calibration,
        "teacher": shard.pin.teacher,
    }
    if planned["error_kind"] is not None:
        return row | {name: planned[name] for name in ("error_kind", "error_message")}
    if planned["image_bytes"] == 0:
        return row | {"error_kind": "empty", "error_message": "0 bytes: copy the image again"}
    seed = hashlib.sha256(f"{planned['image_uri']} {planned['image_etag']}".encode()).digest()
    value = struct.unpack("<H", seed[:2])[0] / 2**16 + (1e-6 if device != "cpu" else 0)
    region = {"x": 1, "y": 2, "width": 3, "height": 4, "area": 12, "peak": value, "mean": value / 2}
    return row | {
        "image_height": 64,
        "image_width": 64,
        "image_score": value,
        "p_value": 0.5,
        "threshold": 0.5,
        "is_anomalous": value > 0.5,
        "anomaly_map": seed[:8],
        "map_height": 2,
        "map_width": 2,
        "map_dtype": "float16",
        "regions": [region],
    }


def run(night, score_config, device="cpu", pins=pins):
    """A whole start, undisturbed; what became of each commit."""
    commits = []
    with night.lease():
        for revision in night.revisions(score_config, pins):
            commits += [night.commit(shard, score(shard, device)) for shard in night.todo(revision)]
            night.close(revision)
    return commits


def planned(night, score_config):
    """Stores the first plan; its revision and its shards."""
    revision = next(night.revisions(score_config, pins))
    return revision, night.todo(revision)


def files(night):
    """What stands in a night's folder."""
    return [file.uri.removeprefix(night.uri + "/") for file in storage.list_files(night.uri)]


def uris(night):
    """Of the rows that count."""
    return sorted(open_night(night.uri).to_table()["image_uri"].to_pylist())


def kinds(night):
    """The error of each row that counts, by URI; None for one that was scored."""
    rows = open_night(night.uri).to_table(columns=["image_uri", "error_kind"]).to_pylist()
    return {row["image_uri"]: row["error_kind"] for row in rows}
