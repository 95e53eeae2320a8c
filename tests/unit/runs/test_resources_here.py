"""CPUs that a process may use."""

import os

import pytest

from mrkd.runs import resources


@pytest.mark.parametrize(
    ("content", "expected"),
    [("max 100000", 64), ("400000 100000", 4), ("50000 100000", 1), ("", 64), (None, 64)],
)
def test_a_quota_of_the_container_bounds_the_cpus(content, expected, tmp_path, monkeypatch):
    file = tmp_path / "cpu.max"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(resources, "_QUOTA", file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    assert resources.usable_cpus() == expected
