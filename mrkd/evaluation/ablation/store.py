"""Folder of an evaluation that trains models: how each run ended.

    evaluations/<run>/runs/<category>/<key>-<seed>.json             how a run ended; written last
                                      <key>-<seed>-figures.parquet  `schema.FIGURES`
                                      <key>-<seed>-scores.parquet   a row for each image
                      study.json                                    config, tables and runs
                      models/, teachers/                            what was trained for it
                      checkpoints/                                  of trainings under way

A run that has ended is not made again while its inputs are the same: the same call goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self, get_args

import pyarrow as pa
import pyarrow.compute as pc

from mrkd import storage
from mrkd.config import EvalConfig, TrainConfig
from mrkd.data.datasets import Part, Sample
from mrkd.evaluation.ablation.variants import Table
from mrkd.run_summary import now
from mrkd.storage import schema
from mrkd.storage.run_folder import RunFolder

STUDY_VERSION = 1


@dataclass(frozen=True)
class Run:
    """Result of one arm on one category with one seed, as plain values.

    Args:
        key: digest of the arm's config, `Variant.key`.
        category: its name.
        seed: seed of the training.
        inputs: `inputs_of` the run.
        error: why it has no figures, one line; else empty.
        images: `images_of` the images that it scored.
        model: the model, as a page shows it (`evaluate_model.Evaluation.model`).
        history: a row an epoch; empty where nothing is trained by steps.
        model_bytes: size of the model's files, without the teacher.
        seconds: duration of the run.
        leaks: pairs of images of one part, one that judges and one that trained.
        left_out: images left out of the pixel metrics for their masks, each with its reason.
        num_images: number of images that it was measured on.
        num_errors: number of those that cannot be scored.
        errors: one line on these.
    """

    key: str
    category: str
    seed: int
    inputs: str
    error: str = ""
    images: str = ""
    model: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, float]] = ()
    model_bytes: int = 0
    seconds: float = 0.0
    leaks: Sequence[Mapping[str, Any]] = ()
    left_out: Sequence[str] = ()
    num_images: int = 0
    num_errors: int = 0
    errors: str = ""

    @property
    def name(self) -> str:
        """Beginning of its files' names."""
        return f"{self.key}-{self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """What `to_dict` gave, read from JSON; what else an earlier version stored is left."""
        return cls(**{one.name: raw[one.name] for one in fields(cls) if one.name in raw})


class Study(RunFolder):
    """Folder of one evaluation.

    Args:
        config: configuration of the evaluation.
        uri: the folder; empty: the one that the config names.
    """

    kind, record, version = "evaluations", "study.json", STUDY_VERSION
    config: EvalConfig

    def put(
        self, run: Run, figures: pa.Table | None = None, scores: pa.Table | None = None
    ) -> None:
        """Stores how a run ended; a run that failed has no tables."""
        for name, table in (("figures", figures), ("scores", scores)):
            if table is not None:
                storage.write(self._table_uri(run, name), schema.to_parquet(table))
        self.write_json(run.to_dict(), "runs", run.category, f"{run.name}.json")

    def get(self, key: str, category: str, seed: int) -> Run | None:
        """A run as it was stored; None where it has not ended."""
        raw = self.read_json("runs", category, f"{key}-{seed}.json")
        return raw and Run.from_dict(raw)

    def figures(self, run: Run) -> pa.Table:
        """Rows of `schema.FIGURES`; empty for a run that failed."""
        return schema.FIGURES.empty_table() if run.error else self._table(run, "figures")

    def scores(self, run: Run) -> pa.Table:
        """A row for each image."""
        return self._table(run, "scores")

    def store(
        self, tables: Sequence[Table], runs: Sequence[Run], samples: Mapping[str, Sequence[Sample]]
    ) -> None:
        """Stores `study.json`: the config, what was compared, and how each run ended."""
        content = {
            "schema": STUDY_VERSION,
            "run": self.config.run,
            "finished_at": now(),
            "config": self.config.to_dict(),
            "tables": [
                {name: getattr(table, name) for name in ("name", "title", "base", "paper")}
                | {"arms": [{"name": one.name, "key": one.key(self.config)} for one in table.arms]}
                for table in tables
            ],
            "counts": {
                name: {part: sum(one.split == part for one in some) for part in get_args(Part)}
                for name, some in samples.items()
            },
            "runs": [run.to_dict() for run in runs],
        }
        self.write_json(content, self.record)

    def checkpoints_uri(self, key: str, category: str, seed: int) -> str:
        """Folder of a training's checkpoints."""
        return self.path("checkpoints", category, f"{key}-{seed}")

    def _table_uri(self, run: Run, name: str) -> str:
        return self.path("runs", run.category, f"{run.name}-{name}.parquet")

    def _table(self, run: Run, name: str) -> pa.Table:
        uri = self._table_uri(run, name)
        return schema.from_parquet(storage.read(uri), name=uri)


def images_of(scores: pa.Table) -> str:
    """A hash over the URIs of the scored images: draws are paired only over equal images."""
    scored = scores.filter(pc.field("image_score").is_valid())
    return hashlib.sha256(json.dumps(sorted(scored["image_uri"].to_pylist())).encode()).hexdigest()


def inputs_of(
    config: EvalConfig, training: TrainConfig, samples: Sequence[Sample], *, model_version: int
) -> str:
    """A hash over all that decides what a run finds, its images by name and ETag.

    Args:
        config: configuration of the evaluation.
        training: configuration of the run.
        samples: all images of its category, as listed now.
        model_version: `model.MODEL_VERSION` of the code.
    """
    images = sorted(
        (one.image_uri, one.etag, one.split, one.defect, one.gt_mask_uri or "", one.group or "")
        for one in samples
    )
    parts = {
        "model": training.model.to_dict(),
        "train": training.train.to_dict(),
        "roi": training.roi.to_dict(),
        "images": images,
        "judged": [config.part, config.resamples, config.seed, config.check_leaks],
        "code": model_version,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
