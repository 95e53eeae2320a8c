from pathlib import Path

import numpy as np
import pytest

from mrkd.config import SearchConfig
from mrkd.errors import ConfigError
from mrkd.training.search import spaces
from mrkd.training.search.space import (
    Domain,
    Drawn,
    NumberRange,
    choice,
    loguniform,
    randint,
    uniform,
)
from tests.support.searches import small_search

SPACES = sorted(path.stem for path in Path("tune_spaces").glob("[a-z]*.py"))


def config_of(preset="masked"):
    tables = {"data": {"root": "parts"}, "model": {"preset": preset}}
    return SearchConfig.from_dict({"workspace": "w", "run": "r", **tables})


def test_every_space_is_listed_with_its_keys():
    assert spaces.names() == SPACES == ["full", "paper", "quick"]
    words = spaces.described(spaces.load("quick"))
    assert words == {
        "train.mask_rate": "0 to 0.9",
        "train.learning_rate": "0.001 to 0.01, log",
        "model.backbone": "efficientnet_lite0 | efficientnet_lite1 | efficientnet_lite2",
    }


def test_keys_on_a_log_scale_are_known():
    space: dict[str, Domain] = {
        "train.learning_rate": loguniform(1e-4, 1e-2),
        "train.weight_decay": NumberRange(1e-5, 1e-2, log=True, step=1e-5),
        "train.mask_rate": uniform(0.1, 0.9),
        "model.smooth": Drawn(None),
    }
    assert spaces.log_keys(space) == ["train.learning_rate", "train.weight_decay"]
    assert spaces.described(space)["model.smooth"] == "drawn by a function"


@pytest.mark.parametrize("name", SPACES)
def test_a_hundred_samples_of_a_space_are_configs(name):
    space, config, rng = spaces.load(name), config_of(), np.random.default_rng(3)
    spaces.check(space, config)
    drawn = [{key: domain.draw(rng) for key, domain in space.items()} for _ in range(100)]
    assert len({repr(values) for values in drawn}) == 100
    for values in drawn:
        trial = config.trial(values, seed=1)
        for key, value in values.items():
            section, _, field = key.partition(".")
            found = getattr(getattr(trial, section), field)
            assert found == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"train.mask_rat": uniform(0, 1)}, r"unknown key 'mask_rat' in \[train\]"),
        ({"train.mask_rate": uniform(0.5, 1.5)}, "train.mask_rate = .* is refused"),
        ({"model.backbone": choice(["resnet18", "vgg"])}, "model.backbone = 'vgg' is refused"),
        ({"train.seed": randint(0, 9)}, "train.seed cannot be searched"),
        ({"fleet.force": choice([True])}, "fleet.force cannot be searched"),
    ],
)
def test_a_space_with_a_key_or_a_value_that_no_config_has_is_refused_by_name(space, message):
    with pytest.raises(ConfigError, match=message):
        spaces.check(space, config_of())


def test_a_mask_rate_that_would_do_nothing_is_refused():
    space = {"train.mask_rate": uniform(0, 0.9)}
    with pytest.raises(ConfigError, match=r"does nothing while model\.fmm is false"):
        spaces.check(space, config_of("default"))
    spaces.check(space | {"model.fmm": choice([True])}, config_of("default"))


def test_an_unknown_space_is_refused_with_the_nearest_and_a_file_of_ones_own_is_read(tmp_path):
    with pytest.raises(ConfigError, match=r"search\.space is 'quik'; did you mean 'quick'"):
        spaces.load("quik")
    with pytest.raises(ConfigError, match="does not exist"):
        spaces.load(str(tmp_path / "none.py"))
    (tmp_path / "empty.py").write_text("SPACE = {'train.mask_rate': 0.5}")
    with pytest.raises(ConfigError, match=r"train\.mask_rate is 0\.5, not a domain"):
        spaces.load(str(tmp_path / "empty.py"))
    own = spaces.load(small_search(tmp_path, tmp_path).search.space)
    assert list(own) == ["train.mask_rate", "train.learning_rate", "model.simam"]


