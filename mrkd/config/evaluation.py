"""EVAL.toml: an evaluation of a workspace's champions, or of models trained for a protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from mrkd.config.data import check_costs
from mrkd.config.score import PoolConfig
from mrkd.config.toml import Range
from mrkd.config.train import TrainConfig
from mrkd.errors import ConfigError

Protocol = Literal["champions", "mvtec", "visa", "mtd", "elpv", "cifar10_one_class"]
Ablation = Literal["none", "all", "backbone", "fmm", "scsatt", "levels", "mask_rate", "detectors"]
Baseline = Literal["student", "plain_rd", "cell_gaussian", "nearest_neighbour"]

_TRAINING = ("model", "train", "roi", "fleet", "category")


@dataclass(frozen=True)
class EvalConfig(TrainConfig):
    """EVAL.toml: models on labelled images, champions or those that a protocol trains."""

    protocol: Protocol = "champions"
    """Models that are measured: the champions of the workspace, or models trained for that
    benchmark, which leave the champions as they are."""
    ablation: Ablation = "none"
    """Parts that are removed, added or varied, one table each; `all`: every table."""
    baselines: tuple[Baseline, ...] = ("student", "plain_rd", "cell_gaussian", "nearest_neighbour")
    """Methods that the model is compared with, unless there is an ablation."""
    num_seeds: Annotated[int, Range(1, 100)] = 1
    """Trainings of each variant, with seeds from `train.seed` on."""
    part: Literal["test", "val", "all"] = "test"
    """Part of the labelled images that is evaluated."""
    resamples: Annotated[int, Range(0, 10**6)] = 1000
    """Bootstrap resamples behind each 95 % interval."""
    check_leaks: bool = False
    """Whether to look for images of one part in both the training and the test images."""
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    """Seed of the bootstrap resamples."""
    cost_escape: Annotated[float, Range(0, 10**12)] = 0.0
    """Cost of a defective part that is called good, in any currency; 0: not known."""
    cost_false_call: Annotated[float, Range(0, 10**12)] = 0.0
    """Cost of a good part that is called defective, in the same currency; 0: not known."""
    defect_rate: Annotated[float, Range(1e-6, 0.5)] = 0.02
    """Share of a line's parts that are defective; test sets hold far more."""
    pool: PoolConfig = field(default_factory=PoolConfig)
    max_failed_share: Annotated[float, Range(0, 1)] = 0.0
    """Share of failed categories or runs above which the exit code is 3."""
    max_error_share: Annotated[float, Range(0, 1)] = 0.01
    """Share of images with an error above which the exit code is 3."""

    def _check(self) -> None:
        super()._check()
        check_costs(self.cost_escape, self.cost_false_call)
        if self.data.false_calls:
            raise ConfigError(
                "data.false_calls is true, and an evaluation measures on the data as they are: set "
                "it for `mrkd train`"
            )
        if len(set(self.baselines)) < len(self.baselines):
            raise ConfigError(f"baselines is {list(self.baselines)}: name each once")
        if self.protocol == "champions":
            self._check_trains_nothing()
        elif self.fleet.workers_per_category > 1:
            raise ConfigError(
                f"fleet.workers_per_category is {self.fleet.workers_per_category}: a protocol "
                "trains many models at once, each by one worker; set it to 1"
            )
        elif "nearest_neighbour" in self.baselines and (self.roi.mask or self.roi.polygons):
            raise ConfigError(
                "baselines names nearest_neighbour, which knows no region of interest: leave it "
                "out, or [roi]"
            )

    def _check_trains_nothing(self) -> None:
        needed = {"workspace": self.workspace, "run": self.run, "data": self.data.to_dict()}
        # What a file without the table has, and what code without it has.
        usual = TrainConfig.from_dict(needed), TrainConfig(self.workspace, self.run, self.data)
        for table in _TRAINING:
            if getattr(self, table) not in [getattr(one, table) for one in usual]:
                raise ConfigError(
                    f"[{table}] is given, and protocol is champions, which trains nothing: "
                    "set protocol, or leave the table out"
                )
        for name, usual_value in (("ablation", "none"), ("num_seeds", 1)):
            if getattr(self, name) != usual_value:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}, and protocol is champions, which trains "
                    "nothing: set protocol"
                )
