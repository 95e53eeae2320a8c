"""What a fleet would take: from what was recorded, or from a few steps here."""

import json
import shutil

import pytest

from mrkd.data import datasets
from mrkd.training.category import train_category
from mrkd.training.cost_estimate import forecast
from mrkd.training.fleet_store import Fleet
from tests.support.models import small_config
from tests.support.parts import make_parts


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    root = make_parts(tmp_path_factory.mktemp("parts"), 2)
    for n in range(10):
        shutil.copy(root / "ring/train/good/000.png", root / f"ring/train/good/more{n}.png")
    return root


@pytest.fixture(scope="module")
def trained(parts, tmp_path_factory):
    """A workspace in which one category of two is trained, as a fleet leaves it."""
    workspace = tmp_path_factory.mktemp("workspace")
    config = small_config(str(parts), str(workspace), run="before")
    result = train_category(config, "plate", datasets.load(config.data)["plate"])
    fleet = Fleet(config)
    fleet.begin()
    fleet.end("plate", {**result.to_dict(), "attempts": 1, "cpus": 2.0, "gpus": 0.5})
    fleet.close("done")
    return workspace, result


def test_without_records_a_few_steps_are_timed(parts, tmp_path):
    config = small_config(str(parts), str(tmp_path), **{"fleet.cpus_per_worker": 3.0})
    found = forecast(config)
    counts = found.summary("r").counts
    assert (counts["categories"], counts["up_to_date"], counts["gpu_seconds"]) == (2, 0, 0)
    assert counts["images"] == sum(row.num_images for row in found.rows) > 0
    files = list(parts.glob("*/train/good/*.png"))
    assert counts["bytes"] == sum(path.stat().st_size for path in files)
    assert found.rate.cpus == 3.0
    assert "steps timed here, on cpu" in found.summary("r").reasons[0]
    assert not any(tmp_path.iterdir())


def test_what_the_last_fleets_took_makes_the_rate(parts, trained):
    workspace, result = trained
    found = forecast(small_config(str(parts), str(workspace)))
    rows = {row.category: row for row in found.rows}
    assert rows["plate"].seconds is None
    # The same steps, and as many images as there are more.
    fit, rest = result.seconds["fit"], sum(result.seconds.values()) - result.seconds["fit"]
    more = rows["ring"].num_images / rows["plate"].num_images
    assert rows["ring"].seconds == pytest.approx(fit + more * rest)
    assert (found.rate.cpus, found.rate.gpus) == (2.0, 0.5)
    assert "1 trainings" in found.summary("r").reasons[0]
    summary = found.summary("r")
    assert summary.counts["up_to_date"] == 1
    assert (summary.exit_code, summary.state) == (0, "planned")


def test_fleets_without_a_student_tell_nothing_of_one(parts, trained, tmp_path):
    workspace = shutil.copytree(trained[0], tmp_path / "workspace")
    path = workspace / "fleets" / "before" / "categories" / "plate.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": 0}))
    found = forecast(small_config(str(parts), str(workspace)))
    assert "steps timed here" in found.rate.source
    assert found.rate.step_s > 0


def test_force_counts_what_is_up_to_date_too(parts, trained):
    config = small_config(str(parts), str(trained[0]), **{"fleet.force": True})
    assert forecast(config).summary("r").counts["up_to_date"] == 0


def test_money_is_of_the_hours_that_workers_hold(parts, trained):
    prices = {"price.cpu_hour": 0.04, "price.gpu_hour": 2.5, "price.currency": "EUR"}
    found = forecast(small_config(str(parts), str(trained[0]), **prices))
    hours = found.seconds / 3600
    assert found.cost == pytest.approx(hours * (2 * 0.04 + 0.5 * 2.5))
    assert found.summary("r").reasons[1] == f"about {found.cost:.2f} EUR"


def test_the_table_has_a_line_for_each_category_the_longest_first(parts, trained):
    lines = list(forecast(small_config(str(parts), str(trained[0]))).lines())
    assert [line.split()[0] for line in lines] == ["category", "ring", "plate"]
    assert lines[2].endswith(" -")


def test_a_wrong_record_of_another_backbone_is_left_out(parts, trained, tmp_path):
    other = shutil.copytree(trained[0], tmp_path / "other")
    path = other / "fleets" / "before" / "fleet.json"
    content = json.loads(path.read_text())
    content["config"]["model"]["backbone"] = "resnet18"
    path.write_text(json.dumps(content))
    assert "timed here" in forecast(small_config(str(parts), str(other))).rate.source
