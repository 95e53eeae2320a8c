"""EVAL.toml: how good models are; the champions of a workspace, or those of a protocol's table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mrkd.config.data import check_costs
from mrkd.config.score import PoolConfig
from mrkd.config.toml import check_range
from mrkd.config.train import TrainConfig
from mrkd.errors import ConfigError

Protocol = Literal["champions", "mvtec", "visa", "mtd", "elpv", "cifar10_one_class"]
Ablation = Literal["none", "all", "backbone", "fmm", "scsatt", "levels", "mask_rate", "detectors"]
Baseline = Literal["student", "plain_rd", "cell_gaussian", "nearest_neighbour"]

_TRAINING = ("model", "train", "roi", "fleet", "category")


@dataclass(frozen=True)
class EvalConfig(TrainConfig):
    """EVAL.toml: a fleet's config, trained and measured, or none and the champions are measured."""

    protocol: Protocol = "champions"
    """What is measured: the champions of the workspace, or models that are trained for it and leave
    the champions as they are."""
    ablation: Ablation = "none"
    """The parts that are taken off, put in or varied, a table each; `all`: every table."""
    baselines: tuple[Baseline, ...] = (
        "student",
        "plain_rd",
        "cell_gaussian",
        "nearest_neighbour",
    )
    """What the model is set against where there is no ablation."""
    num_seeds: int = 1
    """Trainings of everything, with seeds from `train.seed` on."""
    part: Literal["test", "val", "all"] = "test"
    """Which part of the labelled images is evaluated."""
    resamples: int = 1000
    """Bootstrap resamples behind each 95 % interval."""
    check_leaks: bool = False
    """Whether to look for pictures of one part among those that train and those that judge."""
    seed: int = 0
    """Of the resamples."""
    cost_escape: float = 0.0
    """What a defective part that is called good costs, in any currency; 0: not known."""
    cost_false_call: float = 0.0
    """What a good part that is called defective costs, in the same; 0: not known."""
    defect_rate: float = 0.02
    """Share of a line's parts that are defective; test sets hold far more."""
    pool: PoolConfig = field(default_factory=PoolConfig)
    max_failed_share: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("num_seeds", self.num_seeds, 1, 100)
        check_range("resamples", self.resamples, 0, 10**6)
        check_range("max_failed_share", self.max_failed_share, 0, 1)
        check_costs(self.cost_escape, self.cost_false_call)
        check_range("defect_rate", self.defect_rate, 1e-6, 0.5)
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
        place = {"workspace": self.workspace, "run": self.run, "data": self.data.to_dict()}
        # As a file without the table has it, and as code without it.
        usual = TrainConfig.from_dict(place), TrainConfig(self.workspace, self.run, self.data)
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
