"""What has to hold of nights over a large archive, each proof a function that runs by itself.

Each works on a `Place`: an S3 server, an archive and models on it, all of which stay between calls.
Each returns its figures, and raises AssertionError where something does not hold.
"""

from __future__ import annotations

import logging
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mrkd import storage
from mrkd.config import ExecutorName, ScoreConfig
from mrkd.nights.manifest import open_night, read_manifests
from tests.support import night_runs as runs
from tests.support.archive_pictures import Pictures
from tests.support.archives import IN_THE_FILE, Archive, bad_counts, build
from tests.support.faulty_proxy import FaultyProxy
from tests.support.night_chaos import NightUnderFire, run_under_fire
from tests.support.night_runs import Start, night_config
from tests.support.s3_server import S3Server
from tests.support.under_fire import TOP

log = logging.getLogger(__name__)

Figures = dict[str, Any]
NIGHT, CALM = "night-1", "calm"


@dataclass(frozen=True)
class Place:
    """Where proofs are run.

    Args:
        folder: local, for logs and configs.
        server: that holds all else.
        pictures: of the archives.
        base: URI of the bucket.
        size: planned rows of the archive.
        executor: of all nights but those whose processes are killed, which are on Ray.
    """

    folder: Path
    server: S3Server
    pictures: Pictures
    base: str
    size: int
    executor: ExecutorName = "ray"

    @property
    def workspace(self) -> str:
        return storage.join(self.base, "mrkd")

    def archive(self, size: int = 0, *, plain: bool = False) -> Archive:
        """The archive of that many rows, built unless it stands.

        Args:
            size: 0: the place's.
            plain: without the bad images that need a proxy or a change after the plan.
        """
        size = size or self.size
        name = f"{'plain' if plain else 'all'}-{size}"
        bad = bad_counts(size, IN_THE_FILE) if plain else bad_counts(size)
        return build(storage.join(self.base, name), self.pictures, size, bad)

    def night(self, archive: Archive, run: str, **values: object) -> ScoreConfig:
        """The config of a night over an archive."""
        values = {"executor": self.executor, **values}
        return night_config(archive, self.workspace, run, **values)

    def models(self, **values: int) -> Figures:
        """A champion of each category, trained unless it stands; how many there are."""
        runs.make_models(self.pictures, self.workspace, self.folder / "good", **values)
        return {"models": len(self.pictures.shares)}


