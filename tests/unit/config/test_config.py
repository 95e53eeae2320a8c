"""Configs are checked at the door: what they refuse, and in which words."""

import tomllib

import pytest

from mrkd.config import (
    EvalConfig,
    FitConfig,
    FleetConfig,
    ModelConfig,
    ScoreConfig,
    SearchConfig,
    TrainConfig,
    check_name,
    presets,
)
from mrkd.config.toml import put_values
from mrkd.errors import ConfigError

FLEET = {"workspace": "w", "run": "fleet-1", "data": {"root": "parts"}}
NIGHT = {"workspace": "w", "run": "night-1", "archive": {"uri": "s3://plant/archive/"}}


def with_key(raw, dotted, value):
    """`raw` with one more key, its own tables left as they are."""
    copy = {key: dict(item) if isinstance(item, dict) else item for key, item in raw.items()}
    put_values(copy, {dotted: value})
    return copy


def test_the_smallest_configs_of_the_contract_are_whole():
    assert TrainConfig.from_dict(FLEET).data.layout == "mvtec"
    assert ScoreConfig.from_dict(NIGHT).rows.map_size == 64
    assert EvalConfig.from_dict(FLEET).part == "test"


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("train.mask_rat", "unknown key 'mask_rat' in [train]; did you mean 'mask_rate'?"),
        ("modle", "unknown key 'modle'; did you mean 'model'?"),
        ("data.zzz", "unknown key 'zzz' in [data]; known: root, layout, categories"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_or_all_known_ones(key, words):
    with pytest.raises(ConfigError) as error:
        TrainConfig.from_dict(with_key(FLEET, key, 0.3))
    assert str(error.value).startswith(words)


@pytest.mark.parametrize("key", ["workspace", "run", "data"])
def test_a_missing_key_is_named(key):
    raw = {name: value for name, value in FLEET.items() if name != key}
    with pytest.raises(ConfigError, match=f"missing key '{key}'"):
        TrainConfig.from_dict(raw)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("train.mask_rate", 1.0, r"train.mask_rate is 1.0: it must lie in \[0, 1\)"),
        ("train.mask_rate", "much", "train.mask_rate must be float, found 'much'"),
        ("train.learning_rate", float("nan"), "train.learning_rate must be float, found nan"),
        ("train.seed", True, "train.seed must be int, found True"),
        ("train.batch_size", 1, "it must lie between 2 and 4096"),
        ("model.backbone", "resnet19", r"model.backbone is 'resnet19', allowed: 'resnet18'"),
        ("model.image_size", 250, "it must be a multiple of 32"),
        ("model.tiles", 4, "model.tiles is 4: it must lie between 32 and 65536"),
        ("model.tiles", 100, "model.overlap is 64: it must lie between 0 and 50"),
        ("model.levels", [2, 1], "name each level once, rising"),
        ("model.levels", 2, "model.levels must be a list, found int"),
        ("model.levels", [1, "2"], r"model.levels\[1\] must be int, found '2'"),
        ("model.preset", "defualt", "did you mean 'default'?"),
        ("data", "parts", "data must be a table, found str"),
        ("run", "../up", "run '../up' is not a name"),
    ],
)
def test_a_wrong_value_is_refused_by_its_full_name(key, value, words):
    with pytest.raises(ConfigError, match=words):
        TrainConfig.from_dict(with_key(FLEET, key, value))


def test_an_archive_template_must_say_where_the_name_stands():
    with pytest.raises(ConfigError, match=r"it must hold \{name\}"):
        ScoreConfig.from_dict(with_key(NIGHT, "archive.template", "{category}/{line}"))


def test_an_archive_is_listed_or_a_manifest():
    with pytest.raises(ConfigError, match="neither uri nor manifest"):
        ScoreConfig.from_dict(with_key(NIGHT, "archive", {"template": "{category}/{name}"}))


def test_tiles_and_a_region_of_interest_exclude_each_other():
    raw = with_key(with_key(FLEET, "model.tiles", 256), "roi.mask", "mask.png")
    with pytest.raises(ConfigError, match=r"model\.tiles and roi exclude each other"):
        TrainConfig.from_dict(raw)


@pytest.mark.parametrize("views", [["left", "left"], [""]])
def test_the_views_of_a_part_are_named_once(views):
    with pytest.raises(ConfigError, match=r"parts\.views is .* name each view once"):
        ScoreConfig.from_dict(with_key(NIGHT, "parts.views", views))


def test_whole_numbers_may_stand_where_a_float_is_wanted():
    smooth = TrainConfig.from_dict(with_key(FLEET, "model.smooth", 3)).model.smooth
    assert (smooth, type(smooth)) == (3.0, float)


def test_a_preset_lies_between_the_defaults_and_the_users_keys():
    raw = with_key(with_key(FLEET, "model.preset", "paper"), "model.anchor", 0.5)
    config = TrainConfig.from_dict(raw)
    assert config.model.sru_gate == "hard"  # the preset's
    assert config.model.anchor == 0.5  # the user's
    assert config.model.smooth == ModelConfig.smooth  # neither's
    assert config.train.learning_rate == 1e-3


