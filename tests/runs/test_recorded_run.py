"""The `summary.json` that a run leaves, however it ends."""

import signal
import time

import pytest

from mrkd import storage
from mrkd.errors import ConfigError, NightError, StoppedError
from mrkd.runs.recorded_run import recorded_run
from mrkd.storage.lease import Lease


def end(folder, error, lease=None):
    with pytest.raises(type(error)), recorded_run("score", "night-1", str(folder), lease):
        raise error


def stored(folder):
    return storage.read_json(f"{folder}/summary.json")


def test_a_failure_is_a_summary_and_a_refusal_is_none(tmp_path):
    end(tmp_path, ConfigError("no such key"))
    assert not storage.list_files(str(tmp_path))
    end(tmp_path, NightError("rows do not\nadd up"))
    assert (stored(tmp_path)["exit_code"], stored(tmp_path)["state"]) == (1, "failed")
    assert stored(tmp_path)["reasons"] == ["rows do not add up"]


def test_a_run_that_lost_its_lease_leaves_the_summary_to_the_one_who_took_it(tmp_path):
    uri = storage.join(str(tmp_path), "lease.json")
    with Lease(uri, stale_after_s=0.1) as lease:
        storage.write_json(uri, storage.read_json(uri) | {"token": "other"})
        until = time.monotonic() + 20
        while not lease.lost and time.monotonic() < until:
            time.sleep(0.02)
        end(tmp_path, NightError("taken over"), lease)
    assert [file.uri for file in storage.list_files(str(tmp_path))] == [uri]


def test_no_summary_of_an_earlier_start_is_there_while_a_run_is_under_way(tmp_path):
    """As a start that is killed leaves it, for whoever then reads how the run ended."""
    with recorded_run("score", "night-1", str(tmp_path)) as record:
        assert not record.had_ended
        earlier = record.end(0, counts={"images": 3}).to_dict()
    with recorded_run("score", "night-1", str(tmp_path)) as record:
        assert record.had_ended
        assert not storage.list_files(str(tmp_path))
    end(tmp_path, ZeroDivisionError())
    assert not storage.list_files(str(tmp_path))
    storage.write_json(f"{tmp_path}/summary.json", earlier)
    end(tmp_path, ConfigError("nothing was started"))
    assert stored(tmp_path) == earlier
    with recorded_run("score", "night-1", str(tmp_path)) as record:
        record.end(0, stored=False)
    assert stored(tmp_path) == earlier
    storage.write(f"{tmp_path}/summary.json", b"{")
    with recorded_run("score", "night-1", str(tmp_path)) as record:
        assert not record.had_ended


def test_the_summary_of_a_stopped_run_is_stored_before_its_block_ends(tmp_path):
    """Since SIGKILL follows, while Ray's workers may still be waited for."""
    seen = {}

    def stop():
        with recorded_run("score", "night-1", str(tmp_path)):
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                seen.update(stored(tmp_path))

    with pytest.raises(StoppedError):
        stop()
    assert (seen["exit_code"], seen["state"]) == (1, "failed")
    assert stored(tmp_path)["reasons"] == seen["reasons"]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("train", "the fleet was stopped: start it again to go on"),
        ("tune", "the search was stopped: start it again to go on"),
        ("score", "the night was stopped: start it again to go on"),
        ("evaluate", "the evaluation was stopped: start it again to go on"),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_every_command_with_a_summary(tmp_path, command, reason, number):
    with pytest.raises(StoppedError, match=reason), recorded_run(command, "run", str(tmp_path)):
        signal.raise_signal(number)
    assert (stored(tmp_path)["state"], stored(tmp_path)["reasons"]) == ("failed", [reason])
