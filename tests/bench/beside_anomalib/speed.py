"""Images a second of training and of scoring, both sides in turn."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mrkd.data.datasets import Sample
from mrkd.data.preprocess import decode_samples
from mrkd.model.detector import infer
from mrkd.model.inference import BATCH_SIZE, score_images
from mrkd.model.loss import distillation_loss
from mrkd.model.mrkd import MRKD
from mrkd.model.teacher import Teacher
from mrkd.training.fit import FitResult
from tests.bench.beside_anomalib.ours import (
    BATCH,
    MAP_SIZE,
    OURS,
    Figures,
    Run,
    fitting,
    model_of,
)
from tests.bench.beside_anomalib.pictures import DECODER, tensor_of, write_pictures
from tests.bench.beside_anomalib.side import Reverse

SIZES = (8, 16, 4, 32, 1)
"""Of batches, from which each side has the one that suits it; the likely ones first."""


def alternate(theirs: Run, ours: Run, *, seconds: float, least: int = 2) -> Figures:
    """Both in turn, as many pairs of rounds as fit the seconds, after one that does not count.

    Args:
        theirs: one round.
        ours: one round.
        seconds: of all rounds, the one that does not count among them.
        least: pairs, whatever they take.
    """
    began = before = time.perf_counter()
    theirs(), ours()
    pairs: list[tuple[float, float]] = []
    while True:
        now = time.perf_counter()
        # Another pair is to take as long as the last one.
        if len(pairs) >= least and 2 * now - before - began > seconds:
            break
        before = now
        pairs.append((theirs(), ours()))
    ratios = [b / a for a, b in pairs]
    return {
        "theirs_images_per_s": median(a for a, _ in pairs),
        "ours_images_per_s": median(b for _, b in pairs),
        "ratio": median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "rounds": len(pairs),
    }


def training_figures(
    teacher: Teacher, pixels: np.ndarray, *, steps: int, seconds: float
) -> Iterator[Figures]:
    """Of a training step, each arm of ours with and without the teacher's pass."""
    them, pixels = Reverse(teacher), pixels[: steps * BATCH]
    batches = tensor_of(pixels, teacher).split(BATCH)

    def theirs() -> float:
        began = time.perf_counter()
        for batch in batches:
            them.step(batch)
        return len(pixels) / (time.perf_counter() - began)

    pair = batches[0][:2]
    them.module.train()
    their_gmac = gmac(lambda: them.loss(pair).backward(), len(pair))
    for arm in OURS:
        model = model_of(teacher, arm)
        for cached in (False, True):
            fit = fitting(model, pixels, cached=cached)
            # Chosen by the training, once for all rounds.
            precision = str(fit("auto").placement.precision).removeprefix("torch.")
            ours = partial(_images_per_s, fit, precision)
            found = alternate(theirs, ours, seconds=seconds)
            # Of the same weights as before, in channels-last, as `fit` leaves them.
            model.train()
            levels = model.teacher_features(pair)
            work = gmac(partial(_backward, model, pair, levels if cached else None), len(pair))
            yield {
                "figure": "training, cached teacher" if cached else "training",
                "arm": arm,
                "ours_trains_in": precision,
                **found,
                "theirs_gmac": their_gmac,
                "ours_gmac": work,
            }


def _images_per_s(fit: Callable[[str], FitResult], precision: str) -> float:
    return fit(precision).images_per_s


def _backward(model: MRKD, images_B3HW: Tensor, levels: Sequence[Tensor] | None) -> None:
    found = model.teacher_features(images_B3HW) if levels is None else levels
    distillation_loss(model.pairs(found)).backward()


def scoring_figures(teacher: Teacher, pixels: np.ndarray, *, seconds: float) -> Iterator[Figures]:
    """Of the bare models, each with its best batch, and of a folder by each side's default."""
    them, tensor = Reverse(teacher), tensor_of(pixels, teacher)

    def forward(size: int) -> Run:
        return timed(lambda: [them.score(batch) for batch in tensor.split(size)], len(tensor))

    size, theirs = best(forward, seconds=seconds / 2)
    their_gmac = gmac(lambda: them.score(tensor[:1]), 1)
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name, "folder"), Path(name, "out")
        samples = write_pictures(folder, pixels)
        for arm in OURS:
            model = model_of(teacher, arm)
            # As a stored model is loaded.
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            model.eval()
            run = partial(_infer_all, model, torch.from_numpy(pixels))
            our_size, ours = best(_by_size(run, len(pixels)), seconds=seconds / 2)
            one = torch.from_numpy(pixels[:1])
            work = {"theirs_gmac": their_gmac, "ours_gmac": gmac(partial(infer, model, one), 1)}
            yield {
                "figure": "scoring, best batch",
                "arm": arm,
                **alternate(theirs, ours, seconds=seconds),
                **work,
                "theirs_batch": size,
                "ours_batch": our_size,
            }
            ours = timed(partial(_score_folder, model, samples), len(pixels))
            yield {
                "figure": "scoring a folder, defaults",
                "arm": arm,
                **alternate(partial(them.predict, folder, out), ours, seconds=seconds),
                **work,
                "theirs_batch": 1,
                "ours_batch": BATCH_SIZE,
            }


def _by_size(work: Callable[[int], object], num_images: int) -> Callable[[int], Run]:
    return lambda size: timed(partial(work, size), num_images)


def _infer_all(model: MRKD, pixels_NHW3: Tensor, size: int) -> None:
    for part in pixels_NHW3.split(size):
        infer(model, part)


def _score_folder(model: MRKD, samples: Sequence[Sample]) -> None:
    for _ in score_images(model, decode_samples(samples, DECODER), map_size=MAP_SIZE):
        pass


def timed(work: Callable[[], object], num_images: int) -> Run:
    """A call does the work, and gives its images a second."""

    def run() -> float:
        began = time.perf_counter()
        work()
        return num_images / (time.perf_counter() - began)

    return run


def best(make: Callable[[int], Run], *, seconds: float) -> tuple[int, Run]:
    """The batch of `SIZES` that is fastest in the better of two tries, and its run.

    When the time is up, of those that were tried: two at least.
    """
    runs = {size: make(size) for size in SIZES}
    speeds = dict.fromkeys(SIZES, 0.0)
    began = time.perf_counter()
    for number, size in enumerate(SIZES * 2):
        if number >= 2 and time.perf_counter() - began > seconds:
            break
        speeds[size] = max(speeds[size], runs[size]())
    size = max(speeds, key=speeds.__getitem__)
    return size, runs[size]


def gmac(work: Callable[[], object], num_images: int) -> float:
    """Billions of multiplications and additions an image, of convolutions and products alone."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops()) / 2e9 / num_images
