import pickle

import pyarrow as pa
import pytest

from mrkd.config import FitConfig, ModelConfig
from mrkd.errors import ArtefactError, ConfigError
from mrkd.model.artefact import checksummed_files
from mrkd.model.artefact.model_card import ModelCard, TeacherCard
from mrkd.nights import plan as plans
from mrkd.nights.archive import IMAGES, UNMATCHED
from mrkd.nights.plan import Plan
from mrkd.nights.shards import Pin, most_pixels
from mrkd.storage import schema
from tests.support import nights as support


def config(**values):
    return support.config("w", "a", **values)


def images(*rows):
    """A listing of (category, name, etag, bytes)."""
    rest = ([("line", "1")], None, None, None)
    entries = [(f"file:///a/{c}/{n}", c, etag, size, *rest) for c, n, etag, size in rows]
    columns = zip(*sorted(entries, key=lambda entry: (entry[1], entry[0])), strict=True)
    return pa.table(dict(zip(IMAGES.names, columns, strict=True)), schema=IMAGES)


def many(count, category="a", num_bytes=10):
    return images(*[(category, f"{n:03}.png", "e", num_bytes) for n in range(count)])


def draft(listing, *earlier, **values):
    return plans.draft(listing, earlier, config(**values), support.pins)


def sizes(plan):
    return [(shard.category, shard.rows.num_rows) for shard in plan.shards()]


def test_shards_hold_one_category_and_are_cut_by_count():
    listing = pa.concat_tables([many(7, "a"), many(2, "b")])
    assert sizes(draft(listing)) == [("a", 3), ("a", 3), ("a", 1), ("b", 2)]


def test_shards_are_cut_by_bytes_and_an_image_above_them_stands_alone():
    listing = images(*[("a", f"{n}.png", "e", size) for n, size in enumerate([4, 4, 4, 99, 4])])
    assert sizes(draft(listing, **{"rows.shard_bytes": 8})) == [
        ("a", 2),
        ("a", 1),
        ("a", 1),
        ("a", 1),
    ]


@pytest.mark.parametrize(
    ("pixels", "batch_size", "expected"),
    [
        (3 * 2**20, 1, [3, 2]),
        (3 * 2**20, 2, [2, 2, 1]),
        (4 * 2**20, 1, [2, 2, 1]),
        (4 * 2**20, 3, [3, 2]),
        (2**30, 1, [1] * 5),
        (0, 1, [1, 3, 1]),
    ],
)
def test_shards_are_cut_by_the_pixels_of_their_images_into_whole_batches(
    pixels, batch_size, expected
):
    listing = images(*[("a", f"{n}.png", "e", size) for n, size in enumerate([50, 50, 5, 5, 5])])
    pin = Pin("a-v1", 1, "t", pixels)  # 0: tiles, by a guess of 16 times the file
    ours = config(**{"rows.shard_bytes": 1000, "pool.batch_size": batch_size})
    plan = plans.draft(listing, (), ours, lambda category: pin)
    assert [size for _, size in sizes(plan)] == expected
    most = max(n * pixels for n in expected) or 1000
    assert most_pixels(plan.shards(), ours.rows) == most


def test_a_plan_refuses_a_model_that_was_calibrated_in_another_precision(tmp_path):
    card = ModelCard(
        "a", "a-v1", ModelConfig(precision="float16"), FitConfig(), TeacherCard("b", "d", False),
        {}, {}, {}, {}, {},
    )  # fmt: skip
    uri = tmp_path / "models" / "a" / "a-v1" / "model.json"
    uri.parent.mkdir(parents=True)
    uri.write_bytes(checksummed_files.to_json(card.to_json()))

    def plan(asked):
        ours = config(**{"pool.precision": asked}).with_values({"workspace": str(tmp_path)})
        return plans.draft(many(3), (), ours, lambda category: Pin("a-v1", 1, "t", 0))

    with pytest.raises(ConfigError, match="a-v1 of a was calibrated in float16"):
        plan("float32")
    assert len(plan("float16").rows) == len(plan("auto").rows) == 3


def test_the_same_inputs_give_the_same_shards():
    assert draft(many(7)).rows.equals(draft(many(7)).rows)


@pytest.mark.parametrize(
    "other",
    [
        lambda: draft(many(3, num_bytes=11)),
        lambda: draft(images(*[("a", f"{n:03}.png", f"f{n}", 10) for n in range(3)])),
        lambda: draft(many(3), **{"rows.map": "none"}),
        lambda: draft(many(3), **{"pool.batch_size": 8}),
        lambda: plans.draft(many(3), (), config(), lambda category: Pin("a-v1", 2, "t")),
        lambda: plans.draft(many(3), (), config(), lambda category: None),
    ],
)
def test_whatever_decides_rows_decides_the_names_of_their_shards(other):
    first = {shard.id for shard in draft(many(3)).shards()}
    assert first.isdisjoint(shard.id for shard in other().shards())


