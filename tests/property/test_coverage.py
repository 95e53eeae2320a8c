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


def shifted(parts, of_groups, shift):
    """A value for each image: of its part, and `shift` times one of its whole group."""
    return parts + shift * of_groups


def away(values, known):
    """Spreads by which values, `[draws, values]`, lie off those known, `[draws, known]`."""
    mean, spread = known.mean(-1, keepdims=True), known.std(-1, keepdims=True)
    return np.abs(values - mean) / np.maximum(spread, 1e-6)


def called(rng, kind, labels, shift):
    """Of each draw, the share of fresh parts, each of its own group, that are called; and the rate.

    A draw is the groups' values, the images', the fresh groups' and the fresh images', in order.
    """
    groups = Groups(np.unique(labels, return_inverse=True)[1], "given")
    ends = np.cumsum([len(groups), len(labels), FRESH])
    values = PARTS[kind](rng, (DRAWS, ends[-1] + FRESH))
    of_groups, parts, of_fresh, fresh = np.split(values, ends, axis=1)
    good = shifted(parts, of_groups[:, groups.labels], shift)
    folds = folds_of(groups)
    scores = np.empty(good.shape)
    for fold in np.unique(folds):
        scores[:, folds == fold] = away(good[:, folds == fold], good[:, folds != fold])
    made = [
        calibrate(row, row, ONE, false_call_rate=RATE, num_groups=len(groups)) for row in scores
    ]
    thresholds = np.array([[one.threshold] for one in made])
    shares = (away(shifted(fresh, of_fresh, shift), good) > thresholds).mean(1)
    return shares, [one.supported_false_call_rate for one in made]


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize(("size", "shift"), [(1, 0.0), (4, 0.0), (4, 3.0)])
@pytest.mark.parametrize("count", [10, 30, 100])
def test_no_more_good_parts_are_called_than_was_promised(kind, count, size, shift, caplog):
    caplog.set_level(logging.ERROR, "mrkd.model.calibration")  # each draw is warned of
    rng = np.random.default_rng(count + size)
    labels = np.arange(count) // size
    shares, promised = called(rng, kind, labels, shift)
    error = shares.std() / DRAWS**0.5
    assert promised[0] == max(RATE, 1 / (-(-count // size) + 1))
    assert shares.mean() <= promised[0] + 3 * error
