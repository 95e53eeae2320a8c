"""Errors of S3 and its SDK: what each code means, and what the user can do about it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError

from mrkd.errors import StorageError
from mrkd.storage.backend import changed

MISSING = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
REFUSED = {"412", "PreconditionFailed"}

_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    SSOError,
    TokenRetrievalError,
)
_CLOCK = "RequestTimeTooSkewed"
_CLOCK_S = 15 * 60
"""Seconds by which S3 lets the clocks of client and server differ."""

_CREDENTIALS = (
    "no permission",
    "check the credentials of the AWS environment and what they may do; without the right to list, "
    "a missing key looks the same",
)
_REGION = ("the bucket is in another region", "set AWS_REGION to that of the bucket")
_ADVICE = {
    _CLOCK: ("this machine's clock is wrong", "set it, by NTP for example"),
    "RequestExpired": ("this machine's clock is wrong", "set it, by NTP for example"),
    "InvalidObjectState": (
        "it is archived (Glacier or a like class)",
        "restore it first (aws s3api restore-object), or move it to a class that is read at once",
    ),
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "PermanentRedirect": _REGION,
    # AWS answers these two with 400, not 403.
    "ExpiredToken": _CREDENTIALS,
    "InvalidToken": _CREDENTIALS,
    # To a HEAD without a body, so that nothing tells which one it is.
    "400": (
        "the server refuses the request and gives no reason",
        "check that the credentials of the AWS environment have not expired, AWS_REGION, and the "
        "object's encryption key",
    ),
    "ProfileNotFound": ("the profile is not known", "check AWS_PROFILE and the AWS config file"),
    "ConfigParseError": ("the AWS config file cannot be read", "mend it, or set AWS_CONFIG_FILE"),
    "SSLError": (
        "the server's certificate is not trusted",
        "set AWS_CA_BUNDLE to that of its authority, or AWS_ENDPOINT_URL to http:// where the "
        "server speaks no TLS",
    ),
    "ProxyConnectionError": (
        "the proxy does not answer",
        "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY",
    ),
    "SlowDown": ("the server asks for less", "try again later, or with fewer workers"),
    "QuotaExceeded": ("the storage is full", "free some of it, or raise its quota"),
    "XMinioStorageFull": ("the storage is full", "free some of it, or raise its quota"),
    "KeyTooLongError": ("its key is too long", "use a shorter one; S3 takes 1,024 bytes"),
}
"""What is wrong and what to do, by the code of the server or the class of the SDK's error."""

_KMS = (
    "its encryption key cannot be used",
    "in KMS enable the key that the object or its bucket is encrypted with, cancel its deletion, "
    "or let these credentials use it",
)
_CONNECTION = ("cannot be reached", "check AWS_ENDPOINT_URL, AWS_REGION, the network")
_FOREIGN = (
    "what answers is not an S3 server, or a proxy or login page before one",
    "check AWS_ENDPOINT_URL, the proxy (HTTPS_PROXY, NO_PROXY) and the network",
)


class _Redirected(BotoCoreError):  # type: ignore[misc] # botocore has no types
    """The server sends us elsewhere, and not to another region of S3."""

    fmt = "{url}"


class _NotS3(BotoCoreError):  # type: ignore[misc] # botocore has no types
    """Something else than S3 answers."""


def code(error: ClientError) -> str:
    """The code of the server's error, empty where it gave none."""
    return str(error.response.get("Error", {}).get("Code", ""))


def check_answer(operation_model: Any, response_dict: Any, **_: Any) -> None:
    """Refuses answers that the SDK would take for S3's; called before it parses one.

    Raises:
        BotoCoreError: it is a redirect by which the SDK would ask for the bucket's region, over
            and over, or not from an S3 server.
    """
    status, headers = response_dict["status_code"], response_dict["headers"]
    name = operation_model.name
    if status in (301, 302, 303, 307, 308):
        # To others the SDK asks for the bucket's region by this operation, which has no fallback.
        if "x-amz-bucket-region" not in headers and name == "HeadBucket":
            raise _Redirected(url=_server(headers.get("Location", "")))
    elif status < 300:
        if name in ("GetObject", "HeadObject", "PutObject"):
            foreign = "ETag" not in headers
        else:
            foreign = _is_page(headers.get("Content-Type"))
        if foreign:
            raise _NotS3()


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turns the SDK's errors into a StorageError of its kind; only their code is repeated."""
    try:
        yield
    except ClientError as error:
        raise _explain(uri, error) from error
    except _Redirected as error:
        raise _redirected(uri, str(error)) from error
    except _NotS3 as error:
        raise _refusal(uri, "an answer of another kind", _FOREIGN) from error
    except _NO_CREDENTIALS as error:
        raise _refusal(uri, type(error).__name__, _CREDENTIALS) from error
    except (BotoCoreError, ResponseParserError) as error:
        name = type(error).__name__
        raise _refusal(uri, name, _ADVICE.get(name, _CONNECTION)) from error


def _explain(uri: str, error: ClientError) -> StorageError:
    found = code(error)
    answer = error.response.get("ResponseMetadata", {})
    status, headers = answer.get("HTTPStatusCode", 0), answer.get("HTTPHeaders", {})
    if 300 <= status < 400 and found not in _ADVICE:
        return _redirected(uri, _server(headers.get("location", "")))
    # The SDK calls a web page of status 200 a 500. Google calls each refused HEAD a web page.
    is_page = _is_page(headers.get("content-type")) and error.operation_name != "HeadObject"
    if is_page and (not found or found.isdecimal()):
        return _refusal(uri, found, _FOREIGN)
    if found in REFUSED:
        return changed(uri)
    if found in MISSING:
        return StorageError(f"{uri} is not there ({found}): check bucket and key", "missing")
    if status in (401, 403) and found not in _ADVICE and _is_skewed(headers.get("date", "")):
        found = _CLOCK  # an answer to HEAD has no body that says so
    usual = _KMS if "KMS" in found else _CREDENTIALS if status in (401, 403) else _CONNECTION
    return _refusal(uri, found, _ADVICE.get(found, usual), status)


def _refusal(uri: str, code: str, advice: tuple[str, str], status: int = 0) -> StorageError:
    what, remedy = advice
    forbidden = status in (401, 403) or advice is _CREDENTIALS
    kind = "forbidden" if forbidden else "unreachable"
    return StorageError(f"{uri}: {what} ({code}): {remedy}", kind)


def _redirected(uri: str, server: str) -> StorageError:
    return StorageError(
        f"{uri}: the server redirects to {server or 'another address'}, which a signed request "
        "cannot follow: set AWS_ENDPOINT_URL to the address that answers itself (https:// where "
        "http:// was given), or AWS_REGION to the bucket's region"
    )


def _server(url: str) -> str:
    """The address alone: path and query may hold secrets."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}" if parts.scheme and host else ""


def _is_page(content_type: str | None) -> bool:
    return (content_type or "").lower().startswith("text/html")


def _is_skewed(date: str) -> bool:
    try:
        server = parsedate_to_datetime(date).timestamp()
    except ValueError:
        return False
    return abs(time.time() - server) > _CLOCK_S
