"""Resolved inputs of a training, and the checkpoint of an earlier start."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mrkd import storage
from mrkd.config import RoiConfig, TrainConfig
from mrkd.data.datasets import Sample
from mrkd.errors import ArtefactError, StorageError
from mrkd.model import device
from mrkd.model.artefact import save_load
from mrkd.model.mrkd import MODEL_VERSION
from mrkd.model.registry import promotions
from mrkd.model.teacher import Teacher, teacher_of
from mrkd.training import fit
from mrkd.training.category.split_images import (
    GoodImage,
    ReadImages,
    fingerprint,
    read_images,
)
from mrkd.training.category.up_to_date import inputs_of
from mrkd.training.fit import Checkpoint
from mrkd.training.fit.process_group import ProcessGroup

log = logging.getLogger(__name__)


class Clock(dict[str, float]):
    """Seconds of each named stage."""

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Times a `with` block as that stage."""
        began = time.perf_counter()
        yield
        self[stage] = time.perf_counter() - began


@dataclass(frozen=True)
class Job:
    """Resolved inputs of a training.

    Args:
        config: configuration of the category.
        images: its good images as read, and lines on those that are left out.
        inputs: `inputs_of` the category.
        version: name of the version that these inputs make.
        is_complete: whether that version is complete and not to be made again.
    """

    config: TrainConfig
    category: str
    images: ReadImages
    teacher: Teacher
    inputs: str
    version: str
    is_complete: bool
    group: ProcessGroup
    clock: Clock

    @property
    def good(self) -> list[GoodImage]:
        """The good images, ordered by content."""
        return self.images.good

    @property
    def warnings(self) -> list[str]:
        """One line on the images that are not readable, if there are any."""
        unreadable = self.images.unreadable
        if not unreadable:
            return []
        number = len(unreadable)
        return [
            f"{number} of {number + len(self.good)} good images cannot be read and were left out: "
            f"{unreadable[0]}"
        ]


def prepare(
    config: TrainConfig,
    category: str,
    samples: Sequence[Sample],
    group: ProcessGroup,
    images: ReadImages | None = None,
) -> Job:
    """Reads and hashes the images: the version, and whether it is complete.

    Args:
        config: configuration of the fleet.
        category: its name.
        samples: all images of the category.
        group: the workers that share its training.
        images: the good images, where they were read before; None: they are read here.
    """
    config, clock = config.for_category(category), Clock()
    device.check_granted(config.train.device)
    group.check_devices(device.identity(config.train.device))
    model, workspace = config.model, config.workspace
    images = images or read_images(samples, group=group)
    clock.update(images.seconds)
    good = images.good
    with clock("teacher"):
        teacher = teacher_of(model, seed=config.train.seed)
        save_load.store_teacher(workspace, teacher)
    version = promotions.version_of(
        model,
        config.train,
        data_fingerprint=fingerprint(good),
        teacher_digest=teacher.digest,
        model_version=MODEL_VERSION,
        num_micro_batches=fit.num_micro_batches(
            config.train, num_images=len(good), workers=group.size
        ),
        roi=_roi_inputs(config.roi),
    )
    # The first worker decides: another run may complete the version between two checks.
    done = promotions.exists(workspace, category, version) and not config.fleet.force
    done = bool(group.broadcast(float(done)))
    if not done:
        version = promotions.next_version(workspace, category, version)
    inputs = inputs_of(config, samples, teacher.digest)
    return Job(config, category, images, teacher, inputs, version, done, group, clock)


def _roi_inputs(roi: RoiConfig) -> dict[str, Any] | None:
    """The region of interest in a version's hash: outlines, or the mask by content."""
    if roi.mask:
        return {"mask": hashlib.sha256(storage.read(roi.mask)).hexdigest()}
    return {"polygons": roi.to_dict()["polygons"]} if roi.polygons else None


class Checkpoints:
    """The one checkpoint of a version in the making; a later one replaces an earlier one."""

    def __init__(self, folder_uri: str, version: str) -> None:
        self._folder = folder_uri
        self.uri = storage.join(folder_uri, f"{version}.safetensors") if folder_uri else ""

    def save(self, state: Checkpoint) -> None:
        """Stores a checkpoint over the one before."""
        storage.write(self.uri, state.to_bytes())

    def last(self) -> Checkpoint | None:
        """The last checkpoint; None where there is none, or it is damaged: training starts over."""
        if not self.uri:
            return None
        try:
            state = Checkpoint.from_bytes(storage.read(self.uri), where=self.uri)
        except StorageError as error:
            if error.kind != "missing":
                raise
            return None
        except ArtefactError as error:
            log.warning("checkpoint_dropped uri=%s reason=%s", self.uri, error)
            return None
        log.info("checkpoint_resumed uri=%s step=%d", self.uri, state.step)
        return state

    def clear(self) -> None:
        """Removes this one, and those of versions that were never completed."""
        if self._folder:
            for file in storage.list_files(self._folder, suffixes=(".safetensors",)):
                storage.delete(file.uri)
