"""Objects on S3, or on a server that speaks its language, by URIs `s3://bucket/key`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from mrkd.errors import StorageError
from mrkd.storage import s3_listing
from mrkd.storage.backend import Fetched, FileEntry, changed, check_size
from mrkd.storage.request_counts import count
from mrkd.storage.s3_client import ATTEMPTS, attempts, connection
from mrkd.storage.s3_errors import MISSING, REFUSED, code, explained
from mrkd.storage.uri import split


class S3Store:
    """Objects; a folder is what their keys have before a slash."""

    def files(
        self, uri: str, _passed_over: Counter[str] | None = None
    ) -> Iterator[list[FileEntry]]:
        """All objects below a folder, but for the empty ones that mark a folder; none is shut."""
        return s3_listing.pages(*_folder(uri))

    def has_files(self, uri: str) -> bool:
        """Whether a folder has a file somewhere below it."""
        bucket, prefix = _folder(uri)
        page = s3_listing.page(bucket, prefix)
        while not page.files and page.next_page is not None:
            page = s3_listing.page(bucket, prefix, page.next_page)
        return bool(page.files)

    def folders(self, uri: str) -> Iterator[str]:
        """Names of the folders right below a folder."""
        bucket, prefix = _folder(uri)
        token: str | None = None
        while True:
            page = s3_listing.page(bucket, prefix, token, delimiter="/")
            yield from (folder.rstrip("/").rpartition("/")[2] for folder in page.folders)
            if (token := page.next_page) is None:
                return

    def stat(self, uri: str) -> FileEntry | None:
        """The object's entry, None where it or its bucket does not exist."""
        bucket, key = split(uri)
        if not key:
            return None
        with explained(uri):
            try:
                head = connection().client.head_object(Bucket=bucket, Key=key)
            except ClientError as error:
                if code(error) in MISSING:
                    return None
                raise
        return FileEntry(uri, head["ContentLength"], head["ETag"].strip('"'))

    def fetch(self, uri: str, *, if_match: str | None, max_bytes: int | None) -> Fetched:
        """The object's bytes and ETag, read again from the start when a body breaks off."""
        return _get(uri, if_match, max_bytes=max_bytes)

    def fetch_range(self, uri: str, start: int, length: int, *, if_match: str | None) -> Fetched:
        """Some bytes of the object and its ETag, read again when they break off."""
        if length:
            try:
                return _get(uri, if_match, span=f"bytes={start}-{start + length - 1}")
            except _BehindTheEnd:
                pass
        # No byte can be asked for: only whether it is the object, and that it is there.
        entry = self.stat(uri)
        if entry is None:
            raise StorageError(f"{uri} is not there: check bucket and key", "missing")
        if if_match not in (None, entry.etag):
            raise changed(uri)
        return Fetched(b"", entry.etag)

    def write(self, uri: str, data: bytes, *, if_absent: bool, if_match: str | None) -> bool:
        """Puts the object in one request, of at most 5 GiB."""
        request, condition = _object(uri), {"IfNoneMatch": "*"} if if_absent else {}
        if if_match is not None:
            condition["IfMatch"] = f'"{if_match}"'
        with explained(uri):
            for _ in attempts():
                try:
                    connection().client.put_object(**request, Body=data, **condition)
                    return True
                except ClientError as error:
                    # To If-Match on a missing key AWS says 404, others 412.
                    gone = if_match is not None and code(error) == "NoSuchKey"
                    if condition and (gone or code(error) in REFUSED):
                        return False
                    if code(error) != "ConditionalRequestConflict":
                        raise
        raise StorageError(f"{uri}: {ATTEMPTS} writes met another one under way: try again")

    def delete(self, uri: str) -> None:
        """Removes the object, if it is there."""
        with explained(uri):
            connection().client.delete_object(**_object(uri))


class _BehindTheEnd(Exception):
    """A range begins where the object has no byte any more."""


def _get(
    uri: str, if_match: str | None, *, span: str | None = None, max_bytes: int | None = None
) -> Fetched:
    """An object's bytes, all of them or a range: the cheap way, else the SDK's."""
    request = _object(uri)
    headers: dict[str, str] = {}
    if if_match is not None:
        headers["If-Match"] = request["IfMatch"] = f'"{if_match}"'
    if span is not None:
        headers["Range"] = request["Range"] = span
    bucket, key = request["Bucket"], request["Key"]
    broken: Exception | None = None
    with explained(uri):
        client, short_get = connection()
        if (found := short_get.get(uri, bucket, key, headers, max_bytes)) is not None:
            return found
        for attempt in attempts():
            if attempt:
                count("retried")
            try:
                response = client.get_object(**request)
            except ClientError as error:
                if code(error) == "InvalidRange":
                    raise _BehindTheEnd from error
                raise
            short_get.learn(bucket, key)
            with closing(response["Body"]) as body:
                check_size(uri, response["ContentLength"], max_bytes)
                first = (span or "").removeprefix("bytes=").partition("-")[0]
                if first and not response.get("ContentRange", "").startswith(f"bytes {first}-"):
                    raise StorageError(f"{uri}: the server does not give the range asked for")
                try:
                    return Fetched(body.read(), response["ETag"].strip('"'))
                except (BotoCoreError, HTTPError) as error:
                    broken = error  # the SDK repeats requests, but never a body cut in mid-stream
    message = f"{uri}: its bytes broke off {ATTEMPTS} times: check the network and the server"
    raise StorageError(message) from broken


def _object(uri: str) -> dict[str, str]:
    bucket, key = split(uri)
    if not key:
        raise StorageError(f"{uri} is a bucket: name a file in it", "missing")
    return {"Bucket": bucket, "Key": key}


def _folder(uri: str) -> tuple[str, str]:
    bucket, key = split(uri)
    return bucket, key.rstrip("/") + "/" if key else ""
