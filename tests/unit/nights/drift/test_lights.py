from collections import Counter
from typing import Any

import numpy as np
import pytest

from mrkd.data import images
from mrkd.nights import drift
from mrkd.nights.drift import CalibrationImages, Lights, ProfileGroup
from tests.support.closed_nights import scored, write_night
from tests.support.night_pages import Plant, earlier_profile
from tests.support.pictures import smooth

REFERENCE = CalibrationImages(
    num_images={"image_score": 100, "brightness": 100},
    quantiles={
        "image_score": np.linspace(0.2, 0.8, 21, dtype=np.float32),
        "brightness": np.linspace(0.4, 0.6, 21, dtype=np.float32),
    },
    sizes={"64x64": 100},
    false_call_rate=0.01,
)


def row(number, score, look):
    """Of a part before a camera on line L1."""
    looks = {name: getattr(look, name) for name in ("brightness", "contrast", "sharpness")}
    return scored(f"plate/L1/{number:04}", score, attributes={"line": "L1"}, **looks)


def group(values=(), num_ok=100, num_nok=1, **changed):
    """A group whose quantiles are those of the reference, but for `values`."""
    fields: dict[str, Any] = {
        "quantiles": {**REFERENCE.quantiles, **dict(values)},
        "sizes": {"64x64": num_ok + num_nok},
        "model_version": "v1",
        "calibration": 1,
    }
    return ProfileGroup("plate", "L1", num_ok + num_nok, num_ok, num_nok, **fields | changed)


def moved(name, by):
    return {name: REFERENCE.quantiles[name] + np.float32(by)}


def light(findings, measure, against):
    found = [f for f in findings if (f.measure, f.against) == (measure, against)]
    assert len(found) == 1
    return found[0]


def test_what_does_not_move_is_green():
    lights = drift.judge(group(), REFERENCE, [group()] * 6)
    for findings in (lights.quality, lights.scores, lights.nok_rate):
        assert Lights.worst(findings) == "green"


@pytest.mark.parametrize("by", [-0.3, 0.3])
def test_darker_and_brighter_pictures_are_red_by_both_references_and_nothing_else_is(by):
    lights = drift.judge(group(moved("brightness", by)), REFERENCE, [group()] * 6)
    for against in ("calibration", "nights"):
        finding = light(lights.quality, "brightness", against)
        assert finding.light == "red"
        assert np.sign(finding.figure) == np.sign(by)
        assert abs(finding.figure) > finding.red > finding.amber
        assert finding.now == pytest.approx(finding.usual + by)
    assert Lights.worst(lights.scores) == Lights.worst(lights.nok_rate) == "green"


def test_the_lights_turn_amber_then_red_as_the_pictures_darken():
    shifts = np.linspace(0, -0.3, 40)
    seen = [
        light(
            drift.judge(group(moved("brightness", by)), REFERENCE, []).quality,
            "brightness",
            "calibration",
        ).light
        for by in shifts
    ]
    assert list(dict.fromkeys(seen)) == ["green", "amber", "red"]


def test_nights_that_vary_among_themselves_widen_their_limits():
    steady = [group() for _ in range(10)]
    varied = [group(moved("brightness", 0.1 * (-1) ** n)) for n in range(10)]
    one = group(moved("brightness", -0.12))
    against_steady = light(drift.judge(one, None, steady).quality, "brightness", "nights")
    against_varied = light(drift.judge(one, None, varied).quality, "brightness", "nights")
    assert against_steady.light == "red"
    assert against_varied.light == "green"


def test_higher_scores_of_good_parts_are_red_and_pictures_are_not():
    lights = drift.judge(group(moved("image_score", 0.5)), REFERENCE, [group()] * 6)
    assert Lights.worst(lights.scores) == "red"
    assert Lights.worst(lights.quality) == Lights.worst(lights.nok_rate) == "green"


def test_scores_of_another_model_are_no_reference():
    before = [group(model_version="v0")] * 6
    lights = drift.judge(group(), REFERENCE, before)
    assert light(lights.scores, "image_score", "nights").light == "unknown"
    assert light(lights.nok_rate, "nok_rate", "nights").light == "unknown"
    assert light(lights.quality, "brightness", "nights").light == "green"
    assert "0 earlier nights" in light(lights.scores, "image_score", "nights").reason


def test_more_defective_parts_are_red_against_nights_and_amber_against_the_calibration():
    before = [group(num_ok=980, num_nok=20)] * 6
    many = drift.judge(group(num_ok=800, num_nok=200), REFERENCE, before)
    assert light(many.nok_rate, "nok_rate", "nights").light == "red"
    assert light(many.nok_rate, "nok_rate", "calibration").light == "amber"
    assert Lights.worst(many.quality) == Lights.worst(many.scores) == "green"
    none = drift.judge(group(num_ok=1000, num_nok=0), REFERENCE, before)
    assert light(none.nok_rate, "nok_rate", "nights").figure < 0
    assert light(none.nok_rate, "nok_rate", "calibration").light == "green"


