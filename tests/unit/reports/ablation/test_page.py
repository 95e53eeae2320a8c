import re
from dataclasses import replace
from pathlib import Path

import pytest

from mrkd import storage
from mrkd.errors import ArtefactError
from mrkd.reports import write_page
from mrkd.reports.ablation.load import _fall, load_study_data
from mrkd.reports.ablation.markdown import study_markdown
from mrkd.reports.ablation.page import study_page
from tests.support.studies import write_study


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    uri = write_study(tmp_path_factory.mktemp("study"))
    return uri, load_study_data(uri)


@pytest.fixture(scope="module")
def html(written):
    return study_page(written[1])


def table(data, name):
    return next(one for one in data.tables if one.name == name)


def test_the_stored_rows_become_tables_with_their_arms(written):
    data = written[1]
    assert [one.name for one in data.tables] == [
        "backbone",
        "fmm",
        "scsatt",
        "levels",
        "mask_rate",
        "detectors",
    ]
    arms = {arm.name: arm for arm in table(data, "fmm").variants}
    assert list(arms) == ["with FMM", "without FMM"]
    # Mean of two categories, each, and what the one less the other is.
    assert set(arms["with FMM"].figures) == {None, "plate", "ring"}
    assert arms["with FMM"].differences == {}
    gap = arms["without FMM"].differences["plate"]["image_auroc", None]
    values = [arm.figures["plate"]["image_auroc", None]["value"] for arm in arms.values()]
    assert gap["value"] == pytest.approx(values[1] - values[0])
    assert len(gap["by_seed"]) == 2


def test_pictures_are_the_best_the_middle_and_the_worst_of_each_kind(written):
    for category in written[1].categories:
        for kind in ("scratch", "spot"):
            shown = [one for one in category.shown if one.image.row["defect"] == kind]
            assert [one.rank for one in shown] == ["best", "median", "worst"]
            overlaps = [one.aupro for one in shown]
            assert overlaps == sorted(overlaps, reverse=True)
            assert all(
                one.image.pixels is not None and one.image.gt_mask is not None for one in shown
            )
            assert [one.variant for one in shown[0].maps] == ["resnet18", "plain RD"]


def test_published_figures_stand_struck_out_beside_ours_with_the_reason(written, html):
    (own,) = [arm for arm in table(written[1], "backbone").variants if arm.name == "resnet18"]
    assert own.published[None]["image_auroc"].value == pytest.approx(0.982)
    assert any("weights are random" in text for text in own.differs)
    assert "<s>98.2 / 97.3 / 94.4</s>" in html
    assert "10.62762/CJIF.2024.734267" in html


def test_a_run_that_failed_is_told_and_keeps_no_other_from_the_page(written, html):
    ((category, _, seed, error),) = written[1].failures
    assert (category, seed, error) == ("ring", 0, "<b>no</b> image: add some")
    assert "&lt;b&gt;no&lt;/b&gt; image" in html
    assert "<b>no</b>" not in html


def test_the_page_says_what_a_reader_must_know(written, html):
    assert "RANDOM WEIGHTS" in html
    gaps = [
        gap for t in written[1].tables for arm in t.variants for gap in arm.differences.values()
    ]
    for said in {gap["image_auroc", None]["words"] for gap in gaps}:
        assert f'<span class="soft">{said}</span>' in html
    assert "Was it trained to its end?" in html
    assert "Cost<br>of 10,000 parts" in html
    assert "lowest cost" in html


def test_each_kind_of_defect_has_its_figures_by_arm(written, html):
    arm = written[1].tables[0].variants[0]
    values = [arm.figures["plate"][metric, "spot"]["value"] for metric in ("image_auroc", "aupro")]
    assert all(f"{value:.3f}" in html for value in values)
    assert "image AUROC / pixel AUROC / AUPRO" in html


