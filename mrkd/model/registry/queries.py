"""Queries of the registry: lists, one version, differences of two, a new threshold.

Answers are plain values; `mrkd models` prints them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from mrkd import storage
from mrkd.config.toml import flattened, nearest
from mrkd.errors import ArtefactError
from mrkd.model import artefact
from mrkd.model.artefact import Calibration, ModelCard
from mrkd.model.registry import promotions as registry
from mrkd.model.registry.promotions import Hold, Promotion
from mrkd.storage.thread_map import in_threads


@dataclass(frozen=True)
class Shelf:
    """The registry's records of one category.

    Args:
        versions: names of the complete versions.
        promotions: all promotions, the newest last.
        holds: holds by version.
    """

    workspace: str
    category: str
    versions: list[str]
    promotions: list[Promotion]
    holds: dict[str, Hold]

    @property
    def champion(self) -> Promotion | None:
        """The newest promotion."""
        return self.promotions[-1] if self.promotions else None

    def decision(self, version: str) -> Promotion | Hold | None:
        """The last decision on a version: its newest promotion, else its gate's hold."""
        own = [promotion for promotion in self.promotions if promotion.version == version]
        return own[-1] if own else self.holds.get(version)

    def state(self, version: str) -> str:
        """`champion`, `superseded`, `held` or `undecided`; `missing`: its folder is incomplete."""
        if version not in self.versions:
            return "missing"
        match self.decision(version):
            case None:
                return "undecided"
            case Hold():
                return "held"
            case promotion:
                return "champion" if promotion == self.champion else "superseded"

    def calibration(self, version: str) -> int:
        """Number of the calibration a version decides by: as promoted last, else its newest."""
        decision = self.decision(version)
        if isinstance(decision, Promotion):
            return decision.calibration
        numbers = artefact.calibration_numbers(self.workspace, self.category, version)
        return max(numbers, default=1)

    def require(self, version: str | None) -> str:
        """The version, or for None the champion's, if it is complete.

        Raises:
            ArtefactError: the category has no such version, or no champion.
        """
        if version is None and self.champion is None:
            raise ArtefactError(
                f"category {self.category!r} has no champion: name one of its versions, "
                f"{', '.join(self.versions)}"
            )
        version = version or self.promotions[-1].version
        if version not in self.versions:
            raise ArtefactError(
                f"category {self.category!r} has no complete version {version!r} in "
                f"{self.workspace}{nearest(version, self.versions)}"
            )
        return version


def shelf(workspace: str, category: str) -> Shelf:
    """The registry's records of a category that has models.

    Raises:
        ArtefactError: the category does not exist, or one of its records cannot be read.
        StorageError: the workspace cannot be read.
    """
    found = _read(workspace, category)
    if not found.versions and not found.promotions:
        raise _unknown(workspace, category, _categories(workspace))
    return found


def list_versions(workspace: str, pattern: str = "*") -> list[dict[str, Any]]:
    """A row for each version: categories by name, in each the champion first, then the newest.

    Raises:
        ArtefactError: no category fits the shell pattern, or a record cannot be read.
        StorageError: the workspace cannot be read.
    """
    known = _categories(workspace)
    names = [name for name in known if fnmatchcase(name, pattern)]
    # On S3 a list spends its time waiting for answers.
    shelves = in_threads(lambda name: _read(workspace, name), names)
    rows = [row for one in shelves for row in _rows(one)]
    if not rows:
        raise _unknown(workspace, pattern, known)
    return rows


def facts(one: Shelf, version: str) -> dict[str, Any]:
    """All metadata of a version, by dotted names: its inputs, figures and thresholds.

    Raises:
        ArtefactError: its card or calibration is damaged.
        StorageError: the workspace cannot be read.
    """
    card = artefact.read_card(one.workspace, one.category, version)
    decision = one.decision(version)
    gate = decision.gate if decision else None
    return {
        "category": one.category,
        "version": version,
        "state": one.state(version),
        **_said(decision),
        **_figures(card),
        **flattened(_calibration_row(calibration(one, version)), "calibration"),
        **flattened(gate or {}, "gate"),
    }


def calibration(one: Shelf, version: str) -> Calibration:
    """The calibration that a version decides by; errors as `facts`."""
    number = one.calibration(version)
    return artefact.read_calibration(one.workspace, one.category, version, number)


def calibrations(one: Shelf, version: str) -> list[dict[str, Any]]:
    """A row for each calibration of a version; errors as `facts`."""
    key = one.workspace, one.category, version
    return [
        _calibration_row(artefact.read_calibration(*key, number))
        for number in artefact.calibration_numbers(*key)
    ]


def promotions(one: Shelf) -> list[dict[str, Any]]:
    """A row for each promotion of a category, the newest first."""
    rows = [asdict(promotion) for promotion in reversed(one.promotions)]
    return [{name: value for name, value in row.items() if name != "gate"} for row in rows]


def compare(one: Shelf, first: str, second: str) -> list[dict[str, Any]]:
    """A row `{name, <first>, <second>}` for each fact in which two versions differ.

    Raises:
        ArtefactError: a version does not exist or is damaged.
        StorageError: the workspace cannot be read.
    """
    a, b = (facts(one, one.require(version)) for version in (first, second))
    names = [name for name in (a | b) if name != "version" and a.get(name) != b.get(name)]
    return [{"": name, first: a.get(name), second: b.get(name)} for name in names]


