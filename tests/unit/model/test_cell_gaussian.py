import numpy as np
import pytest
import torch

from mrkd.model.cell_gaussian import GRIDS, CellGaussian, Grid, Sums, packed, unpacked

CHANNELS, STRIDES = (6, 8, 5), (8, 16, 32)
GRID = Grid("middle", stride=16, most=16, deep=False, width=4, weight=16.0)


def levels(count, seed=0, scale=1.0):
    """Standardised features of pictures of 64 px."""
    generator = torch.Generator().manual_seed(seed)
    return [
        scale * torch.randn(count, channels, 64 // stride, 64 // stride, generator=generator)
        for channels, stride in zip(CHANNELS, STRIDES, strict=True)
    ]


def fitted(shown, grid=GRID, roi=None):
    cells = CellGaussian(grid, CHANNELS, STRIDES, 64, roi)
    cells.draw_projection(0)
    cells.fit(Sums.over(cells, [shown]))
    return cells


def by_hand(cells, shown, asked):
    """Mahalanobis distances under the shrunk covariance, from its definition."""
    z_NPD, a_BPD = (cells.embed(one).double().numpy() for one in (shown, asked))
    count, weight = len(z_NPD), cells.grid.weight
    mean = z_NPD.mean(0)
    away = z_NPD - mean
    covariance = np.einsum("npd,npe->pde", away, away) / count
    shrunk = (count * covariance + weight * covariance.mean(0)) / (count + weight)
    inverse = np.linalg.inv(shrunk + 0.01 * np.eye(shrunk.shape[1]))
    asked_away = a_BPD - mean
    squares = np.einsum("bpd,pde,bpe->bp", asked_away, inverse, asked_away)
    return np.sqrt(squares).reshape(-1, cells.side, cells.side)


@pytest.mark.parametrize("count", [4, 40])
def test_a_cells_distance_is_mahalanobis_under_its_shrunk_covariance(count):
    shown, asked = levels(count), levels(3, seed=1)
    cells = fitted(shown)
    np.testing.assert_allclose(cells(asked).numpy(), by_hand(cells, shown, asked), rtol=3e-3)


def test_pictures_that_are_all_alike_have_distances_all_the_same():
    one = levels(1)
    cells = fitted([level.repeat(6, 1, 1, 1) for level in one])
    assert (cells(one) < 1e-3).all()
    far = cells(levels(2, seed=3))
    assert torch.isfinite(far).all()
    assert (far > 1).all()


def test_sums_add_and_subtract_to_those_of_the_pictures():
    shown = levels(12)
    cells = CellGaussian(GRID, CHANNELS, STRIDES, 64, None)
    cells.draw_projection(0)
    first, rest = ([level[rows] for level in shown] for rows in (slice(5), slice(5, None)))
    whole, part = Sums.over(cells, [shown]), Sums.over(cells, [first])
    left, expected = whole.plus(part, sign=-1), Sums.over(cells, [rest])
    assert left.count == expected.count == 7
    torch.testing.assert_close(left.outer, expected.outer, atol=1e-8, rtol=1e-8)
    together = part.plus(expected)
    torch.testing.assert_close(together.total, whole.total, atol=1e-8, rtol=1e-8)


def test_a_known_picture_is_judged_as_if_it_had_not_been_there():
    shown, asked = levels(30), levels(4, seed=2)
    cells = fitted(shown)
    first = [level[:1] for level in shown]
    without = fitted([level[1:] for level in shown])
    known = cells.deviations(first)
    for pictures in (first, asked):
        found = cells.distances(cells.deviations(pictures), known_PBD=known)
        # The mean covariance of all cells keeps the picture: a share of about 16 / (30 * 46).
        torch.testing.assert_close(found, without(pictures), rtol=0.02, atol=0.02)
    assert (cells(first) < without(first)).all()


def test_outside_a_region_nothing_is_far_and_nothing_is_shared():
    roi = torch.zeros(64, 64)
    roi[:, :30] = 1
    shown, asked = levels(10), levels(2, seed=1)
    before = fitted(shown, roi=roi)(asked)
    assert (before[:, :, 2:] == 0).all()
    assert (before[:, :, :2] > 0).all()
    for level in shown:
        level[..., level.shape[-1] // 2 :] *= 100
    torch.testing.assert_close(fitted(shown, roi=roi)(asked), before)
    assert not torch.allclose(fitted(shown)(asked)[:, :, :2], before[:, :, :2], rtol=0.1)


def test_grids_take_the_levels_of_their_strides():
    middle, deep, fine = GRIDS
    assert middle.levels((8, 16, 32, 32)) == fine.levels((8, 16, 32, 32)) == (0, 1)
    assert deep.levels((8, 16, 32, 32)) == (2, 3)
    assert (middle.levels((4, 8, 16)), deep.levels((4, 8, 16))) == ((1, 2), (2,))
    assert middle.levels((32, 32)) == (0, 1)


def test_a_grid_grows_with_the_picture_up_to_its_most():
    assert [grid.side(256) for grid in GRIDS] == [16, 8, 32]
    assert [grid.side(64) for grid in GRIDS] == [4, 2, 8]
    assert [grid.side(1024) for grid in GRIDS] == [16, 8, 32]
    cells = CellGaussian(GRIDS[0], CHANNELS, STRIDES, 1024, None)
    large = [
        torch.zeros(1, c, 1024 // s, 1024 // s) for c, s in zip(CHANNELS, STRIDES, strict=True)
    ]
    assert cells.embed(large).shape[1] == 16**2


def test_a_whitening_is_stored_as_its_lower_triangle_in_float16():
    whitening = fitted(levels(9)).whitening
    triangles = packed(whitening)
    assert (triangles.dtype, triangles.shape) == (torch.float16, (16, 10))
    assert torch.equal(unpacked(triangles, 4), whitening)
    with pytest.raises(ValueError, match="expected of width 5"):
        unpacked(triangles, 5)
