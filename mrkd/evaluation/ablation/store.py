"""What the runs of an evaluation leave in its folder.

    evaluations/<run>/runs/<category>/<key>-<seed>.json             how a run ended; written last
                                      <key>-<seed>-figures.parquet  `schema.FIGURES`
                                      <key>-<seed>-scores.parquet   a row for each image
                      models/, teachers/                            what was trained for it
                      checkpoints/                                  of trainings under way

A run that has ended is not made again while its inputs are the same: the same call goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from mrkd import storage
from mrkd.config import EvalConfig, TrainConfig
from mrkd.data.datasets import Sample
from mrkd.evaluation.ablation.variants import Table
from mrkd.run_summary import now
from mrkd.storage import schema

STUDY_VERSION = 1


@dataclass(frozen=True)
class Run:
    """How one arm did on one category with one seed, as plain values.

    Args:
        key: of the arm's config, `Arm.key`.
        category: its name.
        seed: of the training.
        inputs: `inputs_of` it.
        error: why there are no figures, one line; empty where there are.
        images: `images_of` what it scored.
        model: what scored, as a page shows it (`labelled.Measured.model`).
        history: a row an epoch; empty where nothing is trained by steps.
        model_bytes: of its files, without the teacher.
        seconds: of the run.
        leaks: pairs of images of one part, one that judges and one that trained.
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


class Study:
    """The folder of one evaluation.

    Args:
        config: of the evaluation.
        uri: where it is; empty: where its config has it.
    """

    def __init__(self, config: EvalConfig, uri: str = "") -> None:
        self.config = config
        self.uri = uri or storage.join(config.workspace, "evaluations", config.run)

    def put(
        self, run: Run, figures: pa.Table | None = None, scores: pa.Table | None = None
    ) -> None:
        """Stores how a run ended; of one that failed there are no tables."""
        base = self._base(run.category, run.name)
        for name, table in (("figures", figures), ("scores", scores)):
            if table is not None:
                storage.write(f"{base}-{name}.parquet", schema.to_parquet(table))
        storage.write_json(f"{base}.json", run.to_dict())

    def get(self, key: str, category: str, seed: int) -> Run | None:
        """A run as it was stored; None where it has not ended."""
        uri = f"{self._base(category, f'{key}-{seed}')}.json"
        return Run.from_dict(storage.read_json(uri)) if storage.stat(uri) else None

    def figures(self, run: Run) -> pa.Table:
        """Rows of `schema.FIGURES`; none of a run that failed."""
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
                {
                    "name": table.name,
                    "title": table.title,
                    "base": table.base,
                    "paper": table.paper,
                    "arms": [{"name": arm.name, "key": arm.key(self.config)} for arm in table.arms],
                }
                for table in tables
            ],
            "counts": {name: _counts(some) for name, some in samples.items()},
            "runs": [run.to_dict() for run in runs],
        }
        storage.write_json(storage.join(self.uri, "study.json"), content)

    def checkpoints_uri(self, key: str, category: str, seed: int) -> str:
        """Folder of a training's checkpoints."""
        return storage.join(self.uri, "checkpoints", category, f"{key}-{seed}")

    def _table(self, run: Run, name: str) -> pa.Table:
        uri = f"{self._base(run.category, run.name)}-{name}.parquet"
        return schema.from_parquet(storage.read(uri), name=uri)

    def _base(self, category: str, name: str) -> str:
        return storage.join(self.uri, "runs", category, name)


def _counts(samples: Sequence[Sample]) -> dict[str, int]:
    return {part: sum(one.split == part for one in samples) for part in ("train", "val", "test")}


def images_of(scores: pa.Table) -> str:
    """A hash over the URIs of the images that have a score: draws of others have no pairs."""
    scored = scores.filter(pc.field("image_score").is_valid())
    return hashlib.sha256(json.dumps(sorted(scored["image_uri"].to_pylist())).encode()).hexdigest()


def inputs_of(
    config: EvalConfig, training: TrainConfig, samples: Sequence[Sample], *, model_version: int
) -> str:
    """A hash over all that decides what a run finds, its images by name and ETag.

    Args:
        config: of the evaluation.
        training: of the run.
        samples: of its category, as listed now.
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
