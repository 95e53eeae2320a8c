"""Reference parts before a night: by the threshold, by their band, with a real small model."""

from dataclasses import replace

import numpy as np
import pytest

from mrkd import storage
from mrkd.config import ScoreConfig
from mrkd.data.preprocess import Preprocessor
from mrkd.errors import ArtefactError, ConfigError, GoldenError, NightError
from mrkd.model import artefact
from mrkd.model.calibration import at_threshold
from mrkd.model.inference import Scorer
from mrkd.nights import reference_parts
from mrkd.nights.shards import Pin
from tests.support.pictures import pillow, smooth
from tests.support.versions import store_version

NUM = 6
VERSION = "aa"


def check(config, pins):
    """`reference_parts.check`, its parts scored here."""

    def score_each(calls):
        return {name: reference_parts.score_parts(*one) for name, one in calls.items()}

    return reference_parts.check(config, pins, score_each)


def picture(seed):
    return smooth(64, 64, seed)


def put(root, label, name, pixels, category="plate"):
    uri = storage.join(str(root), category, label, f"{name}.png")
    storage.write(uri, pillow(pixels, "PNG"))
    return uri


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace, and seeds of pictures by rising score of its model, below and above 2's."""
    workspace = str(tmp_path_factory.mktemp("made"))
    store_version(workspace, VERSION)
    store_version(workspace, VERSION, "ring")
    config = ScoreConfig.from_dict(
        {"workspace": workspace, "run": "night-0", "archive": {"uri": "unused"}}
    )
    decoder = Preprocessor(64, "stretch")
    decoded = [decoder(str(seed), pillow(picture(seed), "PNG")) for seed in range(NUM)]
    rows = Scorer(workspace, config.pool).score(
        decoded, category="plate", version=VERSION, rows=config.rows
    )
    seeds = sorted(range(NUM), key=lambda seed: rows[seed]["image_score"])
    scores = [rows[seed]["image_score"] for seed in seeds]
    place = workspace, "plate", VERSION
    first = artefact.read_calibration(*place, 1)
    between = (scores[NUM // 2 - 1] + scores[NUM // 2]) / 2
    artefact.add_calibration(*place, at_threshold(first, between))
    assert scores[NUM // 2 - 1] < np.float32(between) < scores[NUM // 2]
    return workspace, seeds, scores


@pytest.fixture
def root(made, tmp_path):
    """The golden set: the lower half are good parts, the upper half bad ones."""
    for rank, seed in enumerate(made[1]):
        put(tmp_path / "golden", "good" if rank < NUM // 2 else "bad", seed, picture(seed))
    return tmp_path / "golden"


@pytest.fixture
def config(made, root, tmp_path):
    """A night's config; what is stored of the golden set is the test's own."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    for name in ("models", "teachers"):
        (workspace / name).symlink_to(f"{made[0]}/{name}")
    raw = {"workspace": str(workspace), "run": "night-1", "archive": {"uri": "unused"}}
    return ScoreConfig.from_dict(raw | {"golden": {"uri": str(root)}})


PINS = {"plate": Pin(VERSION, 2, "efficientnet_lite0-0123456789ab")}


def record(config):
    return storage.read_json(f"{config.workspace}/nights/{config.run}/golden.json")


def bands(config):
    folder = f"{config.workspace}/golden"
    return {file.uri.rpartition("/")[2]: file.uri for file in storage.list_files(folder)}


def go_dark(root):
    """Takes a good part's picture anew, without light; this model scores it below all others."""
    uri = storage.list_files(f"{root}/plate/good")[0].uri
    storage.write(uri, pillow(np.zeros((64, 64, 3), np.uint8), "PNG"))
    return uri


def test_the_first_sight_sets_a_band_for_each_label_and_passes(config, made):
    assert check(config, PINS) == []
    assert list(bands(config)) == ["aa-2-bad.json", "aa-2-good.json"]
    band = storage.read_json(bands(config)["aa-2-good.json"])
    assert (band["low"], band["high"]) == (made[2][0], made[2][NUM // 2 - 1])
    assert (band["num_images"], band["run"], band["version"]) == (NUM // 2, "night-1", VERSION)
    found = record(config)
    assert (found["state"], found["forced"]) == ("passed", False)
    assert sorted(row["image_score"] for row in found["images"]) == made[2]


def test_the_same_pictures_lie_in_a_band_without_tolerance(config):
    config = config.with_values({"golden.tolerance": 0})
    check(config, PINS)
    stored = storage.list_files(f"{config.workspace}/golden")
    assert check(config.with_values({"run": "night-2"}), PINS) == []
    assert storage.list_files(f"{config.workspace}/golden") == stored


def test_a_dark_picture_leaves_the_band_and_stops_the_night(config, root):
    check(config, PINS)
    uri = go_dark(root)
    later = config.with_values({"run": "night-2", "golden.tolerance": 0})
    with pytest.raises(GoldenError, match="1 of 6 golden images are off") as caught:
        check(later, PINS)
    assert caught.value.exit_code == 1
    assert isinstance(caught.value, NightError)
    for text in (uri, "outside", "set by night-1", "--force", "golden"):
        assert text in str(caught.value)
    found = record(later)
    assert (found["state"], found["forced"]) == ("failed", False)
    assert [row["image_uri"] for row in found["images"] if row["problem"]] == [uri]


def test_the_tolerance_is_the_night_s_own_not_that_of_the_first_sight(config, root):
    check(config.with_values({"golden.tolerance": 0}), PINS)
    go_dark(root)
    assert check(config.with_values({"golden.tolerance": 100}), PINS) == []


def test_force_tells_what_is_wrong_and_goes_on(config, root):
    check(config, PINS)
    uri = go_dark(root)
    forced = config.with_values({"golden.tolerance": 0, "force": True})
    (problem,) = check(forced, PINS)
    assert problem.startswith(f"{uri} (good) scores ")
    assert (record(config)["state"], record(config)["forced"]) == ("failed", True)


def test_a_later_revision_of_other_categories_hides_nothing(config, root, made):
    check(config, PINS)
    go_dark(root)
    forced = config.with_values({"golden.tolerance": 0, "force": True})
    check(forced, PINS)
    put(root, "good", "x", picture(made[1][0]), category="ring")
    check(config.with_values({"force": True}), {"ring": Pin(VERSION, 1, "t")})
    found = record(config)
    assert {row["category"] for row in found["images"]} == {"plate", "ring"}
    assert (found["state"], found["forced"]) == ("failed", True)


@pytest.mark.parametrize(
    ("label", "seed_rank", "words"),
    [("good", NUM - 1, ", above the threshold"), ("bad", 0, ", not above the threshold")],
)
def test_a_part_on_the_wrong_side_sets_no_band(config, root, made, label, seed_rank, words):
    put(root, label, "odd", picture(made[1][seed_rank]))
    with pytest.raises(GoldenError, match=words):
        check(config, PINS)
    other = {"good": "bad", "bad": "good"}[label]
    assert list(bands(config)) == [f"aa-2-{other}.json"]
    check(config.with_values({"force": True}), PINS)
    assert list(bands(config)) == [f"aa-2-{other}.json"]


def test_a_picture_that_cannot_be_read_is_wrong(config, root):
    uri = storage.join(str(root), "plate", "good", "cut.png")
    storage.write(uri, pillow(picture(0), "PNG")[:200])
    with pytest.raises(GoldenError, match=r"has no score: .*send it again"):
        check(config, PINS)
    row = next(row for row in record(config)["images"] if row["image_uri"] == uri)
    assert row["image_score"] is None


def test_another_calibration_has_a_band_of_its_own(config):
    check(config, PINS)
    pins = {"plate": replace(PINS["plate"], calibration=1)}
    check(config.with_values({"force": True}), pins)
    # By the first one's threshold all of them are defective.
    assert list(bands(config)) == ["aa-1-bad.json", "aa-2-bad.json", "aa-2-good.json"]


def test_only_the_night_s_own_categories_are_scored(config, root):
    put(root, "good", "x", picture(0), category="cap")
    check(config, PINS | {"ring": Pin(VERSION, 1, "t"), "new": None})
    found = record(config)
    assert {row["category"] for row in found["images"]} == {"plate"}
    assert found["without"] == ["new", "ring"]
    assert found["unused"] == ["cap"]


def test_without_a_golden_set_nothing_is_done(config):
    assert check(config.with_values({"golden.uri": ""}), PINS) == []
    assert not storage.exists(f"{config.workspace}/nights")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("plate/godo/x.png", "neither good nor bad as label"),
        ("x.png", "gives no category"),
        ("../golden2/x.png", "ends in .png"),
    ],
)
def test_a_golden_set_that_cannot_be_told_is_refused(config, tmp_path, key, words):
    root = tmp_path / "other"
    storage.write(storage.join(str(root), key), pillow(picture(0), "PNG"))
    with pytest.raises(ConfigError, match=words):
        check(config.with_values({"golden.uri": str(root)}), PINS)


@pytest.mark.parametrize("damage", [{"high": None}, {"low": "high"}, None])
def test_a_damaged_band_says_what_to_do(config, damage):
    check(config, PINS)
    uri = bands(config)["aa-2-good.json"]
    storage.write_json(uri, damage and storage.read_json(uri) | damage)
    with pytest.raises(ArtefactError, match=r"is not a golden set's band.*delete it"):
        check(config, PINS)


def test_a_deleted_band_is_set_anew(config, root, made):
    check(config, PINS)
    go_dark(root)
    storage.delete(bands(config)["aa-2-good.json"])
    assert check(config.with_values({"golden.tolerance": 0}), PINS) == []
    band = storage.read_json(bands(config)["aa-2-good.json"])
    assert band["low"] < made[2][0]


def test_a_band_is_widened_by_spreads():
    band = reference_parts.ScoreRange(
        low=1.0, high=2.0, spread=0.25, num_images=2, run="night-1", at=""
    )
    assert band.limits(2) == (0.5, 2.5)


def test_of_two_nights_that_see_a_model_first_one_sets_the_band_for_both(config):
    uri = storage.join(config.workspace, "golden", "plate", "aa-2-good.json")
    first, second = (
        reference_parts._first_seen(
            uri, reference_parts.ScoreRange(low, high, 0.1, 2, run, at=""), {"category": "plate"}
        )
        for run, low, high in (("night-1", 0.1, 0.2), ("night-2", 0.3, 0.3))
    )
    assert second == first
    assert (first.run, first.low, first.high) == ("night-1", 0.1, 0.2)


def test_the_spread_is_robust_and_not_0_where_half_of_the_scores_are_equal():
    assert reference_parts.spread([0, 1, 2, 3, 1000]) == pytest.approx(1.4826)
    assert reference_parts.spread([1, 1, 1, 5]) == pytest.approx(np.std([1, 1, 1, 5]))
