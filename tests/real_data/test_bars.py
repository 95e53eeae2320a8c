"""What the default must do on real sets; their tables are printed, too. An hour on two cores.

`make -C tests real_data DATA=<folder>`; finished runs are kept under MRKD_CACHE, by default a
folder beside the system's temporary files, and are not run again.
"""

import os
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from mrkd.config import EvalConfig, TrainConfig
from mrkd.data import datasets, images
from mrkd.data.images import Statistics
from mrkd.data.preprocess import Preprocessor
from mrkd.evaluation.ablation.statistics import difference
from mrkd.evaluation.ablation.variants import CELLS, NEAREST, RD
from mrkd.evaluation.category_metrics import MEAN
from mrkd.evaluation.evaluate_model import judge_of, measure
from mrkd.model.artefact import save_load
from mrkd.model.calibration import calibrate
from mrkd.model.inference import score_images
from mrkd.model.registry import promotions
from mrkd.nights.commissioning import Line, commission
from mrkd.training.category import TrialHook, train_category
from tests.bench.real_sets import BEFORE, DEFAULT, places, run, table

pytestmark = [pytest.mark.real_data, pytest.mark.timeout(3 * 3600)]
ARMS = (DEFAULT, CELLS, BEFORE, RD, NEAREST)


@pytest.fixture(scope="module")
def folder():
    given = Path(os.environ.get("MRKD_DATA") or "missing")
    if not (given / "mtd").exists():
        pytest.skip(f"no mtd in {str(given)!r}: give DATA=<the folder of the sets>")
    return given


@pytest.fixture(scope="module")
def cache():
    default = Path(tempfile.gettempdir()) / "mrkd-real-data"
    return Path(os.environ.get("MRKD_CACHE", default))


@pytest.fixture(scope="module")
def runs(folder, cache):
    found = {
        (place.category, arm): [run(place, arm, 0, "test", cache)]
        for place in places(folder)
        for arm in ARMS
    }
    sys.stdout.write(table(found, ARMS, "test"))
    return found


def figures(runs, arm, metric, defect=None):
    found = {
        category: one.figure(metric, defect)
        for (category, own), (one,) in runs.items()
        if own == arm
    }
    return {category: figure.value for category, figure in found.items() if figure}


def calls(runs, arm):
    return {category: one.calls() for (category, own), (one,) in runs.items() if own == arm}


def test_good_parts_are_hardly_called_defective(runs):
    called = {category: found[0] for category, found in calls(runs, DEFAULT).items()}
    assert np.mean(list(called.values())) <= 0.05
    assert {category for category, share in called.items() if share > 0.12} <= {"cube"}


def test_defective_parts_are_found_nearly_as_the_best_threshold_would(runs):
    found = np.array(list(calls(runs, DEFAULT).values()))
    assert found[:, 1].mean() >= found[:, 2].mean() - 0.10


# Image AUROC, and AUPRO as the mean of kinds, of the default as it was at commit 1cb8727, which
# could not train on the other four papers.
BEFORE_CELLS = {
    "BRG01_RL": (0.9701, 0.588),
    "BRG02_RL": (1.0, 0.892),
    "BRG03_TL": (0.9297, 0.258),
    "FLR01_TL": (1.0, 0.847),
    "FLR02_TL": (1.0, 0.893),
    "FVN01_TL": (1.0, 0.902),
    "FVN02_RL": (1.0, 0.922),
    "ZPB01_RL": (1.0, 0.967),
    "cube": (1.0, None),
    "ball_screw": (0.8979, 0.730),
    "magnetic_tile": (0.8272, 0.815),
    "mono": (0.9422, None),
    "poly": (0.8420, None),
}


def test_image_auroc_is_gained_where_it_was_low_and_nowhere_surely_lost(runs):
    ours = figures(runs, DEFAULT, "image_auroc")
    gained = {category: ours[category] - auroc for category, (auroc, _) in BEFORE_CELLS.items()}
    assert min(gained[category] for category in ("ball_screw", "poly")) >= 0.025
    for category in [category for category, gain in gained.items() if gain < -0.005]:
        # Of the same images: a loss that these may show by chance.
        own, before = (
            runs[category, arm][0].figure("image_auroc", None) for arm in (DEFAULT, BEFORE)
        )
        assert difference([own], [before]).high > 0


def test_defects_are_outlined_better_than_before(runs):
    ours = figures(runs, DEFAULT, "aupro", MEAN)
    before = {category: aupro for category, (_, aupro) in BEFORE_CELLS.items() if aupro}
    gained = [ours[category] - aupro for category, aupro in before.items()]
    assert len(gained) == 10
    assert np.mean(gained) >= 0.01


