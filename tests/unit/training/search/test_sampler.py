"""Samplers: which configs a search draws."""

import pytest

from mrkd.config.tune import SearchOptions
from mrkd.errors import ConfigError
from mrkd.training.search.sampler import sampler_of
from mrkd.training.search.space import (
    Domain,
    Drawn,
    NumberRange,
    choice,
    loguniform,
    randint,
    uniform,
)

SPACE: dict[str, Domain] = {
    "train.mask_rate": uniform(0.0, 0.9),
    "train.learning_rate": loguniform(1e-4, 1e-2),
    "model.image_size": randint(64, 129),
    "model.smooth": NumberRange(0.0, 8.0, step=2.0),
    "model.backbone": choice(["resnet18", "resnet50"]),
}


def draws(searcher, seed=0, number=20):
    sampler = sampler_of(SearchOptions(searcher=searcher, seed=seed), SPACE)
    found = []
    for trial in range(number):
        values = sampler.ask(str(trial))
        found.append(values)
        sampler.tell(str(trial), 1 - abs(values["train.mask_rate"] - 0.3) if trial % 5 else 0.0)
    return found


@pytest.mark.parametrize("searcher", ["random", "tpe"])
def test_the_same_seed_and_results_draw_the_same_configs(searcher):
    assert draws(searcher) == draws(searcher)
    assert draws(searcher) != draws(searcher, seed=1)
    for values in draws(searcher):
        assert set(values) == set(SPACE)
        assert 64 <= values["model.image_size"] < 129
        assert values["model.smooth"] in (0.0, 2.0, 4.0, 6.0, 8.0)


def test_tpe_learns_where_the_objective_is_high():
    late = [values["train.mask_rate"] for values in draws("tpe", number=60)[40:]]
    assert sum(abs(rate - 0.3) for rate in late) / len(late) < 0.15


def test_a_function_cannot_be_drawn_from_by_tpe():
    with pytest.raises(ConfigError, match="drawn by a function, which tpe does not know"):
        sampler_of(SearchOptions(searcher="tpe"), {"train.mask_rate": Drawn(None)})
