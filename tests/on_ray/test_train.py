import json

import pytest

from mrkd import registry
from mrkd.errors import ConfigError, TeacherError
from mrkd.on_ray import train
from tests.support.models import small_config


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_category_without_images_fails_and_the_others_are_trained(plant):
    summary = plant.trained
    assert (summary.exit_code, summary.state) == (3, "partial")
    assert summary.counts == {
        "categories": 3,
        "trained": 2,
        "up_to_date": 0,
        "failed": 1,
        "not_started": 0,
        "held": 0,
    }
    (reason,) = summary.reasons
    assert reason.startswith("category broken: 0 training")
    for category in ("plate", "ring"):
        assert registry.champion(str(plant.workspace), category).why == "first"
    assert registry.champion(str(plant.workspace), "broken") is None


def test_a_fleet_stores_its_config_its_verdict_and_how_each_category_ended(plant):
    fleet = plant.workspace / "fleets" / "fleet-1"
    assert json.loads((fleet / "summary.json").read_text()) == plant.trained.to_dict()
    assert 'run = "fleet-1"' in (fleet / "config.toml").read_text()
    records = {path.stem: json.loads(path.read_text()) for path in (fleet / "categories").iterdir()}
    assert {name: record["status"] for name, record in records.items()} == {
        "plate": "trained",
        "ring": "trained",
        "broken": "failed",
    }
    assert records["plate"]["seconds"]["fit"] > 0
    assert records["broken"]["attempts"] == 1
    assert "check_counts" in (fleet / "tracebacks" / "broken-1.txt").read_text()


def test_a_second_start_trains_nothing_that_is_up_to_date(plant):
    models = plant.workspace / "models"
    before = files(models)
    config = small_config(
        str(plant.root),
        str(plant.workspace),
        run="fleet-2",
        **{"data.categories": ["plate", "ring"]},
    )
    summary = train.run(config)
    assert (summary.exit_code, summary.counts["up_to_date"]) == (0, 2)
    assert files(models) == before


def test_failures_up_to_the_allowed_share_are_no_failure_of_the_fleet(plant):
    values = {"data.categories": ["broken", "ring"], "fleet.max_failed_share": 0.5}
    summary = train.run(small_config(str(plant.root), str(plant.workspace), **values))
    assert (summary.exit_code, summary.state, len(summary.reasons)) == (0, "done", 1)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"data.root": "missing"}, ConfigError),
        ({"model.levels": [7]}, ConfigError),
        ({"fleet.gpus_per_worker": 3}, ConfigError),
        ({"model.weights": "absent.pth", "model.weights_sha256": "0" * 64}, TeacherError),
    ],
)
def test_what_would_fail_in_every_category_is_refused_before_anything_is_written(
    plant, tmp_path, values, error
):
    config = small_config(str(plant.root), str(tmp_path / "workspace"))
    with pytest.raises(error):
        train.run(config.with_values(values))
    assert not (tmp_path / "workspace").exists()