@pytest.mark.parametrize(("num_nok", "expected"), [(30, "green"), (100, "amber")])
def test_defects_that_are_usual_ask_for_nobody(num_nok, expected):
    """Three times what false calls explain, every night; and one night ten times that."""
    before = [group(num_ok=970, num_nok=30)] * 6
    tonight = group(num_ok=1000 - num_nok, num_nok=num_nok)
    first = light(drift.judge(tonight, REFERENCE, []).nok_rate, "nok_rate", "calibration")
    assert first.light == "amber"
    later = light(drift.judge(tonight, REFERENCE, before).nok_rate, "nok_rate", "calibration")
    assert later.light == expected


def drawn(rng, count, draw):
    """A group of so many images whose brightness is drawn."""
    values = {"brightness": drift.quantiles(draw(rng, count))}
    return group(values, num_ok=count, num_nok=0, sizes={})


def even(rng, count):
    return rng.normal(0.5, 0.05, count)


def two_kinds(rng, count):
    """Nine bright parts and a dark one."""
    return np.where(rng.random(count) < 0.1, 0.25, 0.5) + rng.normal(0, 0.01, count)


def lights_of(measure, against, number, make):
    """So many lights of tonights that differ from their references by chance alone."""
    seen = []
    for seed in range(number):
        tonight, reference, before = make(np.random.default_rng(seed))
        lights = drift.judge(tonight, reference, before)
        seen.append(light(lights.quality, measure, against).light)
    return seen


@pytest.mark.parametrize("draw", [even, two_kinds])
@pytest.mark.parametrize("num_held_out", [8, 12, 20, 60, 300])
def test_chance_against_few_calibration_images_is_never_red(draw, num_held_out):
    def make(rng):
        held_out = {"brightness": drift.quantiles(draw(rng, num_held_out))}
        return drawn(rng, 300, draw), CalibrationImages({"brightness": num_held_out}, held_out), []

    seen = lights_of("brightness", "calibration", 300, make)
    assert seen.count("red") <= 1
    assert seen.count("green") >= 285


def test_scores_and_looks_are_judged_by_as_many_images_as_each_has():
    reference = CalibrationImages({"image_score": 4000, "brightness": 7}, REFERENCE.quantiles)
    found = drift.judge(group(), reference, [])
    assert light(found.quality, "brightness", "calibration").light == "unknown"
    assert light(found.scores, "image_score", "calibration").light != "unknown"


def test_fewer_than_eight_calibration_images_judge_nothing():
    reference = CalibrationImages({"image_score": 100, "brightness": 7}, REFERENCE.quantiles)
    found = light(drift.judge(group(), reference, []).quality, "brightness", "calibration")
    assert (found.light, found.reason) == (
        "unknown",
        "7 calibration images are too few to judge by",
    )


@pytest.mark.parametrize(
    ("draw", "num_images"), [(even, 8), (even, 300), (two_kinds, 20), (two_kinds, 300)]
)
def test_a_night_of_few_images_is_not_red_by_chance(draw, num_images):
    def make(rng):
        before = [drawn(rng, 500, draw) for _ in range(10)]
        return drawn(rng, num_images, draw), None, before

    seen = lights_of("brightness", "nights", 300, make)
    assert seen.count("red") <= 3
    assert seen.count("green") >= 275


def test_few_images_of_mixed_sizes_are_not_red_by_chance():
    def mixed(rng, count):
        drawn = rng.integers(60, 90, (count, 2)).tolist()
        sizes = [f"{height}x{width}" for height, width in drawn]
        return group(sizes=dict(Counter(sizes)))

    def make(rng):
        return mixed(rng, 8), None, [mixed(rng, 300) for _ in range(6)]

    seen = lights_of("size", "nights", 100, make)
    assert "red" not in seen
    assert seen.count("green") >= 95


def test_one_defective_part_more_among_few_is_chance():
    before = [group(num_ok=39, num_nok=1)] * 6
    finding = light(
        drift.judge(group(num_ok=37, num_nok=3), REFERENCE, before).nok_rate,
        "nok_rate",
        "nights",
    )
    assert finding.light == "green"


@pytest.mark.parametrize("sizes", [{"64x64": 40, "128x128": 60}, {"64x64": 40, "128x32": 60}])
def test_images_of_another_size_or_shape_are_red(sizes):
    lights = drift.judge(group(sizes=sizes), REFERENCE, [group()] * 6)
    for against in ("calibration", "nights"):
        finding = light(lights.quality, "size", against)
        assert (finding.light, finding.figure) == ("red", pytest.approx(0.6))


