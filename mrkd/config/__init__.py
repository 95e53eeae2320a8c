"""Configs: frozen dataclasses, opened from TOML at the door and never changed after.

A config file holds only what differs from the defaults below. `model.preset` names a file of
`mrkd/config/presets`, whose `[model]` and `[train]` tables come before the user's own keys.
"""

from mrkd.config.data import NAME, DataConfig, ExecutorName, PriceConfig, check_costs, check_name
from mrkd.config.evaluation import EvalConfig
from mrkd.config.model import (
    Backbone,
    Device,
    FitConfig,
    ModelConfig,
    Precision,
    Resize,
    ScoringPrecision,
    config_digest,
)
from mrkd.config.score import (
    AlertsConfig,
    ArchiveConfig,
    PartsConfig,
    PoolConfig,
    RowsConfig,
    ScoreConfig,
)
from mrkd.config.train import FleetConfig, RoiConfig, TrainConfig, presets
from mrkd.config.tune import SearchConfig

__all__ = [
    "NAME",
    "AlertsConfig",
    "ArchiveConfig",
    "Backbone",
    "DataConfig",
    "Device",
    "EvalConfig",
    "ExecutorName",
    "FitConfig",
    "FleetConfig",
    "ModelConfig",
    "PartsConfig",
    "PoolConfig",
    "Precision",
    "PriceConfig",
    "Resize",
    "RoiConfig",
    "RowsConfig",
    "ScoreConfig",
    "ScoringPrecision",
    "SearchConfig",
    "TrainConfig",
    "check_costs",
    "check_name",
    "config_digest",
    "presets",
]
