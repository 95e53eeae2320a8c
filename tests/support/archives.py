"""An archive of any size on S3 or in a folder, and what a night has to say of each of its images.

    <base>/archive/<category>/<line>/<number>.png        one image in five
    <base>/archive/<category>/<line>/part-<n>.tar        the others, up to 500 a tar
    <base>/expected.parquet                              URI, category, outcome of each planned row

Some images are bad, of every kind of `schema.ERROR_KINDS`. `missing` and `changed` become so by
`disturb`, after the night was planned; `forbidden` and `unreachable` by a proxy that is told
`Archive.denied` and `Archive.lost`; `internal` by `tests/support/poison` on the workers' path.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mrkd import storage
from mrkd.storage import schema
from tests.support import archive_faults as faults
from tests.support.archive_pictures import Pictures, encode

TEMPLATE = "{category}/{line}/{name}"
STRANGER = "no-such-model"
"""The category that has no model."""
BAD_PER_100_000 = {
    "missing": 90,
    "forbidden": 90,
    "unreachable": 40,
    "empty": 120,
    "decode": 120,
    "truncated": 120,
    "too_large": 120,
    "unsupported": 120,
    "no_model": 100,
    "changed": 60,
    "internal": 20,
}
IN_THE_FILE = ("empty", "decode", "truncated", "too_large", "unsupported", "no_model", "internal")
"""Kinds that need neither a proxy nor a change after the plan."""

_ALONE = ("missing", "forbidden", "unreachable", "changed")
_PER_TAR = 500
_IN_TARS = 0.8
_PREFIX = {"forbidden": "denied-", "unreachable": "lost-"}
_SEED = 20261124

EXPECTED = pa.schema(
    [
        ("image_uri", pa.string()),
        ("category", pa.string()),
        ("outcome", pa.string()),  # scored, or the kind of error
        ("image_height", pa.int32()),  # null: not checked
        ("image_width", pa.int32()),
    ]
)


def bad_counts(size: int, kinds: Sequence[str] = tuple(BAD_PER_100_000)) -> dict[str, int]:
    """Bad images of each kind, 1,000 among 100,000, at least one of each."""
    return {kind: max(1, round(BAD_PER_100_000[kind] * size / 100_000)) for kind in kinds}


@dataclass(frozen=True)
class Slot:
    """One planned row: a picture, what is done to it, and its place."""

    category: str
    number: int
    tar: str = ""
    kind: str = "ok"  # ok, a name of `faults.ODD`, or a kind of error
    turn: int = 0

    @property
    def line(self) -> str:
        return f"line{1 + self.number % 2}"

    @property
    def name(self) -> str:
        return f"{_PREFIX.get(self.kind, '')}{self.number:06}.png"

    @property
    def key(self) -> str:
        """Below the archive; of a member, what follows its base in the row's URI."""
        place = f"{self.category}/{self.line}/"
        if self.kind == "damaged":
            return place + self.tar
        return f"{place}{self.tar}#{self.name}" if self.tar else place + self.name

    @property
    def outcome(self) -> str:
        special = {"cut": "truncated", "link": "unsupported", "damaged": "damaged", "ok": "scored"}
        if self.category == STRANGER:
            return "no_model"
        return special.get(self.kind, "scored" if self.kind in faults.ODD else self.kind)


