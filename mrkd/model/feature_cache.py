"""The frozen teacher's features of a set of images, computed once and read many times.

Shape letters: N images, B batch, C channels, h w a level's size, H W the input's.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import math
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrkd.data import images
from mrkd.errors import MemoryShortError
from mrkd.model.feature_pairs import inside
from mrkd.model.memory import Pieces, attempt
from mrkd.model.teacher import Teacher

log = logging.getLogger(__name__)

_BATCH = 16

GPU_SHARE = 0.3
"""Share of a GPU's free memory that features may take: the rest is for the student's steps."""


class Sharers(Protocol):
    """Processes that compute the features of the same images together.

    Attributes:
        rank: number of this process, from 0.
        size: number of them.
    """

    @property
    def rank(self) -> int:
        """Number of this process."""

    @property
    def size(self) -> int:
        """Number of processes."""

    def send(self, tensors: Sequence[Tensor], *, source: int) -> None:
        """Replaces the values of each tensor by those of one process."""


class TeacherFeatures:
    """Raw teacher features of images, computed when they are first read.

    float16, whose 11 bits cost the cosine nothing that was measurable. On the teacher's GPU while
    they take a share of its free memory at most; else in memory up to a budget, past it in a file
    without a name, which the operating system pages and of which a killed process leaves nothing.

    Args:
        teacher: the teacher, on the device to compute on.
        pixels_NHW3: uint8 RGB at the model's size; an array in memory or a memory map.
        budget_bytes: largest number of bytes in memory.
        roi: `MRKD.pixel_roi` of the model that is trained with them; None: it has no region of
            interest.
        folder: local folder in which processes of one user share computed features, whatever the
            budget; its files remain. Empty, or another user's folder: nothing is shared.
        sharers: processes that each compute a part and send it to the others; None: this one alone.
    """

    def __init__(
        self,
        teacher: Teacher,
        pixels_NHW3: NDArray[np.uint8],
        *,
        budget_bytes: int,
        roi: Tensor | None = None,
        folder: str = "",
        sharers: Sharers | None = None,
    ) -> None:
        self._sharers = sharers
        self.teacher, self.pixels, self.budget_bytes = teacher, pixels_NHW3, budget_bytes
        self.roi, self.folder = roi, folder
        self._levels: list[Tensor] | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    # Not a cached_property: before Python 3.12 it has one lock for all instances, by which the
    # trainings of two threads would wait for each other's teacher.
    @property
    def levels(self) -> list[Tensor]:
        """float16 `[N, C_l, h_l, w_l]`, shallow to deep; computed at the first call."""
        if self._levels is None:
            self._levels = self._made()
        return self._levels

    def _made(self) -> list[Tensor]:
        shapes = [
            (len(self), channels, *size)
            for channels, size in zip(self.teacher.channels, self.sizes, strict=True)
        ]
        if self.folder and _is_private(Path(self.folder)):
            return self._shared(shapes)
        num_bytes = 2 * sum(math.prod(shape) for shape in shapes)
        levels = None
        if num_bytes <= _room_on(self.device):
            levels = attempt(lambda: [_on(shape, self.device) for shape in shapes])
        if levels is None:
            on_disk = num_bytes > self.budget_bytes
            levels = [_storage(shape, on_disk=on_disk) for shape in shapes]
        self._fill(levels)
        return levels

    def ready(self) -> Self:
        """Itself, with all features computed."""
        assert self.levels
        return self

    def _fill(self, levels: Sequence[Tensor]) -> None:
        rank, size = (self._sharers.rank, self._sharers.size) if self._sharers else (0, 1)
        starts = range(0, len(self), _BATCH)
        for first in range(0, len(starts), size):
            # One batch for each process, and then all of them to all.
            together = starts[first : first + size]
            if rank < len(together):
                start = together[rank]
                batch = self.compute(self.pixels[start : start + _BATCH])
                for level, t in zip(levels, batch, strict=True):
                    level[start : start + len(t)] = t
            for source, start in enumerate(together):
                if self._sharers:
                    part = [level[start : start + _BATCH] for level in levels]
                    self._sharers.send(part, source=source)

    def _shared(self, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """The levels in files of the folder, computed by the first process; the others wait."""
        folder, name = Path(self.folder), self._digest()
        paths = [folder / f"{name}-{n}" for n in range(len(shapes))]
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # given back with the file, also by a killed process
            if not all(path.exists() for path in paths):
                parts = [path.with_suffix(".part") for path in paths]
                self._fill(
                    [_mapped(str(part), shape) for part, shape in zip(parts, shapes, strict=True)]
                )
                for part, path in zip(parts, paths, strict=True):
                    part.rename(path)
        return [_mapped(str(path), shape) for path, shape in zip(paths, shapes, strict=True)]

    def _digest(self) -> str:
        """Sha256 over all that decides the features."""
        digest = hashlib.sha256(f"{self.teacher.digest} {self.teacher.taps}".encode())
        digest.update(np.ascontiguousarray(self.pixels).data)
        if self.roi is not None:
            digest.update(self.roi.cpu().numpy().tobytes())
        return digest.hexdigest()

    @property
    def device(self) -> torch.device:
        """Device on which batches are delivered: the teacher's."""
        return next(self.teacher.parameters()).device

    def compute(self, pixels_BHW3: NDArray[np.uint8]) -> list[Tensor]:
        """The teacher's float32 features of other pixels, past the cache.

        Raises:
            MemoryShortError: memory does not suffice for one image.
        """
        parts = []
        pieces = Pieces(len(pixels_BHW3))
        for rows, part in pieces.over(
            range(len(pixels_BHW3)),
            lambda some: self._computed(pixels_BHW3[some[0] : some[-1] + 1]),
        ):
            if part is None:
                raise MemoryShortError(
                    f"out of memory in the teacher with image {rows[0]} of a batch alone: lower "
                    "model.image_size, or give its worker more of a GPU (fleet.gpus_per_worker)"
                )
            parts.append(part)
        if len(parts) == 1:
            return parts[0]
        return [torch.cat(level) for level in zip(*parts, strict=True)]

    def _computed(self, pixels_BHW3: NDArray[np.uint8]) -> list[Tensor]:
        pixels = torch.from_numpy(np.ascontiguousarray(pixels_BHW3)).to(self.device)
        tensor = images.to_tensor(pixels, self.teacher.normalisation)
        if self.roi is not None:
            # As in `MRKD.teacher_features`: a student learns from what it will be shown.
            tensor = tensor * self.roi.to(self.device)
        features: list[Tensor] = self.teacher(tensor)
        return features

    def of(self, rows: Sequence[int] | NDArray[np.int64]) -> TeacherFeatures:
        """Features of some of the images, in that order; computed values are shared."""
        return _Some(self, np.asarray(rows, np.int64))

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(h_l, w_l) of each level."""
        height, width = self.pixels.shape[1:3]
        return [(height // stride, width // stride) for stride in self.teacher.strides]

    def shown(self, row: int) -> NDArray[np.uint8]:
        """Pixels of an image: uint8 `[H, W, 3]`."""
        return np.asarray(self.pixels[row])

    def batch(self, rows: Sequence[int] | NDArray[np.int64]) -> list[Tensor]:
        """float32 `[B, C_l, h_l, w_l]`, shallow to deep, on the teacher's device."""
        return [
            level.to(self.device, torch.float32, memory_format=torch.channels_last)
            for level in self._stored(rows)
        ]

    def batches(self) -> Iterator[list[Tensor]]:
        """The features of all images, in order."""
        for rows in self._chunks():
            yield self.batch(rows)

    def statistics(self, *, roi: Sequence[Tensor] | None = None) -> list[tuple[Tensor, Tensor]]:
        """Mean and standard deviation of each level's channels: float64 `[C_l]` both.

        Args:
            roi: `MRKD.all_level_roi`, so that inside pixels alone count; None: all do.
        """
        where = self._kept_on
        regions = [None] * len(self.sizes) if roi is None else [r.to(where) for r in roi]
        totals = [
            torch.zeros(2, c, dtype=torch.float64, device=where) for c in self.teacher.channels
        ]
        for rows in self._chunks():
            for level, total, roi_hw in zip(self._stored(rows), totals, regions, strict=True):
                double = inside(level, roi_hw).double()
                total += torch.stack([double.sum((0, 2)), double.square().sum((0, 2))])
        found = []
        for total, (height, width), roi_hw in zip(totals, self.sizes, regions, strict=True):
            pixels = height * width if roi_hw is None else int((roi_hw > 0).sum())
            mean, square = total.cpu() / (len(self) * pixels)
            found.append((mean, (square - mean.square()).clamp_min(0).sqrt()))
        return found

    @property
    def _kept_on(self) -> torch.device:
        return self.levels[0].device

    def _chunks(self) -> Iterator[range]:
        for start in range(0, len(self), _BATCH):
            yield range(start, min(start + _BATCH, len(self)))

    def _stored(self, rows: Sequence[int] | NDArray[np.int64]) -> list[Tensor]:
        """Features as they are kept: float16, on the device where they are."""
        index = torch.as_tensor(np.asarray(rows), device=self._kept_on)
        return [level[index] for level in self.levels]


