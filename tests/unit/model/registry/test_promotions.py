import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest

from mrkd import storage
from mrkd.config import FitConfig, ModelConfig
from mrkd.errors import ArtefactError, StorageError
from mrkd.model.registry import promotions


@pytest.fixture
def workspace(tmp_path):
    return str(tmp_path)


def complete(workspace, version, category="plate"):
    """A version as far as the registry knows one."""
    storage.write_json(storage.join(workspace, "models", category, version, "model.json"), {})


def promote(workspace, version, why="first", by="test"):
    return promotions.promote(workspace, "plate", version, by=by, why=why)


INPUTS = {
    "model": ModelConfig(),
    "train": FitConfig(),
    "data_fingerprint": "d",
    "teacher_digest": "t",
    "model_version": 1,
    "num_micro_batches": 1,
    "roi": None,
}
GATE = {"state": "held", "by": "labels", "difference": {"value": -0.1, "low": -0.2, "high": 0.0}}


def version_of(**changes):
    return promotions.version_of(**{**INPUTS, **changes})


def test_a_version_is_16_hex_digits_that_no_machine_changes():
    assert version_of() == version_of()
    assert len(version_of()) == 16
    assert int(version_of(), 16)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": ModelConfig(simam=False)},
        {"model": ModelConfig(image_size=320)},
        {"model": ModelConfig(tiles=256)},
        {"train": FitConfig(seed=1)},
        {"train": FitConfig(false_call_rate=0.02)},
        {"data_fingerprint": "e"},
        {"teacher_digest": "u"},
        {"model_version": 2},
        {"model": ModelConfig(precision="float16")},
        {"num_micro_batches": 2},
        {"roi": {"polygons": [[[0, 0], [9, 0], [9, 9]]]}},
        {"roi": {"mask": "0" * 64}},
    ],
)
def test_what_changes_the_model_changes_its_version(changes):
    assert version_of(**changes) != version_of()


@pytest.mark.parametrize(
    "changes",
    [
        {"train": FitConfig(device="cpu", precision="float32", cache_bytes=0)},
        {"train": FitConfig(micro_batch_size=2)},
        {"model": ModelConfig(weights="/a/path.pth", weights_sha256="0" * 64)},
        {"model": ModelConfig(preset="paper")},
        {"model": ModelConfig(overlap=32)},
    ],
)
def test_what_does_not_change_the_model_leaves_its_version(changes):
    assert version_of(**changes) == version_of()


def test_a_category_without_promotion_has_no_champion(workspace):
    assert promotions.champion(workspace, "plate") is None
    assert promotions.versions(workspace, "plate") == []


def test_a_folder_without_model_json_is_no_version(workspace):
    complete(workspace, "aa")
    storage.write(storage.join(workspace, "models", "plate", "bb", "model.safetensors"), b"x")
    promote(workspace, "aa")
    assert promotions.versions(workspace, "plate") == ["aa"]


def test_versions_are_found_by_one_listing_and_sorted_by_name(workspace, monkeypatch):
    for version in ("aa-2", "aa", "bb", "deep/er"):
        complete(workspace, version)
    storage.write_json(f"{workspace}/models/plate/holds/model.json", {})
    asked = []

    def counted(name):
        function = getattr(storage, name)

        def call(uri, **values):
            asked.append(uri)
            return function(uri, **values)

        return call

    for name in ("stat", "list_files", "list_names"):
        monkeypatch.setattr(storage, name, counted(name))
    assert promotions.versions(workspace, "plate") == ["aa", "aa-2", "bb"]
    assert len(asked) == 1


def test_the_newest_promotion_is_the_champion_past_the_ninth_too(workspace):
    complete(workspace, "aa")
    complete(workspace, "bb")
    for n in range(10):
        promote(workspace, "ab"[n % 2] * 2, why=f"number {n}")
    champion = promotions.champion(workspace, "plate")
    assert (champion.number, champion.version, champion.why) == (10, "bb", "number 9")
    assert [p.number for p in promotions.promotions(workspace, "plate")] == list(range(1, 11))


def test_champion_json_is_a_copy_that_nothing_reads(workspace):
    complete(workspace, "aa")
    complete(workspace, "bb")
    promote(workspace, "aa")
    copy = storage.join(workspace, "models", "plate", "champion.json")
    first = storage.read(copy)
    second = promote(workspace, "bb")
    assert storage.read_json(copy) == dataclasses.asdict(second)
    storage.write(copy, first)  # as after a crash between the two writes
    assert promotions.champion(workspace, "plate") == second


def test_a_version_that_is_not_complete_is_not_promoted(workspace):
    complete(workspace, "aa")
    with pytest.raises(ArtefactError, match=r"no complete version 'bb'.*: it has aa"):
        promote(workspace, "bb")
    assert promotions.champion(workspace, "plate") is None


def test_of_promotions_at_once_each_number_has_one_winner_and_losers_are_told(workspace):
    names = [f"v{n}" for n in range(8)]
    for name in names:
        complete(workspace, name)

    def attempt(name):
        try:
            return promote(workspace, name, by=name)
        except ArtefactError as error:
            assert "is not promoted" in str(error)
            return None

    with ThreadPoolExecutor(len(names)) as threads:
        won = [p for p in threads.map(attempt, names) if p]
    assert won
    assert sorted(won, key=lambda p: p.number) == promotions.promotions(workspace, "plate")


