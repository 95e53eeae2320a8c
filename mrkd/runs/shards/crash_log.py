"""Crash log of a shard: each process that crashed on it, as `attempts/<shard>/<n>.json`.

From the log follow the spans of images to be tried next, and the images that are given up: a start
that was killed goes on from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, starmap

from mrkd import storage
from mrkd.errors import NightError
from mrkd.nights.night import Night
from mrkd.nights.shards import Shard

MAX_CRASHES = 3
"""Processes that an image may crash before it is given up."""


@dataclass(frozen=True)
class Crash:
    """A process that crashed while it worked on a span of a shard.

    Args:
        first: number of the span's first image in the shard, from 0.
        last: number of its last image.
        image_uri: URI of the image that was being decoded; None where it crashed elsewhere.
        at: start, read, decode or score; pipeline for one that had the whole shard, at any step;
            machine for one that was lost with its node.
        reason: Ray's message.
        low_memory: whether Ray ended it, as its node had no memory left; others may have used it.
    """

    first: int
    last: int
    image_uri: str | None
    at: str
    reason: str
    low_memory: bool = False


def spans_left(
    uris: Sequence[str], crashes: Sequence[Crash]
) -> tuple[list[range], dict[int, Crash]]:
    """The spans of a shard to be scored after some crashes, and the images that are given up.

    Args:
        uris: URIs of the shard's images, in order.
        crashes: crashes in the order in which they were stored.

    Returns:
        Spans of image numbers, in order, and the last crash of each image that is given up:
        together each image once.
    """
    spans = [range(len(uris))] if uris else []
    counts: Counter[int] = Counter()
    blamed: dict[int, Crash] = {}
    # The pipeline's crashes count for the first image on which a process then crashes by itself.
    credit = min(MAX_CRASHES - 1, sum(crash.at == "pipeline" for crash in crashes))
    for crash in crashes:
        if crash.at in ("start", "pipeline", "machine"):
            continue
        hit = range(crash.first, crash.last + 1)
        number = uris.index(crash.image_uri) if crash.image_uri in uris else None
        if number is None and len(hit) == 1:
            number = crash.first
        if number is not None:
            counts[number], blamed[number] = counts[number] + 1, crash
            if not crash.low_memory:
                counts[number], credit = counts[number] + credit, 0
            spans = [part for span in spans for part in _cut(span, number, number + 1)]
        elif hit in spans:
            at = spans.index(hit)
            spans[at : at + 1] = _cut(hit, (hit.start + hit.stop) // 2)
    lost = {number: blamed[number] for number, count in counts.items() if count >= MAX_CRASHES}
    return [span for span in spans if not (len(span) == 1 and span[0] in lost)], lost


def add_crash(night: Night, shard: Shard, crash: Crash, crashes: list[Crash]) -> None:
    """Adds a crash to those of a shard, and stores it under its number, from 1."""
    crashes.append(crash)
    uri = storage.join(folder_of(night, shard), f"{len(crashes)}.json")
    storage.write_json(uri, asdict(crash), if_absent=True)


def folder_of(night: Night, shard: Shard) -> str:
    """URI of the folder of a shard's crashes."""
    return storage.join(night.uri, "attempts", shard.id)


def crashed_shards(night: Night) -> set[str]:
    """Ids of the shards on which processes have crashed, in this start or an earlier one."""
    return set(storage.list_names(storage.join(night.uri, "attempts")))


def stored_crashes(night: Night, shard: Shard) -> list[Crash]:
    """The crashes of a shard, in order.

    Raises:
        NightError: a file does not hold a crash.
    """
    folder = folder_of(night, shard)
    crashes = []
    for number in storage.list_numbers(folder):
        uri = storage.join(folder, f"{number}.json")
        try:
            crashes.append(Crash(**storage.read_json(uri)))
        except TypeError as error:
            raise NightError(f"{uri} is not the record of a crash ({error}): delete it") from error
    return crashes


def _cut(span: range, *at: int) -> list[range]:
    """A span, cut before those of the image numbers that lie within it."""
    ends = [span.start, *(number for number in at if span.start < number < span.stop), span.stop]
    return list(starmap(range, pairwise(ends)))