def test_sizes_that_are_always_mixed_are_green():
    rng = np.random.default_rng(0)

    def mixed():
        drawn = rng.integers(60, 90, (200, 2))
        sizes = {}
        for height, width in drawn.tolist():
            sizes[f"{height}x{width}"] = sizes.get(f"{height}x{width}", 0) + 1
        return group(sizes=sizes)

    lights = drift.judge(mixed(), REFERENCE, [mixed() for _ in range(10)])
    assert light(lights.quality, "size", "nights").light == "green"


def test_few_images_are_not_judged():
    few = group(num_ok=5, num_nok=0, sizes={"64x64": 5})
    lights = drift.judge(few, REFERENCE, [group()] * 6)
    for findings in (lights.quality, lights.scores, lights.nok_rate):
        assert {finding.light for finding in findings} == {"unknown"}
        assert all("too few" in finding.reason for finding in findings)


def test_without_a_calibration_the_nights_judge_alone():
    lights = drift.judge(group(), None, [group()] * 6)
    assert Lights.worst(lights.quality) == "green"
    assert light(lights.scores, "image_score", "calibration").light == "unknown"


def test_pictures_of_one_brightness_bear_a_change_of_less_than_a_hundredth():
    even = {"brightness": np.full(21, 0.5, np.float32)}
    slightly, clearly = ({"brightness": np.full(21, v, np.float32)} for v in (0.504, 0.45))
    for values, expected in ((slightly, "green"), (clearly, "red")):
        lights = drift.judge(group(values), None, [group(even)] * 6)
        assert light(lights.quality, "brightness", "nights").light == expected


def test_real_pictures_fifteen_percent_darker_are_red(tmp_path):
    """From pixels to the light: nothing but the pictures differs."""

    def night(run, factor, first):
        rows = []
        for n in range(60):
            # As of parts before one camera: their brightness varies by a tenth.
            picture = 60 + smooth(seed=first + n) * 0.5
            look = images.statistics(np.clip(picture * factor, 0, 255).astype(np.uint8))
            rows.append(row(n, 0.2 + 0.002 * (n * 7 % 60), look))
        return drift.measure(write_night(tmp_path, run, rows)).groups[0]

    before = [night(f"n{n}", 1.0, 100 * n) for n in range(6)]
    same, dark = night("same", 1.0, 900), night("dark", 0.85, 900)
    lights = drift.judge(dark, None, before)
    assert light(lights.quality, "brightness", "nights").light == "red"
    assert light(lights.quality, "brightness", "nights").figure < 0
    assert Lights.worst(lights.scores) == Lights.worst(lights.nok_rate) == "green"
    lights = drift.judge(same, None, before)
    assert Lights.worst(lights.quality) == "green"


def test_a_drawn_plant_without_drift_is_green_but_for_chance():
    plant = Plant(num_images=200)
    before = [earlier_profile(plant, n) for n in range(30)]
    seen = [
        Lights.worst(findings)
        for number in range(30, 50)
        for one in drift.compare(earlier_profile(plant, number), before)
        for lights in [drift.judge(one.tonight, None, one.before)]
        for findings in (lights.quality, lights.scores, lights.nok_rate)
    ]
    assert len(seen) == 300
    assert seen.count("green") >= 297
    assert "red" not in seen


def test_pictures_are_not_green_where_their_sizes_alone_were_judged():
    """Four images calibrate: brightness is not judged by them, and there are no nights before."""
    few = CalibrationImages(
        num_images={"image_score": 4, "brightness": 4},
        quantiles=REFERENCE.quantiles,
        sizes={"64x64": 100},
    )
    tonight = group()
    quality = drift.judge(tonight, few, []).quality
    assert light(quality, "size", "calibration").light == "green"
    assert Lights.worst([f for f in quality if f.measure != "size"]) == "unknown"
    assert Lights.worst(quality) == "unknown"
    assert Lights.worst([]) == "unknown"


def test_a_night_whose_median_lies_outside_all_good_images_is_red_however_few_these_are():
    few = CalibrationImages(
        num_images={"image_score": 4, "brightness": 4},
        quantiles=REFERENCE.quantiles,
        ranges={"brightness": (0.3, 0.7)},
    )
    dark = drift.judge(group(moved("brightness", -0.45)), few, []).quality
    assert light(dark, "brightness", "calibration").light == "red"
    usual = drift.judge(group(), few, []).quality
    assert light(usual, "brightness", "calibration").light == "unknown"
