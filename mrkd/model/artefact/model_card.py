"""Metadata of a model: `model.json` and its calibrations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrkd.config import FitConfig, ModelConfig, ScoringPrecision
from mrkd.data.roi import Roi
from mrkd.errors import ConfigError

CARD = "model.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Calibration:
    """Thresholds that turn a model's scores into verdicts; never changed once stored.

    Args:
        number: counts up within a model version.
        threshold: an image is anomalous strictly above it.
        pixel_threshold: pixels strictly above it form the regions.
        false_call_rate: share of good parts that was allowed to be called defective.
        supported_false_call_rate: the share that the number of groups vouches for.
        scores: the calibrating good images' image scores, rising, float32 values.
        pixel_maxima: the maxima of their maps, rising.
        statistics: their brightness, contrast and sharpness, each rising.
        by: who made it.
        why: purpose.
        num_groups: number of groups that the images come in.
        note: a further warning about the threshold; empty: none.
        line: the night of the line that it was made from (`commissioning.Basis`); None: it is the
            training's.
        ranges: range of each measure of all good images (`good_ranges`), outside of which none is
            OK; empty: a calibration of before there were ranges.
    """

    number: int
    threshold: float
    pixel_threshold: float
    false_call_rate: float
    supported_false_call_rate: float
    scores: tuple[float, ...]
    pixel_maxima: tuple[float, ...]
    statistics: Mapping[str, tuple[float, ...]]
    by: str
    why: str
    num_groups: int
    note: str = ""
    line: Mapping[str, Any] | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def warning(self) -> str:
        """Warning about the threshold, in one line; empty: none."""
        return "; ".join(filter(None, (self._lack, self.note)))

    @property
    def _lack(self) -> str:
        """What the images lack to vouch for the rate asked for; empty: nothing."""
        if self.supported_false_call_rate <= self.false_call_rate:
            return ""
        num_images = len(self.scores)
        needed = math.ceil(round(1 / self.false_call_rate, 6)) - 1
        grouped = self.num_groups < num_images
        return (
            f"{num_images} good images{f' in {self.num_groups} groups' if grouped else ''} vouch "
            f"for a false-call rate of {self.supported_false_call_rate:.2%}, not of "
            f"{self.false_call_rate:.2%}, which needs {needed}{' groups' if grouped else ''}: "
            + (
                "the threshold is extrapolated from their scores"
                if num_images < needed
                else "the threshold holds for parts of these groups"
            )
        )

    def p_values(self, scores: ArrayLike) -> NDArray[np.float32]:
        """Share of held-out good images that score at least as high, each score itself counted.

        `(1 + #{held-out >= s}) / (n + 1)`, float32 of the scores' shape, in [1 / (n + 1), 1]; for
        a good part below any rate at most that often.
        """
        held_out = np.asarray(self.scores, dtype=np.float64)
        below = np.searchsorted(held_out, np.asarray(scores, dtype=np.float64), side="left")
        return np.asarray((1 + len(held_out) - below) / (len(held_out) + 1), dtype=np.float32)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` of them is equal to this calibration."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """The calibration of a stored file's content.

        Raises:
            KeyError: a field is missing.
            TypeError: a field is unknown, or of another type.
            ValueError: a field is of another type.
        """
        numbers = {name: float(raw[name]) for name in _NUMBERS}
        lists = {name: _floats(raw[name]) for name in ("scores", "pixel_maxima")}
        statistics = {name: _floats(values) for name, values in dict(raw["statistics"]).items()}
        counts = {
            "number": int(raw["number"]),
            # Before there were groups each image was one of its own.
            "num_groups": int(raw.get("num_groups", len(lists["scores"]))),
        }
        ranges = {
            name: (float(low), float(high))
            for name, (low, high) in dict(raw.get("ranges", {})).items()
        }
        own = {"statistics": statistics, "ranges": ranges}
        return cls(**{**raw, **counts, **numbers, **lists, **own})


_NUMBERS = ("threshold", "pixel_threshold", "false_call_rate", "supported_false_call_rate")


def _floats(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(map(float, values))


@dataclass(frozen=True)
class TeacherCard:
    """The teacher that a model was trained with.

    Args:
        backbone: a name of `backbones.BACKBONES`.
        digest: sha256 of the teacher's stored file.
        random: whether its weights are drawn at random; all rows scored with it are marked.
    """

    backbone: str
    digest: str
    random: bool

    @property
    def name(self) -> str:
        """The `teacher` column of a night's rows, and the stem of the stored file."""
        return f"{'random:' if self.random else ''}{self.backbone}-{self.digest[:12]}"


@dataclass(frozen=True)
class ModelCard:
    """`model.json`: the inputs of a model and the digests of its files.

    Args:
        category: category that it was trained on.
        version: `promotions.version_of` its inputs.
        model: the network's config.
        train: the training's config.
        teacher: backbone and digest.
        preprocessing: size, resize, and the normalisation's mean and std in units of 0 to 255.
        data: fingerprint and counts of the images.
        metrics: figures of the training.
        files: sha256 and num_bytes of each file below the model's folder.
        code: mrkd's version and `MODEL_VERSION` of the code that trained.
        roi: region of interest, `Roi.to_json`; None: the whole image.
    """

    category: str
    version: str
    model: ModelConfig
    train: FitConfig
    teacher: TeacherCard
    preprocessing: Mapping[str, Any]
    data: Mapping[str, Any]
    metrics: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    code: Mapping[str, Any]
    roi: Mapping[str, Any] | None = None

    @property
    def weights_digest(self) -> str:
        """Sha256 of the trained weights' file: equal for equal trainings."""
        return str(self.files[WEIGHTS]["sha256"])

    @property
    def num_bytes(self) -> int:
        """Size of all its files, without the teacher."""
        return sum(int(file["num_bytes"]) for file in self.files.values())

    @property
    def region(self) -> Roi | None:
        """The region of interest of `roi`; ArtefactError where that is not as mrkd writes it."""
        return Roi.from_json(self.roi) if self.roi else None

    def check_precision(self, asked: ScoringPrecision) -> None:
        """Refuses to score in another precision than the thresholds were made in.

        Args:
            asked: precision of a run's config; `auto` is the version's own.

        Raises:
            ConfigError: the precisions differ.
        """
        if asked not in ("auto", self.model.precision):
            raise ConfigError(
                f"pool.precision is {asked!r} but version {self.version} of {self.category} was "
                f"calibrated in {self.model.precision}, and its thresholds hold in that alone: set "
                f"pool.precision to 'auto', or train it with model.precision {asked!r}"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values, nested as `model.json`; `from_json` of them is equal to this card."""
        content = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        config = {name: content.pop(name).to_dict() for name in ("model", "train")}
        return {**content, "config": config, "teacher": asdict(self.teacher)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """The card of a stored file's content.

        Raises:
            ConfigError: a config holds keys or values that this version of mrkd does not know.
            KeyError: a field is missing.
            TypeError: a field is unknown, or of another type.
            ValueError: a field is of another type.
        """
        content = dict(raw)
        config = content.pop("config")
        content |= {name: dict(content[name]) for name in ("data", "metrics", "code")}
        content["files"] = {name: dict(file) for name, file in dict(content["files"]).items()}
        return cls(
            **{
                **content,
                "model": ModelConfig.from_dict(config["model"]),
                "train": FitConfig.from_dict(config["train"]),
                "teacher": TeacherCard(**raw["teacher"]),
            }
        )
