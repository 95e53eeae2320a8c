"""The promise of a threshold, counted: parts called by a detector that was fitted and calibrated.

A detector of one dimension, a Gaussian, stands for the cells: what a fold's images are scored by
does not know their groups, as in `category.scores`. Folds, ranks and tails are the product's.
"""

import logging

import numpy as np
import pytest

from mrkd.data.images import Statistics
from mrkd.model.calibration import calibrate
from mrkd.training.category.groups import Groups, folds_of

DRAWS, RATE, FRESH = 2000, 0.01, 20
ONE = [Statistics(0.5, 0.5, 0.5)]
PARTS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "lognormal": lambda rng, size: rng.lognormal(sigma=0.5, size=size),
    "heavy tails": lambda rng, size: rng.standard_t(3, size),
    "bounded": lambda rng, size: rng.uniform(size=size),
}


def drawn(rng, kind, groups, shift):
    """A value for each image: of its part, and `shift` times one of its whole group."""
    labels = np.unique(groups, return_inverse=True)[1]
    of_group = PARTS[kind](rng, labels.max() + 1)[labels]
    return PARTS[kind](rng, len(labels)) + shift * of_group


def away(values, known):
    """How many spreads values lie off what a detector knows."""
    return np.abs(values - known.mean()) / max(known.std(), 1e-6)


def called(rng, kind, labels, shift):
    """Share of fresh parts, each of a group of its own, that are called; and the rate promised."""
    good = drawn(rng, kind, labels, shift)
    groups = Groups(np.unique(labels, return_inverse=True)[1], "given")
    folds = folds_of(groups)
    scores = np.empty(len(good))
    for fold in np.unique(folds):
        scores[folds == fold] = away(good[folds == fold], good[folds != fold])
    made = calibrate(scores, scores, ONE, false_call_rate=RATE, num_groups=len(groups))
    fresh = drawn(rng, kind, np.arange(FRESH), shift)
    return (away(fresh, good) > made.threshold).mean(), made.supported_false_call_rate


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize(("size", "shift"), [(1, 0.0), (4, 0.0), (4, 3.0)])
@pytest.mark.parametrize("count", [10, 30, 100])
def test_no_more_good_parts_are_called_than_was_promised(kind, count, size, shift, caplog):
    caplog.set_level(logging.ERROR, "mrkd.model.calibration")  # each draw is warned of
    rng = np.random.default_rng(count + size)
    labels = np.arange(count) // size
    found = [called(rng, kind, labels, shift) for _ in range(DRAWS)]
    shares, promised = np.array(found).T
    error = shares.std() / DRAWS**0.5
    assert promised[0] == max(RATE, 1 / (-(-count // size) + 1))
    assert shares.mean() <= promised[0] + 3 * error
