"""What mrkd.storage makes of the AWS environment; nothing is asked of a server."""

import pytest

from mrkd import storage
from mrkd.errors import StorageError
from mrkd.storage.s3_client import connection


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("AWS_ENDPOINT_URL", "127.0.0.1:8333", "AWS_ENDPOINT_URL must be a URL"),
        ("AWS_REGION", "no region", "AWS_REGION"),
        ("AWS_PROFILE", "nobody", "ProfileNotFound"),
    ],
)
def test_an_environment_that_no_client_can_be_made_of_is_told(monkeypatch, name, value, what):
    monkeypatch.setenv(name, value)
    for ask in (storage.read, storage.stat):
        with pytest.raises(StorageError, match=what):
            ask("s3://bucket/x")


def test_the_region_is_the_environments(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    assert connection().client.meta.region_name == "us-west-2"
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    assert connection().client.meta.region_name == "eu-north-1"
