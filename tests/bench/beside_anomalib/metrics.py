"""Image AUROC, pixel AUROC and AUPRO of both sides on the same pixels, by mrkd's definition."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from mrkd.data import datasets
from mrkd.evaluation.category_metrics import Pixels, evaluate_category
from mrkd.model.inference import BATCH_SIZE, score_images
from mrkd.model.teacher import Teacher
from tests.bench.beside_anomalib.ours import (
    BATCH,
    MAP_SIZE,
    OURS,
    RESNETS,
    THEIRS,
    Figures,
    Trainings,
)
from tests.bench.beside_anomalib.pictures import Category, evenly, tensor_of
from tests.bench.beside_anomalib.side import PatchCore, Reverse

Scored = Iterator[tuple[np.ndarray, float]]
_PROBED = 8


def metric_figures(trainings: Trainings, *, patchcore_images: int) -> Iterator[Figures]:
    """A row for each model: anomalib's two, then our arms.

    RD has the steps of our trainings, on the images that they may see.

    Args:
        trainings: of our arms.
        patchcore_images: in the memory of PatchCore; fewer where they do not fit the time of a
            training.
    """
    teacher, seconds = trainings.teacher, trainings.seconds
    test = trainings.category.drawn(_num_tested(trainings))
    steps, pixels = {"training_steps": trainings.steps}, trainings.pixels
    if teacher.name in RESNETS:
        them, began = Reverse(teacher), time.perf_counter()
        for rows in batch_rows(len(pixels), trainings.steps):
            them.step(tensor_of(pixels[rows], teacher))
        spent = time.perf_counter() - began
        found = judged(THEIRS, test, their_scores(them, teacher, test), spent)
        yield {**found, "training_images": len(pixels), **steps}
    train = trainings.category.train
    count = min(patchcore_images, len(train), _num_remembered(teacher, train, seconds))
    memory, spent = remember(teacher, train, count)
    found = judged("anomalib PatchCore", test, their_scores(memory, teacher, test), spent)
    yield {**found, "training_images": count}
    for arm in OURS:
        ours = trainings[arm]
        results = score_images(ours.model, test.decoded, map_size=MAP_SIZE)
        scored = ((one.anomaly_map, one.image_score) for one in results)
        found = judged(arm, test, scored, ours.seconds)
        yield {**found, "training_images": len(pixels), **steps}


def _num_tested(trainings: Trainings) -> int:
    """Images that one of our arms scores in the time of a training, by one batch."""
    model, decoded = trainings[next(iter(OURS))].model, trainings.category.decoded
    began = time.perf_counter()
    num_scored = len(list(score_images(model, decoded[:BATCH_SIZE], map_size=MAP_SIZE)))
    return max(BATCH_SIZE, int(trainings.seconds * num_scored / (time.perf_counter() - began)))


def _num_remembered(teacher: Teacher, train: np.ndarray, seconds: float) -> int:
    """Images that PatchCore remembers in that time, whose coreset's grows with their square."""
    probed = min(_PROBED, len(train))
    _, spent = remember(teacher, train, probed)
    return max(probed, int(probed * (seconds / spent) ** 0.5))


def remember(teacher: Teacher, train: np.ndarray, count: int) -> tuple[PatchCore, float]:
    """A memory of so many of the images, and the seconds that it took."""
    memory, began = PatchCore(teacher), time.perf_counter()
    memory.fit(tensor_of(np.stack(evenly(list(train), count)), teacher).split(BATCH))
    return memory, time.perf_counter() - began


def batch_rows(num_images: int, steps: int) -> Iterator[np.ndarray]:
    """So many batches of a shuffled set, epoch after epoch."""
    generator, left = np.random.default_rng(0), np.zeros(0, np.int64)
    for _ in range(steps):
        if len(left) < BATCH:
            left = np.concatenate([left, generator.permutation(num_images)])
        yield left[:BATCH]
        left = left[BATCH:]


def their_scores(them: Reverse | PatchCore, teacher: Teacher, test: Category) -> Scored:
    """Map and score of each image of the test."""
    for start in range(0, len(test.decoded), BATCH):
        pixels = np.stack([one.pixels for one in test.decoded[start : start + BATCH]])
        maps, scores = them.score(tensor_of(pixels, teacher))
        yield from zip(maps.numpy(), scores.tolist(), strict=True)


def judged(arm: str, test: Category, scored: Scored, training_s: float) -> Figures:
    """The figures of one model, and the seconds of training, scoring and judging."""
    began, scores, pixels = time.perf_counter(), [], Pixels()
    for number, (anomaly_map, score) in enumerate(scored):
        sample, geometry = test.samples[number], test.decoded[number].geometry
        uri = sample.gt_mask_uri
        mask = datasets.read_gt_mask(uri, geometry) if uri else None
        pixels.add(number, anomaly_map, mask, gt_label=sample.gt_label)
        scores.append(score)
    labels, defects = [s.gt_label for s in test.samples], [s.defect for s in test.samples]
    rows = evaluate_category(test.name, scores, labels, defects, pixels=pixels, resamples=0)
    figures = {row["metric"]: row["value"] for row in rows if row["defect"] is None}
    return {
        "figure": "metrics",
        "arm": arm,
        **{name: figures.get(name) for name in ("image_auroc", "pixel_auroc", "aupro")},
        "test_images": len(scores),
        "seconds": training_s + time.perf_counter() - began,
    }
