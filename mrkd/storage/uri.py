"""URIs of files: their canonical form and their kind; no storage is asked."""

from __future__ import annotations

import os
import re

from mrkd.errors import StorageError

S3 = "s3://"
LOCAL = "file://"

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_SECRETS = re.compile(r"(?<=//)[^/]*@|\?.*", re.DOTALL)
"""Parts of other URIs, such as signed ones, that may hold secrets."""
_USE_ONE = "use a path, file:///path or s3://bucket/key"


def canonical(uri: str) -> str:
    """The URI of a location that is written as one, or as a path.

    Raises:
        StorageError: (missing) it is of no kind that can be opened.
    """
    if not uri or "\0" in uri:
        raise StorageError(f"invalid location {uri!r}: {_USE_ONE}", "missing")
    if not _is_text(uri):
        raise StorageError(f"{uri!r} is not UTF-8, so no row can name it: rename it", "missing")
    if uri.startswith(S3):
        split(uri)
        return uri
    path = uri.removeprefix(LOCAL)
    if (path != uri and not path.startswith("/")) or _SCHEME.match(path):
        found = _SECRETS.sub("", uri)
        raise StorageError(f"{found} is of no kind that can be opened: {_USE_ONE}", "missing")
    return LOCAL + os.path.abspath(path)  # noqa: PTH100 (resolve follows links)


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of an `s3://` URI; the key is empty for the bucket itself.

    Raises:
        StorageError: (missing) the bucket's name is none, as in a URI that holds credentials,
            which the message does not repeat.
    """
    bucket, _, key = uri.removeprefix(S3).partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise StorageError(
            "an s3:// URI does not begin with a bucket's name: use s3://bucket/key, and leave "
            "credentials and endpoint to the AWS environment",
            "missing",
        )
    return bucket, key


def _is_text(uri: str) -> bool:
    """Whether it is without the marks by which Python keeps bytes of a name that are not UTF-8."""
    try:
        uri.encode()
    except UnicodeEncodeError:
        return False
    return True
