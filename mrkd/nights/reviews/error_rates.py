"""Error rates of a model, from the verdicts of reviewers on its calls.

Reviewers look at few of the parts that were called good and at most of those that were called
defective, so that the rates of thresholds are weighted: `metrics.reviewed_points`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrkd.evaluation.metrics import OperatingPoint, Rate, reviewed_points
from mrkd.evaluation.metrics.thresholds import wilson
from mrkd.nights.manifest import Manifest
from mrkd.nights.reviews import store as record
from mrkd.nights.reviews.match_rows import Matched, rows_of
from mrkd.nights.reviews.store import Review
from mrkd.storage.thread_map import in_threads


@dataclass(frozen=True)
class Calls:
    """The images that a model called good, or defective, and the verdicts on them.

    Args:
        num_images: images with that call.
        num_seen: those of them that have a verdict.
        num_wrong: those of them whose verdict differs.
    """

    num_images: int
    num_seen: int
    num_wrong: int

    @property
    def wrong(self) -> Rate | None:
        """Share of the seen that is wrong; None where nobody looked."""
        return wilson(self.num_wrong / self.num_seen, self.num_seen) if self.num_seen else None


@dataclass(frozen=True)
class Reviewed:
    """One category by one model.

    Args:
        category: its name.
        model_version: version that scored the images.
        threshold: threshold that decided the newest of them.
        ok: images that the model called good; the wrong ones are escapes.
        nok: images that it called defective; the wrong ones are false calls.
        points: rates of this and other thresholds, weighted; empty with a `gap`.
        gap: reason why `points` is empty.
    """

    category: str
    model_version: str
    threshold: float
    ok: Calls
    nok: Calls
    points: tuple[OperatingPoint, ...]
    gap: str = ""


def estimate(
    workspace: str,
    nights: Mapping[str, Sequence[Manifest]],
    versions: Mapping[str, str],
    *,
    cost_escape: float = 0.0,
    cost_false_call: float = 0.0,
) -> list[Reviewed]:
    """Error rates by the verdicts on these nights, by category; empty without any verdict.

    Given are all manifests of each night, by its name, the model of each category that is wanted,
    and the costs of `operating_points`.

    Raises:
        ArtefactError: a shard or an import is damaged.
        StorageError: the workspace cannot be read.
    """
    reviews = {one.key: one for one in record.read(workspace)}
    if not reviews:
        return []
    uris = sorted({uri for uri, _ in reviews})
    found = in_threads(lambda run: list(rows_of(workspace, run, nights[run], uris)), nights)
    own: dict[str, list[tuple[Matched, Review]]] = defaultdict(list)
    for one in (one for some in found for one in some):
        if one.key in reviews and versions.get(one.category) == one.row["model_version"]:
            own[one.category].append((one, reviews[one.key]))
    costs = cost_escape, cost_false_call
    counts = _counts([one for manifests in nights.values() for one in manifests], versions)
    return [
        _reviewed(category, versions[category], own[category], counts[category], costs)
        for category in sorted(own)
    ]


def _counts(manifests: Sequence[Manifest], versions: Mapping[str, str]) -> dict[str, Counter[str]]:
    """Images of each category that its model called `ok` and `nok`."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for manifest in manifests:
        for stored in manifest.shards:
            pin = manifest.pins.get(stored.category)
            if pin and versions.get(stored.category) == pin.version:
                counts[stored.category].update(stored.counts)
    return counts


def _reviewed(
    category: str,
    version: str,
    judged: Sequence[tuple[Matched, Review]],
    counts: Mapping[str, int],
    costs: tuple[float, float],
) -> Reviewed:
    calls: dict[str, Calls] = {}
    for called, kind in (("OK", "ok"), ("NOK", "nok")):
        seen = [review for one, review in judged if one.called == called]
        wrong = sum(review.verdict != called for review in seen)
        # Rows that were superseded are counted by their manifests still.
        calls[called] = Calls(max(counts.get(kind, 0), len(seen)), len(seen), wrong)
    scored = [(one, review) for one, review in judged if one.called in calls]
    if not scored:
        gap = "reviewers looked only at images that could not be scored"
        return Reviewed(category, version, 0.0, calls["OK"], calls["NOK"], (), gap)
    newest, _ = max(scored, key=lambda pair: pair[0].closed_at)
    threshold = float(newest.row["threshold"])
    labels = np.array([review.verdict == "NOK" for _, review in scored], np.int64)
    gap = _gap(calls, labels)
    points: list[OperatingPoint] = []
    if not gap:
        points = reviewed_points(
            [one.row["image_score"] for one, _ in scored],
            labels,
            [one.called == "NOK" for one, _ in scored],
            (calls["OK"].num_images, calls["NOK"].num_images),
            threshold=threshold,
            cost_escape=costs[0],
            cost_false_call=costs[1],
        )
    return Reviewed(category, version, threshold, calls["OK"], calls["NOK"], tuple(points), gap)


def _gap(calls: Mapping[str, Calls], labels: NDArray[np.int64]) -> str:
    for called, words in (("OK", "good"), ("NOK", "defective")):
        if calls[called].num_images and not calls[called].num_seen:
            return f"nobody has looked at images that were called {words}"
    if labels.all() or not labels.any():
        return f"none of them is a {'good' if labels.all() else 'defective'} part"
    return ""
