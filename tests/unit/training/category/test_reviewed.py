"""People's verdicts and the next training: a defect never, a false call where it is wanted."""

import shutil

import pytest

from mrkd import storage
from mrkd.config import EvalConfig
from mrkd.errors import ConfigError
from mrkd.model import artefact
from mrkd.nights.reviews import import_labels, training_samples
from mrkd.nights.reviews.labels_csv import Label
from mrkd.training.category import inputs_of_all, train_category
from tests.support.closed_nights import scored, write_night
from tests.support.models import small_config
from tests.support.parts import make_parts

AT = "2026-11-24T06:30:00+00:00"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return make_parts(tmp_path_factory.mktemp("parts"), categories=1, train=32)


@pytest.fixture
def plant(parts, tmp_path):
    """A data set, and a workspace with a night over pictures that were called defective."""
    root = shutil.copytree(parts, tmp_path / "parts")
    archive = tmp_path / "archive"
    archive.mkdir()
    rows = []
    for number, picture in enumerate(sorted((root / "plate" / "test" / "good").glob("*.png"))):
        shutil.copy(picture, archive / f"{number}.png")
        entry = storage.stat(str(archive / f"{number}.png"))
        rows.append(scored(entry.uri, 0.9, image_etag=entry.etag, image_bytes=entry.num_bytes))
    write_night(str(tmp_path / "workspace"), "night-1", rows)
    return tmp_path, root, [row["image_uri"] for row in rows]


def config(folder, root, **values):
    return small_config(str(root), str(folder / "workspace"), **values)


def say(folder, verdicts, at=AT):
    labels = [Label(uri, verdict, "Ann", at) for uri, verdict in verdicts.items()]
    return import_labels.bring(str(folder / "workspace"), labels, by="test").reviews


def good(samples):
    return [one for one in samples if one.split == "train" and not one.gt_label]


def test_without_verdicts_and_by_default_the_data_stay_as_they_are(plant):
    folder, root, uris = plant
    before = training_samples.load_samples(config(folder, root))
    say(folder, {uris[0]: "OK"})
    assert training_samples.load_samples(config(folder, root)) == before


def test_confirmed_false_calls_join_the_training_side_and_outlive_their_archive(plant):
    folder, root, uris = plant
    wanted = config(folder, root, **{"data.false_calls": True})
    before = training_samples.load_samples(wanted)["plate"]
    say(folder, {uris[0]: "OK", uris[1]: "OK", uris[2]: "NOK"})
    shutil.rmtree(folder / "archive")
    samples = training_samples.load_samples(wanted)["plate"]
    joined = [one for one in good(samples) if one not in before]
    assert len(joined) == 2
    plain = train_category(config(folder, root), "plate", before)
    result = train_category(wanted, "plate", samples)
    assert result.version != plain.version
    assert sum(result.num_images.values()) == sum(plain.num_images.values()) + 2
    sides = artefact.read_sides(str(folder / "workspace"), "plate", result.version)
    assert {sides[one.sha256] for one in joined} == {"train"}
    # One that is excluded stays away, whatever people said of it.
    excluding = wanted.with_values({"data.exclude": [uris[0].rpartition("/")[2]]})
    excluded = training_samples.load_samples(excluding)["plate"]
    assert len([one for one in good(excluded) if one.side == "train"]) == 1
    # An entry names whole path components, and an image that exists.
    with pytest.raises(ConfigError, match=r"data.exclude names '.png', which fits no training"):
        training_samples.load_samples(wanted.with_values({"data.exclude": [".png"]}))


def test_a_confirmed_defect_trains_under_no_name(plant):
    folder, root, uris = plant
    folder_of_good = root / "plate" / "train" / "good"
    shutil.copy(folder / "archive" / "0.png", folder_of_good / "looks-good.png")
    before = training_samples.load_samples(config(folder, root))["plate"]
    plain = train_category(config(folder, root), "plate", before)
    assert plain.skipped == []
    say(folder, {uris[0]: "NOK"})
    samples = training_samples.load_samples(config(folder, root))["plate"]
    result = train_category(config(folder, root), "plate", samples)
    assert result.version != plain.version
    assert sum(result.num_images.values()) == sum(plain.num_images.values()) - 1
    (left_out,) = result.skipped
    assert left_out.endswith("looks-good.png: a reviewer found a defect in it")


def test_an_archive_that_is_trained_on_loses_its_confirmed_defects_by_name_too(plant):
    folder, _, uris = plant
    wanted = config(folder, folder, **{"data.layout": "folder", "data.categories": ["archive"]})
    assert len(good(training_samples.load_samples(wanted)["archive"])) == len(uris)
    rows = [scored(uri, 0.9, category="archive", image_etag="e") for uri in uris]
    write_night(str(folder / "workspace"), "night-2", rows)
    say(folder, {uris[0]: "NOK"})
    assert [
        one.image_uri for one in good(training_samples.load_samples(wanted)["archive"])
    ] == uris[1:]


def test_the_newest_word_decides_whether_an_image_trains(plant):
    folder, root, uris = plant
    wanted = config(folder, root, **{"data.false_calls": True})
    say(folder, {uris[0]: "OK"})
    assert len([one for one in training_samples.load_samples(wanted)["plate"] if one.side]) == 1
    say(folder, {uris[0]: "NOK"}, at="2026-11-25T00:00:00+00:00")
    assert [one for one in training_samples.load_samples(wanted)["plate"] if one.side] == []


def test_bytes_that_are_good_here_and_defective_there_do_not_train(plant):
    folder, root, uris = plant
    wanted = config(folder, root, **{"data.false_calls": True})
    shutil.copy(folder / "archive" / "0.png", folder / "archive" / "twin.png")
    entry = storage.stat(str(folder / "archive" / "twin.png"))
    row = scored(entry.uri, 0.9, image_etag=entry.etag, image_bytes=entry.num_bytes)
    write_night(str(folder / "workspace"), "night-2", [row])
    say(folder, {uris[0]: "OK", entry.uri: "NOK"})
    result = train_category(wanted, "plate", training_samples.load_samples(wanted)["plate"])
    assert sum(result.num_images.values()) == 32
    assert len(result.skipped) == 1


def test_a_verdict_makes_its_category_out_of_date(plant):
    folder, root, uris = plant
    wanted = config(folder, root, **{"data.false_calls": True})

    def inputs(one):
        samples = training_samples.load_samples(one)
        return inputs_of_all(one.for_categories(list(samples)), samples)["plate"]

    found = {inputs(wanted)}
    say(folder, {uris[0]: "OK"})
    found.add(inputs(wanted))
    say(folder, {uris[1]: "NOK"})
    found.add(inputs(wanted))
    assert len(found) == 3


def test_an_evaluation_takes_its_data_as_they_are(tmp_path):
    raw = {"workspace": "w", "run": "r", "data": {"root": "d", "false_calls": True}}
    with pytest.raises(ConfigError, match=r"data\.false_calls is true"):
        EvalConfig.from_dict(raw)
