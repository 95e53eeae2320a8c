"""Demo on real photographs: trains, scores an archive, evaluates and writes one page.

It uses cells of solar panels (ELPV, the package elpv-dataset), a pretrained EfficientNet-Lite0 as
teacher and one folder, and runs the commands with their defaults. Started again in the
same folder, it trains and scores only what is missing.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path, PurePosixPath

from mrkd import storage
from mrkd.config import ArchiveConfig, DataConfig, EvalConfig, ScoreConfig, TrainConfig
from mrkd.data import datasets
from mrkd.errors import ConfigError
from mrkd.reports.evaluation.load import load_page_data
from mrkd.reports.evaluation.page import evaluation_page
from mrkd.run_summary import Summary
from mrkd.runs import score, train
from mrkd.runs.evaluate import run as evaluate
from mrkd.runs.executor import Executor
from mrkd.runs.recorded_run import recorded_run

log = logging.getLogger(__name__)

RUN = "demo"


def run(folder: str, executor: Executor) -> Summary:
    """Trains two categories, scores an archive, evaluates, and leaves `<folder>/report.html`.

    Args:
        folder: path or URI of everything that it writes.
        executor: executor of all its runs.

    Raises:
        ConfigError: the photographs are not installed; nothing was started.
        TeacherError: the teacher's weights are not installed.
        StorageError: the folder cannot be written.
    """
    data = DataConfig(_photographs(), "elpv")
    workspace, archive, page_uri = (
        storage.join(folder, name) for name in ("workspace", "archive", "report.html")
    )
    with recorded_run(RUN, RUN, storage.join(folder)) as verdict, executor.connected("train_each"):
        log.info("1/4 archive: solar cells, and three files that are not images, to %s", archive)
        _write_archive(archive, data)
        log.info(
            "2/4 train: two categories on good cells alone, by the preset default, which tells "
            "these apart best: Gaussians and a student; about three minutes"
        )
        training = {
            "workspace": workspace,
            "run": RUN,
            "data": data.to_dict(),
            "model": {"backbone": "efficientnet_lite0"},
        }
        trained = train.run(TrainConfig.from_dict(training), executor)
        log.info("3/4 score: every file of the archive becomes a row, %s", archive)
        scored = score.run(ScoreConfig(workspace, RUN, ArchiveConfig(archive)), executor)
        log.info("4/4 evaluate: other cells, whose defects are known, and the page")
        evaluated = evaluate.run(EvalConfig(workspace, RUN, data), executor)
        evaluation = storage.join(workspace, "evaluations", RUN)
        night = storage.join(workspace, "nights", RUN)
        page = evaluation_page(load_page_data(evaluation, night_uri=night))
        storage.write(page_uri, page.encode())
        log.info("done: open %s in a browser", page_uri)
        parts = (trained, scored, evaluated)
        return verdict.end(
            max(part.exit_code for part in parts),
            counts=scored.counts,
            uris={**scored.uris, **evaluated.uris, "report": page_uri},
            reasons=[reason for part in parts for reason in part.reasons],
        )


def _photographs() -> str:
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "the demo's photographs are not installed: pip install 'mrkd[demo]' (the package "
            "elpv-dataset, CC BY-NC-SA 4.0)"
        )
    return str(Path(spec.origin).parent / "data")


def _write_archive(archive: str, data: DataConfig) -> None:
    """`<archive>/<category>/<name>.png` of cells that neither training nor evaluation sees."""
    for category, samples in datasets.load(data).items():
        unseen = [sample.image_uri for sample in samples if sample.split == "val"]
        for uri in unseen:
            copy_uri = storage.join(archive, category, PurePosixPath(uri).name)
            storage.write(copy_uri, storage.read(uri), if_absent=True)
        # Three files that are not images: half a percent, less than the default allows.
        cell = storage.read(unseen[0])
    for name, content in (
        ("broken.png", cell[: len(cell) // 2]),
        ("empty.png", b""),
        ("notes.png", b"Notes of the night shift, saved under the wrong name.\n"),
    ):
        storage.write(storage.join(archive, "poly", name), content, if_absent=True)
