"""Any config that can be built survives its own file, and only mrkd's errors come out."""

import contextlib
import dataclasses
import typing
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrkd.config import EvalConfig, FitConfig, ModelConfig, RowsConfig, TrainConfig, presets
from mrkd.config.toml import Config
from mrkd.errors import ConfigError

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
RAW = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)

POINT = st.lists(st.floats(0, 1000), min_size=2, max_size=2)
SINGLE = st.fixed_dictionaries(
    {},
    optional={
        "model": st.fixed_dictionaries({"image_size": st.just(64), "preset": st.just("paper")}),
        "train": st.fixed_dictionaries({"seed": st.integers(0, 9), "mask_rate": st.floats(0, 0.9)}),
    },
)

LABELS = st.lists(st.from_regex(r"[^=]{1,9}=.{1,9}", fullmatch=True), max_size=2)

# Values that the ranges of their keys let through; other keys take any small value of their type.
FITTING = {
    "run": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    "group": st.sampled_from(["", "{run}_{n}", "*_{line}-{part}-{n}"]),
    "student": st.just(True),  # one of the two must be on
    "gaussian": st.just(0.0),  # it excludes cells
    "min_images_for_student": st.integers(4, 10**6),
    "preset": st.sampled_from(presets()),
    "image_size": st.integers(1, 16).map(lambda n: 32 * n),
    "tiles": st.just(0),  # they exclude a region of interest
    "levels": st.sets(st.integers(1, 3)).map(sorted),
    "taps": st.sets(st.integers(0, 15), min_size=2, max_size=3).map(sorted),
    "learning_rate": st.floats(1e-6, 1),
    "top_share": st.floats(1e-3, 1),
    "validation_share": st.floats(0.01, 0.5),
    "calibration_share": st.floats(0.01, 0.5),
    "false_call_rate": st.floats(1e-4, 0.5),
    "smooth": st.floats(0, 8),
    "workers_per_category": st.just(1),
    "micro_batch_size": st.sampled_from([0, 2]),
    "progress_s": st.floats(0.1, 60),
    "gate_images": st.integers(8, 50),
    "augment": st.just("none"),  # a region of interest does not flip
    "roi": st.fixed_dictionaries({}, optional={"mask": TEXT})
    | st.fixed_dictionaries({"polygons": st.lists(st.lists(POINT, min_size=3, max_size=5))}),
    "defect_rate": st.floats(1e-3, 0.5),
    "node_labels": LABELS,
    "reader_labels": LABELS,
    "category": st.dictionaries(TEXT, SINGLE, max_size=3),
}


def values(hint):
    """A strategy of values of the type."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return st.sampled_from(arguments)
    if typing.get_origin(hint) is tuple:
        return st.lists(values(arguments[0]), max_size=3)
    if issubclass(hint, Config):
        return tables(hint)
    return {
        bool: st.booleans(),
        int: st.integers(2, 50),
        float: st.floats(0, 1, exclude_max=True),
        str: TEXT,
    }[hint]


def tables(config):
    """A strategy of raw tables: keys without a default always, the others now and then."""
    needed: dict[str, st.SearchStrategy] = {}
    optional: dict[str, st.SearchStrategy] = {}
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        fitting = FITTING.get(field.name)
        strategy = values(hints[field.name]) if fitting is None else fitting
        absent = (field.default, field.default_factory) == (dataclasses.MISSING,) * 2
        (needed if absent else optional)[field.name] = strategy
    return st.fixed_dictionaries(needed, optional=optional)


@pytest.mark.parametrize("kind", [TrainConfig, EvalConfig])
@given(data=st.data())
@settings(deadline=None)
def test_a_config_comes_back_equal_from_its_toml_and_from_its_dicts(kind, data):
    raw = data.draw(tables(kind))
    # A preset may leave the student out, and the key `cells` its cells: one of the two must be on.
    raw["model"] = {"student": True, **raw.get("model", {})}
    if kind is EvalConfig:
        # Champions train nothing, and would refuse the tables of a training; the nearest neighbour
        # refuses a region of interest.
        raw |= {"protocol": "mvtec", "baselines": ["plain_rd"]}
        raw["data"] = {**raw["data"], "false_calls": False}  # it is for training alone
        raw |= {"cost_escape": 2.0, "cost_false_call": 1.0}
    config = kind.from_dict(raw)
    assert kind.from_toml(config.to_toml()) == config
    assert kind.from_dict(config.to_dict()) == config
    assert kind.from_dict(config.to_dict()).digest() == config.digest()


@given(raw=RAW)
@settings(deadline=None)
def test_any_value_at_all_is_a_config_or_a_config_error(raw):
    for kind in (TrainConfig, ModelConfig, FitConfig, RowsConfig):
        with contextlib.suppress(ConfigError):
            kind.from_dict(raw if isinstance(raw, dict) else {"workspace": raw, "seed": raw})
