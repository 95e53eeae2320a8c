"""The SDK's client for the AWS environment, and the settings by which it repeats requests."""

from __future__ import annotations

import functools
import os
import random
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from xml.etree import ElementTree

import boto3
import botocore.session
from botocore.compat import unquote_str
from botocore.config import Config
from botocore.parsers import ResponseParserError

from mrkd.errors import StorageError
from mrkd.storage.request_counts import count
from mrkd.storage.s3_errors import check_answer
from mrkd.storage.s3_fast_get import SLOWER, ShortGet

ATTEMPTS = 5
"""How often we ask again where the SDK does not: a body that breaks off, a write that met one."""

_SDK_ATTEMPTS = 8
_CONNECT_S, _READ_S = 10, 30
_CONNECTIONS = 1024  # that stay open: above the threads of any one process, so none is dropped
_PAUSE_S = 0.2
_NAMES = {
    "GetObject": "GET",
    "PutObject": "PUT",
    "HeadObject": "HEAD",
    "ListObjectsV2": "LIST",
    "DeleteObject": "DELETE",
}


class Connection(NamedTuple):
    """The ways to the server; both may be used by many threads at once.

    Attributes:
        client: the SDK's S3 client; its adaptive mode lowers the rate of all its threads together
            when the server asks for it.
        short_get: the cheap way to an object's bytes.
    """

    client: Any
    short_get: ShortGet


def connection() -> Connection:
    """This process's connection for the AWS environment as it is now.

    Raises:
        StorageError: its endpoint or region is none; what else is wrong is a `BotoCoreError`.
    """
    settings = sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))
    try:
        return _connection_for(os.getpid(), tuple(settings))
    except ValueError as error:
        raise StorageError(
            "no S3 client can be made: AWS_ENDPOINT_URL must be a URL (http://host:port), "
            "AWS_REGION the name of a region"
        ) from error


def attempts(most: int = ATTEMPTS) -> Iterator[int]:
    """Counts the attempts; before each but the first it waits, twice as long as before."""
    for attempt in range(most):
        if attempt:
            time.sleep(_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        yield attempt


@functools.lru_cache(maxsize=4)
def _connection_for(process: int, settings: tuple[tuple[str, str], ...]) -> Connection:
    # Servers other than AWS seldom have a DNS name for each bucket.
    own_server = any(name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3") for name, _ in settings)
    config = Config(
        connect_timeout=_CONNECT_S,
        read_timeout=_READ_S,
        tcp_keepalive=True,
        max_pool_connections=_CONNECTIONS,
        retries={"mode": "adaptive", "total_max_attempts": _SDK_ATTEMPTS},
        s3={"addressing_style": "path" if own_server else "auto"},
    )
    # A session of its own: boto3's default one may not be used by two threads at once.
    session = botocore.session.get_session()
    # Nobody reads dates, and they took two thirds of a listing's time (107 -> 37 ms a page).
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    # The SDK for Python alone reads AWS_DEFAULT_REGION and not AWS_REGION.
    region = dict(settings).get("AWS_REGION") or None
    boto = boto3.session.Session(botocore_session=session, region_name=region)
    client = boto.client("s3", config=config)
    short_get = ShortGet(session, client.meta.endpoint_url, (_CONNECT_S, _READ_S), _CONNECTIONS)
    events = client.meta.events
    events.register("request-created.s3", _count_request)
    events.register("response-received.s3", functools.partial(_note_answer, short_get))
    events.register("before-sign.s3.GetObject", short_get.note_signing)
    events.register("before-parse.s3.*", check_answer)
    events.register("before-parse.s3.ListObjectsV2", _read_files)
    return Connection(client, short_get)


def _count_request(request: Any, operation_name: str, **_: Any) -> None:
    count(_NAMES.get(operation_name, request.method))
    if request.context.get("retries", {}).get("attempt", 1) > 1:
        count("retried")


def _note_answer(short_get: ShortGet, response_dict: Any, **_: Any) -> None:
    if response_dict is not None and response_dict["status_code"] in SLOWER:
        short_get.note_slowdown()


def _read_files(response_dict: Any, customized_response_dict: Any, **_: Any) -> None:
    """Takes the objects out of a listing's page before the SDK does, in a half of its time.

    They are under `Files` then, as (key, size, ETag); the rest of the page is the SDK's.
    """
    if response_dict["status_code"] != 200:
        return
    try:
        page = ElementTree.fromstring(response_dict["body"])
    except ElementTree.ParseError as error:
        raise ResponseParserError(f"the listing broke off: {error}") from error
    space = page.tag.removesuffix("ListBucketResult")
    if space == page.tag:
        raise ResponseParserError(f"a listing's answer is a {page.tag}")
    tags = [f"{space}{name}" for name in ("Key", "Size", "ETag")]
    encoded = page.findtext(f"{space}EncodingType") == "url"
    files = []
    for item in page.findall(f"{space}Contents"):
        key, size, etag = (item.findtext(tag) or "" for tag in tags)
        if not (key and size.isdecimal()):
            raise ResponseParserError("a listing names a file without its key or its size")
        files.append((unquote_str(key) if encoded else key, int(size), etag.strip('"')))
    page[:] = [child for child in page if child.tag != f"{space}Contents"]
    response_dict["body"] = ElementTree.tostring(page)
    customized_response_dict["Files"] = files
