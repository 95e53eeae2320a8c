"""The processes that died of a shard, each stored as `attempts/<shard>/<n>.json` of its night.

They say which images are left to try together, and which one is given up: a start that was killed
goes on from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mrkd import storage
from mrkd.errors import NightError
from mrkd.nights.night import Night
from mrkd.nights.shards import Shard

DEATHS = 3
"""Processes that an image may end before it is given up."""


@dataclass(frozen=True)
class Death:
    """A process that died with a span of a shard in hand.

    Args:
        first: number of the span's first image in the shard, from 0.
        last: of its last one.
        image_uri: of the image that was being decoded; None where it died elsewhere.
        at: start, read, decode or score; pipeline for one that had the whole shard, at any step;
            machine for one that went with its node.
        reason: as Ray has it.
        low_memory: Ray ended it, as its node had no memory left; others may have used that up.
    """

    first: int
    last: int
    image_uri: str | None
    at: str
    reason: str
    low_memory: bool = False


def spans_left(
    uris: Sequence[str], deaths: Sequence[Death]
) -> tuple[list[range], dict[int, Death]]:
    """What is to be scored of a shard after some deaths, and the last death of each lost image.

    Args:
        uris: of the shard's images, in order.
        deaths: as they came.

    Returns:
        Spans of image numbers, in order, and those given up: together each image once.
    """
    spans = [range(len(uris))] if uris else []
    counts: Counter[int] = Counter()
    blamed: dict[int, Death] = {}
    # The pipeline's deaths are those of the first image that a process then dies of by itself.
    credit = min(DEATHS - 1, sum(death.at == "pipeline" for death in deaths))
    for death in deaths:
        if death.at in ("start", "pipeline", "machine"):
            continue
        hit = range(death.first, death.last + 1)
        number = uris.index(death.image_uri) if death.image_uri in uris else None
        if number is None and len(hit) == 1:
            number = death.first
        if number is not None:
            counts[number], blamed[number] = counts[number] + 1, death
            if not death.low_memory:
                counts[number], credit = counts[number] + credit, 0
            spans = [part for span in spans for part in _alone(span, number)]
        else:
            spans = [part for span in spans for part in (_halves(span) if span == hit else [span])]
    lost = {number: blamed[number] for number, count in counts.items() if count >= DEATHS}
    return [span for span in spans if not (len(span) == 1 and span[0] in lost)], lost


def store_death(night: Night, shard: Shard, death: Death, number: int) -> None:
    """Adds the one of that number, from 1, to those of a shard."""
    uri = storage.join(folder_of(night, shard), f"{number}.json")
    storage.write_json(uri, asdict(death), if_absent=True)


def folder_of(night: Night, shard: Shard) -> str:
    """URI of what is stored of a shard's deaths."""
    return storage.join(night.uri, "attempts", shard.id)


def shards_with_deaths(night: Night) -> set[str]:
    """Ids of the shards that processes have died of, in this start or an earlier one."""
    return set(storage.list_names(storage.join(night.uri, "attempts")))


def stored_deaths(night: Night, shard: Shard) -> list[Death]:
    """Of a shard, as they came.

    Raises:
        NightError: a file is none of ours.
    """
    folder = folder_of(night, shard)
    deaths = []
    for number in storage.list_numbers(folder):
        uri = storage.join(folder, f"{number}.json")
        try:
            deaths.append(Death(**storage.read_json(uri)))
        except TypeError as error:
            raise NightError(f"{uri} is no death of a process ({error}): delete it") from error
    return deaths


def _alone(span: range, number: int) -> list[range]:
    """A span cut so that one of its images stands alone."""
    if number not in span:
        return [span]
    parts = [range(span.start, number), range(number, number + 1), range(number + 1, span.stop)]
    return [part for part in parts if part]


def _halves(span: range) -> list[range]:
    middle = (span.start + span.stop) // 2
    return [part for part in (range(span.start, middle), range(middle, span.stop)) if part]
