import json
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import pyarrow as pa
import pytest
import torch

from mrkd import storage
from mrkd.config import RoiConfig
from mrkd.data.images import Statistics
from mrkd.data.roi import Roi
from mrkd.errors import ArtefactError
from mrkd.model import artefact
from mrkd.model.artefact import checksummed_files, save_load
from mrkd.model.calibration import calibrate
from mrkd.model.detector import infer
from mrkd.storage import schema
from tests.support.models import FIT, MODEL, small_model


def calibration(number=1):
    statistics = [Statistics(0.5, 0.1, 1.0)] * 5
    return calibrate(np.arange(5), np.arange(5), statistics, false_call_rate=0.2, number=number)


def save(workspace, model, version="aa", category="plate"):
    draft = save_load.draft(
        model,
        calibration(),
        category=category,
        version=version,
        train=FIT,
        data={"fingerprint": "f", "num_images": {"train": 8}},
        metrics={"validation_loss": 0.125},
        history=pa.table({"epoch": [0], "loss": [0.5]}),
        training_scores=pa.table({"image_uri": ["a"], "image_score": [0.5]}),
    )
    save_load.save(str(workspace), draft)
    return draft.card


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture
def stored(tmp_path, model):
    save(tmp_path, model)
    return tmp_path


def load(workspace, version="aa", **values):
    return save_load.load(str(workspace), "plate", version, **values)


def test_a_loaded_model_scores_as_the_saved_one_to_the_bit(stored, model):
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8))
    loaded = load(stored).model
    for expected, found in zip(infer(model, pixels), infer(loaded, pixels), strict=True):
        assert torch.equal(found, expected)


def test_the_card_says_what_made_the_model(stored):
    card = load(stored).card
    assert (card.category, card.version) == ("plate", "aa")
    assert (card.model, card.train) == (MODEL, FIT)
    assert card.preprocessing == {
        "size": 64, "resize": "stretch", "mean": [127.0] * 3, "std": [128.0] * 3,
    }  # fmt: skip
    assert card.metrics == {"validation_loss": 0.125}
    assert card.roi is None
    assert card == artefact.read_card(str(stored), "plate", "aa")


def test_a_region_of_interest_is_part_of_the_model(tmp_path):
    mask = np.zeros((30, 50), bool)
    mask[5:20, 8:33] = True
    model = small_model(roi=Roi(mask, RoiConfig(mask="roi.png")))
    card = save(tmp_path, model)
    loaded = load(tmp_path)
    assert loaded.card == card
    assert loaded.card.roi["source"] == {"mask": "roi.png", "polygons": []}
    np.testing.assert_array_equal(loaded.model.roi.mask, mask)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8))
    for expected, found in zip(infer(model, pixels), infer(loaded.model, pixels), strict=True):
        assert torch.equal(found, expected)


def test_random_teachers_are_marked_where_rows_name_them(stored):
    card = load(stored).card
    assert card.teacher.random
    assert card.teacher.name == f"random:efficientnet_lite0-{card.teacher.digest[:12]}"


def test_equal_models_have_equal_files(tmp_path, model):
    first, second = save(tmp_path, model, "aa"), save(tmp_path, small_model(), "bb")
    other = save(tmp_path, small_model(seed=1), "cc")
    assert first.files == second.files
    assert first.weights_digest == second.weights_digest != other.weights_digest


def test_the_teacher_is_stored_once_and_shared_by_loaded_models(tmp_path, model):
    save(tmp_path, model, "aa")
    teacher = Path(next((tmp_path / "teachers").iterdir()))
    before = teacher.stat().st_mtime_ns
    save(tmp_path, small_model(seed=1), "bb")
    assert list((tmp_path / "teachers").iterdir()) == [teacher]
    assert teacher.stat().st_mtime_ns == before
    teachers = WeakValueDictionary()
    a, b = (load(tmp_path, version, teachers=teachers).model for version in ("aa", "bb"))
    assert a.teacher is b.teacher
    assert b"teacher" not in (tmp_path / "models/plate/aa/model.safetensors").read_bytes()[:4096]


def test_tables_are_plain_parquet(stored):
    folder = stored / "models/plate/aa"
    assert schema.from_parquet((folder / "history.parquet").read_bytes()).to_pydict() == {
        "epoch": [0], "loss": [0.5],
    }  # fmt: skip


FILES = [
    "models/plate/aa/model.safetensors",
    "models/plate/aa/calibrations/1.json",
    "models/plate/aa/training_scores.parquet",
    "models/plate/aa/model.json",
    "teachers",
]


def file_of(workspace, name):
    path = workspace / name
    return next(path.iterdir()) if path.is_dir() else path


def load_all(workspace):
    """Whatever a gate reads of a model."""
    load(workspace)
    artefact.read_sides(str(workspace), "plate", "aa")


