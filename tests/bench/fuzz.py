"""Mutated files into whatever reads what others wrote: nothing but mrkd's own errors comes out.

    python -m tests.bench.fuzz TARGET [--seconds 60] [--seed 0] [--keep FOLDER]

A file that works is cut, spliced, overwritten and grown at random, and read. An exception that is
none of mrkd's is told with the number of the case and, with `--keep`, its bytes; so is a death of
the process to whoever started it, by the number that was told last.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import tarfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import safetensors.torch
import torch

from mrkd import storage
from mrkd.config import ArchiveConfig, EvalConfig, ScoreConfig, SearchConfig, TrainConfig
from mrkd.data import images
from mrkd.data.images import DecodeLimits
from mrkd.errors import MrkdError
from mrkd.model import artefact as checkpoint
from mrkd.model.artefact import checksummed_files
from mrkd.model.registry import promotions
from mrkd.model.teacher import teacher_from_safetensors
from mrkd.nights import archive
from mrkd.nights.archive import Template
from mrkd.nights.manifest import Manifest
from mrkd.nights.plan import Plan
from mrkd.nights.reviews import store as record
from mrkd.nights.reviews.labels_csv import read_labels
from mrkd.storage import schema
from tests.support.closed_nights import scored, write_night
from tests.support.nights import folder_in_memory
from tests.support.pictures import pillow, smooth, tiff
from tests.support.tars import tar_bytes
from tests.support.versions import store_version

TOP = Path(__file__).parents[2]
_TELL_EVERY = 500
_WORDS: tuple[bytes, ...] = (
    b"\0",
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\x80",
    b"1e999",
    b"NaN",
    b"-1",
    b"[[",
    b"{}",
)
_WORDS += (b"null", b'"', b"../", b"%s", b"\xed\xa0\x80", struct.pack("<I", 2**31))


_VALUES = (None, True, -1, 0, 2**70, 0.5, -1e300, "", "x", "../x", "\ud800", [], [1], {}, {"a": 1})


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to six things wrong with them."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(out) + 1)
        size = min(len(out) - place, rng.choice((1, 1, 2, 4, 8, 64, 512)))
        match rng.randrange(7):
            case 0:
                out[place : place + size] = rng.randbytes(size)
            case 1:
                del out[place : place + size]
            case 2:
                out[place:place] = rng.choice(_WORDS)
            case 3:
                word = rng.choice(_WORDS)
                out[place : place + len(word)] = word
            case 4:  # a piece from elsewhere
                start = rng.randrange(len(out) + 1)
                out[place:place] = out[start : start + size]
            case 5:
                if size:
                    out[place] ^= 1 << rng.randrange(8)
            case 6:
                if rng.random() < 0.3:
                    del out[place:]
    return bytes(out)


def mutated_values(data: bytes, rng: random.Random) -> bytes:
    """JSON with a few of its values changed, one byte before it kept; else its bytes mutated."""
    try:
        content = json.loads(data[1:])
    except ValueError:
        return mutated(data, rng)
    for _ in range(rng.randint(1, 3)):
        place, key = content, None
        while isinstance(place, dict | list) and place:
            key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if not isinstance(place[key], dict | list) or rng.random() < 0.2:
                break
            place = place[key]
        if key is None or not place:
            return mutated(data, rng)
        if rng.random() < 0.2:
            del place[key]
        else:
            place[key] = rng.choice(_VALUES)
    return data[:1] + json.dumps(content).encode()


@dataclass(frozen=True)
class Target:
    """What is read, from files that work.

    Args:
        seeds: files as it reads them, most of them without an error.
        read: reads one; mrkd's own errors are right.
        mutate: makes one that does not work.
    """

    seeds: Sequence[bytes]
    read: Callable[[bytes], object]
    mutate: Callable[[bytes, random.Random], bytes] = mutated


def decode(folder: Path) -> Target:
    """Pictures of every kind, by both ways to treat truncated ones."""
    rgb = smooth(20, 24)
    seeds = [
        pillow(rgb, "PNG"),
        pillow(rgb, "JPEG"),
        pillow(rgb, "JPEG", progressive=True),
        pillow(rgb, "BMP"),
        pillow(rgb, "WEBP"),
        pillow(rgb, "WEBP", lossless=True),
        pillow(rgb, "TIFF", compression="tiff_lzw"),
        pillow(rgb, "TIFF", compression="jpeg"),
        pillow(rgb, "TIFF", compression="tiff_adobe_deflate"),
        pillow(rgb, "TIFF", compression="packbits"),
        tiff(rgb, bigtiff=True, tile=(32, 32)),
        tiff(rgb.astype("uint16")),
    ]
    limits = [DecodeLimits(max_pixels=10**6, truncated=one) for one in ("error", "accept")]

    def read(data: bytes) -> None:
        images.decode(data, limits[len(data) % 2])

    return Target(seeds, read)


def config(folder: Path) -> Target:
    """TOML files of every verb."""
    kinds = (TrainConfig, SearchConfig, ScoreConfig, EvalConfig)
    files = [path.read_bytes() for path in sorted((TOP / "jobs" / "configs").glob("*.toml"))]

    def read(data: bytes) -> None:
        text = data.decode(errors="replace")
        for kind in kinds:
            try:
                kind.from_toml(text)
            except MrkdError:
                continue

    return Target(files, read)


def manifest(folder: Path) -> Target:
    """Lists of images: CSV, Parquet, S3 Inventories; and a night's plans and manifests."""
    parts = folder / "parts" / "plate"
    parts.mkdir(parents=True)
    for name in "ab":
        (parts / f"{name}.png").write_bytes(pillow(smooth(), "PNG"))
    archive.write_manifest(str(folder / "parts"), str(folder / "list.parquet"), "{category}/{name}")
    uri = write_night(str(folder), "night", [scored("s3://a/1.png", 0.1)])
    inventory: dict[str, object] = {
        "sourceBucket": "a",
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, Size, ETag",
    }
    inventory |= {"files": [{"key": "data/1.csv", "size": 10}]}
    seeds = {
        ".csv": b"image_uri,category,image_etag\ns3://plant/1.png,plate,e1\ns3://plant/2.png,ring,e2\n",
        ".parquet": storage.read(str(folder / "list.parquet")),
        ".json": json.dumps(inventory).encode(),
        ".manifest": storage.read(f"{uri}/manifests/manifest-1.json"),
    }
    suffixes = {len(suffix): suffix for suffix in seeds}
    # The first byte says which kind of file the others are.
    files = [bytes([len(suffix)]) + data for suffix, data in seeds.items()]

    def read(data: bytes) -> None:
        suffix = suffixes.get(data[0] if data else 0, ".csv")
        place = str(folder / f"fuzzed{suffix}")
        storage.write(place, data[1:])
        if suffix == ".manifest":
            Manifest.read(place)
            return
        if suffix == ".parquet":
            with suppress(MrkdError):
                Plan.from_parquet(data[1:], name="plan")
        archive.list_images(ArchiveConfig(str(folder / "parts"), place, "{category}/{name}"))

    return Target(files, read, mutated_values)


