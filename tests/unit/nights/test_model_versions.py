"""Versions that score in the champions' stead."""

import json

import pytest

from mrkd import storage
from mrkd.errors import ArtefactError, ConfigError
from mrkd.model import artefact
from mrkd.model.calibration import at_threshold
from mrkd.model.registry import promotions
from mrkd.nights import model_versions
from tests.support.versions import gate, store_version


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """`aa` of plate and `ee` of 0012 are champions, `bb` of plate was held."""
    workspace = str(tmp_path_factory.mktemp("made"))
    store_version(workspace, "aa")
    store_version(workspace, "bb", num_train=40)
    store_version(workspace, "ee", "0012")
    promotions.promote(workspace, "plate", "aa", by="fleet", why="first")
    promotions.promote(workspace, "0012", "ee", by="fleet", why="first")
    promotions.hold(workspace, "plate", "bb", by="fleet", reason="fell", gate=gate(0.7, "held"))
    return workspace


def put(folder, name, text):
    uri = storage.join(str(folder), name)
    storage.write(uri, text.encode())
    return uri


def fleet(folder, *records):
    for record in records:
        storage.write_json(f"{folder}/categories/{record['category']}.json", record)
    return str(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("set.json", '{"plate": "bb", "0012": "ee"}'),
        ("SET.JSON", '{"0012": "ee", "plate": "bb"}'),
        ("set.toml", 'plate = "bb"\n0012 = "ee"'),
    ],
)
def test_a_file_names_versions_by_category(workspace, tmp_path, name, text):
    found = model_versions.read(put(tmp_path, name, text), workspace)
    assert list(found.items()) == [("0012", "ee"), ("plate", "bb")]


def test_a_fleet_names_what_it_made_held_ones_too_and_not_what_failed(workspace, tmp_path):
    uri = fleet(
        tmp_path,
        {"category": "plate", "status": "trained", "version": "bb", "gate": {"state": "held"}},
        {"category": "0012", "status": "up_to_date", "version": "ee"},
        {"category": "cap", "status": "failed", "error": "no images"},
        {"category": "nut", "status": "not_started", "reason": "stopped"},
    )
    assert model_versions.read(uri, workspace) == {"0012": "ee", "plate": "bb"}


def test_no_set_names_nothing(workspace):
    assert model_versions.read("", workspace) == {}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("set.json", '{"plate": "bbb"}', r"1 of its 1 versions are not in .*did you mean 'bb'"),
        ("set.json", '{"plate": "aa", "cap": "aa"}', r"1 of its 2 .*'cap', which has none"),
        ("set.json", '{"plate": 7}', r"version of 'plate' must be text, found int"),
        ("set.json", '["bb"]', r"must be a table, category = version"),
        ("set.json", '{"plate": "bb"', r"set\.json', which cannot be read: Expecting"),
        ("set.toml", "plate = bb", r"set\.toml', which cannot be read: Invalid value"),
        ("set.toml", "", r"names no version"),
        ("set.toml", '[plate]\nversion = "bb"', r"must be text, found dict"),
        ("set.yaml", "plate: bb", r"must end in \.json or \.toml"),
        ("set.json", '{"../plate": "bb"}', r"category '\.\./plate' is not a name"),
        ("set.json", '{"plate": "../bb"}', r"version of plate '\.\./bb' is not a name"),
        ("other", "", r"must end in \.json or \.toml"),
    ],
)
def test_a_wrong_file_is_refused_and_says_what_is_right(workspace, tmp_path, name, text, words):
    with pytest.raises(ConfigError, match=words):
        model_versions.read(put(tmp_path, name, text), workspace)


def test_text_that_is_not_utf8_is_refused(workspace, tmp_path):
    uri = storage.join(str(tmp_path), "set.toml")
    storage.write(uri, b'plate = "\xff"')
    with pytest.raises(ConfigError, match="which cannot be read"):
        model_versions.read(uri, workspace)


def test_a_place_without_either_is_refused(workspace, tmp_path):
    with pytest.raises(ConfigError, match="neither such a file nor a fleet's folder"):
        model_versions.read(str(tmp_path / "nowhere"), workspace)


def test_a_fleet_that_made_nothing_is_refused(workspace, tmp_path):
    uri = fleet(tmp_path, {"category": "cap", "status": "failed", "error": "no images"})
    with pytest.raises(ConfigError, match="names no version"):
        model_versions.read(uri, workspace)


def test_a_record_without_a_versions_name_is_refused(workspace, tmp_path):
    uri = fleet(tmp_path, {"category": "plate", "version": None})
    with pytest.raises(ConfigError, match="'None' of category 'plate'"):
        model_versions.read(uri, workspace)


def test_a_folder_of_other_files_is_no_fleet(workspace, tmp_path):
    put(tmp_path, "categories/x.json", json.dumps(["plate"]))
    put(tmp_path, "categories/y.json", json.dumps({"name": "plate"}))
    with pytest.raises(ArtefactError, match="not a fleet's record"):
        model_versions.read(str(tmp_path), workspace)


def test_a_category_of_the_set_is_pinned_to_its_version_the_others_to_their_champion(workspace):
    versions = {"plate": "bb"}
    found = model_versions.pin(workspace, "plate", versions)
    assert (found.version, found.calibration) == ("bb", 1)
    assert found.teacher.startswith("random:efficientnet_lite0-")
    assert model_versions.pin(workspace, "plate").version == "aa"
    assert model_versions.pin(workspace, "0012", versions).version == "ee"
    assert model_versions.pin(workspace, "cap", versions) is None


def test_a_version_decides_as_promoted_last_else_by_its_newest_calibration(tmp_path):
    workspace = str(tmp_path)
    store_version(workspace, "aa")
    store_version(workspace, "bb")
    for version in ("aa", "bb"):
        first = artefact.read_calibration(workspace, "plate", version, 1)
        artefact.add_calibration(workspace, "plate", version, at_threshold(first, 0.5))
    promotions.promote(workspace, "plate", "aa", calibration=1, by="Ada", why="first")
    pins = [model_versions.pin(workspace, "plate", {"plate": version}) for version in ("aa", "bb")]
    assert [pin.calibration for pin in pins] == [1, 2]
