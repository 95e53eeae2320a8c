"""Pictures of one magnetic tile on both sides of a split: figures in `tests/bench/LOG.md`."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from mrkd.data.leak_check import find_leaks

pytestmark = [pytest.mark.real_data, pytest.mark.timeout(1800)]
MTD = Path(os.environ.get("MRKD_DATA", "missing"), "mtd")


@pytest.fixture(scope="module")
def tiles():
    """Tile and part of each picture, by its path."""
    table = Path(MTD, "split.csv")
    if not table.exists():
        pytest.skip(f"no split.csv in {str(MTD)!r}: give DATA=<the folder above mtd>")
    with table.open() as file:
        return {row["path"]: (row["tile"], row["part"]) for row in csv.DictReader(file)}


def leaks(tiles, trained):
    """How many judge, how many are found, and how many of these have their twin's tile number."""
    root = Path(MTD, "magnetic_tile")
    uris = {str(root / path): tile for path, (tile, _) in tiles.items()}
    judged = [uri for uri in uris if uri not in trained]
    found = find_leaks(sorted(trained), judged)
    same = sum(uris[one.image_uri] == uris[one.training_uri] for one in found)
    return len(judged), len(found), same


def test_a_random_split_shows_its_exposures_of_one_tile(tiles):
    good = sorted(path for path in tiles if "/good/" in path)
    drawn = np.random.default_rng(0).random(len(good)) < 0.8
    root = Path(MTD, "magnetic_tile")
    trained = {str(root / path) for path, one in zip(good, drawn, strict=True) if one}
    judged, found, same = leaks(tiles, trained)
    assert judged > 500
    assert found >= 80
    assert same >= 0.8 * found


def test_the_split_by_tiles_shows_but_the_few_that_were_numbered_anew(tiles):
    root = Path(MTD, "magnetic_tile")
    trained = {str(root / path) for path, (_, part) in tiles.items() if part == "train"}
    judged, found, same = leaks(tiles, trained)
    # Thirteen of them looked at: one tile each, with the same scratches (tests/bench/LOG.md).
    assert found <= 0.06 * judged
    assert same == 0