def test_figures_with_few_defects_stand_below_the_thresholds(written, html):
    _, data = written
    plate = data.categories[0]
    assert [row["metric"] for row in plate.rare] == [
        "image_auroc_rare",
        "average_precision_rare",
        "f1_max_rare",
    ]
    assert all(row["low"] <= row["value"] <= row["high"] for row in plate.rare)
    assert {(row["arm"], row["seed"]) for row in plate.rare} == {(data.tables[0].base, 0)}
    assert f"average precision {plate.rare[1]['value']:.3f}" in html


def test_the_markdown_has_every_table_with_the_figures_of_the_page(written, html):
    text = study_markdown(written[1])
    assert len(re.findall(r"^## ", text, re.MULTILINE)) == 6
    for arm in table(written[1], "levels").variants:
        figure = arm.figures[None]["image_auroc", None]
        value, low, high = (figure[name] for name in ("value", "low", "high"))
        assert f"| {arm.name} | {value:.3f} [{low:.3f}, {high:.3f}] |" in text
        assert f"{value:.3f}" in html
    # Every row of a table has as many cells as its head.
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_a_category_without_masks_has_no_columns_of_pixels(written):
    one = table(written[1], "fmm")

    def without_pixels(rows):
        return {name: row for name, row in rows.items() if name[0] == "image_auroc"}

    arms = tuple(
        replace(
            arm,
            figures={**arm.figures, "ring": without_pixels(arm.figures["ring"])},
            differences={
                place: without_pixels(rows) if place == "ring" else rows
                for place, rows in arm.differences.items()
            },
        )
        for arm in one.variants
    )
    text = study_markdown(replace(written[1], tables=(replace(one, variants=arms),)))
    (plate,), (ring,) = (re.findall(rf"^\| {name} .*", text, re.M) for name in ("plate", "ring"))
    pixels = "| pixel AUROC | AUPRO | pixel AUROC, mean of kinds | AUPRO, mean of kinds |"
    image, aupro = (
        f"| against with FMM: {name} | says |" for name in ("image AUROC", "AUPRO, mean of kinds")
    )
    assert f"{pixels[:-2]} {image[:-2]} {aupro}" in plate
    assert ring.startswith(f"| ring | image AUROC {image} loss fell")


def test_many_categories_are_the_rows_of_one_table(written):
    data, names = written[1], ["a", "b", "c", "d"]
    one = table(data, "fmm")
    arms = tuple(
        replace(arm, figures={None: arm.figures[None]} | dict.fromkeys(names, arm.figures["plate"]))
        for arm in one.variants
    )
    categories = tuple(replace(data.categories[0], name=name) for name in names)
    many = replace(data, tables=(replace(one, variants=arms),), categories=categories)
    text, html = study_markdown(many), study_page(many)
    cells = [arm.figures["a"]["image_auroc", None] for arm in arms]
    figures = " | ".join("{value:.3f} [{low:.3f}, {high:.3f}]".format_map(row) for row in cells)
    for name in names:
        assert f"| {name} | {figures} |" in text
        assert f'<a href="#category-{name}">{name}</a>' in html
    assert "| image AUROC | with FMM | without FMM |" in text


def test_a_study_is_told_by_its_record_and_another_version_is_refused(written, tmp_path):
    uri = written[0]
    path = Path(write_page(uri).removeprefix("file://"))
    assert path.name == "report.html"
    assert path.with_name("tables.md").exists()
    storage.write_json(str(tmp_path / "study.json"), {"schema": 9})
    with pytest.raises(ArtefactError, match=r"study\.json has schema 9"):
        load_study_data(str(tmp_path))


def test_a_picture_that_is_gone_leaves_its_row(tmp_path):
    uri = write_study(tmp_path, ablation="fmm")
    for path in (tmp_path / "parts" / "plate" / "test").rglob("*.png"):
        path.unlink()
    data = load_study_data(uri)
    assert "can no longer be read" in study_page(data)


def test_how_much_the_loss_still_fell_is_read_off_the_last_tenth():
    flat = [{"step": s, "loss": max(1.0, 3 - s / 10)} for s in range(10, 101, 10)]
    assert _fall(flat) == 0
    falling = [{"step": s, "loss": 200.0 - s} for s in range(10, 101, 10)]
    assert _fall(falling) == pytest.approx(10 / 110)
