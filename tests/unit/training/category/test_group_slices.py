"""A group reads, decodes and describes each image once, and every worker has all of them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed

from mrkd.config import DataConfig
from mrkd.data import datasets, preprocess
from mrkd.data.preprocess import Preprocessor
from mrkd.errors import StorageError
from mrkd.model.feature_cache import TeacherFeatures
from mrkd.model.teacher import teacher_of
from mrkd.training.category.split_images import read_images
from mrkd.training.fit.process_group import ProcessGroup
from tests.support import forked
from tests.support.models import MODEL
from tests.support.parts import make_parts

NUM = 43  # not a multiple of anything


def look(root, group, monkeypatch):
    """What a worker has in the end, and what it did itself."""
    did = {"read": 0, "decoded": 0, "described": 0}
    (samples,) = datasets.load(DataConfig(root=root)).values()
    shut = sorted(one.image_uri for one in samples if one.split == "train")[5]
    read, decode = datasets.read_image, preprocess.decode_samples
    compute = TeacherFeatures.compute

    def counting_read(sample):
        did["read"] += 1
        if sample.image_uri == shut:
            raise StorageError("shut", "forbidden")
        return read(sample)

    def counting_decode(samples, decoder):
        did["decoded"] += len(samples)
        return decode(samples, decoder)

    def counting_compute(self, pixels):
        did["described"] += len(pixels)
        return compute(self, pixels)

    monkeypatch.setattr(datasets, "read_image", counting_read)
    monkeypatch.setattr(preprocess, "decode_samples", counting_decode)
    monkeypatch.setattr(TeacherFeatures, "compute", counting_compute)
    torch.set_num_threads(1)
    found = read_images(samples, Preprocessor.of(MODEL), group)
    teacher = teacher_of(MODEL, seed=0)
    pixels = found.decoded.pixels
    features = TeacherFeatures(teacher, pixels, budget_bytes=2**30, sharers=group).ready()
    digest = hashlib.sha256(pixels.tobytes())
    for level in features.levels:
        digest.update(np.ascontiguousarray(level.numpy()).tobytes())
    return {
        "did": did,
        "names": [one.sample.image_uri for one in found.good],
        "unreadable": found.unreadable,
        "brightness": [one.statistics.brightness for one in found.decoded.decoded],
        "sha256": digest.hexdigest(),
    }


def work(place, rank, root):
    distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    with pytest.MonkeyPatch.context() as patch:
        found = look(root, ProcessGroup.current(), patch)
    Path(f"{place}.{rank}").write_text(json.dumps(found))


def test_each_worker_does_its_part_and_all_have_the_same_bits(tmp_path, monkeypatch):
    root = str(make_parts(tmp_path / "parts", 1, train=NUM))
    place = tmp_path / "meeting"
    workers = [forked.start(work, str(place), rank, root) for rank in (0, 1)]
    try:
        for worker in workers:
            worker.join(90)
        assert [worker.exitcode for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    found = [json.loads(Path(f"{place}.{rank}").read_text()) for rank in (0, 1)]
    alone = look(root, ProcessGroup(), monkeypatch)
    # Each is read to be hashed and once more to be decoded; one cannot be read.
    total = {"read": 2 * NUM - 1, "decoded": NUM - 1, "described": NUM - 1}
    assert alone.pop("did") == total
    parts = [one.pop("did") for one in found]
    assert found == [alone, alone]
    assert len(alone["unreadable"]) == 1
    for step, number in total.items():
        assert sum(part[step] for part in parts) == number
        assert min(part[step] for part in parts) >= number // 3