def test_a_model_takes_little_room_and_little_time(runs):
    told = [one.told for (_, arm), (one,) in runs.items() if arm == DEFAULT]
    assert max(one["model_bytes"] for one in told) <= 30e6
    assert max(one["train_s"] for one in told) <= 300


FRAMES = {
    "black": lambda rgb, rng: np.zeros_like(rgb),
    "white": lambda rgb, rng: np.full_like(rgb, 255),
    "grey": lambda rgb, rng: np.full_like(rgb, 128),
    "mean": lambda rgb, rng: np.full_like(rgb, rgb.reshape(-1, 3).mean(0).astype(np.uint8)),
    "noise": lambda rgb, rng: rng.integers(0, 256, rgb.shape, np.uint8),
    "blur": lambda rgb, rng: cv2.GaussianBlur(rgb, (0, 0), max(rgb.shape) / 12),
}


@pytest.mark.parametrize(
    "category",
    ["BDP01_TL", "BRG01_RL", "GLA01_TL", "cube", "ball_screw", "magnetic_tile", "mono", "poly"],
)
def test_what_shows_no_part_is_anomalous(runs, cache, folder, category):
    workspace = str(cache / "workspaces" / f"{category}-{DEFAULT}-0")
    (version,) = promotions.versions(workspace, category)
    loaded = save_load.load(workspace, category, version)
    (place,) = (place for place in places(folder) if place.category == category)
    good = next(s for s in datasets.load(place.data)[category] if s.split == "train")
    rgb = images.decode(datasets.read_image(good))
    rng = np.random.default_rng(0)
    decoder = Preprocessor.of(loaded.card.model)
    shown = [
        decoder(name, cv2.imencode(".png", frame(rgb, rng)[..., ::-1])[1].tobytes())
        for name, frame in FRAMES.items()
    ]
    found = {
        scored.decoded.image_uri: scored.image_score - loaded.calibration.threshold
        for scored in score_images(loaded.model, shown)
    }
    sys.stdout.write(f"{category}: { ({name: round(by, 1) for name, by in found.items()}) }\n")
    assert min(found.values()) > 0


def test_cubes_of_later_runs_are_decided_by_a_night_of_them(runs):
    (one,) = runs["cube", DEFAULT]
    good = [r["image_score"] for r in one.scores.to_pylist() if r["gt_label"] == 0]
    first, later = np.array(good[::2]), np.array(good[1::2])
    nothing = np.full(len(first), np.nan)
    seen = np.ones(len(first), bool)
    looks = [Statistics(0.5, 0.1, 1.0)] * len(first)
    uris = [str(n) for n in range(len(first))]
    line = Line("night-1", uris, first, nothing, looks, [{}] * len(first), seen, seen)
    own = calibrate(first, first, looks, false_call_rate=0.01)
    for how in ("verdicts", "median"):
        made = commission(own, line, how=how, false_call_rate=0.01, defect_rate=0.0)
        called = (later > made.threshold).mean()
        sys.stdout.write(f"cube by {how}: {called:.1%} of {len(later)} called\n")
        assert called < 0.10


@pytest.mark.parametrize("count", [4, 8, 16])
@pytest.mark.parametrize("category", ["GLA01_TL", "cube", "magnetic_tile"])
def test_a_handful_of_good_images_makes_a_model(folder, tmp_path, category, count):
    (place,) = (place for place in places(folder) if place.category == category)
    samples = datasets.load(place.data)[category]
    good = [sample for sample in samples if sample.split == "train"]
    chosen = good[:: len(good) // count][:count]
    config = TrainConfig.from_dict(
        {"workspace": str(tmp_path), "run": "few", "data": place.data.to_dict()}
    )
    result = train_category(config, category, chosen, probe=TrialHook.silent(""))
    evaluation = EvalConfig(str(tmp_path), "few", place.data)
    judge = judge_of(evaluation, category, result.version)
    found = measure(judge, evaluation, category, samples).scores.to_pylist()
    threshold = judge.calibration.threshold
    shares = [
        np.mean([r["image_score"] > threshold for r in found if r["gt_label"] == label])
        for label in (0, 1)
    ]
    sys.stdout.write(f"{category} of {count}: {shares[0]:.1%} called, {shares[1]:.3f} found\n")
    assert result.supported_false_call_rate >= 1 / (count + 1) - 1e-9
