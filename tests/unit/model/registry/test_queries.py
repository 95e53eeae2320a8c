"""The registry as people ask for it, over versions with real files."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from mrkd import storage
from mrkd.errors import ArtefactError
from mrkd.model import artefact
from mrkd.model.artefact import save_load
from mrkd.model.calibration import at_rate, at_threshold
from mrkd.model.registry import promotions, queries
from tests.support.versions import gate, store_version


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`aa` was champion, `bb` is, `cc` was held, `dd` is undecided; and another category."""
    workspace = str(tmp_path_factory.mktemp("made"))
    store_version(workspace, "aa")
    store_version(workspace, "bb", num_train=40, learning_rate=0.01)
    store_version(workspace, "cc", num_train=41)
    store_version(workspace, "dd")
    store_version(workspace, "ee", "ring")
    promote = partial(promotions.promote, workspace, by="fleet")
    promote("plate", "aa", why="first", gate=gate(0.9, "first"))
    promote("plate", "bb", why="retrained", gate=gate(0.95))
    promote("ring", "ee", why="first")
    promotions.hold(
        workspace, "plate", "cc", by="fleet", reason="it has 0.7", gate=gate(0.7, "held")
    )
    return workspace


@pytest.fixture
def workspace(made, tmp_path):
    """A copy that the test may change."""
    return str(shutil.copytree(made, tmp_path / "workspace"))


@pytest.fixture
def shelf(workspace):
    return queries.shelf(workspace, "plate")


def states(workspace, pattern="*"):
    rows = queries.list_versions(workspace, pattern)
    return [(row["category"], row["version"], row["state"]) for row in rows]


def test_a_list_has_the_champion_first_then_the_newest_decision_then_undecided_ones(workspace):
    assert states(workspace) == [
        ("plate", "bb", "champion"),
        ("plate", "cc", "held"),
        ("plate", "aa", "superseded"),
        ("plate", "dd", "undecided"),
        ("ring", "ee", "champion"),
    ]


def test_a_row_says_what_the_gate_measured_and_who_decided(workspace):
    rows = {row["version"]: row for row in queries.list_versions(workspace)}
    held = rows["cc"]
    assert (held["image_auroc"], held["measured_by"], held["why"]) == (0.7, "labels", "it has 0.7")
    assert (held["low"], held["high"]) == (pytest.approx(0.65), 0.75)
    assert (rows["aa"]["by"], rows["aa"]["why"]) == ("fleet", "first")
    assert rows["ee"]["image_auroc"] is None
    assert rows["dd"]["at"] is None


def test_a_pattern_chooses_categories_and_one_that_fits_none_is_told_what_there_is(workspace):
    assert states(workspace, "r*") == [("ring", "ee", "champion")]
    with pytest.raises(ArtefactError, match=r"no model of 'x\*'; known: plate, ring"):
        queries.list_versions(workspace, "x*")
    with pytest.raises(ArtefactError, match="no model of 'plat'; did you mean 'plate'"):
        queries.shelf(workspace, "plat")


def test_a_workspace_without_models_says_so(tmp_path):
    for ask in (partial(queries.list_versions, str(tmp_path)),
                partial(queries.shelf, str(tmp_path), "plate")):  # fmt: skip
        with pytest.raises(ArtefactError, match="holds no model: train some"):
            ask()


def test_an_unfinished_category_is_not_listed(workspace):
    storage.write(storage.join(workspace, "models", "new", "ff", "model.safetensors"), b"x")
    assert {category for category, _, _ in states(workspace)} == {"plate", "ring"}
    with pytest.raises(ArtefactError, match="no model of 'new'"):
        queries.shelf(workspace, "new")


def test_a_champion_whose_files_are_gone_is_missing_and_still_listed(workspace):
    storage.delete(storage.join(workspace, "models", "ring", "ee", "model.json"))
    assert states(workspace, "ring") == [("ring", "ee", "missing")]
    with pytest.raises(ArtefactError, match="category 'ring' has no complete version 'ee'"):
        queries.shelf(workspace, "ring").require(None)


def test_a_version_is_the_champion_unless_named(workspace, shelf):
    assert (shelf.require(None), shelf.require("cc")) == ("bb", "cc")
    with pytest.raises(ArtefactError, match=r"no complete version 'zz'.*known: aa, bb, cc, dd"):
        shelf.require("zz")


def test_without_a_champion_a_version_must_be_named(workspace):
    store_version(workspace, "ff", "disc")
    disc = queries.shelf(workspace, "disc")
    assert disc.require("ff") == "ff"
    with pytest.raises(ArtefactError, match=r"'disc' has no champion: name one .*, ff"):
        disc.require(None)


def test_facts_say_what_made_a_version_and_how_it_decides(shelf):
    facts = queries.facts(shelf, "bb")
    assert (facts["state"], facts["why"], facts["by"]) == ("champion", "retrained", "fleet")
    assert facts["train.learning_rate"] == 0.01
    assert facts["data.num_images.train"] == 40
    assert facts["teacher.backbone"] == "efficientnet_lite0"
    assert facts["calibration.threshold"] == 1.125
    assert facts["calibration.num_held_out"] == 19
    assert facts["gate.image_auroc.value"] == 0.95
    assert facts["metrics.validation_loss"] == 0.125
    assert not any(isinstance(value, dict) for value in facts.values())


