"""The cheap way to an object's bytes: signed and sent without the SDK's machinery around it.

A GET of 40 KB takes the SDK 2 ms of CPU, in one thread of Python at a time, and this 1 ms; a night
asks for each image once. Only an answer that is just right is taken. What is refused, redirected
or keeps failing is left to the SDK, which explains it; while the server asks for less, everything
is, as its rate limiter knows only its own requests.
"""

from __future__ import annotations

import base64
import os
import random
import threading
import time
import zlib
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import quote

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ConnectTimeoutError, HTTPClientError, ReadTimeoutError
from botocore.httpsession import URLLib3Session
from botocore.session import Session
from botocore.utils import get_environ_proxies
from urllib3.exceptions import HTTPError, TimeoutError

from mrkd.storage.backend import Fetched, check_size
from mrkd.storage.request_counts import count

SLOWER = (503, 429)
"""Statuses by which a server asks for less."""

_ATTEMPTS = 3
_PAUSE_S = 0.1
_SLOW_S = 30.0


class _Route(NamedTuple):
    """How the SDK asks for a bucket's objects: URL before the key, region of the signature."""

    base: str
    region: str


class ShortGet:
    """GETs that are signed as the SDK signed its last one of the same bucket.

    Args:
        session: session whose credentials and certificates are used.
        endpoint: URL of the server, for the environment's proxies.
        timeout: seconds to connect, seconds without a byte.
        num_connections: number of connections that stay open.
    """

    def __init__(
        self, session: Session, endpoint: str, timeout: tuple[float, float], num_connections: int
    ) -> None:
        bundle = session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
        self._http = URLLib3Session(
            verify=bundle or True,
            proxies=get_environ_proxies(endpoint),
            timeout=timeout,
            max_pool_connections=num_connections,
        )
        self._session = session
        self._routes: dict[str, _Route] = {}
        self._signing = threading.local()
        self._slow_until = 0.0

    def note_slowdown(self) -> None:
        """The server asked for less: for a while nothing goes this way."""
        count("slowed")
        self._slow_until = time.monotonic() + _SLOW_S

    def note_signing(
        self, request: Any, region_name: str, signature_version: str, **_: Any
    ) -> None:
        """Handler of the SDK's `before-sign.s3.GetObject`: keeps where it asks, and how."""
        signing = request.context.get("signing", {})
        plain = signature_version == "s3v4" and signing.get("signing_name", "s3") == "s3"
        region = signing.get("region") or region_name
        self._signing.last = _Route(request.url, region) if plain else None

    def learn(self, bucket: str, key: str) -> None:
        """After the SDK's GET of an object in this thread: goes the same way for its bucket."""
        route = getattr(self._signing, "last", None)
        path = _quoted(key)
        if route is not None and route.base.endswith(f"/{path}"):
            self._routes[bucket] = route._replace(base=route.base.removesuffix(path))

    def get(
        self, uri: str, bucket: str, key: str, headers: dict[str, str], max_bytes: int | None
    ) -> Fetched | None:
        """The bytes and ETag of an object, or None: ask the SDK.

        Args:
            uri: its name in messages.
            bucket: its bucket.
            key: its key.
            headers: conditions and range, as HTTP has them.
            max_bytes: size up to which it is read at all.

        Raises:
            StorageError: (too_large) it has more than `max_bytes`.
        """
        route = self._routes.get(bucket)
        if route is None or time.monotonic() < self._slow_until:
            return None
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE_S * 2**attempt * random.uniform(0.5, 1.5))
                count("retried")
            try:
                response = self._send(route, key, headers)
                # One whose answer was read to its end has given its connection back by then.
                with closing(response.raw):
                    status = response.status_code
                    if status == (206 if "Range" in headers else 200):
                        if (found := _whole(response, uri, headers, max_bytes)) is not None:
                            return found
                    elif status in SLOWER:
                        self.note_slowdown()
                        break
                    elif status < 500:
                        return None
            except (ConnectTimeoutError, ReadTimeoutError, TimeoutError):
                break
            except (HTTPClientError, HTTPError):
                continue
        count("retried")  # by the SDK
        return None

    def _send(self, route: _Route, key: str, headers: dict[str, str]) -> Any:
        request = AWSRequest("GET", route.base + _quoted(key), headers)
        if "Range" not in headers:
            request.headers["x-amz-checksum-mode"] = "ENABLED"
        credentials = self._session.get_credentials().get_frozen_credentials()
        S3SigV4Auth(credentials, "s3", route.region).add_auth(request)
        request.stream_output = True
        count("GET")
        return self._http.send(request.prepare())


def _whole(
    response: Any, uri: str, headers: dict[str, str], max_bytes: int | None
) -> Fetched | None:
    """What a good answer holds; None where its body broke off or is damaged."""
    given = response.headers
    length, etag = given.get("Content-Length"), given.get("ETag")
    if length is None or etag is None:
        return None
    check_size(uri, int(length), max_bytes)
    data = response.raw.read()
    first = headers.get("Range", "").removeprefix("bytes=").partition("-")[0]
    if first and not given.get("Content-Range", "").startswith(f"bytes {first}-"):
        return None
    checksum = None if first else given.get("x-amz-checksum-crc32")
    # That of an object in parts has their number after a hyphen, and is of their checksums.
    if checksum and "-" not in checksum:
        expected = int.from_bytes(base64.b64decode(checksum), "big")
        if zlib.crc32(data) != expected:
            return None
    return Fetched(data, etag.strip('"')) if len(data) == int(length) else None


def _quoted(key: str) -> str:
    return quote(key, safe="/~")
