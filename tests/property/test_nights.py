"""However a night is interrupted, doubled or overtaken by late images: one row an image."""

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from mrkd.config import NAME
from mrkd.errors import ConfigError
from mrkd.nights import archive
from mrkd.nights.manifest import open_night, read_manifests
from mrkd.nights.night import Night
from tests.support.nights import add, config, folder_in_memory, pins, run, score, touch

KEYS = ["0012/a.png", "0012/b.png", "0012/c.png", "plate/a.png", "new/a.png", "stray.png"]

# An image changes; a start is killed after some commits; a process that was thought dead commits
# what a start before had given it.
images = st.tuples(st.just("image"), st.sampled_from(KEYS), st.integers(0, 2))
starts = st.tuples(st.just("start"), st.integers(0, 5), st.randoms(use_true_random=False))
ghosts = st.tuples(st.just("ghost"), st.integers(1, 5), st.randoms(use_true_random=False))
histories = st.lists(st.one_of(images, starts, ghosts), max_size=12)


def put(folder, key, content):
    """The image with one of its contents; the same content has the same ETag again."""
    add(folder, key, content=b"x" * content)
    touch(folder, key, 10**18 + content)


def start(night, score_config, num_commits, order):
    """A start that dies after so many commits, or ends; the shards that it gave out."""
    given_out = []
    for revision in night.revisions(score_config, pins):
        todo = night.todo(revision)
        given_out += todo
        for shard in order.sample(todo, len(todo)):
            if not num_commits:
                return given_out
            num_commits -= 1
            night.commit(shard, score(shard))
        night.close(revision)
    return given_out


def content(table):
    """Rows by URI, without the revision that they came in by."""
    rows = table.drop_columns(["revision"]).to_pylist()
    return sorted(rows, key=lambda row: row["image_uri"])


def undisturbed(folder):
    night = Night(str(folder / "calm"), "night-1")
    run(night, config(night.workspace, folder / "archive", **{"rows.shard_rows": 2}))
    return open_night(night.uri).to_table()


@settings(max_examples=20)
@given(histories)
def test_any_history_ends_with_the_rows_of_an_undisturbed_run(history):
    with folder_in_memory() as folder:
        put(folder / "archive", "0012/first.png", 1)
        night = Night(str(folder / "workspace"), "night-1")
        score_config = config(night.workspace, folder / "archive", **{"rows.shard_rows": 2})
        given_out = []
        for kind, *arguments in history:
            if kind == "image":
                put(folder / "archive", *arguments)
            elif kind == "start":
                given_out += start(night, score_config, *arguments)
            else:
                count, order = arguments
                for shard in order.sample(given_out, min(count, len(given_out))):
                    assert night.commit(shard, score(shard)).status != "conflict"
        run(night, score_config)
        found = open_night(night.uri).to_table()
        assert content(found) == content(undisturbed(folder))
        assert run(night, score_config) == []
        _assert_stored_once(night)


def _assert_stored_once(night):
    manifests = read_manifests(night.uri)
    plans = [night._plan(manifest.revision).rows for manifest in manifests]
    assert [manifest.rows for manifest in manifests] == [plan.num_rows for plan in plans]
    superseded = {(row.image_uri, row.revision) for m in manifests for row in m.superseded}
    planned = [(row["image_uri"], row["revision"]) for plan in plans for row in plan.to_pylist()]
    rows = open_night(night.uri).to_table(columns=["image_uri", "revision"]).to_pylist()
    found = sorted((row["image_uri"], row["revision"]) for row in rows)
    assert sorted(planned) == sorted([*found, *superseded])
    assert len(set(planned)) == len(planned)


@settings(max_examples=20)
@given(st.lists(st.sampled_from(["cpu", "gpu"]), min_size=1, max_size=8), st.randoms())
def test_of_rows_that_two_devices_made_the_first_stand(devices, order):
    with folder_in_memory() as folder:
        add(folder / "archive", *KEYS)
        night = Night(str(folder / "workspace"), "night-1")
        score_config = config(night.workspace, folder / "archive", **{"rows.shard_rows": 2})
        shards = night.todo(next(night.revisions(score_config, pins)))
        first = {}
        for device in devices:
            shard = order.choice(shards)
            status = night.commit(shard, score(shard, device)).status
            stands = first.setdefault(shard.id, device)
            same = stands == device or shard.pin is None
            assert (status == "conflict") == (not same)
        run(night, score_config)
        rows = {row["image_uri"]: row for row in open_night(night.uri).to_table().to_pylist()}
        for shard in shards:
            for row in score(shard, first.get(shard.id, "cpu")).to_pylist():
                assert rows[row["image_uri"]]["image_score"] == row["image_score"]


templates = st.lists(
    st.sampled_from(["{category}", "{name}", "{line}", "/", "-", "a", "é"]), max_size=6
).map("".join)


@given(templates, st.text(max_size=20))
def test_any_key_has_a_category_that_may_stand_in_a_path(template, key):
    with suppress(ConfigError):  # a field that stands twice
        category, attributes = archive.Template(template).parse(key)
        assert NAME.fullmatch(category)
        assert not attributes.keys() & {"category", "name"}
        assert all(attributes.values())
