"""One image over all nights: which rows it has, and by whose word they were decided."""

import subprocess
import sys

import pytest

from mrkd import storage
from mrkd.errors import ArtefactError, NightError
from mrkd.model.registry import promotions
from mrkd.nights.image_history import history
from mrkd.nights.manifest import read_manifests
from mrkd.nights.reviews import import_labels
from mrkd.nights.reviews.labels_csv import Label
from tests.support.closed_nights import failed, scored, write_night
from tests.support.versions import store_version


def night(workspace, run, *revisions, closed_at="2026-11-23T04:00:00+00:00", **config):
    """A closed night whose manifests say so, with this config."""
    uri = write_night(str(workspace), run, *revisions)
    for manifest in read_manifests(uri):
        place = storage.join(uri, "manifests", f"manifest-{manifest.revision}.json")
        storage.write_json(
            place, {**storage.read_json(place), "closed_at": closed_at, "config": config}
        )


def test_an_image_has_its_rows_of_all_nights_the_oldest_first(tmp_path):
    others = [scored(f"s3://plant/{n}.png", 0.1) for n in (1, 3)]
    image = "s3://plant/2.png"
    night(tmp_path, "b", [*others, scored(image, 0.2)], closed_at="2026-11-22T04:00:00+00:00")
    night(tmp_path, "a", [*others, failed(image)], closed_at="2026-11-23T04:00:00+00:00")
    night(tmp_path, "c", others, closed_at="2026-11-24T04:00:00+00:00")
    found = history(str(tmp_path), image)
    assert [(one.run, one.called) for one in found] == [("b", "OK"), ("a", "ERROR")]
    assert found[0].row["image_score"] == pytest.approx(0.2)
    assert found[1].line()["why"] == "it is damaged: send it again"


def test_a_row_that_was_scored_again_in_its_night_is_told_and_does_not_count(tmp_path):
    uri = "s3://plant/x.png"
    night(tmp_path, "a", [scored(uri, 0.1)], [scored(uri, 0.9)])
    found = history(str(tmp_path), uri)
    assert [one.superseded for one in found] == [True, False]
    assert [one.line()["verdict"] for one in found] == ["OK, superseded", "NOK"]


def test_a_local_image_is_found_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    night(tmp_path, "a", [scored(f"file://{tmp_path}/x#1.png", 0.1)])
    assert [one.run for one in history(str(tmp_path), "x#1.png")] == ["a"]


def test_whoever_asks_a_local_workspace_waits_for_no_sdk_page_or_picture(tmp_path):
    night(tmp_path, "a", [scored("s3://plant/1.png", 0.1)])
    words = ["nights", "show", "s3://plant/1.png", "--workspace", str(tmp_path)]
    heavy = ("boto3", "cv2", "jinja2", "pandas", "ray", "scipy", "torch")
    code = f"import sys; from mrkd.cli import main; main({words}); "
    code += f"print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_who_promoted_the_model_is_the_last_one_who_did_before_the_night_closed(tmp_path):
    for version in ("v1", "v2"):
        store_version(str(tmp_path), version)
    promotions.promote(str(tmp_path), "plate", "v1", by="gate", why="first")
    promotions.promote(str(tmp_path), "plate", "v2", by="ada", why="better on caps")
    uri = "s3://plant/x.png"
    night(tmp_path, "early", [scored(uri, 0.1)], closed_at="2020-01-01T00:00:00+00:00")
    night(tmp_path, "late", [scored(uri, 0.1)], closed_at="2099-01-01T00:00:00+00:00")
    tried = scored(uri, 0.1, model_version="v9")
    night(tmp_path, "trial", [tried], closed_at="2099-01-02T00:00:00+00:00", models="set.toml")
    promotions.promote(str(tmp_path), "plate", "v1", by="bob", why="back again")
    early, late, trial = (one.line() for one in history(str(tmp_path), uri))
    assert early["promoted_by"] == ""
    assert (late["promoted_by"].split(",")[0], late["why"]) == ("bob", "back again")
    assert trial["promoted_by"] == "tried out by set.toml"


def test_of_shards_that_may_hold_it_the_one_of_the_name_s_category_is_read_first(tmp_path):
    # Sorted by line, the categories' ranges of URIs overlap.
    root = "s3://plant/archive"
    rows = [
        scored(f"{root}/{line}/{category}/1.png", 0.1, category=category)
        for category in ("cap", "plate", "ring")
        for line in ("L1", "L9")
    ]
    archive = {"uri": f"{root}/", "template": "{line}/{category}/{name}", "tars": [".tar"]}
    night(tmp_path, "a", rows, archive=archive)
    for category in ("cap", "ring"):
        (tmp_path / "nights/a/scores" / f"category={category}" / "shard-1.parquet").unlink()
    (found,) = history(str(tmp_path), f"{root}/L9/plate/1.png")
    assert found.category == "plate"


def test_a_manifest_may_have_said_another_category_than_the_name_does(tmp_path):
    root = "s3://plant/archive"
    rows = [
        scored(f"{root}/{category}/{n}.png", 0.1, category=filed)
        for category, filed in (("cap", "ring"), ("ring", "cap"))
        for n in (1, 9)
    ]
    rows += [scored(f"{root}/{n}", 0.1, category=category) for n in "az" for category in ("cap",)]
    archive = {"uri": f"{root}/", "template": "{category}/{name}", "tars": [".tar"]}
    night(tmp_path, "a", rows, archive=archive)
    (found,) = history(str(tmp_path), f"{root}/cap/9.png")
    assert found.category == "ring"


def test_a_member_of_a_tar_is_found_by_tar_and_member(tmp_path):
    uri = "s3://plant/archive/plate/day.tar#L1/7.png"
    archive = {"uri": "s3://plant/archive", "template": "{category}/{name}", "tars": [".tar"]}
    night(tmp_path, "a", [scored(uri, 0.1)], archive=archive)
    (found,) = history(str(tmp_path), uri)
    assert found.tars == (".tar",)


def test_an_image_of_no_night_is_said_and_so_is_a_shard_that_is_damaged(tmp_path):
    night(tmp_path, "a", [scored("s3://plant/1.png", 0.1), scored("s3://plant/9.png", 0.1)])
    with pytest.raises(NightError, match=r"none of the 1 nights in .* has a closed row of s3://pl"):
        history(str(tmp_path), "s3://plant/5.png")
    shard = tmp_path / "nights/a/scores/category=plate/shard-1.parquet"
    shard.write_bytes(b"no Parquet")
    with pytest.raises(ArtefactError, match="not a whole Parquet file"):
        history(str(tmp_path), "s3://plant/5.png")


def test_what_people_say_stands_beside_the_rows_of_the_bytes_that_they_saw(tmp_path):
    uri = "s3://plant/x.png"
    night(tmp_path, "a", [scored(uri, 0.9)])
    said = [Label(uri, "OK", "Ann", "2026-11-24T06:30:00+00:00")]
    import_labels.bring(str(tmp_path), said, by="test")
    night(tmp_path, "b", [scored(uri, 0.9, image_etag="e2")], closed_at="2026-11-25T04:00:00+00:00")
    lines = [one.line() for one in history(str(tmp_path), uri)]
    assert [line["people"] for line in lines] == ["OK by Ann, 2026-11-24", ""]
