"""Configs: frozen dataclasses, opened from TOML at the door and never changed after.

A config file holds only what differs from the defaults below. `model.preset` names a file of
`mrkd/config/presets`, whose `[model]` and `[train]` tables come before the user's own keys.
"""

from mrkd.config.data import NAME, DataConfig, Layout, PriceConfig, check_costs, check_name
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
    DeadlineConfig,
    GoldenConfig,
    PartsConfig,
    PoolConfig,
    RowsConfig,
    ScoreConfig,
)
from mrkd.config.train import FleetConfig, RoiConfig, TrainConfig, presets
from mrkd.config.tune import SearchConfig, SearchOptions

__all__ = [
    "NAME",
    "AlertsConfig",
    "ArchiveConfig",
    "Backbone",
    "DataConfig",
    "DeadlineConfig",
    "Device",
    "EvalConfig",
    "FitConfig",
    "FleetConfig",
    "GoldenConfig",
    "Layout",
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
    "SearchOptions",
    "TrainConfig",
    "check_costs",
    "check_name",
    "config_digest",
    "presets",
]
