"""Domains of a space, ours and those of ray.tune."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray import tune

from mrkd.training.search.space import (
    Drawn,
    NumberRange,
    OneOf,
    choice,
    domain_of,
    loguniform,
    randint,
    uniform,
)

SAME = [
    (choice(["a", (1, 2), None]), tune.choice(["a", (1, 2), None])),
    (uniform(0.1, 0.9), tune.uniform(0.1, 0.9)),
    (loguniform(1e-4, 1e-1), tune.loguniform(1e-4, 1e-1)),
    (randint(2, 9), tune.randint(2, 9)),
    (NumberRange(2, 90, log=True, whole=True), tune.lograndint(2, 90)),
    (NumberRange(0.0, 0.9, step=0.3), tune.quniform(0.0, 0.9, 0.3)),
    (NumberRange(3, 20, whole=True, step=4), tune.qrandint(3, 20, 4)),
]


@pytest.mark.parametrize(("ours", "theirs"), SAME)
def test_a_domain_of_ray_tune_is_ours_and_draws_the_same_values(ours, theirs):
    assert domain_of(ours) is ours
    assert domain_of(theirs) == ours
    mine, other = np.random.default_rng(5), np.random.default_rng(5)
    for _ in range(50):
        value = ours.draw(mine)
        expected = theirs.sample(random_state=other)
        assert value == expected
        assert type(value) is type(expected)


def test_a_domain_that_a_function_draws_is_kept():
    domain = domain_of(tune.randn(3.0, 1.0))
    assert isinstance(domain, Drawn)
    rng = np.random.default_rng(0)
    assert 0 < np.mean([domain.draw(rng) for _ in range(50)]) < 6


@pytest.mark.parametrize("value", [0.5, [1, 2], "uniform", None])
def test_a_value_is_not_a_domain(value):
    assert domain_of(value) is None


@given(st.floats(1e-6, 1e3), st.floats(1.001, 100), st.integers(0, 2**32 - 1), st.booleans())
def test_draws_stay_within_their_bounds(low, factor, seed, log):
    high = low * factor
    value = NumberRange(low, high, log=log).draw(np.random.default_rng(seed))
    assert low * (1 - 1e-9) <= value <= high * (1 + 1e-9)


def test_a_domain_in_words():
    assert str(OneOf([1, 2])) == "1 | 2"
    assert str(uniform(0, 0.5)) == "0 to 0.5"
    assert str(loguniform(1e-3, 1e-2)) == "0.001 to 0.01, log"
