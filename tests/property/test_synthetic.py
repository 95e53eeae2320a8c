import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mrkd import seeds
from mrkd.data.synthetic_defects import KINDS, MIN_CHANGE, SIZES, defect

pictures = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(
    lambda size: st.tuples(
        arrays.arrays(np.uint8, (*size, 3)),
        st.one_of(st.none(), arrays.arrays(bool, size, elements=st.booleans())),
    )
)


@settings(deadline=None)
@given(pictures, st.sampled_from(KINDS), st.sampled_from(SIZES), st.integers(0, 2**32))
def test_any_picture_takes_a_visible_defect_inside_and_stays_as_it_was_elsewhere(
    shown, kind, size, seed
):
    picture, inside = shown
    if inside is not None and not inside.any():
        return
    pixels, gt_mask = defect(picture, seeds.stream(seed), kind, size=size, inside=inside)
    change = np.abs(pixels.astype(int) - picture)
    assert gt_mask.any()
    assert inside is None or not gt_mask[~inside].any()
    assert change[gt_mask].mean() >= MIN_CHANGE
    assert not change[~gt_mask].any()


@settings(deadline=None)
@given(pictures, st.sampled_from(KINDS), st.sampled_from(SIZES), st.integers(0, 2**32))
def test_the_same_stream_draws_the_same_defect(shown, kind, size, seed):
    picture, _ = shown
    first, second = (defect(picture, seeds.stream(seed), kind, size=size) for _ in range(2))
    assert (first[0] == second[0]).all()
    assert (first[1] == second[1]).all()
