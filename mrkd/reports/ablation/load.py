"""Reader of an ablation's folder for its page: rows, and the images they name.

Nothing is trained or scored again. Maps are read for the shown images alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import pyarrow.compute as pc

from mrkd.config import EvalConfig
from mrkd.data import images
from mrkd.evaluation import metrics, published_results
from mrkd.evaluation.ablation import STUDY_VERSION, Run, Study
from mrkd.evaluation.ablation.variants import NEAREST, RD
from mrkd.evaluation.published_results import Figure
from mrkd.reports.kit import page
from mrkd.reports.kit import read as stored
from mrkd.reports.kit.values import Row, ScoredImage
from mrkd.storage import schema

RECORD = "study.json"

_RANKS = ("best", "median", "worst")

Scope = str | None
"""A category, or None: the mean over all."""

Name = tuple[str, str | None]
"""Metric and defect of a figure."""


@dataclass(frozen=True)
class VariantData:
    """A row of a table.

    Args:
        name: name of the variant.
        figures: rows of `schema.METRICS` by scope, then by name; means over seeds.
        differences: rows of `schema.DIFFERENCES` by scope, then by name.
        seconds: mean time of a run on a category.
        model_bytes: mean size of a model without its teacher.
        losses: by category, the steps at which the loss is known and its mean over seeds there.
        plateau: share by which the loss fell over the last tenth of the steps, mean; None where
            nothing is trained by steps.
        published: published figures of the same variant by scope and metric.
        differs: reasons why these are not comparable; empty: they are.
    """

    name: str
    figures: Mapping[Scope, Mapping[Name, Row]]
    differences: Mapping[Scope, Mapping[Name, Row]]
    seconds: float
    model_bytes: float
    losses: Mapping[str, tuple[list[float], list[float]]]
    plateau: float | None
    published: Mapping[Scope, Mapping[str, Figure]] = field(default_factory=dict)
    differs: Sequence[str] = ()


@dataclass(frozen=True)
class TableData:
    """A table of variants.

    Args:
        name: name of the ablation, or `results`.
        title: title for readers.
        paper: table of the paper that it repeats; empty: none.
        base: name of the variant that others are compared with.
        variants: its rows.
        quoted: published figures of variants that the table has not.
    """

    name: str
    title: str
    paper: str
    base: str
    variants: Sequence[VariantData]
    quoted: Sequence[Figure] = ()


@dataclass(frozen=True)
class ShownMap:
    """The map of one variant over an image.

    Args:
        variant: name of the variant.
        image: its row of the image, its map and its pixel threshold.
        usual: the usual value of its maps, at which heat begins.
    """

    variant: str
    image: ScoredImage
    usual: float


@dataclass(frozen=True)
class ExampleImage:
    """An image beside its ground truth and the maps of several variants.

    Args:
        image: the image with its ground truth, as the base scored it.
        rank: best, median or worst of its kind of defect.
        aupro: AUPRO of the base's map on this image alone; None without a mask.
        maps: maps of the variants.
    """

    image: ScoredImage
    rank: str
    aupro: float | None
    maps: Sequence[ShownMap]


@dataclass(frozen=True)
class CategoryData:
    """One category of the page.

    Args:
        name: name of the category.
        num_train: images of its training part.
        num_judged: images that judge.
        shown: shown images, by kind of defect.
        operating: rows of `schema.OPERATING`.
        rare: rows of `schema.METRICS`, of test sets with as few defects as the line has.
        leaks: `stored.leak_pairs`, the most alike first.
        num_leaks: number of all pairs; None without a leak check.
    """

    name: str
    num_train: int
    num_judged: int
    shown: Sequence[ExampleImage]
    operating: Sequence[Row]
    rare: Sequence[Row] = ()
    leaks: Sequence[Row] = ()
    num_leaks: int | None = None


@dataclass(frozen=True)
class StudyData:
    """Everything that the page of an ablation shows.

    Args:
        record: `study.json`.
        config: the resolved config.
        teachers: names of the models' teachers.
        tables: the tables in order.
        categories: the categories, sorted by name.
        failures: runs without figures: category, variant, seed and reason.
    """

    record: Row
    config: EvalConfig
    teachers: Sequence[str]
    tables: Sequence[TableData]
    categories: Sequence[CategoryData]
    failures: Sequence[tuple[str, str, int, str]]


def load_study_data(study_uri: str) -> StudyData:
    """Everything that the page of an ablation shows.

    Args:
        study_uri: `<workspace>/evaluations/<run>`.

    Raises:
        StorageError: a file of the ablation cannot be read.
        ArtefactError: one is damaged, or of a newer mrkd.
    """
    record = stored.record(study_uri, RECORD, version=STUDY_VERSION, advice="evaluate again")
    config = EvalConfig.from_dict(record["config"])
    runs = [Run.from_dict(raw) for raw in record["runs"]]
    reader = _AblationReader(study_uri, config, record, [run for run in runs if not run.error])
    names = {arm["key"]: arm["name"] for table in record["tables"] for arm in table["arms"]}
    return StudyData(
        record,
        config,
        teachers=sorted({run.model["teacher"] for run in reader.runs}),
        tables=[reader.table(table) for table in record["tables"]],
        categories=[reader.category(name) for name in sorted(record["counts"])],
        failures=[
            (run.category, names.get(run.key, run.key), run.seed, run.error)
            for run in runs
            if run.error
        ],
    )


class _AblationReader:
    """The folder of an ablation, and the rows of its tables."""

    def __init__(self, uri: str, config: EvalConfig, record: Row, runs: Sequence[Run]) -> None:
        self.config, self.record, self.runs = config, record, runs
        # The folder that the page is built in: a moved one is read where it is.
        self.study = Study(config, uri)
        self.metrics, self.differences, self.operating = (
            stored.parquet(uri, name).to_pylist()
            for name in ("metrics", "differences", "operating")
        )
        self.counts = {
            name: (parts["train"], parts["val"] + parts["test"])
            for name, parts in record["counts"].items()
        }

    def table(self, raw: Row) -> TableData:
        variants = [self._variant(raw["name"], arm) for arm in raw["arms"]]
        named = {one.name for one in variants}
        found = published_results.figures(self.config.protocol, raw["name"])
        return TableData(
            **{name: raw[name] for name in ("name", "title", "paper", "base")},
            variants=variants,
            quoted=[one for one in found if one.arm not in named and one.category is None],
        )

    def _variant(self, table: str, raw: Row) -> VariantData:
        name = raw["name"]
        own = [row for row in self.metrics if (row["study"], row["arm"]) == (table, name)]
        gaps = [row for row in self.differences if (row["study"], row["arm"]) == (table, name)]
        runs = [run for run in self.runs if run.key == raw["key"]]
        losses, falls = _losses(runs)
        beside = [
            one
            for one in published_results.figures(self.config.protocol, table)
            if one.arm == name and (one.category is None or one.category in self.counts)
        ]
        published: dict[Scope, dict[str, Figure]] = {}
        for figure in beside:
            published.setdefault(figure.category, {})[figure.metric] = figure
        return VariantData(
            name=name,
            figures=_by_scope(row for row in own if row["seed"] is None),
            differences=_by_scope(gaps),
            seconds=_mean([run.seconds for run in runs]),
            model_bytes=_mean([float(run.model_bytes) for run in runs]),
            losses=losses,
            plateau=_mean(falls) if falls else None,
            published=published,
            differs=self._differs(beside, runs),
        )

    def _differs(self, beside: Sequence[Figure], runs: Sequence[Run]) -> tuple[str, ...]:
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

    def category(self, name: str) -> CategoryData:
        train, judged = self.counts[name]
        found = next((run.leaks for run in self.runs if run.category == name and run.leaks), ())
        return CategoryData(
            name=name,
            num_train=train,
            num_judged=judged,
            shown=list(self._images(name)),
            operating=[row for row in self.operating if row["category"] == name],
            rare=[
                row
                for row in self.metrics
                if row["category"] == name and row["metric"].endswith("_rare")
            ],
            leaks=stored.leak_pairs(found[: stored.PICTURES_PER_CATEGORY]),
            num_leaks=len(found) if self.config.check_leaks else None,
        )

    def _images(self, category: str) -> Iterator[ExampleImage]:
        """The best, the median and the worst of each kind of defect by the base's own map."""
        runs = list(self._shown_runs(category))
        if not runs:
            return
        tables = [
            self.study.scores(run).filter(pc.field("image_score").is_valid()).to_pylist()
            for _, run in runs
        ]
        good = [[row for row in rows if row["gt_label"] == 0][:50] for rows in tables]
        usual = [page.median(map(schema.read_map, rows)) for rows in good]
        by_uri = [{row["image_uri"]: row for row in rows} for rows in tables]
        bad = [row for row in tables[0] if row["gt_label"] and row["headline"]]
        most = max(1, stored.PICTURES_IN_ALL // (len(self.counts) * len(_RANKS)))
        model = runs[0][1].model
        for kind in sorted({row["defect"] for row in bad})[:most]:
            for rank, row, overlap in _chosen([row for row in bad if row["defect"] == kind]):
                maps = []
                for (name, run), rows, low in zip(runs, by_uri, usual, strict=True):
                    its = rows.get(row["image_uri"])
                    anomaly_map = schema.read_map(its) if its else None
                    if its and anomaly_map is not None:
                        threshold = run.model["pixel_threshold"]
                        one = ScoredImage(its, anomaly_map=anomaly_map, pixel_threshold=threshold)
                        maps.append(ShownMap(name, one, low))
                size, resize = model["image_size"], model["resize"]
                image = stored.scored_image(row, image_size=size, resize=resize)
                yield ExampleImage(image, rank, overlap, maps)

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


def _by_scope(rows: Iterable[Row]) -> dict[Scope, dict[Name, Row]]:
    found: dict[Scope, dict[Name, Row]] = {}
    for row in rows:
        found.setdefault(row["category"], {})[row["metric"], row["defect"]] = row
    return found


def _losses(
    runs: Sequence[Run],
) -> tuple[dict[str, tuple[list[float], list[float]]], list[float]]:
    """Steps and mean loss by category, and the share by which each run's loss fell at its end.

    Runs of one epoch have no curve.
    """
    losses: dict[str, tuple[list[float], list[float]]] = {}
    falls = []
    for category in sorted({run.category for run in runs}):
        histories = [run.history for run in runs if run.category == category]
        epochs = min(map(len, histories), default=0)
        if epochs < 2:
            continue
        losses[category] = (
            [row["step"] for row in histories[0][:epochs]],
            [_mean([history[n]["loss"] for history in histories]) for n in range(epochs)],
        )
        falls += [_fall(history) for history in histories]
    return losses, falls


def _fall(history: Sequence[Mapping[str, float]]) -> float:
    """Share by which the training loss fell from nine tenths of the steps to the end."""
    steps = np.array([row["step"] for row in history], float)
    loss = np.array([row["loss"] for row in history], float)
    before = float(np.interp(0.9 * steps[-1], steps, loss))
    return (before - float(loss[-1])) / before if before else 0.0


def _chosen(rows: Sequence[Row]) -> list[tuple[str, Row, float | None]]:
    """The best, the median and the worst row with its rank and overlap, each once."""
    overlaps = [(overlap, row) for row in rows if (overlap := _overlap(row)) is not None]
    ranked: list[tuple[float | None, Row]] = [*sorted(overlaps, key=lambda one: -one[0])]
    if not ranked:  # no masks: by the score
        ranked = [(None, row) for row in sorted(rows, key=lambda row: -row["image_score"])]
    ranks = dict(zip((0, len(ranked) // 2, len(ranked) - 1), _RANKS, strict=True))
    return [(rank, ranked[n][1], ranked[n][0]) for n, rank in ranks.items()]


def _overlap(row: Row) -> float | None:
    """AUPRO of an image's stored map against its own mask; None without either."""
    anomaly_map = schema.read_map(row)
    gt_mask = stored.read_pixels(row["gt_mask_uri"])
    if anomaly_map is None or gt_mask is None:
        return None
    # The mask is resized to the whole map: right where the map covers the image and nothing more.
    height, width = anomaly_map.shape
    mask = cv2.resize(
        images.to_mask(gt_mask).astype(np.uint8), (width, height), None, 0, 0, cv2.INTER_AREA
    )
    pixels = metrics.PixelHistogram(bins=None)
    pixels.add(anomaly_map, mask > 0)
    return pixels.figure("aupro").value


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
