"""What a run leaves as its `summary.json`, however it ends."""

import time

import pytest

from mrkd import storage
from mrkd.errors import ConfigError, NightError
from mrkd.on_ray.recorded_run import recorded_run
from mrkd.storage.lease import Lease


def end(folder, error, lease=None):
    with pytest.raises(type(error)), recorded_run("score", "night-1", str(folder), lease):
        raise error


def test_a_failure_is_a_verdict_and_a_refusal_is_none(tmp_path):
    end(tmp_path, ConfigError("no such key"))
    assert not storage.list_files(str(tmp_path))
    end(tmp_path, NightError("rows do not\nadd up"))
    stored = storage.read_json(f"{tmp_path}/summary.json")
    assert (stored["exit_code"], stored["state"]) == (1, "failed")
    assert stored["reasons"] == ["rows do not add up"]


def test_a_run_that_lost_its_lease_leaves_the_verdict_to_the_one_who_took_it(tmp_path):
    uri = storage.join(str(tmp_path), "lease.json")
    with Lease(uri, stale_after_s=0.1) as lease:
        storage.write_json(uri, storage.read_json(uri) | {"token": "other"})
        until = time.monotonic() + 20
        while not lease.lost and time.monotonic() < until:
            time.sleep(0.02)
        end(tmp_path, NightError("taken over"), lease)
    assert [file.uri for file in storage.list_files(str(tmp_path))] == [uri]
