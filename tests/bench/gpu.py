"""Images a second on a GPU by backbone, beside the limit of the card.

    python -m tests.bench.gpu [--images 2048] [--size 256]

The limit is the card's own: the speed of a large product of matrices in IEEE float32, divided by
the operations of one image. The table goes into `tests/bench/results/` under the card's name.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from mrkd.config import ModelConfig
from mrkd.data.images import Geometry
from mrkd.data.preprocess import Decoded
from mrkd.model import device
from mrkd.model.detector import infer
from mrkd.model.ensemble import model_of
from mrkd.model.inference import batch_size_on, score_images
from mrkd.model.mrkd import MRKD
from mrkd.model.teacher import teacher_of

BACKBONES = ("resnet18", "efficientnet_lite0", "wide_resnet50_2")
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Speed:
    """Speed of a backbone with its student, weights random.

    Args:
        backbone: name of the backbone.
        images_per_s: images a second, from decoded pixels to scores and reduced maps.
        gflop: operations of one image, in 10^9.
        limit_per_s: images a second at the card's speed of matrix products.
    """

    backbone: str
    images_per_s: float
    gflop: float
    limit_per_s: float


def measure(
    place: torch.device, backbone: str, *, count: int, size: int, flop_per_s: float
) -> Speed:
    """The speed of one backbone on a device."""
    config = ModelConfig.from_dict({"backbone": backbone, "weights": "random", "image_size": size})
    model = model_of(config, teacher_of(config, seed=0)).to(place).eval()
    assert isinstance(model, MRKD)
    rng, geometry = np.random.default_rng(0), Geometry((size, size), (size, size), "stretch")
    pixels = rng.integers(0, 256, (size, size, 3), np.uint8)
    images = [Decoded(f"{n}", pixels=pixels, geometry=geometry) for n in range(count)]
    with FlopCounterMode(display=False) as counter:
        infer(model, torch.from_numpy(pixels[None]).to(place))
    gflop = counter.get_total_flops() / 1e9
    warm = images[: 2 * batch_size_on(place)]
    for shown in (warm, images):
        began = time.perf_counter()
        number = sum(1 for _ in score_images(model, shown, map_size=64))
    return Speed(
        backbone, number / (time.perf_counter() - began), gflop, flop_per_s / (1e9 * gflop)
    )


def product_speed(place: torch.device, side: int) -> float:
    """Operations a second of a product of float32 matrices, the fastest of five."""
    left = torch.ones(side, side, device=place)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        (left @ left).sum().item()
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / min(seconds)


def table(speeds: Sequence[Speed], *, card: str, command: str, flop_per_s: float) -> str:
    """The results as Markdown."""
    lines = [
        f"# Images a second on {card}",
        "",
        f"`{command}`, torch {torch.__version__}, CUDA {torch.version.cuda}, driver "
        f"{device.driver_version() or 'not found'}. A product of float32 matrices runs at "
        f"{flop_per_s / 1e12:.1f} TFLOPS. Scoring of one process from decoded pixels, weights "
        "random.",
        "",
        "| backbone | images/s | GFLOP an image | the card's limit, images/s | share |",
        "|---|---|---|---|---|",
        *(
            f"| {one.backbone} | {one.images_per_s:.1f} | {one.gflop:.2f} | {one.limit_per_s:.1f} "
            f"| {one.images_per_s / one.limit_per_s:.0%} |"
            for one in speeds
        ),
    ]
    return "\n".join(lines) + "\n"


def file_name(card: str, now: datetime) -> str:
    """Name of the results file of a card and a month."""
    word = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
    return f"gpu_{word}_{now:%Y%m}.md"


def main() -> None:
    """Measures all backbones, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"gpu bench skipped: PyTorch {torch.__version__} finds no CUDA device here")
        return
    gpu, card = device.choose("cuda", "float32").device, torch.cuda.get_device_name()
    flop_per_s = product_speed(gpu, 8192)
    speeds = [
        measure(gpu, one, count=options.images, size=options.size, flop_per_s=flop_per_s)
        for one in BACKBONES
    ]
    command = f"python -m tests.bench.gpu --images {options.images} --size {options.size}"
    text = table(speeds, card=card, command=command, flop_per_s=flop_per_s)
    (RESULTS / file_name(card, datetime.now(UTC))).write_text(text)
    print(text)


if __name__ == "__main__":
    main()
