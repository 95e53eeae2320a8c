import json
import os
import pickle

import cv2
import numpy as np
import pytest

from mrkd import storage
from mrkd.config import DataConfig
from mrkd.data import datasets
from mrkd.data.datasets.cifar10 import CLASSES
from mrkd.errors import ConfigError, ImageDecodeError


def load(root):
    return datasets.load(DataConfig(root=str(root), layout="cifar10"))


PIXELS = np.random.default_rng(0).integers(0, 256, (6, 20, 32, 32, 3), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 10, (6, 20))
BATCHES = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]


def write_cifar(folder, form):
    folder.mkdir()
    for batch, pixels, labels in zip(BATCHES, PIXELS, LABELS, strict=True):
        planes = pixels.transpose(0, 3, 1, 2).reshape(20, 3072)
        if form == "sheets":
            cv2.imwrite(str(folder / f"{batch}.png"), pixels.reshape(20, 1024, 3)[..., ::-1])
        elif form == "binary":
            rows = np.concatenate([labels[:, None].astype(np.uint8), planes], 1)
            (folder / f"{batch}.bin").write_bytes(rows.tobytes())
        else:
            names = [f"{batch}_{n}.png".encode() for n in range(20)]
            content = {
                b"batch_label": batch.encode(),
                b"labels": labels.tolist(),
                b"data": np.ascontiguousarray(planes),
                b"filenames": names,
            }
            (folder / batch).write_bytes(pickle.dumps(content, protocol=4))
    if form == "sheets":
        (folder / "train_lables.json").write_text(json.dumps(LABELS[:5].ravel().tolist()))
        (folder / "test_lables.json").write_text(json.dumps(LABELS[5].tolist()))
    return folder


@pytest.mark.parametrize("form", ["sheets", "python", "binary"])
def test_cifar_10_is_ten_categories_with_one_good_class_each(tmp_path, form):
    found = load(write_cifar(tmp_path / form, form))
    assert sorted(found) == sorted(CLASSES)
    for number, name in enumerate(CLASSES):
        samples = found[name]
        assert sum(s.split == "train" for s in samples) == (LABELS[:5] == number).sum()
        test = [s for s in samples if s.split == "test"]
        assert [s.gt_label for s in test] == (LABELS[5] != number).astype(int).tolist()
        assert {s.defect for s in test if s.gt_label} <= set(CLASSES) - {name}


@pytest.mark.parametrize("form", ["sheets", "python", "binary"])
def test_the_images_of_a_batch_come_back_without_loss(tmp_path, form):
    found = load(write_cifar(tmp_path / form, form))
    for sample in found["dog"]:
        batch, row = sample.image_uri.split("/")[-1].split("#")
        bgr = cv2.imdecode(np.frombuffer(datasets.read_image(sample), np.uint8), cv2.IMREAD_COLOR)
        expected = PIXELS[BATCHES.index(batch.split(".")[0]), int(row)]
        assert bgr is not None
        assert (bgr[..., ::-1] == expected).all()


def test_a_member_that_is_not_there_is_named(tmp_path):
    root = write_cifar(tmp_path / "cifar", "binary")
    with pytest.raises(ImageDecodeError, match="the batch holds 20 images"):
        datasets.read_image(storage.join(str(root), "test_batch.bin#20"))


class Intruder:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_python_batch_is_read_without_running_what_it_says(tmp_path):
    root = write_cifar(tmp_path / "cifar", "python")
    content = {b"labels": [1], b"data": b"\0" * 3072, b"more": Intruder(str(tmp_path / "made"))}
    (root / "data_batch_3").write_bytes(pickle.dumps(content))
    load(root)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("data_batch_1", b"not a pickle"),
        ("data_batch_1", pickle.dumps({b"labels": [1, 2], b"data": b"\0" * 3072})),
        ("data_batch_1", pickle.dumps({b"labels": [1], b"data": np.zeros((3072, 2), "u1", "F")})),
        ("data_batch_1.bin", b"\0" * 3072),
    ],
)
def test_a_damaged_batch_is_refused(tmp_path, name, data):
    root = write_cifar(tmp_path / "cifar", "binary" if name.endswith(".bin") else "python")
    (root / name).write_bytes(data)
    with pytest.raises(ConfigError, match="is not a batch of CIFAR-10"):
        load(root)


def test_the_real_cifar_10_is_all_there(cifar10):
    found = load(cifar10)
    assert {(len(s), sum(x.split == "train" for x in s)) for s in found.values()} == {(15000, 5000)}
    # The first training image of CIFAR-10 is a frog, the second a truck.
    assert found["frog"][0].image_uri.endswith("#0")
    assert found["truck"][0].image_uri.endswith("#1")