@contextmanager
def place(
    folder: Path, size: int, cifar10: str = "", mtd: str = "", executor: ExecutorName = "ray"
) -> Iterator[Place]:
    """The place in a folder, with the environment that reaches its server."""
    server_folder, name = folder / "s3", folder / "bucket.txt"
    server_folder.mkdir(parents=True, exist_ok=True)
    before = {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
    with S3Server(server_folder) as server:
        os.environ.update(server.environment)
        try:
            if not name.exists():
                name.write_text(server.new_bucket())
            yield Place(folder, server, Pictures(cifar10, mtd), name.read_text(), size, executor)
        finally:
            for key in server.environment:
                del os.environ[key]
            os.environ.update(before)


def night(place: Place) -> Figures:
    """Every planned image has its one row of the right kind, whatever is wrong with it."""
    archive = place.archive()
    place.models()
    config = place.night(archive, NIGHT)
    began = time.monotonic()
    runs.plan_night(config)
    planned_s = time.monotonic() - began
    archive.disturb()
    with denying(place, archive) as proxy:
        done = runs.start(config, place.folder / NIGHT, endpoint=proxy.endpoint)
    assert done.code == 0, done.log[-3000:]
    runs.check_outcomes(archive, place.workspace, NIGHT)
    night_uri = storage.join(place.workspace, "nights", NIGHT)
    first, *later = read_manifests(night_uri)
    counts = Counter(archive.expected["outcome"].to_pylist())
    assert first.rows == place.size, (first.rows, place.size)
    assert sum(manifest.rows for manifest in later) == counts["changed"]
    return {
        "rows": first.rows,
        "counts": dict(first.counts),
        "rescored": counts["changed"],
        "plan_s": planned_s,
        **figures_of(done),
        **asked(night_uri),
    }


@contextmanager
def denying(place: Place, archive: Archive) -> Iterator[FaultyProxy]:
    """A proxy that forbids and loses the images that are to be so."""
    with FaultyProxy(place.server.endpoint) as proxy:
        for uri in archive.denied:
            proxy.deny(uri)
        for uri in archive.lost:
            proxy.fail(uri)
        yield proxy


def figures_of(done: Start) -> Figures:
    """What was seen of a start from outside."""
    watch = done.watch
    return {
        "seconds": done.seconds,
        "images_per_s": watch.rate,
        "peak_rss_mib": watch.peak_rss / 2**20,
        "peak_pss_mib": watch.peak_pss / 2**20,
    }


def asked(night_uri: str) -> Figures:
    """What the night says of itself in `night.json`: requests and seconds by stage."""
    uri = storage.join(night_uri, "night.json")
    if not storage.exists(uri):
        return {"night.json": "absent"}
    last = storage.read_json(uri)["starts"][-1]
    return {"requests": last["requests"], "stages_s": last["seconds"]}


def nothing_new(place: Place, run: str = NIGHT) -> Figures:
    """A start that finds nothing new ends by 0 within 10 s and adds nothing."""
    archive = place.archive()
    night_uri = storage.join(place.workspace, "nights", run)
    before = {file.uri: file.etag for file in storage.list_files(storage.join(night_uri, "scores"))}
    manifests = len(read_manifests(night_uri))
    done = runs.start(place.night(archive, run), place.folder / run)
    assert done.code == 0, done.log[-3000:]
    after = {file.uri: file.etag for file in storage.list_files(storage.join(night_uri, "scores"))}
    assert after == before
    assert len(read_manifests(night_uri)) == manifests
    began, ended = (
        datetime.fromisoformat(done.summary[f"{end}_at"]) for end in ("started", "finished")
    )
    # Python, torch and Ray are imported before the first of the two.
    own_s = (ended - began).total_seconds()
    assert own_s <= 10, done.summary
    return {"seconds": done.seconds, "own_s": own_s}


def late(place: Place, count: int = 500, run: str = NIGHT) -> Figures:
    """New images among old ones: a revision of them alone, at the pace of new ones."""
    archive = place.archive()
    night_uri = storage.join(place.workspace, "nights", run)
    manifests, old = len(read_manifests(night_uri)), open_night(night_uri).count_rows()
    new = archive.add_late(place.pictures, count, number=500_000 + 10_000 * manifests)
    done = runs.start(place.night(archive, run), place.folder / run)
    assert done.code == 0, done.log[-3000:]
    added = read_manifests(night_uri)[manifests:]
    assert [manifest.rows for manifest in added] == [count]
    table = open_night(night_uri).to_table(columns=["image_uri", "revision", "image_score"])
    assert table.num_rows == old + count
    mine = table.filter(pc.equal(table["revision"], manifests + 1))
    assert sorted(mine["image_uri"].to_pylist()) == sorted(new)
    assert mine["image_score"].null_count == 0
    return {"new": count, **figures_of(done), **asked(night_uri)}


def two_starts(place: Place, size: int = 0) -> Figures:
    """Of two starts one works; the other exits with 1 and names the holder. A stale lease is free.

    The one that works is killed, so that its lease stays; seen from another machine it is taken
    over once it is stale, and the night ends well.
    """
    size = size or min(place.size, 1000)
    archive = place.archive(size, plain=True)
    place.models()
    run = f"two-{time.time_ns()}"
    config = place.night(archive, run)
    lease_uri = storage.join(place.workspace, "nights", run, "lease.json")
    words = runs.command(config, place.folder / run)
    with FaultyProxy(place.server.endpoint) as proxy:
        environment = runs.environment(config, proxy.endpoint)
        with (place.folder / run / "first.log").open("wb") as log:
            first = subprocess.Popen(
                words, cwd=TOP, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            until = time.monotonic() + 60
            while not storage.exists(lease_uri):
                assert first.poll() is None, "the first start ended before it held the lease"
                assert time.monotonic() < until, "no lease after 60 s"
                time.sleep(0.1)
            # From here on it is slow, so that it works for longer than the second takes to start.
            proxy.mix(1.0, seed=0, kinds=("stall",), stall_s=2.0)
            second = runs.start(config, place.folder / run)
            assert second.code == 1, second.summary
            holder = storage.read_json(lease_uri)["holder"]
            assert holder in second.summary["reasons"][0], (holder, second.summary)
            assert first.poll() is None, "the first start was disturbed by the second"
        finally:
            first.kill()
            first.wait()
    content = storage.read_json(lease_uri)
    stale = content | {"machine": "another", "beat_at": "2026-01-01T00:00:00.000+00:00"}
    storage.write_json(lease_uri, stale)
    third = runs.start(config, place.folder / run)
    assert third.code == 0, third.log[-3000:]
    assert f"lease_takeover uri={lease_uri}" in third.log
    runs.check_outcomes(archive, place.workspace, run, disturbed=False)
    return {"second_s": second.seconds, "reason": second.summary["reasons"][0]}


def calm(place: Place, size: int, shard_rows: int) -> pa.Table:
    """The rows of an undisturbed night over a plain archive, scored unless they stand."""
    run = f"{CALM}-{size}-{shard_rows}"
    archive = place.archive(size, plain=True)
    place.models()
    if not read_manifests(storage.join(place.workspace, "nights", run)):
        config = place.night(archive, run, **{"rows.shard_rows": shard_rows})
        done = runs.start(config, place.folder / run)
        assert done.code == 0, done.log[-3000:]
        runs.check_outcomes(archive, place.workspace, run, disturbed=False)
    return runs.rows_of(place.workspace, run)


def chaos(
    place: Place, kills: int, size: int = 10_000, shard_rows: int = 64, seed: int | None = None
) -> Figures:
    """Kills of scorers, readers, raylets and drivers at random moments change no bit of any row.

    Nights follow each other until there were so many kills, each compared with the undisturbed.
    """
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    log.warning("MRKD_SEED=%d", seed)
    expected, rng = calm(place, size, shard_rows), random.Random(seed)
    killed: Counter[str] = Counter()
    starts = nights = 0
    began = time.monotonic()
    while killed.total() < kills:
        nights += 1
        assert nights <= kills, f"only {killed.total()} kills in {nights} nights"
        run = f"chaos-{size}-{seed}-{nights}"
        values = {
            "executor": "ray",
            "rows.shard_rows": shard_rows,
            "pool.max_shard_attempts": 20,
        }
        config = place.night(place.archive(size, plain=True), run, **values)
        left = kills - killed.total()
        fire: NightUnderFire = run_under_fire(
            config, place.folder / run, rng.randrange(2**32), left
        )
        runs.check_equal(runs.rows_of(place.workspace, run), expected)
        killed, starts = killed + fire.killed, starts + fire.starts
        log.warning("%s: %s, %d starts", run, dict(fire.killed), fire.starts)
    seconds = time.monotonic() - began
    return {"seed": seed, "kills": dict(killed), "nights": nights, "starts": starts, "s": seconds}


def faults(
    place: Place, size: int = 2000, shard_rows: int = 64, seed: int | None = None
) -> Figures:
    """500s, 503s, resets, cut bodies and stalls in 5 % of the requests change no bit of any row."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    log.warning("MRKD_SEED=%d", seed)
    expected = calm(place, size, shard_rows)
    run = f"faults-{size}-{seed}"
    values = {"rows.shard_rows": shard_rows, "pool.max_shard_attempts": 5}
    config = place.night(place.archive(size, plain=True), run, **values)
    with FaultyProxy(place.server.endpoint) as proxy:
        proxy.mix(0.05, seed=seed)
        done = runs.start(config, place.folder / run, endpoint=proxy.endpoint)
        spoilt = dict(proxy.spoilt)
    assert done.code == 0, done.log[-3000:]
    runs.check_equal(runs.rows_of(place.workspace, run), expected)
    night_uri = storage.join(place.workspace, "nights", run)
    return {"seed": seed, "spoilt": spoilt, **figures_of(done), **asked(night_uri)}
