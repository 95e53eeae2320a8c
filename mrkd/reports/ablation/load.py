"""What the page of a study shows, read from its folder: rows, and the images they name.

Nothing is trained or scored again. Maps are read for the pictures that are shown alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mrkd import storage
from mrkd.config import EvalConfig
from mrkd.data import images
from mrkd.evaluation import metrics, published_results
from mrkd.evaluation.ablation import STUDY_VERSION, Run, Study
from mrkd.evaluation.ablation.variants import NEAREST, RD
from mrkd.reports.ablation.values import (
    ArmData,
    Difference,
    ShownMap,
    ShownTable,
    StudyCategory,
    StudyData,
    TableData,
)
from mrkd.reports.kit import read as stored
from mrkd.reports.kit.values import Box, LeakPair, Measure, MetricRow
from mrkd.storage import schema

RECORD = "study.json"

_PLACES = ("best", "median", "worst")
_METRIC = tuple(MetricRow.__dataclass_fields__)


def load_study_data(study_uri: str) -> StudyData:
    """Everything that the page of a study shows.

    Args:
        study_uri: `<workspace>/evaluations/<run>`.

    Raises:
        StorageError: a file of the study cannot be read.
        ArtefactError: one is damaged, or of a newer mrkd.
    """
    record = stored.record(
        storage.join(study_uri, RECORD), version=STUDY_VERSION, advice="evaluate again"
    )
    config = EvalConfig.from_dict(record["config"])
    runs = [Run.from_dict(raw) for raw in record["runs"]]
    reader = _AblationReader(study_uri, config, record, [run for run in runs if not run.error])
    names = {arm["key"]: arm["name"] for table in record["tables"] for arm in table["arms"]}
    return StudyData(
        run=record["run"],
        protocol=config.protocol,
        root=config.data.root,
        part=config.part,
        num_seeds=config.num_seeds,
        finished_at=record["finished_at"],
        teachers=tuple(sorted({run.model["teacher"] for run in reader.runs})),
        tables=tuple(reader.table(table) for table in record["tables"]),
        categories=tuple(reader.category(name) for name in sorted(record["counts"])),
        failures=tuple(
            (run.category, names.get(run.key, run.key), run.seed, run.error)
            for run in runs
            if run.error
        ),
        config=record["config"],
    )


class _AblationReader:
    """The folder of a study, its rows by what they are of."""

    def __init__(
        self, uri: str, config: EvalConfig, record: Mapping[str, Any], runs: Sequence[Run]
    ) -> None:
        self.uri, self.config, self.record, self.runs = uri, config, record, runs
        # The folder that the page is built in: a moved one is read where it is.
        self.study = Study(config, uri)
        self.metrics = self._rows("metrics")
        self.differences = self._rows("differences")
        self.operating = self._rows("operating")
        self.counts = {
            name: (parts["train"], parts["val"] + parts["test"])
            for name, parts in record["counts"].items()
        }

    def table(self, raw: Mapping[str, Any]) -> TableData:
        arms = tuple(self._arm(raw["name"], arm) for arm in raw["arms"])
        named = {arm.name for arm in arms}
        found = published_results.figures(self.config.protocol, raw["name"])
        return TableData(
            name=raw["name"],
            title=raw["title"],
            paper=raw["paper"],
            base=raw["base"],
            arms=arms,
            quoted=tuple(one for one in found if one.arm not in named and one.category is None),
        )

    def _arm(self, table: str, raw: Mapping[str, Any]) -> ArmData:
        name = raw["name"]
        figures: dict[str | None, dict[tuple[str, str | None], MetricRow]] = {}
        for row in self.metrics:
            if (row["study"], row["arm"], row["seed"]) == (table, name, None):
                one = MetricRow(**{key: row[key] for key in _METRIC})
                figures.setdefault(row["category"], {})[row["metric"], row["defect"]] = one
        differences: dict[str | None, dict[tuple[str, str | None], Difference]] = {}
        for row in self.differences:
            if (row["study"], row["arm"]) == (table, name):
                measure = Measure(row["value"], row["low"], row["high"])
                gap = Difference(measure, tuple(row["by_seed"]), row["words"])
                differences.setdefault(row["category"], {})[row["metric"], row["defect"]] = gap
        runs = [run for run in self.runs if run.key == raw["key"]]
        steps, losses, falls = _losses(runs)
        beside = [
            one
            for one in published_results.figures(self.config.protocol, table)
            if one.arm == name and (one.category is None or one.category in self.counts)
        ]
        of_place: dict[str | None, dict[str, published_results.Figure]] = {}
        for figure in beside:
            of_place.setdefault(figure.category, {})[figure.metric] = figure
        return ArmData(
            name=name,
            figures=figures,
            differences=differences,
            seconds=_mean([run.seconds for run in runs]),
            model_bytes=_mean([float(run.model_bytes) for run in runs]),
            steps=steps,
            losses=losses,
            plateau=_mean(falls) if falls else None,
            published=of_place,
            differs=self._differs(beside, runs, table),
        )

    def _differs(
        self, beside: Sequence[published_results.Figure], runs: Sequence[Run], table: str
    ) -> tuple[str, ...]:
        if not beside or not runs:
            return ()
        teacher = runs[0].model["teacher"]
        backbone = teacher.removeprefix("random:").rpartition("-")[0]
        return published_results.differs(
            self.config.protocol,
            backbone=backbone,
            teacher_is_random=teacher.startswith("random:"),
            image_size=int(runs[0].model["image_size"]),
            counts=self.counts,
            published_backbone=beside[0].backbone,
        )

    def category(self, name: str) -> StudyCategory:
        train, judged = self.counts[name]
        own = [run for run in self.runs if run.category == name]
        found = next((run.leaks for run in own if run.leaks), ())
        return StudyCategory(
            name=name,
            num_train=train,
            num_judged=judged,
            shown=tuple(self._pictures(name)),
            operating=tuple(row for row in self.operating if row["category"] == name),
            rare=tuple(
                row
                for row in self.metrics
                if row["category"] == name and row["metric"].endswith("_rare")
            ),
            leaks=tuple(_leak(pair) for pair in found[: stored.PICTURES_PER_CATEGORY]),
            num_leaks=len(found) if self.config.check_leaks else None,
        )

    def _pictures(self, category: str) -> Iterator[ShownTable]:
        """Of each kind of defect the best, the median and the worst by the base's own map."""
        runs = list(self._shown_runs(category))
        if not runs:
            return
        tables = [
            self.study.scores(run).filter(pc.field("image_score").is_valid()) for _, run in runs
        ]
        usual = [_usual(table) for table in tables]
        rows = [{row["image_uri"]: row for row in table.to_pylist()} for table in tables]
        bad = [row for row in rows[0].values() if row["gt_label"] and row["headline"]]
        kinds = sorted({row["defect"] for row in bad})
        most = max(1, stored.PICTURES_IN_ALL // (len(self.counts) * len(_PLACES)))
        for kind in kinds[:most]:
            for place, row, overlap in _chosen([row for row in bad if row["defect"] == kind]):
                yield self._shown(row, place, overlap, runs, rows, usual)

    def _shown_runs(self, category: str) -> Iterator[tuple[str, Run]]:
        """The first table's base, plain RD and the nearest neighbour, each with the first seed."""
        first = self.record["tables"][0]
        wanted = dict.fromkeys((first["base"], RD, NEAREST))
        arms = [arm for table in self.record["tables"] for arm in table["arms"]]
        for name in wanted:
            key = next((arm["key"] for arm in arms if arm["name"] == name), None)
            own = [run for run in self.runs if (run.key, run.category) == (key, category)]
            if own:
                yield name, min(own, key=lambda run: run.seed)

    def _shown(
        self,
        row: Mapping[str, Any],
        place: str,
        overlap: float | None,
        runs: Sequence[tuple[str, Run]],
        rows: Sequence[Mapping[str, Mapping[str, Any]]],
        usual: Sequence[float],
    ) -> ShownTable:
        model = runs[0][1].model
        picture = stored.picture(row, image_size=model["image_size"], resize=model["resize"])
        maps = []
        for (name, run), own, low in zip(runs, rows, usual, strict=True):
            its = own.get(row["image_uri"])
            anomaly_map = schema.read_map(its) if its else None
            if its is not None and anomaly_map is not None:
                maps.append(
                    ShownMap(
                        name,
                        its["image_score"],
                        its["is_anomalous"],
                        anomaly_map,
                        run.model["pixel_threshold"],
                        low,
                    )
                )
        return ShownTable(
            image_uri=row["image_uri"],
            defect=row["defect"],
            place=place,
            aupro=overlap,
            height=picture.height,
            width=picture.width,
            pixels=picture.pixels,
            gt_mask=picture.gt_mask,
            map_box=cast(Box, picture.map_box),
            maps=tuple(maps),
        )

    def _rows(self, name: str) -> list[dict[str, Any]]:
        uri = storage.join(self.uri, f"{name}.parquet")
        rows: list[dict[str, Any]] = schema.from_parquet(storage.read(uri), name=uri).to_pylist()
        return rows


def _losses(
    runs: Sequence[Run],
) -> tuple[dict[str, list[float]], dict[str, list[float]], list[float]]:
    """Steps and mean loss of each category, and by what share each run's fell at its end.

    Of runs with one epoch there is no curve.
    """
    steps: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    falls = []
    for category in sorted({run.category for run in runs}):
        histories = [run.history for run in runs if run.category == category]
        epochs = min(map(len, histories), default=0)
        if epochs < 2:
            continue
        steps[category] = [row["step"] for row in histories[0][:epochs]]
        losses[category] = [
            _mean([history[n]["loss"] for history in histories]) for n in range(epochs)
        ]
        falls += [_fall(history) for history in histories]
    return steps, losses, falls


def _fall(history: Sequence[Mapping[str, float]]) -> float:
    """Share by which the training loss fell from nine tenths of the steps to the end."""
    steps = np.array([row["step"] for row in history], float)
    loss = np.array([row["loss"] for row in history], float)
    before = float(np.interp(0.9 * steps[-1], steps, loss))
    return (before - float(loss[-1])) / before if before else 0.0


def _chosen(
    rows: Sequence[Mapping[str, Any]],
) -> list[tuple[str, Mapping[str, Any], float | None]]:
    """Rows with their place, and the overlap they were ranked by."""
    ranked: list[tuple[float, Mapping[str, Any]]] = []
    for row in rows:
        overlap = _overlap(row)
        if overlap is not None:
            ranked.append((overlap, row))
    if not ranked:  # no masks: by the score
        by_score = sorted(rows, key=lambda row: -row["image_score"])
        return [(place, row, None) for place, row in _picked(by_score)]
    ranked.sort(key=lambda one: -one[0])
    return [(place, row, overlap) for place, (overlap, row) in _picked(ranked)]


def _picked(ranked: Sequence[Any]) -> list[tuple[str, Any]]:
    """The first, the middle and the last, each once."""
    places = dict(zip((0, len(ranked) // 2, len(ranked) - 1), _PLACES, strict=True))
    return [(place, ranked[n]) for n, place in places.items()]


def _overlap(row: Mapping[str, Any]) -> float | None:
    """AUPRO of a picture's stored map against its own mask; None where it has none."""
    anomaly_map = schema.read_map(row)
    gt_mask = stored.read_pixels(row["gt_mask_uri"])
    if anomaly_map is None or gt_mask is None:
        return None
    # Its place on the map is the picture's own where the map covers it and nothing more.
    height, width = anomaly_map.shape
    mask = cv2.resize(
        images.to_mask(gt_mask).astype(np.uint8), (width, height), None, 0, 0, cv2.INTER_AREA
    )
    pixels = metrics.PixelHistogram(bins=None)
    pixels.add(anomaly_map, mask > 0)
    return pixels.figure("aupro").value


def _usual(table: pa.Table) -> float:
    """The median over the maps of good pictures."""
    rows = table.filter(pc.field("gt_label") == 0).slice(0, 50).to_pylist()
    maps = [schema.read_map(row) for row in rows]
    pixels: list[NDArray[np.float32]] = [one.ravel() for one in maps if one is not None]
    return float(np.median(np.concatenate(pixels))) if pixels else 0.0


def _leak(pair: Mapping[str, Any]) -> LeakPair:
    sides = (pair["image_uri"], pair["training_uri"])
    return LeakPair(*sides, pair["similarity"], *(stored.thumbnail(uri) for uri in sides))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