@dataclass(frozen=True)
class Archive:
    """A built archive.

    Args:
        base: URI of the folder that holds it.
        expected: `EXPECTED`, by URI.
    """

    base: str
    expected: pa.Table

    @property
    def uri(self) -> str:
        return storage.join(self.base, "archive") + "/"

    @property
    def denied(self) -> list[str]:
        """Beginnings of the URIs that a proxy has to forbid."""
        return self._prefixes("forbidden")

    @property
    def lost(self) -> list[str]:
        """Beginnings of the URIs that a proxy always has to fail."""
        return self._prefixes("unreachable")

    def uris(self, outcome: str) -> list[str]:
        chosen = self.expected.filter(pc.equal(self.expected["outcome"], outcome))
        return chosen["image_uri"].to_pylist()

    def disturb(self) -> None:
        """What happens to an archive after its night was planned: images go, others change."""
        for uri in self.uris("missing"):
            storage.delete(uri)
        noise = np.random.default_rng(_SEED).integers(0, 256, (64, 64), np.uint8)
        tars = defaultdict(list)
        for number, uri in enumerate(self.uris("changed")):
            place, _, member = uri.partition("#")
            tars[place] += [member] if member else []
            if not member:
                storage.write(uri, encode(np.roll(noise, number, 0)))
        for place, members in tars.items():
            if members:
                rolled = {name: encode(np.roll(noise, n, 1)) for n, name in enumerate(members)}
                storage.write(place, faults.tar(rolled))

    def add_late(self, pictures: Pictures, count: int, number: int = 500_000) -> list[str]:
        """Puts single images that came after the night; their URIs."""
        slots = [
            Slot(category, number + n)
            for category, some in _shared(pictures.shares, count).items()
            for n in range(some)
        ]
        _upload((self.uri + slot.key, _content(pictures, slot)) for slot in slots)
        return [self.uri + slot.key for slot in slots]

    def _prefixes(self, kind: str) -> list[str]:
        start = _PREFIX[kind]
        found = {uri.rpartition("/")[0] + "/" + start for uri in self.uris(kind)}
        return sorted(found)


def build(base: str, pictures: Pictures, size: int, bad: Mapping[str, int]) -> Archive:
    """Puts an archive of `size` planned rows, `bad` of which have no score, unless it stands.

    Raises:
        StorageError: it cannot be written.
    """
    expected_uri = storage.join(base, "expected.parquet")
    if storage.exists(expected_uri):
        return Archive(base, schema.from_parquet(storage.read(expected_uri)))
    archive = Archive(base, EXPECTED.empty_table())
    slots = plan(pictures, size, bad)
    _upload(_objects(archive.uri, pictures, slots))
    archive = replace(archive, expected=_expected(archive.uri, pictures, slots))
    storage.write(expected_uri, schema.to_parquet(archive.expected))
    return archive


