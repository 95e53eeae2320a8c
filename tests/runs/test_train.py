import json
import re
import shutil

import cv2
import pytest

from mrkd.errors import ConfigError, TeacherError
from mrkd.model import artefact
from mrkd.model.registry import promotions
from mrkd.runs import train
from mrkd.training.fleet_store import Fleet
from tests.support.models import small_config
from tests.support.night_runs import events
from tests.support.plants import HERE


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
    (reason,) = events(summary.reasons)
    assert reason.startswith("category broken: 0 good images")
    for category in ("plate", "ring"):
        assert promotions.champion(str(plant.workspace), category).why == "first"
    assert promotions.champion(str(plant.workspace), "broken") is None


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
    assert "check_count" in (fleet / "tracebacks" / "broken-1.txt").read_text()


def test_a_second_start_trains_nothing_that_is_up_to_date(plant):
    models = plant.workspace / "models"
    before = files(models)
    config = small_config(
        str(plant.root),
        str(plant.workspace),
        run="fleet-2",
        **{"data.categories": ["plate", "ring"]},
    )
    summary = train.run(config, HERE)
    assert (summary.exit_code, summary.counts["up_to_date"]) == (0, 2)
    assert files(models) == before


def test_failures_up_to_the_allowed_share_are_no_failure_of_the_fleet(plant):
    values = {"data.categories": ["broken", "ring"], "fleet.max_failed_share": 0.5}
    summary = train.run(small_config(str(plant.root), str(plant.workspace), **values), HERE)
    assert (summary.exit_code, summary.state, len(events(summary.reasons))) == (0, "done", 1)


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
        train.run(config.with_values(values), HERE)
    assert not (tmp_path / "workspace").exists()


def test_a_category_for_itself_has_its_own_size_and_region(plant, tmp_path):
    tables = {
        "ring": {
            "model": {"image_size": 96},
            "roi": {"polygons": [[[6, 6], [58, 6], [58, 58], [6, 58]]]},
        }
    }
    values = {"category": tables, "data.categories": ["plate", "ring"]}
    config = small_config(str(plant.root), str(tmp_path), **values)
    assert train.run(config, HERE).exit_code == 0
    cards = {
        name: artefact.read_card(
            str(tmp_path), name, promotions.champion(str(tmp_path), name).version
        )
        for name in ("plate", "ring")
    }
    assert (cards["plate"].model.image_size, cards["ring"].model.image_size) == (64, 96)
    assert cards["plate"].roi is None
    assert (cards["ring"].roi["height"], cards["ring"].roi["width"]) == (64, 64)


def test_force_goes_on_where_it_was_killed_and_begins_anew_after_a_verdict(plant, tmp_path):
    values = {"data.categories": ["plate", "ring"], "fleet.force": True}
    config = small_config(str(plant.root), str(tmp_path), **values)
    assert train.run(config, HERE).counts["trained"] == 2
    fleet = tmp_path / "fleets" / "test"
    # As a killed driver leaves it: one category is done, the other not, and there is no verdict.
    (fleet / "summary.json").unlink()
    (fleet / "categories" / "ring.json").unlink()
    left = json.loads((fleet / "fleet.json").read_text()) | {"state": "running"}
    (fleet / "fleet.json").write_text(json.dumps(left))
    assert train.run(config, HERE).counts["trained"] == 2
    assert len(promotions.versions(str(tmp_path), "plate")) == 1
    assert len(promotions.versions(str(tmp_path), "ring")) == 2
    assert train.run(config, HERE).counts["trained"] == 2
    assert len(promotions.versions(str(tmp_path), "plate")) == 2


def test_an_image_added_trains_its_category_alone(plant, tmp_path):
    root = shutil.copytree(plant.root, tmp_path / "parts")
    values = {"data.categories": ["plate", "ring"]}
    config = small_config(str(root), str(tmp_path / "w"), **values)
    train.run(config, HERE)
    good = root / "plate" / "train" / "good"
    shutil.copy(root / "ring" / "train" / "good" / "000.png", good / "new.png")
    summary = train.run(config, HERE)
    assert (summary.counts["trained"], summary.counts["up_to_date"]) == (1, 1)
    record = json.loads((tmp_path / "w/fleets/test/categories/plate.json").read_text())
    assert record["status"] == "trained"
    # Touched, not changed: read again, found to be the same, and from then on up to date at once.
    (good / "new.png").touch()
    summary = train.run(config, HERE)
    assert summary.counts["up_to_date"] == 2
    record = json.loads((tmp_path / "w/fleets/test/categories/plate.json").read_text())
    assert record["attempts"] == 1
    train.run(config, HERE)
    record = json.loads((tmp_path / "w/fleets/test/categories/plate.json").read_text())
    assert record["attempts"] == 0


def test_a_root_that_vanishes_in_mid_run_fails_its_categories_and_leaves_nothing_half(
    plant, tmp_path, monkeypatch
):
    root = shutil.copytree(plant.root, tmp_path / "parts")
    values = {"data.categories": ["plate", "ring"], "fleet.backoff_s": 0.0}
    config = small_config(str(root), str(tmp_path / "w"), **values)
    # After the listing, before a worker reads.
    begin = Fleet.begin

    def begin_late(fleet):
        shutil.rmtree(root)
        return begin(fleet)

    monkeypatch.setattr(Fleet, "begin", begin_late)
    summary = train.run(config, HERE)
    assert (summary.exit_code, summary.counts["failed"]) == (3, 2)
    assert "plate/train/good/000.png" in summary.reasons[0]
    assert not (tmp_path / "w" / "models").exists()