def template(folder: Path) -> Target:
    """Templates, and keys that they read."""
    seeds = [
        b"{category}/{line}/{serial}_{view}/{name}\nplate/L1/7_top/a.png",
        b"{date}-{category}.{name}\n2026-11-23-plate.a/b.png",
        b"a{{b}}/{category}/{name}\na{b}/0012/x",
    ]

    def read(data: bytes) -> None:
        text, _, key = data.decode(errors="replace").partition("\n")
        category, attributes = Template(text).parse(key)
        assert category == archive.UNMATCHED or category in key
        assert all(isinstance(value, str) for value in attributes.values())

    return Target(seeds, read)


def artefact(folder: Path) -> Target:
    """A model's card and calibration as if they had been sealed so, promotions, and a teacher."""
    workspace = str(folder)
    store_version(workspace, "v1")
    promotions.promote(workspace, "plate", "v1", by="ada", why="first")
    base = checkpoint.folder_of(workspace, "plate", "v1")
    files = {
        "c": f"{base}/model.json",
        "k": f"{base}/calibrations/1.json",
        "p": storage.join(workspace, "models/plate/promotions/1.json"),
    }
    seeds = [kind.encode() + storage.read(uri) for kind, uri in files.items()]
    about = {"backbone": "resnet18", "taps": [1, 2, 3], "random": True}
    tensors = {"conv1.weight": torch.zeros(64, 3, 7, 7), "bn1.weight": torch.ones(64)}
    metadata = {"teacher": json.dumps(about)}
    seeds.append(b"t" + safetensors.torch.save(tensors, metadata))
    seeds.append(b"r" + schema.to_parquet(schema.PLAN.empty_table()))

    def read(data: bytes) -> None:
        kind, content = data[:1].decode(errors="replace"), data[1:]
        if kind == "t":
            teacher_from_safetensors(content)
        elif kind not in files:
            schema.from_parquet(content)
        else:
            _put(files[kind], content, seal=kind != "p")
            checkpoint.read_card(workspace, "plate", "v1")
            checkpoint.read_calibration(workspace, "plate", "v1", 1)
            promotions.champion(workspace, "plate")

    return Target(seeds, read, mutated_values)