def test_a_comparison_has_only_what_differs(shelf):
    rows = {row[""]: (row["aa"], row["bb"]) for row in queries.compare(shelf, "aa", "bb")}
    assert rows.pop("at") != (None, None)
    assert rows == {
        "state": ("superseded", "champion"),
        "why": ("first", "retrained"),
        "data.fingerprint": ("of 32", "of 40"),
        "data.num_images.train": (32, 40),
        "train.learning_rate": (0.001, 0.01),
        "gate.state": ("first", "passed"),
        "gate.reason": ("it has 0.9", "it has 0.95"),
        "gate.image_auroc.value": (0.9, 0.95),
        "gate.image_auroc.low": (pytest.approx(0.85), pytest.approx(0.9)),
        "gate.image_auroc.high": (pytest.approx(0.95), 1.0),
    }
    assert queries.compare(shelf, "aa", "aa") == []


def test_a_person_promotes_what_a_gate_held_and_its_figures_go_along(workspace, shelf):
    promotion = queries.promote(shelf, "cc", by="anna", why="the labels were wrong")
    assert promotions.champion(workspace, "plate") == promotion
    assert (promotion.number, promotion.by, promotion.why) == (3, "anna", "the labels were wrong")
    assert promotion.gate == gate(0.7, "held")
    assert ("plate", "cc", "champion") in states(workspace)
    assert ("plate", "bb", "superseded") in states(workspace)


def test_of_two_who_saw_the_same_champion_one_wins_and_the_other_is_told(workspace, shelf):
    queries.promote(shelf, "aa", by="anna", why="back to the old one")
    with pytest.raises(ArtefactError, match=r"anna promoted aa .*\(back to the old one\)"):
        queries.promote(shelf, "cc", by="berta", why="it is better")
    assert promotions.champion(workspace, "plate").by == "anna"


def test_a_version_comes_back_with_the_calibration_it_last_had(workspace, shelf):
    queries.set_threshold(shelf, "bb", partial(at_rate, false_call_rate=0.1), by="a", why="w")
    for version in ("aa", "bb"):
        shelf = queries.shelf(workspace, "plate")
        promotion = queries.promote(shelf, version, by="a", why="to and fro")
    assert promotion.calibration == 2


def test_a_calibration_that_is_not_there_is_not_promoted(workspace, shelf):
    with pytest.raises(ArtefactError, match="has no calibration 2: it has 1"):
        queries.promote(shelf, "cc", calibration=2, by="a", why="w")
    assert promotions.champion(workspace, "plate").version == "bb"


@pytest.mark.parametrize("name", ["model.json", "calibrations/1.json"])
def test_what_is_damaged_is_not_promoted(workspace, shelf, name):
    uri = storage.join(artefact.folder_of(workspace, "plate", "cc"), name)
    storage.write(uri, storage.read(uri).replace(b"1", b"2", 1))
    with pytest.raises(ArtefactError, match=f"{name} is damaged"):
        queries.promote(shelf, "cc", by="a", why="w")
    assert promotions.champion(workspace, "plate").version == "bb"


def test_a_new_threshold_of_the_champion_is_stored_and_decides(workspace, shelf):
    rule = partial(at_rate, false_call_rate=0.25)
    new, promotion = queries.set_threshold(shelf, "bb", rule, by="anna", why="too many calls")
    assert (new.number, new.threshold, new.pixel_threshold) == (2, 14 / 16, 28 / 16)
    assert (promotion.version, promotion.calibration, promotion.gate) == ("bb", 2, gate(0.95))
    champion = promotions.champion(workspace, "plate")
    loaded = save_load.load(workspace, "plate", "bb", calibration=champion.calibration)
    assert loaded.calibration == new
    assert (new.by, new.why) == ("anna", "too many calls")
    first = artefact.read_calibration(workspace, "plate", "bb", 1)
    assert (first.number, first.threshold, first.scores) == (1, 1.125, new.scores)
    assert queries.facts(queries.shelf(workspace, "plate"), "bb")["calibration.number"] == 2


def test_a_new_threshold_of_another_version_waits_for_its_promotion(workspace, shelf):
    rule = partial(at_threshold, threshold=1.0)
    new, promotion = queries.set_threshold(shelf, "cc", rule, by="a", why="w")
    assert (new.number, promotion) == (2, None)
    assert new.supported_false_call_rate == pytest.approx(3 / 20)
    assert promotions.champion(workspace, "plate").version == "bb"
    assert queries.promote(shelf, "cc", by="a", why="w").calibration == 2


def test_thresholds_set_at_once_have_numbers_of_their_own_and_one_decides(workspace, shelf):
    def attempt(rate):
        rule = partial(at_rate, false_call_rate=rate)
        try:
            return queries.set_threshold(shelf, "bb", rule, by=f"for {rate}", why="w")[1]
        except ArtefactError as error:
            assert "is not promoted" in str(error)
            return None

    with ThreadPoolExecutor(4) as threads:
        won = [p for p in threads.map(attempt, (0.1, 0.15, 0.2, 0.25)) if p]
    assert len(won) == 1
    assert artefact.calibration_numbers(workspace, "plate", "bb") == [1, 2, 3, 4, 5]
    assert promotions.champion(workspace, "plate") == won[0]
    decides = artefact.read_calibration(workspace, "plate", "bb", won[0].calibration)
    assert decides.by == won[0].by


def test_calibrations_and_promotions_are_listed_without_their_long_parts(workspace, shelf):
    rule = partial(at_threshold, threshold=0.5)
    queries.set_threshold(shelf, "bb", rule, by="anna", why="w")
    shelf = queries.shelf(workspace, "plate")
    rows = queries.calibrations(shelf, "bb")
    assert [(row["number"], row["threshold"], row["by"]) for row in rows] == [
        (1, 1.125, "train"), (2, 0.5, "anna"),
    ]  # fmt: skip
    assert [row["number"] for row in queries.promotions(shelf)] == [3, 2, 1]
    assert all(not isinstance(v, dict | tuple) for row in rows for v in row.values())
