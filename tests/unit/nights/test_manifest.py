"""What readers see of a night, by `open_night` and by their own means."""

from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from mrkd import storage
from mrkd.errors import ArtefactError, NightError
from mrkd.nights.manifest import Manifest, open_night, revisions_in
from mrkd.nights.night import Night
from mrkd.storage import schema
from tests.support.nights import add, config, pins, run, score

README = (Path(__file__).parents[3] / "README.md").read_text()


def by_duckdb(night):
    """The rows by the README's recipe, as it stands there."""
    query = README.partition("```sql")[2].partition("```")[0]
    return duckdb.sql(query.replace("workspace/nights/night-1", path(night)))


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Two closed revisions with an overwritten image, and a third that is half scored."""
    folder = tmp_path_factory.mktemp("night")
    archive, workspace = folder / "archive", folder / "plant=7"
    night = Night(str(workspace), "night-1")
    settings = config(workspace, archive)
    add(archive, "0012/a.png", "0012/b.png", "plate/1.png", "new/1.png", "stray.png")
    add(archive, "plate/0.png", content=b"")
    run(night, settings)
    add(archive, "0012/a.png", "plate/2.png", content=b"another")
    run(night, settings)
    add(archive, *[f"plate/late{n}.png" for n in range(4)])
    add(archive, "0012/b.png", content=b"overwritten later")
    *_, revision = night.revisions(settings, pins)
    for shard in night.todo(revision)[:2]:
        night.commit(shard, score(shard))
    return night


def path(night):
    return night.uri.removeprefix("file://")


def ordered(table):
    """The rows as plain values, by URI."""
    rows = table.select([*schema.SCORES.names, "category"]).to_pylist()
    return sorted(rows, key=lambda row: row["image_uri"])


def test_the_rows_that_count_are_of_closed_revisions_and_not_superseded(night):
    rows = open_night(night.uri).to_table()
    found = {row["image_uri"].partition("archive/")[2]: row["revision"] for row in rows.to_pylist()}
    assert rows.num_rows == 7
    assert found == {
        "0012/a.png": 2,
        "0012/b.png": 1,
        "new/1.png": 1,
        "plate/0.png": 1,
        "plate/1.png": 1,
        "plate/2.png": 2,
        "stray.png": 1,
    }


def test_a_category_of_digits_stays_a_string(night):
    rows = open_night(night.uri)
    assert rows.schema.field("category").type == pa.string()
    assert rows.to_table(filter=ds.field("category") == "0012").num_rows == 2
    assert set(rows.to_table()["category"].to_pylist()) == {"0012", "plate", "new", "unmatched"}


def test_a_folder_above_the_night_does_not_name_the_category(tmp_path):
    night = Night(str(tmp_path / "category=none"), "night-1")
    add(tmp_path / "archive", "0012/1.png")
    run(night, config(night.workspace, tmp_path / "archive"))
    assert open_night(night.uri).to_table()["category"].to_pylist() == ["0012"]


def test_columns_and_filters_are_read_lazily(night):
    rows = open_night(path(night))
    assert isinstance(rows, ds.Dataset)
    assert rows.count_rows(filter=ds.field("error_kind") == "no_model") == 2
    assert rows.to_table(columns=["image_score"]).num_columns == 1


def test_duckdb_gives_the_same_rows(night):
    found = by_duckdb(night).to_arrow_table()
    assert ordered(found) == ordered(open_night(night.uri).to_table())


def test_duckdb_reads_an_open_night_directly(night):
    rows = open_night(night.uri)
    counts = duckdb.sql("SELECT category, count(*) FROM rows GROUP BY ALL ORDER BY ALL").fetchall()
    assert counts == [("0012", 2), ("new", 1), ("plate", 3), ("unmatched", 1)]
    assert rows.count_rows() == 7


def test_pandas_gives_the_same_rows(night):
    frame = pd.read_parquet(
        f"{path(night)}/scores",
        partitioning=ds.partitioning(pa.schema([("category", pa.string())]), flavor="hive"),
    )
    closed = frame[frame.revision <= len(revisions_in(f"{night.uri}/manifests"))]
    last = closed.sort_values("revision").drop_duplicates("image_uri", keep="last")
    wanted = open_night(night.uri).to_table().to_pandas()
    columns = ["image_uri", "category", "revision", "image_score", "error_kind"]
    by_uri = [
        table[columns].sort_values("image_uri", ignore_index=True) for table in (last, wanted)
    ]
    pd.testing.assert_frame_equal(*by_uri, check_dtype=False, check_categorical=False)
    assert "0012" in set(frame.category)


def test_plain_pyarrow_reads_the_scores_as_one_table(night):
    rows = ds.dataset(f"{path(night)}/scores", partitioning="hive").to_table()
    assert rows.num_rows == 6 + 2 + 4  # the open revision's and the superseded ones too
    assert rows.schema.field("error_kind").type == schema.SCORES.field("error_kind").type


def test_a_night_of_errors_alone_can_be_read(tmp_path):
    night = Night(str(tmp_path), "night-1")
    add(tmp_path / "archive", "new/1.png", "new/2.png")
    run(night, config(tmp_path, tmp_path / "archive"))
    assert open_night(night.uri).to_table()["error_kind"].to_pylist() == ["no_model"] * 2
    assert len(by_duckdb(night).fetchall()) == 2


def test_a_night_that_never_closed_has_nothing_to_read(tmp_path):
    with pytest.raises(NightError, match="has no closed revision"):
        open_night(str(tmp_path))


@pytest.mark.parametrize("content", [{}, [], {"shards": [], "pins": {}, "superseded": []}])
def test_what_is_no_manifest_is_named(tmp_path, content):
    uri = storage.join(str(tmp_path), "manifests", "manifest-1.json")
    storage.write_json(uri, content)
    with pytest.raises(ArtefactError, match=r"manifest-1\.json is not a manifest"):
        Manifest.read(uri)


def test_revisions_are_counted_as_numbers_and_strangers_are_passed_over(tmp_path):
    add(tmp_path, "plan-2.parquet", "plan-10.parquet", "notes.txt", "plan-x.parquet")
    assert revisions_in(str(tmp_path)) == [2, 10]
