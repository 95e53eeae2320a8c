from dataclasses import replace
from datetime import timedelta

import pytest

from mrkd import storage
from mrkd.errors import ArtefactError, NightError, StorageError
from mrkd.nights import drift
from mrkd.nights.drift import Profile, UsualRange
from mrkd.nights.night import Night
from tests.support import nights
from tests.support.closed_nights import failed, scored, write_night
from tests.support.night_pages import FIRST, Plant, earlier_profile


def row(number, line="", *, category="plate", score=0.25, **values):
    attributes = {"line": line} if line else {}
    return scored(
        f"{category}/{line}/{number:04}", score, category=category, attributes=attributes, **values
    )


def looking(brightness):
    return {"brightness": brightness, "contrast": 0.25, "sharpness": 2.0}


def test_a_night_is_measured_by_category_and_line(tmp_path):
    rows = [row(n, "L1", score=n / 10, **looking(0.5)) for n in range(6)]
    rows += [row(n, "L1", score=0.75, **looking(0.5)) for n in range(6, 8)]
    rows += [row(0, "L2", **looking(0.25), image_height=128)]
    rows += [failed("plate/L2/x", "empty", attributes={"line": "L2"})]
    rows += [row(0, category="0012", **looking(0.75))]
    profile = drift.measure(write_night(tmp_path, "n", rows))
    assert [g.key for g in profile.groups] == [("0012", ""), ("plate", "L1"), ("plate", "L2")]
    first, second = profile.groups[1:]
    assert (first.num_images, first.num_ok, first.num_nok) == (8, 6, 2)
    assert (second.num_images, second.num_ok, second.errors) == (2, 1, {"empty": 1})
    assert second.sizes == {"128x64": 1}
    assert (first.nok_rate, second.error_rate) == (0.25, 0.5)
    assert first.quantiles["image_score"][[0, 10, 20]] == pytest.approx([0, 0.25, 0.5])
    assert second.quantiles["brightness"] == pytest.approx(0.25)


def test_scores_of_defective_parts_are_no_scores_of_good_ones(tmp_path):
    rows = [row(n, score=0.9) for n in range(4)]
    quantiles = drift.measure(write_night(tmp_path, "n", rows)).groups[0].quantiles
    assert "image_score" not in quantiles


def test_a_row_that_was_superseded_is_not_measured(tmp_path):
    first = [row(0, score=0.1), row(1, score=0.1)]
    uri = write_night(tmp_path, "n", first, [row(1, score=0.9)])
    profile = drift.measure(uri)
    assert profile.revision == 2
    assert (profile.groups[0].num_ok, profile.groups[0].num_nok) == (1, 1)


def test_a_night_that_is_not_closed_has_no_profile(tmp_path):
    with pytest.raises(NightError, match="no closed revision"):
        drift.measure(str(tmp_path / "nights" / "n"))


def test_a_shard_that_is_damaged_is_told(tmp_path):
    uri = write_night(tmp_path, "n", [row(0)])
    (shard,) = storage.list_files(storage.join(uri, "scores"))
    storage.write(shard.uri, b"PAR1")
    with pytest.raises(StorageError, match=r"the rows of .* cannot be read"):
        drift.measure(uri)


def test_the_pinned_model_is_kept(tmp_path):
    nights.add(tmp_path / "archive", "plate/a.png", "new/b.png")
    night = Night(str(tmp_path), "night-1")
    nights.run(night, nights.config(tmp_path, tmp_path / "archive"))
    new, plate = drift.store(night.uri).groups
    assert plate.model == ("plate-v1", 1)
    assert (new.model, new.errors, new.nok_rate) == (("", 0), {"no_model": 1}, None)


def test_a_profile_survives_its_file(tmp_path):
    rows = [row(n, "L1", **looking(0.5)) for n in range(3)] + [failed("x", category="0012")]
    profile = drift.store(write_night(tmp_path, "n", rows))
    again = drift.read(storage.join(str(tmp_path), "nights", "n"))
    for before, after in zip(profile.groups, again.groups, strict=True):
        assert before.quantiles.keys() == after.quantiles.keys()
        for name, values in before.quantiles.items():
            assert values.tobytes() == after.quantiles[name].tobytes()
        assert replace(before, quantiles={}) == replace(after, quantiles={})
    assert replace(profile, groups=()) == replace(again, groups=())


def test_a_profile_of_another_version_is_refused(tmp_path):
    nights.add(tmp_path, "profile.parquet", content=b"PAR1")
    with pytest.raises(ArtefactError, match="not a whole Parquet file"):
        drift.read(str(tmp_path))
    with pytest.raises(StorageError):
        drift.read(str(tmp_path / "none"))