def promote(
    one: Shelf, version: str, *, calibration: int | None = None, by: str, why: str
) -> Promotion:
    """Makes a version the champion at a person's request, whatever its gate decided.

    Args:
        one: the records that the person decided by: a promotion made since then wins.
        version: name of the version.
        calibration: number of the one to decide by; None: as promoted last, else its newest.
        by: who promotes it.
        why: reason.

    Raises:
        ArtefactError: the version or calibration does not exist or is damaged, or another promotion
            came first.
        StorageError: the workspace cannot be read or written.
    """
    key = one.workspace, one.category, one.require(version)
    number = one.calibration(version) if calibration is None else calibration
    known = artefact.calibration_numbers(*key)
    if number not in known:
        raise ArtefactError(
            f"version {version!r} of category {one.category!r} has no calibration {number}: it has "
            f"{', '.join(map(str, known))}"
        )
    # Both are read for their checksums: a damaged version does not become the champion.
    artefact.read_card(*key)
    artefact.read_calibration(*key, number)
    decision = one.decision(version)
    return registry.promote(
        *key,
        calibration=number,
        by=by,
        why=why,
        gate=decision.gate if decision else None,
        after=one.champion.number if one.champion else 0,
    )


def set_threshold(
    one: Shelf,
    version: str,
    rule: Callable[[Calibration], Calibration],
    *,
    by: str,
    why: str,
) -> tuple[Calibration, Promotion | None]:
    """Stores a further calibration of a version; if that is the champion, it decides by it now.

    Args:
        one: the records that the person decided by: a promotion made since then wins.
        version: name of the version.
        rule: function from the version's calibration to one with other thresholds.
        by: who sets it.
        why: reason.

    Returns:
        The calibration, and the promotion if the version is the champion.

    Raises:
        ArtefactError: the version does not exist or is damaged, or another promotion came first;
            the calibration then is stored and not used.
        StorageError: the workspace cannot be read or written.
    """
    key = one.workspace, one.category, one.require(version)
    new = artefact.add_calibration(*key, replace(rule(calibration(one, version)), by=by, why=why))
    if one.state(version) != "champion":
        return new, None
    return new, promote(one, version, calibration=new.number, by=by, why=why)


def _read(workspace: str, category: str) -> Shelf:
    return Shelf(
        workspace=workspace,
        category=category,
        versions=registry.versions(workspace, category),
        promotions=registry.promotions(workspace, category),
        holds=registry.holds(workspace, category),
    )


def _categories(workspace: str) -> list[str]:
    return storage.list_names(storage.join(workspace, "models"))


def _unknown(workspace: str, wanted: str, known: list[str]) -> ArtefactError:
    if not known:
        return ArtefactError(f"{workspace} holds no model: train some, or check the URI")
    return ArtefactError(f"{workspace} has no model of {wanted!r}{nearest(wanted, known)}")


def _rows(one: Shelf) -> list[dict[str, Any]]:
    """A row for each version, the champion first, then the newest; undecided ones last."""
    champion = [one.champion.version] if one.champion else []
    rows = []
    for version in dict.fromkeys([*champion, *one.versions]):
        decision = one.decision(version)
        gate = (decision.gate if decision else None) or {}
        auroc = gate.get("image_auroc") or {}
        rows.append(
            {
                "category": one.category,
                "version": version,
                "state": one.state(version),
                "image_auroc": auroc.get("value"),
                "low": auroc.get("low"),
                "high": auroc.get("high"),
                "measured_by": gate.get("by"),
                **_said(decision),
            }
        )
    first, others = rows[: len(champion)], rows[len(champion) :]
    return first + sorted(others, key=lambda row: row["at"] or "", reverse=True)


def _said(decision: Promotion | Hold | None) -> dict[str, Any]:
    why = decision.reason if isinstance(decision, Hold) else decision and decision.why
    return {"at": decision and decision.at, "by": decision and decision.by, "why": why}


def _figures(card: ModelCard) -> dict[str, Any]:
    """A card's content, its long parts by their digest or number."""
    content = card.to_json()
    data = {**content["data"], "skipped": len(content["data"].get("skipped", ()))}
    roi = dict(content["roi"] or {})
    if "png" in roi:
        roi["png"] = hashlib.sha256(roi["png"].encode()).hexdigest()
    return {
        **flattened(data, "data"),
        **flattened(roi, "roi"),
        **flattened(content["teacher"], "teacher"),
        **flattened(content["config"]),
        **flattened(content["metrics"], "metrics"),
        **flattened(content["code"], "code"),
        "weights": card.weights_digest,
        "bytes": card.num_bytes,
    }


_LISTS = ("scores", "pixel_maxima", "statistics", "ranges")


def _calibration_row(calibration: Calibration) -> dict[str, Any]:
    row = {**calibration.to_json(), "num_held_out": len(calibration.scores)}
    row["line"] = calibration.line and f"{calibration.line['run']} ({calibration.line['how']})"
    return {k: v for k, v in row.items() if k not in _LISTS}
