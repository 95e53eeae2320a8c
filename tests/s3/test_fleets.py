"""A fleet whose data and workspace are on a real S3 server."""

import json
import subprocess
import sys

import pytest

from mrkd import storage
from mrkd.runs import train
from mrkd.training.cost_estimate import forecast
from tests.support.chaos import long_fleet, make_categories, run_under_fire, weights_digests
from tests.support.models import small_config
from tests.support.parts import make_parts
from tests.support.plants import HERE
from tests.support.under_fire import TOP


def upload(folder, uri):
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write(storage.join(uri, str(path.relative_to(folder))), path.read_bytes())
    return uri


def run_job(config, folder):
    toml = folder / "fleet.toml"
    toml.write_text(config.to_toml())
    done = subprocess.run(
        [sys.executable, "-m", "jobs.train", str(toml)],
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return done, json.loads(done.stdout.splitlines()[-1])


def test_a_fleet_on_s3_isolates_a_failure_and_is_up_to_date_after(bucket, s3_server, tmp_path):
    parts = make_parts(tmp_path / "parts", 2)
    (parts / "broken" / "train" / "good").mkdir(parents=True)
    (parts / "broken" / "train" / "good" / "a.png").write_text("no image")
    root = upload(parts, f"{bucket}/parts")
    config = small_config(root, f"{bucket}/mrkd", executor="in_process")
    first, verdict = run_job(config, tmp_path)
    assert (first.returncode, verdict["counts"]["trained"]) == (3, 2), first.stderr
    assert verdict["reasons"][0].startswith("category broken: ")
    again, verdict = run_job(config, tmp_path)
    assert verdict["counts"] | {"held": 0} == {
        "categories": 3,
        "trained": 0,
        "up_to_date": 2,
        "failed": 1,
        "not_started": 0,
        "held": 0,
    }
    assert storage.read(verdict["uris"]["report"]).startswith(b"<!DOCTYPE html>")
    assert forecast(config).summary("r").counts["up_to_date"] == 2
    # No credential is in anything that was written or said.
    files = storage.list_files(f"{bucket}/mrkd")
    assert len(files) > 20
    texts = [storage.read(file.uri) for file in files]
    texts += [text.encode() for run in (first, again) for text in (run.stdout, run.stderr)]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        secret = s3_server.environment[name].encode()
        assert not any(secret in text for text in texts), name


@pytest.mark.chaos
def test_a_fleet_on_s3_whose_processes_are_killed_ends_with_the_same_weights(bucket, tmp_path):
    root = make_categories(tmp_path / "parts")
    values = {"data.categories": ["a", "b"], "train.max_steps": 200}
    calm = long_fleet(root, tmp_path / "workspace", **values)
    assert train.run(calm, HERE).exit_code == 0
    hit = long_fleet(root, f"{bucket}/mrkd", **values)
    run_under_fire(hit, tmp_path / "hit", ["worker", "driver"])
    assert weights_digests(hit) == weights_digests(calm)