@pytest.mark.parametrize("preset", presets())
def test_every_preset_is_a_whole_config(preset):
    config = TrainConfig.from_dict(with_key(FLEET, "model.preset", preset))
    assert config.model.preset == preset


@pytest.mark.parametrize("preset", presets())
def test_a_resolved_config_comes_back_from_its_toml(preset):
    config = TrainConfig.from_dict(with_key(FLEET, "model.preset", preset))
    assert TrainConfig.from_toml(config.to_toml()) == config


def test_with_values_changes_a_copy_and_checks_it():
    config = TrainConfig.from_dict(FLEET)
    assert config.with_values({"train.mask_rate": 0.25}).train.mask_rate == 0.25
    assert config.train.mask_rate == TrainConfig.from_dict(FLEET).train.mask_rate
    with pytest.raises(ConfigError, match="did you mean 'mask_rate'"):
        config.with_values({"train.mask_ratio": 0.25})
    with pytest.raises(ConfigError, match="'workspace' is a value, not a table"):
        config.with_values({"workspace.folder": "x"})


def test_a_digest_tells_configs_apart_and_nothing_else_does():
    config = TrainConfig.from_dict(FLEET)
    assert config.digest() == TrainConfig.from_dict(FLEET).digest()
    assert config.digest() != config.with_values({"train.seed": 1}).digest()


def test_text_that_is_no_toml_is_a_config_error():
    with pytest.raises(ConfigError, match="not a TOML file"):
        FitConfig.from_toml("seed = ")


def test_a_category_that_looks_like_a_number_stays_a_string():
    raw = tomllib.loads('categories = ["0012"]\nroot = "parts"')
    assert TrainConfig.from_dict({**FLEET, "data": raw}).data.categories == ("0012",)
    with pytest.raises(ConfigError, match=r"data.categories\[0\] must be str, found 12"):
        TrainConfig.from_dict(with_key(FLEET, "data.categories", [12]))


@pytest.mark.parametrize("name", ["0012", "a", "Night-2026.11_23", "x" * 100])
def test_names_that_may_stand_in_a_path(name):
    assert check_name("category", name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "a/b", "a b", "ä", "a\n", "x" * 101])
def test_names_that_may_not(name):
    with pytest.raises(ConfigError, match="is not a name"):
        check_name("category", name)


def test_a_fraction_of_a_gpu_is_for_one_worker_a_category():
    with pytest.raises(ConfigError, match=r"0\.25 with 2 workers_per_category.*NCCL refuses"):
        FleetConfig(gpus_per_worker=0.25, workers_per_category=2)
    with pytest.raises(ConfigError, match=r"1\.5: a fraction, or whole GPUs"):
        FleetConfig(gpus_per_worker=1.5)


PLANT = """
workspace = "w"
run = "r"
[data]
root = "parts"
[category."ca*".model]
image_size = 64
[category.cap.model]
image_size = 96
[category.cap.roi]
polygons = [[[1, 2], [30, 4], [5, 60]]]
[category.bolt.model]
preset = "paper"
"""


def test_tables_of_a_category_change_its_config_alone_the_later_ones_win():
    config = TrainConfig.from_toml(PLANT)
    sizes = {name: config.for_category(name).model.image_size for name in ("cap", "can", "nut")}
    assert sizes == {"cap": 96, "can": 64, "nut": 256}
    assert len(config.for_category("cap").roi.polygons) == 1
    assert not config.for_category("can").roi.polygons
    assert config.for_category("cap").category == {}


def test_a_preset_for_a_category_brings_its_values():
    config = TrainConfig.from_toml(PLANT).for_category("bolt")
    paper = TrainConfig.from_dict({**FLEET, "model": {"preset": "paper"}})
    assert (config.model, config.train) == (paper.model, paper.train)


def test_what_was_changed_stays_when_the_preset_does():
    config = TrainConfig.from_dict(FLEET).with_values({"train.max_steps": 7})
    assert config.with_values({"model.preset": "paper"}).train.max_steps == 7


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[category.a.modle]\nlevels = [1]", r"'a'.modle; did you mean 'model'"),
        ("[category.a.model]\nimage_sise = 64", r"'a': unknown key 'image_sise' in \[model\]"),
        ("[category.a.train]\nmask_rate = 2.0", r"'a': train.mask_rate is 2"),
        ("[category.a.roi]\npolygons = [[[1, 2], [3, 4]]]", r"polygons\[0\].*three or more"),
    ],
)
def test_a_wrong_table_of_a_category_is_named(table, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig.from_toml(PLANT + table)


def test_a_pattern_that_fits_no_category_is_named():
    with pytest.raises(ConfigError, match=r"category\.'bolt' fits none; did you mean 'bolts'"):
        TrainConfig.from_toml(PLANT).for_categories(["cap", "can", "bolts"])


def test_a_trial_of_a_search_is_a_fleet_with_its_values():
    config = SearchConfig.from_dict(FLEET)
    assert config.base() == TrainConfig.from_dict(FLEET)
    trial = config.trial({"train.mask_rate": 0.25}, seed=7)
    assert (type(trial), trial.train.mask_rate, trial.train.seed) == (TrainConfig, 0.25, 7)
