"""Rungs: which trials end early."""

from mrkd.runs.trials import Rungs


def test_of_two_at_a_rung_the_worse_that_comes_later_ends():
    rungs = Rungs(grace=1, reduction=2)
    assert not rungs.is_below(1, 0.5)  # the first has no rival
    assert rungs.is_below(1, 0.4)
    assert not rungs.is_below(1, 0.6)


def test_only_rungs_decide():
    rungs = Rungs(grace=2, reduction=3)
    assert not rungs.is_below(2, 0.9)
    assert not rungs.is_below(6, 0.9)
    for epoch in (1, 3, 4, 5, 7, 17):
        assert not rungs.is_below(epoch, 0.0)
    for epoch in (2, 6):
        assert rungs.is_below(epoch, 0.1)