def plan(pictures: Pictures, size: int, bad: Mapping[str, int]) -> list[Slot]:
    """Every row of an archive: which are bad is drawn from one seed."""
    strangers = bad.get("no_model", 0)
    slots = [Slot(STRANGER, n) for n in range(strangers)]
    for category, count in _shared(pictures.shares, size - strangers).items():
        slots += [replace(slot, category=category) for slot in _places(count)]
    rng = np.random.default_rng(_SEED)
    free = [n for n in rng.permutation(len(slots)) if slots[n].category != STRANGER]
    alone = [n for n in free if not slots[n].tar]
    members = [n for n in free if slots[n].tar]
    if "truncated" in bad:
        _spoil_tars(slots, members)
    for kind in _ALONE:
        _mark(slots, alone, kind, bad.get(kind, 0) - (kind == "changed") * (bad.get(kind, 0) // 2))
    _replace_tar(slots, members, bad.get("changed", 0) // 2)
    free = [n for n in free if slots[n].kind == "ok" and not slots[n].tar.startswith("r")]
    for kind in ("empty", "decode", "truncated", "too_large", "unsupported", "internal"):
        done = sum(slot.outcome == kind for slot in slots)
        if kind in ("decode", "truncated"):  # one damaged tar of each
            done += any(slot.kind == "damaged" for slot in slots)
        _mark(slots, free, kind, bad.get(kind, 0) - done)
    for kind in faults.ODD:
        _mark(slots, free, kind, max(1, size // 5000))
    return slots


def _shared(shares: Mapping[str, float], count: int) -> dict[str, int]:
    """Whole numbers in these shares, whose sum is `count`."""
    ends = np.rint(np.cumsum([0.0, *shares.values()]) * count).astype(int)
    return dict(zip(shares, np.diff(ends).tolist(), strict=True))


def _places(count: int) -> Iterator[Slot]:
    """The first four in five in tars of each line, the others by themselves."""
    in_tars = int(_IN_TARS * count)
    for number in range(count):
        tar = f"part-{number // 2 // _PER_TAR:02}.tar" if number < in_tars else ""
        yield Slot("", number, tar)


def _mark(slots: list[Slot], free: list[int], kind: str, count: int) -> None:
    """Gives a kind to some of the free slots, and links to some of the members among them."""
    chosen, rest = [], []
    for n in free:
        # All that cannot be reached lie together: each pass waits for them.
        fits = kind != "unreachable" or slots[n].category.endswith("mono-crop")
        (chosen if len(chosen) < count and fits and slots[n].kind == "ok" else rest).append(n)
    free[:] = rest
    assert len(chosen) == max(count, 0), f"no room for {count} of {kind}"
    for turn, n in enumerate(chosen):
        link = kind == "unsupported" and slots[n].tar and turn % 4 == 1
        slots[n] = replace(slots[n], kind="link" if link else kind, turn=turn)


def _spoil_tars(slots: list[Slot], members: list[int]) -> None:
    """One tar is cut in its last member; of another of three members the last header is damaged.

    Each has a row of its own for that, in the place of a member.
    """
    first = slots[members[0]]
    whole = [n for n, slot in enumerate(slots) if _tar_of(slot) == _tar_of(first)]
    slots[whole[-2]] = replace(slots[whole[-2]], kind="damaged")
    slots[whole[-1]] = replace(slots[whole[-1]], kind="cut")
    others = (slots[n] for n in members if slots[n].category != first.category)
    category, line, _ = _tar_of(next(others))
    some = [n for n in sorted(members) if _tar_of(slots[n])[:2] == (category, line)][:3]
    for n in some:
        slots[n] = replace(slots[n], tar="damaged.tar")
    slots[some[-1]] = replace(slots[some[-1]], kind="damaged")
    members[:] = [n for n in members if n not in some and slots[n].kind == "ok"]


def _replace_tar(slots: list[Slot], members: list[int], count: int) -> None:
    """Moves some members into a tar of their own, which is to change."""
    place = _tar_of(slots[members[0]])[:2]
    for turn, n in enumerate(islice((n for n in members if _tar_of(slots[n])[:2] == place), count)):
        slots[n] = replace(slots[n], tar="replaced.tar", kind="changed", turn=turn)


def _tar_of(slot: Slot) -> tuple[str, str, str]:
    return slot.category, slot.line, slot.tar


def _content(pictures: Pictures, slot: Slot) -> bytes | None:
    category = next(iter(pictures.shares)) if slot.category == STRANGER else slot.category
    picture = pictures.picture(category, slot.number)
    if slot.kind in faults.BAD:
        makers = faults.BAD[slot.kind]
        return makers[slot.turn % len(makers)](picture)
    if slot.kind in faults.ODD:
        return faults.ODD[slot.kind](picture)
    if slot.kind == "link":
        return None
    return faults.poison(picture) if slot.kind == "internal" else encode(picture)


def _objects(root: str, pictures: Pictures, slots: Sequence[Slot]) -> Iterator[tuple[str, bytes]]:
    tars: dict[tuple[str, str, str], list[Slot]] = defaultdict(list)
    for slot in slots:
        if slot.tar:
            tars[_tar_of(slot)].append(slot)
        else:
            yield root + slot.key, _content(pictures, slot) or b""
    for (category, line, name), members in tars.items():
        sidecars = name == "part-00.tar"
        there = [slot for slot in members if slot.kind != "damaged" or name == "damaged.tar"]
        data = faults.tar({slot.name: _content(pictures, slot) for slot in there}, sidecars)
        if members[-1].kind == "cut":
            data = faults.cut(data)
        if name == "damaged.tar":
            data = faults.damaged(data, after=2)
        yield f"{root}{category}/{line}/{name}", data


def _upload(objects: Iterator[tuple[str, bytes]]) -> None:
    with ThreadPoolExecutor(8) as pool:
        while some := list(islice(objects, 256)):
            assert all(pool.map(lambda one: storage.write(*one), some))


def _expected(root: str, pictures: Pictures, slots: Sequence[Slot]) -> pa.Table:
    rows = []
    for slot in slots:
        row: dict[str, object] = {
            "image_uri": root + slot.key,
            "category": slot.category,
            "outcome": slot.outcome,
        }
        if slot.kind in faults.ODD:
            picture = pictures.picture(slot.category, slot.number)
            row["image_height"], row["image_width"] = faults.size_of(slot.kind, picture)
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=EXPECTED).sort_by("image_uri")
