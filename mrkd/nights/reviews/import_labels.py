"""An import: labels are matched with the rows of nights, and stored."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from mrkd import storage
from mrkd.data.datasets.sample import SUFFIXES
from mrkd.nights.archived_images import read_images
from mrkd.nights.manifest import read_manifests
from mrkd.nights.reviews import store as record
from mrkd.nights.reviews.labels_csv import Label
from mrkd.nights.reviews.match_rows import Matched, rows_of
from mrkd.nights.reviews.store import Review
from mrkd.storage.thread_map import in_threads

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Brought:
    """What an import did.

    Args:
        reviews: verdicts that were stored.
        known: labels that were stored already.
        overtaken: labels older than what is stored of the same image, which they would not change.
        unmatched: images that no closed night has a row of.
        unread: images of `reviews` that the archive does not hold any more as they were scored: a
            training cannot know their bytes.
        runs: nights that scored any of `reviews`.
        uri: URI of the file that holds them; empty where there was nothing new.
    """

    reviews: tuple[Review, ...]
    known: int
    overtaken: int
    unmatched: tuple[str, ...]
    unread: tuple[str, ...]
    runs: tuple[str, ...]
    uri: str


def bring(workspace: str, labels: Sequence[Label], *, by: str) -> Brought:
    """Stores verdicts, one for each image, on images that nights have scored.

    Raises:
        ArtefactError: a night's manifest or shard is damaged, or what was imported before.
        StorageError: the workspace cannot be read or written.
    """
    by_uri = {label.image_uri: label for label in labels}
    uris = sorted(by_uri)
    runs = storage.list_names(storage.join(workspace, "nights"))

    def of_night(run: str) -> list[Matched]:
        manifests = read_manifests(storage.join(workspace, "nights", run))
        return list(rows_of(workspace, run, manifests, uris))

    found = in_threads(of_night, runs)
    matched = [one for some in found for one in some]
    newest: dict[str, Matched] = {}
    for one in sorted(matched, key=lambda m: (m.closed_at, m.run, m.row["revision"])):
        newest[one.key[0]] = one
    known = {one.key: (counts_from, one) for counts_from, one in record.newest(workspace)}
    new, overtaken = [], 0
    for uri, one in newest.items():
        label, (counts_from, before) = by_uri[uri], known.get(one.key, ("", None))
        words = (label.verdict, label.by, label.at)
        if before and (before.verdict, before.by, before.at) == words:
            continue
        if label.at < counts_from:
            overtaken += 1
            continue
        new.append(Review(uri, one.category, one.key[1], *words, run=one.run, called=one.called))
    reviews, unread = _with_bytes(workspace, new, newest)
    keys = {one.key for one in reviews}
    return Brought(
        reviews=tuple(reviews),
        known=len(newest) - len(reviews) - overtaken,
        overtaken=overtaken,
        unmatched=tuple(uri for uri in uris if uri not in newest),
        unread=tuple(unread),
        runs=tuple(sorted({one.run for one in matched if one.key in keys})),
        uri=record.add(workspace, reviews, by=by) if reviews else "",
    )


def _with_bytes(
    workspace: str, reviews: Sequence[Review], rows: dict[str, Matched]
) -> tuple[list[Review], list[str]]:
    """The verdicts with digests of what they are on; false calls are copied. And what is gone."""
    by_night: dict[tuple[str, tuple[str, ...]], list[Matched]] = defaultdict(list)
    for one in reviews:
        row = rows[one.image_uri]
        if one.image_etag:  # else nothing says whether it still is what was scored
            by_night[row.run, row.tars].append(row)
    of = {one.image_uri: one for one in reviews}
    done: dict[str, Review] = {}
    for (run, tars), some in by_night.items():
        folder = storage.join(workspace, "nights", run)
        for uri, data in read_images(folder, [one.row for one in some], tars):
            digest, copy = hashlib.sha256(data).hexdigest(), ""
            if (of[uri].verdict, of[uri].called) == ("OK", "NOK"):
                copy = f"images/{digest}{_suffix(uri)}"
                storage.write(storage.join(record.folder_of(workspace), copy), data, if_absent=True)
            done[uri] = replace(of[uri], sha256=digest, copy=copy)
    unread = [one.image_uri for one in reviews if one.image_uri not in done]
    if unread:
        log.warning("reviewed_images_gone number=%d first=%s", len(unread), unread[0])
    return [done.get(one.image_uri, one) for one in reviews], unread


def _suffix(uri: str) -> str:
    suffix = PurePosixPath(uri).suffix.lower()
    return suffix if suffix in SUFFIXES else ""