class _Some(TeacherFeatures):
    """Features of some of the images of a whole."""

    def __init__(self, whole: TeacherFeatures, rows: NDArray[np.int64]) -> None:
        super().__init__(
            whole.teacher, whole.pixels, budget_bytes=whole.budget_bytes, roi=whole.roi
        )
        self._whole, self._rows = whole, rows

    def __len__(self) -> int:
        return len(self._rows)

    def shown(self, row: int) -> NDArray[np.uint8]:
        return self._whole.shown(int(self._rows[row]))

    @property
    def _kept_on(self) -> torch.device:
        return self._whole._kept_on

    def _stored(self, rows: Sequence[int] | NDArray[np.int64]) -> list[Tensor]:
        return self._whole._stored(self._rows[np.asarray(rows)])


def _room_on(device: torch.device) -> float:
    """Bytes that features may take on a device; 0 on a CPU, whose budget is the config's."""
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return GPU_SHARE * free


def _on(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.empty(shape, dtype=torch.float16, device=device)


def _storage(shape: tuple[int, ...], *, on_disk: bool) -> Tensor:
    if not on_disk:
        return torch.empty(shape, dtype=torch.float16)
    with tempfile.NamedTemporaryFile(prefix="mrkd-features-") as file:
        return _mapped(file.name, shape)


def _is_private(path: Path) -> bool:
    """Makes a folder that no other user can write to; False where one of its names is taken.

    Anybody may take a name in the temporary directory, and would then choose the features that are
    read, or the files that are written.
    """
    root = Path(tempfile.gettempdir())
    for folder in [one for one in reversed(path.parents) if root in one.parents] + [path]:
        with contextlib.suppress(FileExistsError):  # a file, or a link to nothing
            folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            log.warning("features_not_shared folder=%s reason=not a private folder", folder)
            return False
    return True


def _mapped(path: str, shape: tuple[int, ...]) -> Tensor:
    """A file's content, which it is made long enough for."""
    size = math.prod(shape)
    return torch.from_file(path, shared=True, size=size, dtype=torch.float16).view(shape)
