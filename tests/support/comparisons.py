"""Two nights over drawn pictures and what `mrkd nights compare` stores of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrkd import storage
from mrkd.nights.compare_nights import Comparison, compare
from mrkd.storage import schema
from tests.support.closed_nights import Row, failed, scored, write_night
from tests.support.pictures import pillow, smooth
from tests.support.versions import store_version

NUM = 4
"""Pictures of the one category, plate."""


def write_comparison(folder: Path) -> Comparison:
    """Writes the workspace's nights night-1 and night-2, and what differs between them.

    Both have one model. In the second night the first two pictures are NOK, and every map has a
    peak above the model's pixel threshold; a fifth image is an error in both.
    """
    workspace = str(folder / "workspace")
    store_version(workspace, "v1")
    uris = [storage.join(str(folder), "archive", f"{n}.png") for n in range(NUM)]
    for n, uri in enumerate(uris):
        storage.write(uri, pillow(smooth(64, 64, n), "PNG"))
    a = [_row(uri, 0.1 + n / 100, 0.2) for n, uri in enumerate(uris)]
    b = [_row(uri, 0.9 - n / 5, 2.5) for n, uri in enumerate(uris)]
    gone = storage.join(str(folder), "archive", "gone.png")
    write_night(workspace, "night-1", [*a, failed(gone)])
    write_night(workspace, "night-2", [*b, failed(gone, "missing")])
    found = compare(workspace, "night-1", "night-2")
    found.store()
    return found


def _row(uri: str, score: float, peak: float) -> Row:
    anomaly_map = np.full((8, 8), 0.1, np.float32)
    anomaly_map[2:4, 2:4] = peak
    region = {"x": 16, "y": 16, "width": 16, "height": 16, "area": 256, "peak": peak, "mean": peak}
    entry = storage.stat(uri)
    assert entry is not None
    return scored(
        uri,
        score,
        image_etag=entry.etag,
        image_bytes=entry.num_bytes,
        regions=[region] if score > 0.5 else [],
        **schema.encode_map(anomaly_map, "float16"),
    )
