import json
from dataclasses import replace

import pytest

from mrkd import storage
from mrkd.errors import CategoryError
from mrkd.model import artefact
from mrkd.model.artefact import save_load
from mrkd.training import gate
from mrkd.training.gate import decision
from mrkd.training.gate.compare_models import MIN_SHARED, by_defects
from tests.support.models import small_model
from tests.support.rivals import (
    BETTER,
    NEVER,
    WORSE,
    crown,
    held_out,
    region,
    rival,
    shown,
    sides_of,
    store,
)


def judge(workspace, challenger, champion, samples, good):
    """The verdict on a model; it is stored first, as a training does."""
    challenger = store(workspace, challenger, sides_of(good))
    found = gate.judge(workspace, challenger, champion, samples=samples, good=good, max_images=500)
    assert json.loads(json.dumps(found.record, allow_nan=False)) == found.record
    assert (found.record["state"], found.record["reason"]) == (found.state, found.reason)
    return found


@pytest.fixture
def better():
    return rival(small_model(BETTER))


@pytest.fixture
def worse():
    return rival(small_model(WORSE))


def test_a_first_model_has_nobody_to_beat_and_is_measured(workspace, parts, good, better):
    found = judge(workspace, better, None, parts, good)
    record = found.record
    assert found.state == "first"
    assert (record["by"], record["part"]) == ("labels", "test")
    assert (record["num_good"], record["num_defective"], record["num_left_out"]) == (6, 6, 0)
    figure = record["image_auroc"]
    assert 0 <= figure["low"] < figure["value"] < figure["high"] <= 1
    assert (record["champion"], record["difference"]) == (None, None)
    assert (record["false_calls"]["challenger"], record["false_calls"]["far_above"]) == (0, False)
    assert f"{figure['value']:.4f} on 6 good and 6 defective images" in found.reason


def test_a_worse_model_is_held_and_a_better_one_passes(workspace, parts, good, better, worse):
    champion = crown(workspace, better, sides_of(good))
    held = judge(workspace, worse, champion, parts, good)
    assert held.state == "held"
    assert held.record["champion"]["version"] == champion.version
    values = [one["image_auroc"]["value"] for one in (held.record, held.record["champion"])]
    assert held.reason.startswith("worse by more than 0.005")
    assert all(f"{value:.4f}" in held.reason for value in values)
    passed = judge(workspace, better, crown(workspace, worse, sides_of(good)), parts, good)
    assert passed.state == "passed"
    difference = passed.record["difference"]
    assert difference["value"] == pytest.approx(values[1] - values[0])
    assert difference["low"] < difference["value"] < difference["high"]


def test_a_loss_of_just_the_margin_passes(workspace, parts, good, better, worse, monkeypatch):
    champion = crown(workspace, better, sides_of(good))
    loss = -judge(workspace, worse, champion, parts, good).record["difference"]["value"]
    for margin, state in ((loss - 1e-15, "passed"), (loss, "passed"), (loss - 1e-6, "held")):
        monkeypatch.setattr(decision, "MARGIN", margin)
        assert judge(workspace, worse, champion, parts, good).state == state


