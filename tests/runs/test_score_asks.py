"""What a night asks before it scores, and tells after: golden set, version set, parts, page."""

import json
import shutil

import pyarrow.parquet as pq
import pytest

from mrkd import storage
from mrkd.errors import ConfigError, GoldenError, NightError
from mrkd.model.registry import promotions
from mrkd.nights.manifest import open_night
from mrkd.runs import score
from tests.support.plants import HERE


def put_golden(archive, folder, good, bad):
    """Plates as reference parts, whose labels are as true as the names say."""
    for label, names in (("good", good), ("bad", bad)):
        (folder / "plate" / label).mkdir(parents=True)
        for name in names:
            shutil.copy(archive / "plate" / name, folder / "plate" / label / name)
    return folder


@pytest.fixture
def golden_names(plant, calm):
    """The names of the plates by rising score of the calm night."""
    table = open_night(str(plant.night("calm"))).to_table(
        columns=["category", "image_uri", "image_score", "is_anomalous"]
    )
    rows = [row for row in table.to_pylist() if row["category"] == "plate"]
    rows.sort(key=lambda row: row["image_score"])
    return [row["image_uri"].rpartition("/")[2] for row in rows]


def test_a_night_tells_its_parts_and_has_a_page(plant, archive, tmp_path, calm):
    views = tmp_path / "views"
    for view in ("left", "right"):
        for image in sorted((archive / "plate").glob("good-*.png"))[:3]:
            place = views / "plate" / f"part-{image.stem[-1]}_{view}"
            place.mkdir(parents=True)
            shutil.copy(image, place / "image.png")
    shutil.rmtree(views / "plate" / "part-0_right")
    values = {
        "archive.template": "{category}/{part}_{view}/{name}",
        "parts.views": ["left", "right"],
    }
    summary = score.run(plant.score_config(views, "parts", **values), HERE)
    assert summary.exit_code == 0
    parts = pq.read_table(summary.uris["parts"].removeprefix("file://")).to_pylist()
    assert [(row["part"], row["missing_views"]) for row in parts] == [
        ("part-0", ["right"]),
        ("part-1", []),
        ("part-2", []),
    ]
    assert storage.read(summary.uris["parts_csv"]).count(b"\n") == 4
    assert b"part-0" in storage.read(summary.uris["report"])
    record = storage.read_json(f"{plant.night('parts')}/night.json")
    assert record["starts"][0]["images"] == 5


def test_a_page_never_outlives_what_it_tells_of(plant, own_archive):
    """A start that ends between the close and the page leaves none, and the next one writes it."""
    config = plant.score_config(own_archive, "page")
    page = plant.night("page") / "report.html"
    score.run(config, HERE)
    first = page.read_bytes()
    shutil.copy(own_archive / "ring" / "good-000.png", own_archive / "ring" / "late.png")
    stray = plant.night("page") / "scores" / "category=ring" / "copy.parquet"
    stray.touch()
    with pytest.raises(NightError, match="holds files of no plan"):
        score.run(config, HERE)
    assert not page.exists()
    stray.unlink()
    assert score.run(config, HERE).uris["report"] == f"file://{page}"
    assert page.read_bytes() != first


def test_a_night_whose_golden_set_is_off_scores_nothing_until_it_is_forced(
    plant, archive, tmp_path, golden_names
):
    """The part that scores highest, filed as a good one."""
    place = put_golden(archive, tmp_path / "golden", golden_names[-1:], golden_names[:1])
    config = plant.score_config(archive, "golden", **{"golden.uri": str(place)})
    with pytest.raises(GoldenError, match="golden images are off"):
        score.run(config, HERE)
    night = plant.night("golden")
    assert json.loads((night / "summary.json").read_text())["exit_code"] == 1
    assert not (night / "scores").exists()
    summary = score.run(config.with_values({"force": True}), HERE)
    assert summary.exit_code == 0
    assert summary.counts["images"] == 24
    assert any("golden" in reason for reason in summary.reasons)
    assert storage.read_json(f"{night}/golden.json")["forced"]


def test_a_version_set_scores_in_the_champions_stead(plant, archive, tmp_path, calm):
    """Here it names the champion of one category itself, as that is the only version."""
    champion = promotions.champion(str(plant.workspace), "plate").version
    (tmp_path / "set.json").write_text(json.dumps({"plate": champion}))
    config = plant.score_config(archive, "set", models=str(tmp_path / "set.json"))
    assert score.run(config, HERE).counts == calm.counts
    with pytest.raises(ConfigError, match=r"was planned with models = .*now it is ''"):
        score.run(config.with_values({"models": ""}), HERE)
    (tmp_path / "set.json").write_text('{"plate": "nothing"}')
    with pytest.raises(ConfigError, match="'nothing' of category 'plate'"):
        score.run(config, HERE)


def test_a_kind_of_error_that_is_none_is_refused(plant, archive):
    with pytest.raises(ConfigError, match="retry_errors holds mising; did you mean 'missing'"):
        score.run(plant.score_config(archive, "typo", retry_errors=["mising"]), HERE)
    assert not plant.night("typo").exists()
