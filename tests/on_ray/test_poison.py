"""Images that kill the process that has them in hand, by a real signal."""

import shutil

import cv2
import numpy as np
import pytest

from mrkd import storage
from mrkd.nights.manifest import open_night
from mrkd.runs import score
from mrkd.runs.shards.crash_log import Crash
from tests.support.night_runs import events
from tests.support.poison.sitecustomize import DEADLY_RGB, MARKER
from tests.support.rays import RAY

DECODED = ["plate/good-001.png", "plate/good-002.png", "ring/good-003.png"]
SCORED = "ring/good-004.png"


@pytest.fixture
def poisoned(own_archive):
    """The calm night's archive with images that kill: two of one shard as they are decoded, two of
    another, one as it is decoded and one as it is scored."""
    for key in DECODED:
        with (own_archive / key).open("ab") as file:
            file.write(MARKER)
    cv2.imwrite(str(own_archive / SCORED), np.full((64, 64, 3), DEADLY_RGB[::-1], np.uint8))
    return own_archive


def rows(plant, run, archive):
    """The rows by key, without what names the archive and its files."""
    found = {}
    for row in open_night(str(plant.night(run))).to_table().to_pylist():
        key = row.pop("image_uri").removeprefix(f"file://{archive}/")
        found[key] = {name: row[name] for name in row if name != "image_etag"}
    return found


def crashes(plant, run):
    """Of each shard, in order."""
    found = {}
    for folder in plant.night(run).glob("attempts/*"):
        numbers = storage.list_numbers(str(folder))
        assert numbers == list(range(1, len(numbers) + 1))
        found[folder.name] = [
            Crash(**storage.read_json(str(folder / f"{number}.json"))) for number in numbers
        ]
    return found


def test_deadly_images_are_found_and_the_rest_is_scored_to_the_same_bits(
    plant, archive, calm, poisoned
):
    config = plant.score_config(poisoned, "poison", **{"rows.shard_rows": 6})
    summary = score.run(config, RAY)
    assert (summary.exit_code, summary.state) == (3, "partial")
    assert events(summary.reasons) == ["4 of 24 images have no score: internal 4"]
    found, expected = rows(plant, "poison", poisoned), rows(plant, "calm", archive)
    assert found.keys() == expected.keys()
    for key, row in found.items():
        if key in [*DECODED, SCORED]:
            assert (row["error_kind"], row["image_score"]) == ("internal", None)
            at = "score" if key == SCORED else "decode"
            assert row["error_message"].startswith(
                f"it ended 3 processes that had it in hand (at {at})"
            )
            assert row["model_version"] == expected[key]["model_version"]
        else:
            assert row == expected[key], key
    plates, rings = sorted(crashes(plant, "poison").values(), key=lambda of: str(of[2]))
    for of in (plates, rings):
        assert [death.at for death in of[:2]] == 2 * ["pipeline"]
    named = [death.image_uri.removeprefix(f"file://{poisoned}/") for death in plates[2:]]
    assert named == [DECODED[0], *3 * [DECODED[1]]]
    assert [death.at for death in rings[2:]] in (["decode", *n * ["score"]] for n in (3, 4, 5))


def test_deaths_of_an_earlier_start_count_in_the_next_one(plant, own_archive):
    with (own_archive / DECODED[2]).open("ab") as file:
        file.write(MARKER)
    config = plant.score_config(own_archive, "died-before", **{"rows.shard_rows": 6})
    score.run(config, RAY)
    expected, before = rows(plant, "died-before", own_archive), crashes(plant, "died-before")
    # As a driver leaves it that was killed before it could store the last death.
    night = plant.night("died-before")
    ((shard, died),) = before.items()
    (night / "attempts" / shard / f"{len(died)}.json").unlink()
    (committed,) = night.glob(f"scores/*/shard-{shard}.parquet")
    committed.unlink()
    shutil.rmtree(night / "manifests")
    (night / "_MANIFEST.json").unlink()

    assert events(score.run(config, RAY).reasons) == ["1 of 24 images have no score: internal 1"]
    assert rows(plant, "died-before", own_archive) == expected
    assert crashes(plant, "died-before") == before
