"""Help, reference and schema of the configs are made from their fields."""

import dataclasses
import tomllib
from pathlib import Path

import jsonschema
import pytest

from mrkd.config import EvalConfig, FitConfig, ScoreConfig, SearchConfig, TrainConfig, presets
from mrkd.config.reference import keys, schema
from mrkd.config.toml import Range, mark_of
from mrkd.errors import ConfigError

TOP = Path(__file__).parents[3]
CONFIGS = (TrainConfig, SearchConfig, ScoreConfig, EvalConfig)
OF_FILE = {
    "train.toml": TrainConfig,
    "search.toml": SearchConfig,
    "score.toml": ScoreConfig,
    "evaluate.toml": EvalConfig,
    "cifar10.toml": EvalConfig,
}
WHOLE = {"workspace": "w", "run": "r", "data": {"root": "parts"}}


@pytest.mark.parametrize("config", CONFIGS)
def test_every_key_has_a_sentence_a_default_and_what_it_allows(config):
    for key in keys(config):
        assert len(key.help.split()) >= 3, key.name
        assert key.help.endswith("."), key.name
        assert key.is_required or key.default is not dataclasses.MISSING, key.name
        if key.type in (int, float):
            assert key.range, key.name


def test_a_default_is_what_a_file_without_the_key_gets():
    config = TrainConfig.from_dict(WHOLE)
    for key in keys(TrainConfig):
        value = config
        for name in key.name.split("."):
            value = getattr(value, name)
        default = tuple(key.default) if isinstance(key.default, list) else key.default
        assert key.is_required or value == default, key.name


def test_every_preset_is_in_the_help_of_its_key():
    (key,) = [key for key in keys(TrainConfig) if key.name == "model.preset"]
    assert [name for name in presets() if name not in key.help] == []


@pytest.mark.parametrize("config", CONFIGS)
def test_every_number_is_held_to_its_range_and_named_as_in_the_file(config):
    whole = {"workspace": "w", "run": "r", "archive": {"uri": "archive"}}
    made = config.from_dict(whole if config is ScoreConfig else WHOLE)
    for key in keys(config):
        if limits := mark_of(key.hint, Range):
            for wrong in (limits.low - 1, limits.high * 2 + 1):
                with pytest.raises(ConfigError, match=rf"^{key.name} is .*: it must lie between"):
                    made.with_values({key.name: wrong})


def test_a_table_made_in_code_is_held_to_its_ranges_too():
    with pytest.raises(ConfigError, match=r"^train\.batch_size is 1: it must lie between"):
        FitConfig(batch_size=1)


@pytest.mark.parametrize("file", OF_FILE)
def test_a_schema_takes_the_configs_of_the_jobs(file):
    raw = tomllib.loads((TOP / "jobs" / "configs" / file).read_text())
    found = schema(OF_FILE[file])
    jsonschema.Draft202012Validator.check_schema(found)
    jsonschema.validate(raw, found)


@pytest.mark.parametrize(
    "table",
    [
        {"modle": {}},
        {"model": {"image_size": 16}},
        {"model": {"backbone": "resnet19"}},
        {"data": {}},
        {"category": {"cap*": {"modle": {}}}},
        {"category": {"cap*": {"train": {"seed": "one"}}}},
    ],
)
def test_a_schema_refuses_what_the_config_refuses(table):
    fitting = {"category": {"cap*": {"roi": {"mask": "m.png"}}}}
    jsonschema.validate(WHOLE | fitting, schema(TrainConfig))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(WHOLE | table, schema(TrainConfig))