@pytest.mark.parametrize("images", [0, 1])
def test_too_few_images_fail_their_category_with_the_counts(plant, tmp_path, images):
    root = shutil.copytree(plant.root, tmp_path / "parts")
    good = sorted((root / "plate" / "train" / "good").iterdir())
    for path in good[images:]:
        path.unlink()
    config = small_config(str(root), str(tmp_path / "w"), **{"data.categories": ["plate"]})
    summary = train.run(config, HERE)
    assert (summary.exit_code, summary.counts["failed"]) == (3, 1)
    assert f"{images} good images, at least 4 are needed" in summary.reasons[0]


def test_images_of_many_sizes_train_and_with_a_region_fail_with_both_sizes(plant, tmp_path):
    root = shutil.copytree(plant.root, tmp_path / "parts")
    for n, path in enumerate(sorted((root / "plate" / "train" / "good").iterdir())):
        image = cv2.imread(str(path))
        cv2.imwrite(str(path), cv2.resize(image, (90 + n, 120)))
    values = {"data.categories": ["plate"]}
    config = small_config(str(root), str(tmp_path / "w"), **values)
    assert train.run(config, HERE).exit_code == 0
    drawn = config.with_values({"roi.polygons": [[[5, 5], [80, 5], [80, 80]]]})
    summary = train.run(drawn, HERE)
    assert summary.exit_code == 3
    assert re.search(r"the image is \d+x120, .* drawn for \d+x120", summary.reasons[0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data.categories": ["plate", "plate"]}, "names 'plate' twice"),
        ({"data.categories": ["../plate"]}, r"'\.\./plate' fits none"),
        ({"category": {"cog": {"train": {"seed": 1}}}}, r"category\.'cog' fits none"),
        ({"roi.mask": "absent.png"}, r"absent\.png"),
        ({"fleet.workers_per_category": 2}, "a group of workers needs Ray: set executor to ray"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(plant, tmp_path, values, message):
    config = small_config(str(plant.root), str(tmp_path / "workspace"))
    with pytest.raises(ConfigError, match=message):
        train.run(config.with_values(values), HERE)
    assert not (tmp_path / "workspace").exists()


def test_a_folder_with_another_name_than_a_category_may_have_fails_and_the_others_train(
    plant, tmp_path
):
    root = shutil.copytree(plant.root, tmp_path / "parts")
    (root / "plate").rename(root / "pla te")
    shutil.rmtree(root / "broken")
    summary = train.run(small_config(str(root), str(tmp_path / "workspace")), HERE)
    assert (summary.exit_code, summary.state) == (3, "partial")
    assert (summary.counts["trained"], summary.counts["failed"]) == (1, 1)
    assert summary.reasons[0].startswith("category pla te: category 'pla te' is not a name")
    (page,) = (tmp_path / "workspace" / "fleets").glob("*/report.html")
    assert "pla te" in page.read_text()
    config = small_config(str(root), str(tmp_path / "other"), **{"data.categories": ["pla*"]})
    with pytest.raises(ConfigError, match="'pla te' is not a name"):
        train.run(config, HERE)
    assert not (tmp_path / "other").exists()


def test_images_and_masks_that_cannot_be_used_are_named_and_the_category_trains(plant, tmp_path):
    root = shutil.copytree(plant.root / "ring", tmp_path / "parts" / "ring")
    good = root / "train" / "good"
    (good / "dead.png").symlink_to(tmp_path / "nowhere.png")
    (good / "phone.heic").write_bytes(b"x")
    (root / "ground_truth" / "spot" / "stray_mask.png").write_bytes(b"x")
    (root.parent / "lost+found").mkdir()
    config = small_config(str(root.parent), str(tmp_path / "w"), run="named")
    summary = train.run(config, HERE)
    assert (summary.exit_code, summary.counts["trained"]) == (0, 1)
    text = "\n".join(summary.reasons)
    assert "1 of 25 good images cannot be read and were left out: " in text
    assert "dead.png" in text
    assert "(1 .heic), such as train/good/phone.heic" in text
    assert "stray_mask.png' : expected".replace(" :", ":") in text
    # The same start again looks again, finds the version, and says the same.
    again = train.run(config.with_values({"run": "again"}), HERE)
    assert (again.exit_code, again.counts["up_to_date"]) == (0, 1)
    assert "dead.png" in "\n".join(again.reasons)
    (good / "dead.png").unlink()
    whole = train.run(config.with_values({"run": "whole"}), HERE)
    assert "cannot be read" not in "\n".join(whole.reasons)


def test_a_category_whose_images_all_have_other_endings_fails_with_these(plant, tmp_path):
    good = tmp_path / "parts" / "ring" / "train" / "good"
    good.mkdir(parents=True)
    for n in range(6):
        (good / f"{n}.gif").write_bytes(b"GIF89a")
    summary = train.run(small_config(str(tmp_path / "parts"), str(tmp_path / "w")), HERE)
    assert summary.exit_code == 3
    assert "6 files are not used, by ending (6 .gif)" in summary.reasons[0]


def test_copies_of_one_image_are_told_from_a_lack_of_images(plant, tmp_path):
    root = shutil.copytree(plant.root / "ring", tmp_path / "parts" / "ring")
    paths = sorted((root / "train" / "good").iterdir())
    for path in paths[1:]:
        shutil.copy(paths[0], path)
    summary = train.run(small_config(str(root.parent), str(tmp_path / "w")), HERE)
    assert any(
        "only 1 of 24 good images differ, the others are copies" in r for r in summary.reasons
    )
