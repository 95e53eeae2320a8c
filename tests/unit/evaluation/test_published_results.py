from collections import Counter
from typing import Any

import pytest

from mrkd.data.datasets.cifar10 import CLASSES
from mrkd.evaluation import published_results
from mrkd.model.teacher.architectures import BACKBONES

MVTEC, CIFAR = "mvtec", "cifar10_one_class"
ABLATIONS = ("backbone", "fmm", "scsatt", "levels")
ALL = [
    figure
    for protocol in (MVTEC, CIFAR)
    for table in ("results", *ABLATIONS)
    for figure in published_results.figures(protocol, table)
]


def value(arm, metric, category=None, protocol=MVTEC, table="results"):
    (found,) = [
        figure.value
        for figure in published_results.figures(protocol, table)
        if (figure.arm, figure.metric, figure.category) == (arm, metric, category)
    ]
    return found


def test_every_figure_is_a_share_with_its_source_and_stands_once():
    assert len(ALL) == 16 * 3 + 3 + 3 * 3 + 2 * 3 + 4 * 3 + 7 * 3 + 10 + 1
    assert all(0 < figure.value <= 1 and figure.source for figure in ALL)
    named = [(f.protocol, f.table, f.arm, f.category, f.metric) for f in ALL]
    assert max(Counter(named).values()) == 1


def test_figures_use_the_names_of_mrkd():
    assert {figure.metric for figure in ALL} == {"image_auroc", "pixel_auroc", "aupro"}
    assert {figure.backbone for figure in ALL} - {""} <= set(BACKBONES)
    for protocol in (MVTEC, CIFAR):
        named = {f.category for f in ALL if f.protocol == protocol and f.category}
        assert named <= set(published_results.sizes(protocol))
    assert list(published_results.sizes(CIFAR)) == list(CLASSES)


def test_nothing_is_published_for_an_unknown_protocol_or_table():
    assert published_results.figures("elpv") == ()
    assert published_results.figures(CIFAR, "fmm") == ()
    assert published_results.sizes("elpv") == {}


def test_some_figures_are_as_printed():
    assert value("MRKD", "image_auroc") == 0.991
    assert value("MRKD", "aupro", "metal_nut") == 0.93
    assert value("MRKD", "pixel_auroc", "zipper") == 0.992
    assert value("RD4AD", "aupro") == 0.939
    assert value("resnet18", "pixel_auroc", table="backbone") == 0.973
    assert value("without FMM", "image_auroc", table="fmm") == 0.988
    assert value("SCConv", "aupro", table="scsatt") == 0.953
    assert value("pair b", "aupro", table="levels") == 0.953
    assert value("MRKD", "image_auroc", "cat", CIFAR) == 0.812
    assert value("MKD", "image_auroc", protocol=CIFAR) == 0.871


def test_sources_name_the_table_and_remarks_what_is_uncertain():
    sources = {f.source for f in published_results.figures(MVTEC, "scsatt")}
    assert len(sources) == 1
    assert sources.pop().endswith("doi 10.62762/CJIF.2024.734267, Table 6")
    remarks = {f.arm: f.remark for f in published_results.figures(MVTEC, "scsatt")}
    assert "quoted" in remarks.pop("neither, with FMM")
    assert set(remarks.values()) == {"row marks lost: order read from the layout"}
    assert all((f.category is None) == (not f.remark) for f in published_results.figures(CIFAR))


# The printed means are cut, not rounded: pixel AUROC 98.58 stands as 98.5, PRO 95.99 as 95.9. The
# categories are rounded themselves, their mean by 0.05 percent points at most.
@pytest.mark.parametrize("metric", ["image_auroc", "pixel_auroc", "aupro"])
def test_printed_means_are_those_of_the_categories(metric):
    by_category = [
        f.value
        for f in published_results.figures(MVTEC)
        if f.category is not None and f.metric == metric
    ]
    assert len(by_category) == 15
    assert -0.0005 <= sum(by_category) / 15 - value("MRKD", metric) < 0.0015


def test_the_complete_arm_of_every_ablation_is_the_result():
    complete = {"backbone": "wide_resnet50_2", "fmm": "with FMM", "scsatt": "both"}
    for table, arm in (complete | {"levels": "1, 2, 3"}).items():
        for metric in ("image_auroc", "pixel_auroc", "aupro"):
            assert value(arm, metric, table=table) == value("MRKD", metric)


def test_the_sizes_add_up_to_what_mvtec_ad_has():
    train, test = zip(*published_results.sizes(MVTEC).values(), strict=True)
    assert (len(train), sum(train), sum(test)) == (15, 3629, 1725)


def differs(protocol=MVTEC, counts=None, **changes):
    run: dict[str, Any] = {
        "backbone": "wide_resnet50_2",
        "teacher_is_random": False,
        "image_size": 256,
    }
    counts = published_results.sizes(protocol) if counts is None else counts
    return published_results.differs(protocol, counts=counts, **run | changes)


def test_a_run_of_the_published_protocol_does_not_differ():
    assert differs() == ()
    assert differs(CIFAR, image_size=128) == ()
    assert differs(backbone="resnet18", published_backbone="resnet18") == ()


@pytest.mark.parametrize(
    ("changes", "way"),
    [
        ({"backbone": "resnet18"}, "the backbone is resnet18, published wide_resnet50_2"),
        (
            {"published_backbone": ""},
            "the backbone is wide_resnet50_2, published with another network that mrkd does not "
            "have",
        ),
        (
            {"teacher_is_random": True},
            "the teacher's weights are random, published those of ImageNet",
        ),
        ({"image_size": 128}, "images are 128 px, published 256 px"),
        ({"protocol": "elpv"}, "no figures are published for the protocol 'elpv'"),
    ],
)
def test_what_differs_is_said_in_words(changes, way):
    assert differs(**changes) == (way,)


@pytest.mark.parametrize(
    ("changed", "way"),
    [
        ({"tile": (20, 117)}, "tile has 20 training images, MVTec AD 230"),
        ({"wood": (247, 7), "zipper": (1, 1)}, "wood has 7 test images, MVTec AD 79"),
        ({"plate": (24, 12)}, "plate is not a category of MVTec AD"),
        (
            {"screw": None, "pill": None},
            "the run lacks 2 of MVTec AD's 15 categories, pill among them",
        ),
    ],
)
def test_another_data_set_is_told_by_its_categories_and_their_images(changed, way):
    counts = {k: v for k, v in (published_results.sizes(MVTEC) | changed).items() if v is not None}
    assert differs(counts=counts) == (way,)


def test_all_that_differs_is_said_at_once():
    assert len(differs(backbone="resnet18", teacher_is_random=True, image_size=64, counts={})) == 4
