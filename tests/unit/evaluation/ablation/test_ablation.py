import zlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mrkd.config import EvalConfig
from mrkd.data.datasets import Sample
from mrkd.errors import ConfigError
from mrkd.evaluation.ablation import Run, Study, images_of, inputs_of, outcome, runs_of, tables_of
from mrkd.evaluation.ablation.statistics import SAME, difference, mean, words
from mrkd.evaluation.category_metrics import evaluate_category
from mrkd.evaluation.metrics import Metric, bootstrap_interval, paired_bootstrap
from mrkd.storage import schema

RAW = {"workspace": "w", "run": "r", "data": {"root": "parts"}, "protocol": "mvtec"}


def config(**values):
    raw = RAW | {"model": {"preset": "masked"}}
    return EvalConfig.from_dict(raw).with_values(values)


def arms(**values):
    (table,) = tables_of(config(**values))
    return {arm.name: arm.values for arm in table.arms}


def test_the_results_are_the_model_and_what_it_is_set_against():
    assert list(arms()) == ["MRKD", "plain RD", "cell Gaussians alone", "nearest neighbour"]
    assert list(arms(baselines=[])) == ["MRKD"]
    assert list(arms(**{"model.preset": "default"})) == [
        "MRKD", "MRKD student alone", "plain RD", "cell Gaussians alone", "nearest neighbour",
    ]  # fmt: skip
    assert list(arms(**{"model.preset": "quick"})) == [
        "MRKD", "MRKD student alone", "plain RD", "nearest neighbour",
    ]  # fmt: skip
    assert arms()["plain RD"] == {
        "model.student": True,
        "model.cells": False,
        "model.fmm": False,
        "model.scconv": False,
        "model.simam": False,
    }


def test_table_6_has_both_neither_with_fmm_and_plain_rd():
    found = arms(ablation="scsatt")
    assert list(found) == ["both", "SCConv", "SimAM", "neither, with FMM", "plain RD"]
    assert found["neither, with FMM"]["model.fmm"]
    assert not found["plain RD"]["model.fmm"]


def test_levels_are_all_subsets_of_those_that_the_teacher_has():
    assert list(arms(ablation="levels")) == ["1", "2", "3", "1, 2", "1, 3", "2, 3", "1, 2, 3"]
    two = {"model.taps": [4, 10]}
    assert list(arms(ablation="levels", **two)) == ["1", "2", "1, 2"]


def test_teachers_are_those_of_the_models_family():
    lite = [f"efficientnet_lite{n}" for n in range(3)]
    assert list(arms(ablation="backbone")) == lite
    found = arms(ablation="backbone", **{"model.backbone": "resnet50"})
    assert list(found) == ["resnet18", "resnet50", "wide_resnet50_2"]
    with pytest.raises(ConfigError, match=r"model\.weights or model\.taps is of one backbone"):
        arms(ablation="backbone", **{"model.weights": "a/file.pth"})


def test_mask_rates_hold_the_configs_own_and_need_fmm():
    assert list(arms(ablation="mask_rate")) == ["0", "0.2", "0.4", "0.6", "0.8"]
    own = arms(ablation="mask_rate", **{"train.mask_rate": 0.3})
    assert list(own) == ["0", "0.2", "0.3", "0.4", "0.6", "0.8"]
    with pytest.raises(ConfigError, match=r"model\.fmm is off"):
        arms(ablation="mask_rate", **{"model.fmm": False})


def test_arms_of_one_config_are_fitted_once():
    one = config(ablation="all")
    tables = tables_of(one)
    fitted = runs_of(one, tables)
    assert sum(len(table.arms) for table in tables) == 22 + 3
    # What the student has alone is its base in every table, and an arm beside cells.
    assert len(fitted) == 22 - 4 + 2
    keys = {t.name: {arm.name: arm.key(one) for arm in t.arms} for t in tables}
    alone = {keys[t.name][t.base] for t in tables if t.name != "detectors"}
    assert alone == {keys["detectors"]["MRKD student alone"]}
    # A seed names a run, not what is fitted.
    assert fitted.keys() == runs_of(one.with_values({"train.seed": 7}), tables).keys()


def test_an_arms_values_lie_above_those_of_the_categorys_pattern():
    raw = RAW | {"category": {"ring": {"model": {"fmm": True}, "train": {"batch_size": 4}}}}
    one = EvalConfig.from_dict(raw | {"ablation": "fmm"})
    (table,) = tables_of(one)
    training = table.arms[1].training(one, "ring", 5)
    assert not training.model.fmm
    assert (training.train.batch_size, training.train.seed) == (4, 5)


def figure(value, draws):
    return Metric.of(value, np.array(draws, float))


def test_a_difference_is_that_of_the_same_resamples():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 60)
    a, b = (rng.normal(size=120) + labels * apart for apart in (1.5, 1.0))
    one = difference(
        [bootstrap_interval("image_auroc", a, labels)],
        [bootstrap_interval("image_auroc", b, labels)],
    )
    other = paired_bootstrap("image_auroc", a, b, labels)
    assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high))