def test_a_profile_of_an_earlier_revision_is_measured_anew(tmp_path):
    uri = write_night(tmp_path, "n", [row(0)])
    assert drift.current(uri).groups[0].num_images == 1
    write_night(tmp_path, "n", [row(0)], [row(1)])
    assert drift.read(uri).groups[0].num_images == 1
    assert drift.current(uri).groups[0].num_images == 2
    assert drift.read(uri).groups[0].num_images == 2


def at(day, run=None, models=""):
    when = (FIRST + timedelta(days=day)).isoformat()
    return Profile(run or f"night-{day:02}", 1, when, when, models, ())


def put(workspace, *found):
    for profile in found:
        uri = storage.join(str(workspace), "nights", profile.run, "profile.parquet")
        storage.write(uri, profile.to_parquet())


def test_the_thirty_nights_before_are_those_that_began_before(tmp_path):
    put(tmp_path, *(at(day) for day in range(40)))
    found = drift.earlier(str(tmp_path), at(38))
    assert [profile.run for profile in found.profiles] == [f"night-{n:02}" for n in range(8, 38)]


def test_of_many_nights_the_newest_count_whatever_their_names(tmp_path):
    put(tmp_path, *(at(day, f"night-{199 - day}") for day in range(100)))
    found = drift.earlier(str(tmp_path), at(90))
    assert [profile.run for profile in found.profiles] == [
        f"night-{199 - d}" for d in range(60, 90)
    ]


def test_nights_that_try_models_out_or_left_no_profile_are_none_of_them(tmp_path):
    put(tmp_path, at(0), at(1, "trial", models="fleet-2"))
    write_night(tmp_path, "no-profile", [row(0)])
    nights.add(tmp_path, "nights/damaged/profile.parquet", content=b"x")
    found = drift.earlier(str(tmp_path), at(2))
    assert [profile.run for profile in found.profiles] == ["night-00"]
    assert found.without == ("damaged", "no-profile")


def test_a_band_is_what_nine_of_ten_nights_keep_to():
    band = UsualRange.of(range(101))
    assert (band.low, band.median, band.high, band.num_nights) == (5, 50, 95, 101)
    assert [band.side(value) for value in (4, 5, 95, 96)] == [-1, 0, 0, 1]
    assert UsualRange.of([1, 2, 3, 4]) is None


@pytest.mark.parametrize("count", range(5, 41))
def test_nine_of_ten_nights_keep_to_the_band_of_however_few(count):
    nights = [n**2 for n in range(count)]
    band = UsualRange.of(nights)
    assert sum(band.side(night) == 0 for night in nights) >= 0.9 * count
    assert {band.low, band.high} <= set(nights)


PLANT = Plant()
BEFORE = [earlier_profile(PLANT, n) for n in range(30)]


def tonight(*groups):
    return replace(at(30), groups=groups)


def test_a_line_that_sent_nothing_is_named_if_it_usually_sends():
    plate, *others = BEFORE[0].groups[1:]
    rows = {(r.category, r.line): r for r in drift.compare(tonight(plate, *others), BEFORE)}
    assert [key for key, one in rows.items() if one.silent] == [("0012", "")]
    assert rows["0012", ""].tonight is None
    assert len(rows) == 5


@pytest.mark.parametrize(("came", "silent"), [(14, False), (15, True)])
def test_it_usually_sends_if_it_did_in_half_of_the_nights(came, silent):
    rare = [replace(p, groups=p.groups if n < came else p.groups[1:]) for n, p in enumerate(BEFORE)]
    rows = drift.compare(tonight(*BEFORE[0].groups[1:]), rare)
    assert (("0012", "") in [(r.category, r.line) for r in rows if r.silent]) is silent


def test_four_nights_say_neither_what_is_usual_nor_who_is_silent():
    rows = drift.compare(tonight(BEFORE[0].groups[1]), BEFORE[:4])
    assert [(r.category, r.line) for r in rows] == [("plate", "L1")]
    assert (rows[0].volume, rows[0].nok_rate, rows[0].error_rate) == (None, None, None)


def test_volume_is_set_against_all_nights_and_decisions_against_those_of_the_same_model():
    old = [
        replace(p, groups=tuple(replace(g, model_version="v0") for g in p.groups))
        for p in BEFORE[:27]
    ]
    plate = drift.compare(tonight(BEFORE[0].groups[1]), [*old, *BEFORE[27:]])[1]
    assert plate.volume.num_nights == 30
    assert plate.nok_rate is None