def test_a_model_is_loaded_without_the_files_that_scoring_does_not_need(stored):
    for name in ("history.parquet", "training_scores.parquet"):
        (stored / "models/plate/aa" / name).unlink()
    load(stored)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 1.0])
def test_one_changed_byte_is_found_and_its_file_named(stored, name, place):
    path = file_of(stored, name)
    data = bytearray(path.read_bytes())
    data[round(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtefactError, match=path.name.replace(".", r"\.")) as found:
        load_all(stored)
    assert "train again" in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(stored, name):
    path = file_of(stored, name)
    path.unlink()
    with pytest.raises(ArtefactError, match=rf"{path.name} is missing: .*train again"):
        load_all(stored)


@pytest.mark.parametrize(
    "name", ["models/plate/aa/model.safetensors", "models/plate/aa/model.json"]
)
def test_a_file_larger_than_it_may_be_is_not_read(stored, name):
    with file_of(stored, name).open("ab") as file:
        file.truncate(checksummed_files.MAX_JSON_BYTES + 1)
    with pytest.raises(ArtefactError, match="too large"):
        load(stored)


def test_an_unfinished_folder_is_no_model_and_is_written_over(tmp_path, model):
    save(tmp_path, model)
    (tmp_path / "models/plate/aa/model.json").unlink()
    with pytest.raises(ArtefactError, match=r"model\.json is missing"):
        load(tmp_path)
    save(tmp_path, small_model(seed=1))
    load(tmp_path)


def test_a_version_that_stands_is_never_changed(stored, model):
    before = (stored / "models/plate/aa/model.json").read_bytes()
    with pytest.raises(ArtefactError, match="exists already"):
        save(stored, small_model(seed=1))
    assert (stored / "models/plate/aa/model.json").read_bytes() == before
    load(stored)


def test_later_calibrations_stand_beside_the_first(stored):
    uri = storage.join(str(stored), "models/plate/aa/calibrations/2.json")
    storage.write(uri, checksummed_files.to_json(calibration(2).to_json()))
    assert load(stored, calibration=2).calibration == calibration(2)
    assert load(stored).calibration == calibration(1)
    with pytest.raises(ArtefactError, match=r"calibrations/3\.json is missing"):
        load(stored, calibration=3)


def test_another_schema_is_told_from_damage(stored):
    path = stored / "models/plate/aa/model.json"
    content = json.loads(path.read_bytes())
    del content["sha256"], content["schema"]
    path.write_bytes(checksummed_files.to_json(content, schema=2))
    with pytest.raises(ArtefactError, match=r"has schema 2, this version of mrkd reads 1"):
        load(stored)


def test_a_config_of_another_version_of_mrkd_is_told_from_damage(stored):
    path = stored / "models/plate/aa/model.json"
    content = json.loads(path.read_bytes())
    content["config"]["model"]["new_switch"] = True
    del content["sha256"], content["schema"]
    path.write_bytes(checksummed_files.to_json(content))
    with pytest.raises(ArtefactError, match=r"does not fit this version of mrkd.*new_switch"):
        load(stored)


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{}", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_sealed_json_is_called_damaged(tmp_path, data):
    uri = storage.join(str(tmp_path), "model.json")
    storage.write(uri, data)
    with pytest.raises(ArtefactError, match="is damaged"):
        checksummed_files.read_json(uri)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("calibrations/1.json", {"statistics": "none"}),
        ("calibrations/1.json", {"threshold": "high"}),
        ("calibrations/1.json", {"scores": [None]}),
        ("model.json", {"files": ["model.safetensors"]}),
        ("model.json", {"teacher": None}),
        ("model.json", {"config": {"model": 1, "train": {}}}),
    ],
)
def test_a_sealed_file_whose_values_are_of_other_types_is_told_from_damage(stored, name, values):
    uri = f"{artefact.folder_of(str(stored), 'plate', 'aa')}/{name}"
    content = checksummed_files.read_json(uri)
    storage.write(uri, checksummed_files.to_json(content | values))
    place = str(stored), "plate", "aa"
    read = artefact.read_card if name == "model.json" else artefact.read_calibration
    with pytest.raises(ArtefactError, match=r"does not fit this version of mrkd"):
        read(*place, *([] if name == "model.json" else [1]))


def test_a_number_that_is_not_finite_is_not_sealed():
    with pytest.raises(ValueError, match="JSON"):
        checksummed_files.to_json({"loss": float("nan")})


def test_a_region_of_another_version_of_mrkd_is_told_from_damage(stored):
    path = stored / "models/plate/aa/model.json"
    content = json.loads(path.read_bytes())
    content["roi"] = {"circle": [30, 20, 10]}
    del content["sha256"], content["schema"]
    path.write_bytes(checksummed_files.to_json(content))
    with pytest.raises(ArtefactError, match=r"region of interest .*does not fit"):
        load(stored)