def test_the_same_weights_pass_with_no_difference(workspace, parts, good, better):
    found = judge(workspace, better, crown(workspace, better, sides_of(good)), parts, good)
    assert found.state == "passed"
    assert found.record["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_made_defects_judge_where_there_are_no_labels(workspace, good):
    first, second = (rival(small_model(seed)) for seed in (1, 2))
    aurocs = [
        by_defects([shown(one, sides_of(good))], good, 500).auroc(0).value
        for one in (first, second)
    ]
    assert aurocs[0] < aurocs[1]
    found = judge(workspace, first, crown(workspace, second, sides_of(good)), [], good)
    assert (found.state, found.record["by"], found.record["part"]) == ("held", "synthetic", "")
    assert found.record["difference"]["value"] == pytest.approx(aurocs[0] - aurocs[1])
    assert found.record["false_calls"] == {
        "num_images": len(held_out(good)),
        "num_shared": len(held_out(good)),
        "challenger": 0,
        "champion": 0,
        "supported_rate": 0.2,
        "far_above": False,
    }


def test_far_more_false_calls_than_promised_and_than_the_champions_are_held(workspace, good):
    model, num_good = small_model(BETTER), len(held_out(good))
    eager, quiet = (rival(model, threshold=threshold) for threshold in (-NEVER, NEVER))
    found = judge(workspace, eager, crown(workspace, quiet, sides_of(good)), [], good)
    assert found.state == "held"
    assert f"calls {num_good} of {num_good} held-out good images defective" in found.reason
    assert found.reason.endswith("the champion calls 0")
    passed = judge(workspace, eager, crown(workspace, eager, sides_of(good)), [], good)
    first = judge(workspace, eager, None, [], good)
    assert (passed.state, first.state) == ("passed", "first")
    for one in (passed, first):
        assert f"{num_good} of {num_good} held-out good images" in one.reason
        assert "mrkd models calibrate" in one.reason


def test_labelled_good_images_called_far_above_the_promise_hold_a_newcomer(workspace, parts, good):
    eager, quiet = (rival(small_model(BETTER), threshold=t) for t in (-NEVER, NEVER))
    held = judge(workspace, eager, crown(workspace, quiet, sides_of(good)), parts, good)
    assert held.state == "held"
    assert "calls 6 of 6 labelled good images defective" in held.reason
    assert "promises 20.00%" in held.reason
    assert "6 of 6 labelled good images" in judge(workspace, eager, None, parts, good).reason


@pytest.mark.parametrize(
    ("calls", "num_images", "rate", "far"),
    [
        (0, 16, 0.03, False),
        (2, 16, 0.03, False),
        (4, 16, 0.03, True),
        (36, 36, 0.1, True),
        (8, 36, 0.1, False),
        (3, 200, 0.01, False),
        (9, 200, 0.01, True),
        (1, 1, 0.001, True),
        (1000, 2000, 0.01, True),
        (2000, 10**6, 0.01, False),
    ],
)
def test_calls_are_far_above_a_rate_where_chance_would_hardly_make_them(
    calls, num_images, rate, far
):
    assert decision._is_far_above(calls, num_images, rate) == far


def test_the_champion_decides_by_the_calibration_that_was_promoted(workspace, good, better):
    champion = replace(crown(workspace, better, sides_of(good)), calibration=2)
    found = judge(workspace, better, champion, [], good)
    assert "cannot be loaded" in found.reason
    assert "calibrations/2.json" in found.reason


def test_too_few_shared_images_are_said(workspace, good, better):
    champion = crown(workspace, rival(), sides_of(good, every=20))
    found = judge(workspace, better, champion, [], good)
    num_shared = found.record["false_calls"]["num_shared"]
    assert num_shared < MIN_SHARED
    assert f"of which the champion held out {num_shared} alone" in found.reason


def test_a_champion_that_cannot_be_loaded_holds_nobody_back(workspace, parts, good, better, worse):
    champion = crown(workspace, better, sides_of(good))
    folder = artefact.folder_of(workspace, "plate", champion.version)
    storage.write(storage.join(folder, "model.safetensors"), b"damaged")
    found = judge(workspace, worse, champion, parts, good)
    assert found.state == "passed"
    assert "the champion cannot be loaded" in found.reason
    assert found.record["champion"] == {"version": champion.version, "image_auroc": None}
    assert found.record["difference"] is None


def test_a_champion_for_pictures_of_another_size_holds_nobody_back(workspace, parts, good, worse):
    champion = crown(workspace, rival(small_model(BETTER, roi=region(32))), sides_of(good))
    found = judge(workspace, worse, champion, parts, good)
    assert found.state == "passed"
    assert "the champion cannot score these images" in found.reason


def test_a_stored_challenger_gets_the_verdict_of_the_one_in_memory(workspace, parts, good, better):
    stored = store(workspace, better, sides_of(good))
    loaded = save_load.load(workspace, "plate", stored.card.version)
    for samples in (parts, []):
        in_memory, read = (
            gate.judge(workspace, one, None, samples=samples, good=good, max_images=500)
            for one in (stored, loaded)
        )
        assert in_memory.record == read.record


def test_labelled_images_that_are_gone_leave_made_defects_to_judge(workspace, parts, good, better):
    gone = [replace(one, image_uri=f"{one.image_uri}.gone") for one in parts]
    assert judge(workspace, better, None, gone, good).record["by"] == "synthetic"


def test_nothing_to_judge_by_ends_the_category(workspace, good, better):
    gone = [(replace(one, image_uri=f"{one.image_uri}.gone"), key) for one, key in good]
    with pytest.raises(CategoryError, match="none of the held-out ones of its 40 good images"):
        judge(workspace, better, None, [], gone)