def test_who_promotes_the_same_version_later_finds_it_done(workspace):
    complete(workspace, "aa")
    first = promotions.promote(workspace, "plate", "aa", by="shift 1", why="first", after=0)
    again = promotions.promote(workspace, "plate", "aa", by="shift 2", why="first", after=0)
    assert again == first
    assert promotions.promotions(workspace, "plate") == [first]


def test_a_promotion_decided_against_one_that_is_no_longer_the_newest_is_refused(workspace):
    complete(workspace, "aa")
    complete(workspace, "bb")
    first = promote(workspace, "aa", by="shift 1")
    with pytest.raises(ArtefactError, match=r"shift 1 promoted aa with calibration 1 \(first\)"):
        promotions.promote(workspace, "plate", "bb", by="shift 2", why="it is mine", after=0)
    assert promotions.champion(workspace, "plate") == first
    second = promotions.promote(workspace, "plate", "bb", by="shift 2", why="seen", after=1)
    assert promotions.champion(workspace, "plate") == second


def hold(workspace, version="bb", **values):
    words = {"by": "fleet", "reason": "image AUROC fell by 0.1", "gate": GATE}
    return promotions.hold(workspace, "plate", version, **{**words, **values})


def test_a_hold_is_written_once_and_is_no_version(workspace):
    complete(workspace, "aa")
    assert promotions.holds(workspace, "plate") == {}
    first = hold(workspace)
    assert hold(workspace, reason="another reason") == first
    assert promotions.holds(workspace, "plate") == {"bb": first}
    assert (first.reason, first.gate) == ("image AUROC fell by 0.1", GATE)
    assert promotions.versions(workspace, "plate") == ["aa"]
    assert promotions.champion(workspace, "plate") is None


def test_a_damaged_hold_is_named(workspace):
    storage.write(storage.join(workspace, "models", "plate", "holds", "bb.json"), b"{}")
    with pytest.raises(ArtefactError, match=r"holds/bb\.json is not a record"):
        promotions.holds(workspace, "plate")


HASH = "0123456789abcdef" * 4
MADE = {"version": "aa", "num_images": {"train": 23}, "warnings": ["few images"]}


def test_what_inputs_made_is_told_by_the_same_inputs_alone(workspace):
    complete(workspace, "aa")
    assert promotions.made_from(workspace, "plate", HASH) is None
    promotions.record_inputs(workspace, "plate", HASH, MADE)
    assert promotions.made_from(workspace, "plate", HASH) == MADE
    assert (
        promotions.made_from(workspace, "plate", HASH[:-1] + "0") is None
    )  # equal where it counts
    assert promotions.made_from(workspace, "ring", HASH) is None
    assert promotions.versions(workspace, "plate") == ["aa"]


def test_the_last_word_on_the_same_inputs_counts(workspace):
    complete(workspace, "aa")
    complete(workspace, "aa-2")
    promotions.record_inputs(workspace, "plate", HASH, MADE)
    promotions.record_inputs(workspace, "plate", HASH, {**MADE, "version": "aa-2"})
    assert promotions.made_from(workspace, "plate", HASH)["version"] == "aa-2"


def test_inputs_whose_version_was_deleted_make_nothing(workspace):
    complete(workspace, "aa")
    promotions.record_inputs(workspace, "plate", HASH, MADE)
    storage.delete(storage.join(workspace, "models", "plate", "aa", "model.json"))
    assert promotions.made_from(workspace, "plate", HASH) is None


@pytest.mark.parametrize("content", [b"", b"[1]", b"{}", b'{"made": 1}', b"\xff", b'{"made": {}}'])
def test_a_damaged_record_of_inputs_makes_nothing_and_is_named(workspace, caplog, content):
    uri = storage.join(workspace, "models", "plate", "inputs", f"{HASH[:16]}.json")
    storage.write(uri, content)
    assert promotions.made_from(workspace, "plate", HASH) is None
    assert uri in caplog.text


def test_a_forced_version_takes_the_first_free_suffix(workspace):
    assert promotions.next_version(workspace, "plate", "aa") == "aa"
    complete(workspace, "aa")
    assert promotions.next_version(workspace, "plate", "aa") == "aa-2"
    complete(workspace, "aa-2")
    assert promotions.next_version(workspace, "plate", "aa") == "aa-3"


@pytest.mark.parametrize(
    ("content", "error"), [(b"{}", ArtefactError), (b'{"number": 1}', ArtefactError),
                           (b"[1]", ArtefactError), (b"no json", StorageError),
                           (b'{"number": 1, "version": "../x", "calibration": 1, "by": "", '
                            b'"at": "", "why": ""}', ArtefactError),
                           (b'{"number": 1, "version": "aa", "calibration": "1", "by": "", '
                            b'"at": "", "why": ""}', ArtefactError)]
)  # fmt: skip
def test_a_damaged_promotion_is_named(workspace, content, error):
    uri = storage.join(workspace, "models", "plate", "promotions", "1.json")
    storage.write(uri, content)
    with pytest.raises(error, match=r"promotions/1\.json"):
        promotions.champion(workspace, "plate")
