"""The verdict of a command, as a scheduler reads it."""

import json
from datetime import datetime, timedelta

from mrkd.run_summary import SUMMARY_SCHEMA, Summary, now


def test_a_summary_has_the_fields_of_the_contract():
    summary = Summary("score", "night-1", 0, "done", {"images": 3}, {"scores": "s3://b/s"})
    assert json.loads(summary.to_json()) == summary.to_dict()
    assert summary.to_dict()["schema"] == SUMMARY_SCHEMA
    assert list(summary.to_dict()) == [
        "schema", "command", "run", "exit_code", "state", "counts", "uris",
        "started_at", "finished_at", "reasons",
    ]  # fmt: skip


def test_a_summary_is_one_line_whatever_its_reasons_hold():
    text = Summary("train", None, 1, "failed", reasons=["ä\nb"]).to_json()
    assert len(text.splitlines()) == 1
    assert json.loads(text)["reasons"] == ["ä\nb"]


def test_now_is_utc_to_the_second():
    time = datetime.fromisoformat(now())
    assert time.utcoffset() == timedelta(0)
    assert time.microsecond == 0