def test_a_mean_over_seeds_is_that_of_their_draws():
    one = mean([figure(0.8, [0.7, 0.9]), figure(0.6, [0.5, 0.7])])
    assert one.value == pytest.approx(0.7)
    assert one.draws == pytest.approx([0.6, 0.8])
    gone = mean([figure(0.8, [0.7, 0.9]), Metric(None, reason="all 3 images are good")])
    assert (gone.value, gone.reason) == (None, "all 3 images are good")
    assert mean([]).value is None


def test_a_difference_says_something_only_if_interval_and_seeds_agree():
    clear = Metric(0.1, 0.05, 0.15)
    assert words(clear, [0.08, 0.12]) == "higher"
    assert words(clear, [-0.01, 0.21]) == SAME
    assert words(Metric(0.1, -0.01, 0.2), [0.1, 0.1]) == SAME
    assert words(Metric(-0.1, -0.2, -0.01), [-0.1, -0.1]) == "lower"
    assert words(Metric(None), []) == ""


def ended(study, key, seed=0, first=0):
    """A run over forty images, of which the first have no score; stored."""
    scores = np.random.default_rng([seed, zlib.crc32(key.encode())]).normal(size=40)
    labels = np.arange(len(scores)) % 2
    defects = np.where(labels, "crack", "good").tolist()
    rows = evaluate_category("ring", scores + labels, labels, defects, resamples=50, seed=0)
    images = pa.table(
        {
            "image_uri": [f"{first + n}.png" for n in range(len(scores))],
            "image_score": scores + labels,
            "gt_label": labels,
            "headline": [True] * len(scores),
            "group": pa.nulls(len(scores), pa.string()),
        }
    )
    model = {"model_version": "", "threshold": 0.5}
    run = Run(key, "ring", seed, "inputs", images=images_of(images), model=model)
    study.put(run, pa.Table.from_pylist(rows, schema=schema.FIGURES), images)
    return run


@pytest.mark.parametrize("lost", [0, 1])
def test_arms_that_lost_other_images_have_no_interval_between_them(tmp_path, lost):
    asked = config(workspace=str(tmp_path), ablation="fmm", baselines=[])
    study, tables = Study(asked), tables_of(asked)
    runs = [
        ended(study, key, first=lost * number) for number, key in enumerate(runs_of(asked, tables))
    ]
    found = outcome(study, tables, runs).differences.to_pylist()[0]
    assert found["value"]
    assert (found["low"] is None) == bool(lost)
    assert (found["words"] == "") == bool(lost)


def test_arms_are_compared_by_the_seeds_that_both_have(tmp_path):
    asked = config(workspace=str(tmp_path), ablation="fmm", baselines=[], num_seeds=3)
    study, tables = Study(asked), tables_of(asked)
    base = tables[0].base_arm
    arm = next(one for one in tables[0].arms if one is not base)
    seeds = {arm.key(asked): (0, 1), base.key(asked): (0, 2)}
    runs = [ended(study, key, seed) for key, some in seeds.items() for seed in some]
    found = [
        row
        for row in outcome(study, tables, runs).differences.to_pylist()
        if (row["arm"], row["metric"], row["defect"]) == (arm.name, "image_auroc", None)
    ]
    first = {
        run.key: study.figures(run).filter(pc.field("metric") == "image_auroc")["value"][0].as_py()
        for run in runs
        if run.seed == 0
    }
    expected = first[arm.key(asked)] - first[base.key(asked)]
    assert [row["by_seed"] for row in found] == [[pytest.approx(expected)]]


def test_a_run_is_another_when_what_decides_it_changes():
    one = config()
    samples = [Sample("a.png", "ring", "train", 0, "good", etag="1")]
    training = one.base()

    def inputs(config=one, training=training, samples=samples):
        return inputs_of(config, training, samples, model_version=1)

    assert inputs() == inputs(samples=list(samples))
    changed = Sample("a.png", "ring", "train", 0, "good", etag="2")
    assert inputs(samples=[changed]) != inputs()
    assert inputs(config=one.with_values({"part": "val"})) != inputs()
    assert inputs(training=training.with_values({"train.max_steps": 3})) != inputs()
    # What changes no figure makes no new run.
    assert inputs(config=one.with_values({"cost_escape": 2.0, "cost_false_call": 1.0})) == inputs()
    assert inputs(training=training.with_values({"workspace": "elsewhere"})) == inputs()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"protocol": "champions"}, r"\[model\] is given, and protocol is champions"),
        ({"protocol": "champions", "model.preset": "default", "ablation": "fmm"}, "ablation is"),
        ({"protocol": "champions", "model.preset": "default", "num_seeds": 2}, "num_seeds is 2"),
        ({"fleet.workers_per_category": 2}, "each by one worker"),
        ({"roi.polygons": [[[0, 0], [9, 0], [9, 9]]]}, "knows no region of interest"),
        ({"baselines": ["plain_rd", "plain_rd"]}, "name each once"),
        ({"cost_escape": 3.0}, "give both, or none"),
    ],
)
def test_a_config_that_would_not_do_what_it_says_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        config(**values)
