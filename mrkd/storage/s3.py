"""Objects on S3, or on a server that speaks its language, by URIs `s3://bucket/key`."""

from __future__ import annotations

import functools
import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
)
from urllib3.exceptions import HTTPError

from mrkd.errors import StorageError
from mrkd.storage.store import Fetched, FileEntry, changed, check_size

SCHEME = "s3://"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_ATTEMPTS = 5
_PAUSE_S = 0.2

_MISSING = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
_REFUSED = {"412", "PreconditionFailed"}
_EXPIRED = {"ExpiredToken", "InvalidToken"}  # AWS answers these with 400, not 403
_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)


class S3Store:
    """Objects; a folder is what their keys have before a slash."""

    def files(self, uri: str) -> Iterator[FileEntry]:
        """All objects below a folder, but for the empty ones that stand for a folder."""
        bucket, _ = split(uri)
        for page in _pages(uri):
            for item in page.get("Contents", ()):
                if item["Size"] or not item["Key"].endswith("/"):
                    found = f"{SCHEME}{bucket}/{item['Key']}"
                    yield FileEntry(found, item["Size"], item["ETag"].strip('"'))

    def folders(self, uri: str) -> Iterator[str]:
        """Names of the folders right below a folder."""
        for page in _pages(uri, Delimiter="/"):
            for item in page.get("CommonPrefixes", ()):
                yield item["Prefix"].rstrip("/").rpartition("/")[2]

    def stat(self, uri: str) -> FileEntry | None:
        """The object's entry, None where there is no such object, or no such bucket."""
        bucket, key = split(uri)
        if not key:
            return None
        with _explained(uri):
            try:
                head = _client().head_object(Bucket=bucket, Key=key)
            except ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise
        return FileEntry(uri, head["ContentLength"], head["ETag"].strip('"'))

    def fetch(self, uri: str, *, if_match: str | None, max_bytes: int | None) -> Fetched:
        """The object's bytes and ETag, read again from the start when a body breaks off."""
        request = _object(uri)
        if if_match is not None:
            request["IfMatch"] = f'"{if_match}"'
        broken: Exception | None = None
        for _ in _attempts():
            with _explained(uri):
                response = _client().get_object(**request)
            with closing(response["Body"]) as body:
                check_size(uri, response["ContentLength"], max_bytes)
                try:
                    return Fetched(body.read(), response["ETag"].strip('"'))
                except (BotoCoreError, HTTPError) as error:
                    broken = error  # the SDK repeats requests, but never a body cut in mid-stream
        message = f"{uri}: its bytes broke off {_ATTEMPTS} times: check the network and the server"
        raise StorageError(message) from broken

    def write(self, uri: str, data: bytes, *, if_absent: bool, if_match: str | None) -> bool:
        """Puts the object in one request, of at most 5 GiB."""
        request, condition = _object(uri), {"IfNoneMatch": "*"} if if_absent else {}
        if if_match is not None:
            condition["IfMatch"] = f'"{if_match}"'
        with _explained(uri):
            for _ in _attempts():
                try:
                    _client().put_object(**request, Body=data, **condition)
                    return True
                except ClientError as error:
                    # To If-Match on a missing key AWS says 404, others 412.
                    gone = if_match is not None and _code(error) == "NoSuchKey"
                    if condition and (gone or _code(error) in _REFUSED):
                        return False
                    if _code(error) != "ConditionalRequestConflict":
                        raise
        message = f"{uri}: {_ATTEMPTS} writes met another one under way: try again"
        raise StorageError(message)

    def delete(self, uri: str) -> None:
        """Removes the object, if it is there."""
        with _explained(uri):
            _client().delete_object(**_object(uri))


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of an `s3://` URI; the key is empty for the bucket itself.

    Raises:
        StorageError: (missing) the bucket's name is none, as in a URI that holds credentials,
            which the message does not repeat.
    """
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise StorageError(
            "an s3:// URI does not begin with a bucket's name: write s3://bucket/key, and leave "
            "credentials and endpoint to the AWS environment",
            "missing",
        )
    return bucket, key


def _object(uri: str) -> dict[str, str]:
    bucket, key = split(uri)
    if not key:
        raise StorageError(f"{uri} is a bucket: name a file in it", "missing")
    return {"Bucket": bucket, "Key": key}


def _pages(uri: str, **request: str) -> Iterator[Any]:
    bucket, key = split(uri)
    prefix = key.rstrip("/") + "/" if key else ""
    with _explained(uri):
        lister = _client().get_paginator("list_objects_v2")
        yield from lister.paginate(Bucket=bucket, Prefix=prefix, **request)


def _client() -> Any:
    """This process's client for the AWS environment as it is now; clients are thread-safe."""
    settings = sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))
    return _client_for(os.getpid(), tuple(settings))


@functools.lru_cache(maxsize=4)
def _client_for(process: int, settings: tuple[tuple[str, str], ...]) -> Any:
    # Servers other than AWS seldom have a DNS name for each bucket.
    own_server = any(name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3") for name, _ in settings)
    config = Config(
        connect_timeout=10,
        read_timeout=30,
        max_pool_connections=32,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        s3={"addressing_style": "path" if own_server else "auto"},
    )
    # A session of its own: boto3's default one may not be used by two threads at once.
    return boto3.session.Session().client("s3", config=config)


def _attempts() -> Iterator[int]:
    """Counts the attempts; before each but the first it waits, twice as long as before."""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        yield attempt


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turns the SDK's errors into a StorageError of its kind; only their code is repeated."""
    try:
        yield
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        raise _explain(uri, _code(error), status) from error
    except _NO_CREDENTIALS as error:
        raise _explain(uri, type(error).__name__, 403) from error
    except BotoCoreError as error:
        raise _explain(uri, type(error).__name__, None) from error


def _explain(uri: str, code: str, status: int | None) -> StorageError:
    if code in _REFUSED:
        return changed(uri)
    if code in _MISSING:
        return StorageError(f"{uri} is not there ({code}): check bucket and key", "missing")
    if status in (401, 403) or code in _EXPIRED:
        message = (
            f"{uri}: no permission ({code}): check the credentials of the AWS environment and "
            "what they may do; without the right to list, a missing key looks the same"
        )
        return StorageError(message, "forbidden")
    message = f"{uri} cannot be reached ({code}): check AWS_ENDPOINT_URL, AWS_REGION, the network"
    return StorageError(message)
