"""History of one image: its row in every night, the model's version, and who promoted that.

Nothing but the manifests is searched: they hold each shard's first and last URI, so that of ten
million rows one file a night is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from typing import Any

from mrkd import storage
from mrkd.errors import ConfigError, NightError
from mrkd.model.registry import promotions as registry
from mrkd.model.registry.promotions import Promotion
from mrkd.nights.archive import Template, split_member
from mrkd.nights.manifest import Manifest, Stored, read_manifests
from mrkd.nights.reviews import store as record
from mrkd.nights.reviews.match_rows import Matched
from mrkd.nights.reviews.store import Review
from mrkd.storage import schema
from mrkd.storage.thread_map import in_threads


@dataclass(frozen=True)
class Sighting(Matched):
    """One row of the image.

    Args:
        superseded: whether the image was scored again in the same night, so that this row no
            longer counts.
        promotion: promotion that made the row's model and calibration decide; None: see `models`.
        models: the night's `models`: the set of versions that it tried out, empty for champions.
        review: a person's verdict on these bytes; None: there is none.
    """

    superseded: bool
    promotion: Promotion | None
    models: str
    review: Review | None

    def line(self) -> dict[str, Any]:
        """Its line in the output of `mrkd nights show`."""
        names = ("image_score", "threshold", "p_value", "model_version", "calibration")
        promotion, review, why = self.promotion, self.review, self.row["error_message"] or ""
        if promotion is not None:
            by, why = f"{promotion.by}, {promotion.at[:16]}Z", why or promotion.why
        else:
            by = f"tried out by {self.models}" if self.models else ""
        return {
            "night": f"{self.run}/{self.row['revision']}",
            "closed_at": f"{self.closed_at[:16]}Z",
            "category": self.category,
            "verdict": f"{self.called}, superseded" if self.superseded else self.called,
            **{name: self.row[name] for name in names},
            "people": f"{review.verdict} by {review.by}, {review.at[:10]}" if review else "",
            "promoted_by": by,
            "why": why,
        }


def history(workspace: str, image_uri: str, *, maps: bool = True) -> list[Sighting]:
    """Every row of an image in the closed revisions of all nights, the oldest first.

    The image's URI is as rows hold it, or a path; for a tar's member `<tar>#<member>`. The rows'
    maps are read with `maps` alone.

    Raises:
        NightError: no night holds it, or a shard that should is gone or damaged.
        ArtefactError: a manifest, a promotion or an import of verdicts is damaged.
        StorageError: the workspace cannot be read.
    """
    uri = storage.join(image_uri)
    columns = [name for name in schema.SCORES.names if maps or name != "anomaly_map"]
    runs = storage.list_names(storage.join(workspace, "nights"))
    reviews = {one.image_etag: one for one in record.read(workspace) if one.image_uri == uri}
    promotions = cache(partial(registry.promotions, workspace))

    def of_night(run: str) -> list[Sighting]:
        return list(_sightings(workspace, run, uri, columns, promotions, reviews))

    found = [one for some in in_threads(of_night, runs) for one in some]
    if not found:
        raise NightError(
            f"none of the {len(runs)} nights in {workspace} has a closed row of {uri}: give the "
            "image's URI as the night listed it, a tar's member as <tar>#<member>"
        )
    return sorted(found, key=lambda one: (one.closed_at, one.run, one.row["revision"]))


def _sightings(
    workspace: str,
    run: str,
    uri: str,
    columns: Sequence[str],
    promotions: Callable[[str], Sequence[Promotion]],
    reviews: Mapping[str, Review],
) -> Iterator[Sighting]:
    """The rows of one night."""
    folder = storage.join(workspace, "nights", run)
    manifests = read_manifests(folder)
    replaced = {row.revision for one in manifests for row in one.superseded if row.image_uri == uri}
    for manifest in manifests:
        for stored in _candidates(manifest, uri):
            row = _row(folder, stored, uri, columns)
            if row is None:
                continue
            yield Sighting(
                run=run,
                category=stored.category,
                closed_at=manifest.closed_at,
                row=row,
                superseded=manifest.revision in replaced,
                promotion=_promoted(promotions(stored.category), row, manifest.closed_at),
                models=str(manifest.config.get("models", "")),
                tars=manifest.tars,
                review=reviews.get(row["image_etag"] or ""),
            )
            break  # an image is in one category


def _candidates(manifest: Manifest, uri: str) -> list[Stored]:
    """The shards that may hold the image, first those of the category that its name says."""
    found = [one for one in manifest.shards if one.first_uri <= uri <= one.last_uri]
    if len(found) < 2:
        return found
    named = _category(manifest.config.get("archive", {}), uri)
    return sorted(found, key=lambda one: one.category != named)


def _category(archive: Mapping[str, Any], uri: str) -> str | None:
    """By the night's template; a manifest or a tar's JSON may have given another."""
    if not archive.get("uri"):
        return None
    root = storage.join(archive["uri"]).rstrip("/") + "/"
    key = "/".join(split_member(uri, archive["tars"])).removeprefix(root).rstrip("/")
    try:
        return Template(archive["template"]).parse(key)[0]
    except ConfigError:
        return None


def _row(folder: str, stored: Stored, uri: str, columns: Sequence[str]) -> dict[str, Any] | None:
    """The image's row in a shard, if it is there."""
    place = storage.join(folder, "scores", stored.file)
    table = schema.from_parquet(storage.read(place), name=place, columns=columns)
    uris = table["image_uri"].to_pylist()  # not `pc.index`, which loads pandas
    if uri not in uris:
        return None
    row: dict[str, Any] = table.slice(uris.index(uri), 1).to_pylist()[0]
    return row


def _promoted(
    promotions: Sequence[Promotion], row: Mapping[str, Any], closed_at: str
) -> Promotion | None:
    """The newest promotion before the close that let the row's model decide."""
    until = datetime.fromisoformat(closed_at)
    own = [
        one
        for one in promotions
        if (one.version, one.calibration) == (row["model_version"], row["calibration"])
        and datetime.fromisoformat(one.at) <= until
    ]
    return own[-1] if own else None