def test_a_file_of_domains_of_ray_tune_is_the_same_space_as_one_of_ours(tmp_path):
    file = tmp_path / "for_ray.py"
    file.write_text(
        "from ray import tune\n"
        "SPACE = {\n"
        "    'train.mask_rate': tune.uniform(0.0, 0.9),\n"
        "    'train.learning_rate': tune.loguniform(1e-3, 1e-2),\n"
        "    'train.weight_decay': tune.qloguniform(1e-5, 1e-2, 1e-5),\n"
        "    'model.simam': tune.choice([True, False]),\n"
        "    'model.smooth': tune.sample_from(lambda config: 4.0),\n"
        "}\n"
    )
    found = spaces.load(str(file))
    assert {key: found[key] for key in list(found)[:4]} == {
        "train.mask_rate": uniform(0.0, 0.9),
        "train.learning_rate": loguniform(1e-3, 1e-2),
        "train.weight_decay": NumberRange(1e-5, 1e-2, log=True, step=1e-5),
        "model.simam": choice([True, False]),
    }
    assert spaces.log_keys(found) == ["train.learning_rate", "train.weight_decay"]
    assert spaces.described(found)["model.smooth"] == "drawn by a function"
    assert found["model.smooth"].draw(np.random.default_rng(0)) == 4.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SPACE = {", "line 1: SyntaxError"),
        ("\nimport nowhere_to_be_found", "line 2: ModuleNotFoundError"),
        ("import sys\nsys.exit()", "line 2: SystemExit"),
        ("1 / 0", "line 1: ZeroDivisionError"),
        (
            "SPACE = {'train.mask_rate': uniform(0.9, 0.1)}",
            "line 1: ConfigError.*lower bound first",
        ),
        ("SPACE = {'train.mask_rate': uniform(0.1, 0.1)}", "lower bound first"),
        ("SPACE = {'train.learning_rate': loguniform(0, 0.1)}", "begin above 0"),
        ("SPACE = {'train.learning_rate': loguniform('a', 0.1)}", "two finite numbers"),
        ("SPACE = {'train.mask_rate': uniform(0, float('nan'))}", "two finite numbers"),
        ("SPACE = {'train.batch_size': randint(3, 3)}", "is empty"),
        ("SPACE = {'train.mask_rate': choice([])}", "has no values"),
        ("SPACE = {'train.mask_rate': choice(3)}", "line 1: TypeError"),
        ("SPACE = {'train.mask_rate': uniform()}", "line 1: TypeError"),
        ("SPACE = {3: choice([1])}", "not a domain"),
        ("SPACE = {'train.max_steps': randint(0, 10**30)}", "line 1: .* more than 64 bits"),
        ("SPACE = {'train.max_steps': choice([10**5000])}", "line 1: .* cannot be written"),
        ("a = []\nfor _ in range(9**5): a = [a]\nSPACE = {'x': choice([a])}", "line 3: .*written"),
        ("from ray import tune\nSPACE = {'x': tune.TuneConfig()}", "not a domain"),
        (
            "from ray import tune\nSPACE = {'train.mask_rate': tune.sample_from(lambda c: 1 / 0)}",
            "train.mask_rate: its function fails: ZeroDivisionError",
        ),
        ("SPACE = []", "has no SPACE"),
        ("raise RecursionError('deep')", "line 1: RecursionError"),
    ],
)
def test_a_file_that_fails_is_refused_with_its_line(tmp_path, text, words):
    path = tmp_path / "space.py"
    names = "from mrkd.training.search.space import choice, loguniform, randint, uniform;"
    path.write_text(text if text.startswith(("\n", "SPACE = {\n")) else names + text)
    with pytest.raises(ConfigError, match=words):
        spaces.check(spaces.load(str(path)), config_of())


def test_a_file_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "space.py"
    path.write_bytes("SPACE = {'ä': 1}".encode("latin-1"))
    with pytest.raises(ConfigError, match="SyntaxError"):
        spaces.load(str(path))


def test_a_name_that_no_file_can_have_is_refused():
    with pytest.raises(ConfigError, match="cannot be read: File name too long"):
        spaces.load("x" * 400 + ".py")


def test_the_digest_of_functions_is_that_of_their_file_in_the_encoding_that_it_names(tmp_path):
    path = tmp_path / "space.py"
    head = b"# -*- coding: latin-1 -*-\n# \xe9\nfrom ray import tune\n"
    path.write_bytes(head + b"SPACE = {'train.mask_rate': tune.sample_from(lambda c: 0.5)}\n")
    one = spaces.digest(str(path), spaces.load(str(path)))
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.4"))
    assert one != spaces.digest(str(path), spaces.load(str(path)))


def test_the_digest_of_a_space_changes_with_its_domains_and_not_with_a_remark(tmp_path):
    def digest(text):
        path = tmp_path / "space.py"
        path.write_text(f"from mrkd.training.search.space import uniform\n{text}")
        return spaces.digest(str(path), spaces.load(str(path)))

    one = digest("SPACE = {'train.mask_rate': uniform(0.1, 0.9)}")
    assert one == digest("# as ever\nSPACE = {'train.mask_rate': uniform(0.1, 0.9)}")
    assert one != digest("SPACE = {'train.mask_rate': uniform(0.1, 0.90000001)}")