def tar(folder: Path) -> Target:
    """Archives of pictures, and JSONs beside these."""
    picture = pillow(smooth(), "PNG")
    names = {"plate/a.png": picture, "plate/a.json": b'{"category": "ring"}', "b" * 150: picture}
    seeds = [tar_bytes(names, format=kind) for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)]
    (folder / "in").mkdir()

    def read(data: bytes) -> None:
        storage.write(str(folder / "in" / "x.tar"), data)
        rows = archive.list_images(ArchiveConfig(str(folder / "in"))).to_pylist()
        members = [row for row in rows if row["offset"] is not None]
        for _ in archive.read_members(members, [".tar"]):
            pass

    return Target(seeds, read)


def labels(folder: Path) -> Target:
    """People's verdicts: the table that they come in, and the file that they are stored in."""
    text = "uri,verdict,who,when\ns3://plant/1.png,OK,Ann,2026-11-24\n"
    text += "s3://plant/1.png,nok,Bo,2026-11-24T06:30+01:00\n"
    at = "2026-11-24T00:00:00+00:00"
    stored = record.Review("s3://plant/1.png", "plate", "e1", "OK", "Ann", at, "night", "NOK")
    workspace = str(folder)
    uri = record.add(workspace, [stored], by="me")
    seeds = [b"t" + text.encode(), b"t" + text.replace(",", ";").encode("utf-8-sig")]
    seeds.append(b"p" + storage.read(uri))

    def read(data: bytes) -> None:
        if data[:1] == b"p":
            storage.write(uri, data[1:])
            record.read(workspace)
        else:
            storage.write(str(folder / "labels.csv"), data[1:])
            read_labels(str(folder / "labels.csv"))

    return Target(seeds, read)


TARGETS = {one.__name__: one for one in (decode, config, manifest, template, artefact, tar, labels)}


def _put(uri: str, content: bytes, *, seal: bool) -> None:
    """Writes a JSON file; sealed where it is still JSON, so that more than its digest is read."""
    if seal:
        with suppress(ValueError, AttributeError, TypeError, RecursionError):
            values = json.loads(content)
            values.pop("sha256", None)
            content = checksummed_files.to_json(values, schema=values.pop("schema", 1))
    storage.write(uri, content)


def _works(target: Target, seed: bytes) -> bool:
    try:
        target.read(seed)
    except MrkdError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args(arguments)
    number, refused = 0, 0
    with folder_in_memory() as folder, ExitStack() as stack:
        kept = None
        if options.keep:  # opened once, and written before anything reads the case
            path = options.keep / options.target
            kept = stack.enter_context(path.open("wb", buffering=0))
        target = TARGETS[options.target](folder)
        working = sum(map(partial(_works, target), target.seeds))
        assert 2 * working > len(target.seeds), "a target that refuses everything is no target"
        until = time.monotonic() + options.seconds
        while time.monotonic() < until:
            rng = random.Random(f"{options.target} {options.seed} {number}")
            data = target.mutate(rng.choice(target.seeds), rng)
            if kept:
                kept.seek(0)
                kept.write(data)
                kept.truncate()
            try:
                target.read(data)
            except MrkdError:
                refused += 1
            except BaseException:
                print(f"case {number} of seed {options.seed}: {len(data)} bytes", flush=True)
                raise
            number += 1
            if number % _TELL_EVERY == 0:
                print(f"{number} cases, {refused} refused", flush=True)
    print(f"{options.target}: {number} cases, {refused} refused by mrkd's errors, no other")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
