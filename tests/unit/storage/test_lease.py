import json
import subprocess
import sys
import time

import pytest

from mrkd import storage
from mrkd.errors import NightError
from mrkd.storage.lease import Lease


@pytest.fixture
def uri(tmp_path):
    return storage.join(str(tmp_path), "lease.json")


def rewrite(uri, **values):
    storage.write_json(uri, storage.read_json(uri) | values)


LONG_AGO = "2020-01-01T00:00:00.000+00:00"
ELSEWHERE = {"machine": "another", "holder": "other-host process 1"}


def test_one_holds_it_and_the_other_is_told_who(uri):
    with Lease(uri):
        holder = storage.read_json(uri)["holder"]
        with pytest.raises(NightError, match=holder) as error, Lease(uri):
            pass
    assert error.value.exit_code == 1


def test_a_released_lease_is_free_at_once(uri):
    with Lease(uri):
        pass
    with Lease(uri) as lease:
        lease.check()


def fail(uri):
    with Lease(uri):
        raise RuntimeError


def test_it_is_released_when_the_work_fails(uri):
    with pytest.raises(RuntimeError):
        fail(uri)
    assert storage.read_json(uri)["state"] == "released"


def test_a_stale_lease_is_taken_over_and_its_holder_learns_it(uri):
    with Lease(uri) as first:
        rewrite(uri, beat_at=LONG_AGO, **ELSEWHERE)
        with Lease(uri) as second:
            with pytest.raises(NightError, match="taken over by"):
                first.beat()
            second.beat()
        assert storage.read_json(uri)["state"] == "released"
        rewrite(uri, token="a third")
    assert storage.read_json(uri)["token"] == "a third", "the first holder released another's lease"


def test_a_beat_keeps_it_fresh(uri):
    with Lease(uri) as lease:
        rewrite(uri, beat_at=LONG_AGO)
        lease.beat()
        assert storage.read_json(uri)["beat_at"] > LONG_AGO
        with pytest.raises(NightError), Lease(uri):
            pass


def test_it_beats_by_itself(uri):
    with Lease(uri, stale_after_s=0.1) as lease:
        first = storage.read_json(uri)["beat_at"]
        deadline = time.monotonic() + 20
        while storage.read_json(uri)["beat_at"] == first and time.monotonic() < deadline:
            time.sleep(0.02)
        assert storage.read_json(uri)["beat_at"] != first
        lease.check()


def check_for(lease, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        lease.check()
        time.sleep(0.02)


def test_a_holder_that_lost_it_is_told_at_its_next_check(uri):
    with Lease(uri, stale_after_s=0.1) as lease:
        rewrite(uri, token="other", **ELSEWHERE)
        with pytest.raises(NightError, match="other-host process 1"):
            check_for(lease, seconds=20)


def test_a_fresh_lease_of_another_machine_is_respected(uri):
    with Lease(uri):
        pass
    rewrite(uri, state="held", process=2**22 + 1, **ELSEWHERE)
    with pytest.raises(NightError, match="other-host"), Lease(uri):
        pass


def test_a_process_killed_on_this_machine_holds_nothing(uri):
    code = (
        f"import os; from mrkd.storage.lease import Lease; Lease({uri!r}).__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    assert storage.read_json(uri)["state"] == "held"
    with Lease(uri) as lease:
        lease.check()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b'{"beat_at": "now"}',
        b'{"beat_at": "2020-01-01T00:00:00+00:00"}',
        b'{"beat_at": "2020-01-01", "state": "held", "holder": "", "machine": "", "process": 1, '
        b'"token": ""}',
        b"\xff",
    ],
)
def test_a_damaged_lease_is_named_and_not_taken(uri, content):
    storage.write(uri, content)
    with pytest.raises(NightError, match=r"lease\.json is not a lease: delete it"), Lease(uri):
        pass


def test_a_lease_that_was_deleted_is_lost(uri):
    with Lease(uri) as lease:
        storage.delete(uri)
        with pytest.raises(NightError, match="deleted"):
            lease.beat()


def test_a_lease_names_no_secret(uri, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    with Lease(uri):
        assert "hush" not in json.dumps(storage.read_json(uri))