@pytest.mark.parametrize("key", ["pool.scorers", "pool.max_shard_attempts", "max_error_share"])
def test_what_decides_no_row_may_change_between_starts(key):
    plan = draft(many(3))
    plan.check_config(config(**{key: 1}))
    assert plan.shards()[0].id == draft(many(3), **{key: 1}).shards()[0].id


def test_a_setting_that_decides_rows_may_not_change_within_a_run():
    with pytest.raises(ConfigError, match=r"rows\.map = 'float16', now it is 'none'.*another run"):
        draft(many(4), draft(many(3)), **{"rows.map": "none"})


def test_a_model_is_pinned_for_each_category_and_asked_for_once():
    asked = []

    def pins(category):
        asked.append(category)
        return support.pins(category)

    listing = pa.concat_tables([many(7, "a"), many(2, "new"), many(1, UNMATCHED)])
    plan = plans.draft(listing, (), config(), pins)
    assert asked == ["a", "new"]
    assert plan.pins == {"a": support.pins("a"), "new": None, UNMATCHED: None}
    assert [shard.pin for shard in plan.shards()][-2:] == [None, None]


def test_nothing_new_is_no_plan():
    assert draft(many(3), draft(many(3))) is None


def test_late_images_make_a_plan_of_their_own():
    first = draft(many(3))
    second = draft(many(5), first)
    assert second.revision == 2
    assert second.rows["image_uri"].to_pylist() == many(5)["image_uri"].to_pylist()[3:]
    assert second.rows["supersedes"].null_count == 2
    assert draft(many(5), first, second) is None


def test_an_overwritten_image_supersedes_its_last_row():
    first = draft(images(("a", "1", "e1", 1), ("a", "2", "e1", 1)))
    second = draft(images(("a", "1", "e2", 1), ("a", "2", "e1", 1)), first)
    assert second.rows.select(["image_etag", "supersedes"]).to_pylist() == [
        {"image_etag": "e2", "supersedes": 1}
    ]
    third = draft(images(("a", "1", "e3", 1)), first, second)
    assert third.rows["supersedes"].to_pylist() == [2]


def test_an_image_that_was_overwritten_and_restored_is_scored_again():
    first = draft(images(("a", "1", "e1", 1)))
    second = draft(images(("a", "1", "e2", 1)), first)
    third = draft(images(("a", "1", "e1", 1)), first, second)
    assert third.rows["supersedes"].to_pylist() == [2]


def test_a_plan_survives_its_file():
    plan = draft(pa.concat_tables([many(4, "0012"), many(2, "new")]))
    read = Plan.from_parquet(plan.to_parquet(), name="plan")
    assert read == Plan(1, read.rows, plan.pins, plan.config)
    assert read.rows.equals(plan.rows)
    assert read.rows.schema.equals(schema.PLAN)
    assert [shard.id for shard in read.shards()] == [shard.id for shard in plan.shards()]


def test_the_file_of_a_plan_names_the_digest_of_its_config():
    facts = schema.from_parquet(draft(many(1)).to_parquet()).schema.metadata
    assert facts[b"config_sha256"].decode() == config().digest()


@pytest.mark.parametrize("data", [b"", b"PAR1", schema.to_parquet(pa.table({"a": [1]}))])
def test_what_is_no_plan_is_named(data):
    with pytest.raises(ArtefactError, match=r"s3://b/plan-1\.parquet"):
        Plan.from_parquet(data, name="s3://b/plan-1.parquet")


def test_a_shard_travels_without_the_rest_of_its_plan():
    shards = draft(many(3000)).shards()
    assert len(pickle.dumps(shards[0])) < 4000


def test_a_category_without_a_model_gives_error_rows_that_say_what_to_do():
    listing = pa.concat_tables([many(2, "new"), many(1, UNMATCHED)])
    new, unmatched = [shard.without_model() for shard in draft(listing).shards()]
    assert new["error_kind"].to_pylist() == ["no_model"] * 2
    assert new["image_uri"].to_pylist() == many(2, "new")["image_uri"].to_pylist()
    assert new["attributes"].to_pylist() == [[("line", "1")]] * 2
    assert "train it" in new["error_message"][0].as_py()
    assert "archive.template" in unmatched["error_message"][0].as_py()
    assert new["is_anomalous"].null_count == 2


def test_error_rows_of_a_pinned_shard_name_its_model():
    table = draft(many(2)).shards()[0].error_table("unreachable", "a fault: start again")
    assert table["model_version"].to_pylist() == ["a-v1"] * 2
    assert table["calibration"].to_pylist() == [1, 1]
