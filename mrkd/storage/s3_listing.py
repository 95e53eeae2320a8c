"""All objects below a prefix, by many listers at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

from botocore.parsers import ResponseParserError

from mrkd.errors import StorageError
from mrkd.storage.backend import FileEntry
from mrkd.storage.request_counts import count
from mrkd.storage.s3_client import ATTEMPTS, attempts, connection
from mrkd.storage.s3_errors import explained

_LISTERS = 16
_ENOUGH = 64
_TOO_MANY = 2048
_LEVELS = 3


class Page(NamedTuple):
    """A page of a listing: its files, its folders' prefixes, where the next one begins."""

    files: list[FileEntry]
    folders: list[str]
    next_page: str | None


def pages(bucket: str, prefix: str) -> Iterator[list[FileEntry]]:
    """The files below a prefix, in pages of at most 1,000 and in any order.

    What fits one page is one request. Else the folders below are looked for, level by level,
    until there are enough of them to keep all listers at work; each then is listed whole by one
    at a time. A folder with more than a page right in it is not looked into: one lister has it.
    At most one page for each lister is held.
    """
    first = page(bucket, prefix)
    if first.next_page is None:
        yield first.files
        return
    with ThreadPoolExecutor(_LISTERS, thread_name_prefix="list") as pool:
        found, folders = _folders(pool, bucket, prefix)
        yield from found
        yield from _listed(pool, bucket, folders)


def page(bucket: str, prefix: str, token: str | None = None, delimiter: str = "") -> Page:
    """One page of a listing.

    Args:
        bucket: the bucket.
        prefix: beginning of the keys.
        token: start of the page, from the page before it.
        delimiter: "/" for what is right below the prefix, files and folders; else all files.
    """
    request: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
    if delimiter:
        request["Delimiter"] = delimiter
    if token is not None:
        request["ContinuationToken"] = token
    uri = f"s3://{bucket}/{prefix}"
    broken: Exception | None = None
    for attempt in attempts():
        if attempt:
            count("retried")
        with explained(uri):
            try:
                answer = connection().client.list_objects_v2(**request)
            except ResponseParserError as error:
                broken = error  # the SDK repeats requests, but never an answer that broke off
                continue
        files = [
            FileEntry(f"s3://{bucket}/{key}", size, etag)
            for key, size, etag in answer["Files"]
            if size or not key.endswith("/")  # the empty ones mark folders
        ]
        folders = [item["Prefix"] for item in answer.get("CommonPrefixes", ())]
        return Page(files, folders, answer.get("NextContinuationToken"))
    message = f"{uri}: its listing broke off {ATTEMPTS} times: check the network and the server"
    raise StorageError(message) from broken


def _folders(
    pool: ThreadPoolExecutor, bucket: str, prefix: str
) -> tuple[list[list[FileEntry]], list[str]]:
    """Pages of the files above the folders that are to be listed whole, and these folders."""
    found: list[list[FileEntry]] = []
    wide: list[str] = []
    level = [prefix]
    for _ in range(_LEVELS):
        tops = list(pool.map(lambda folder: page(bucket, folder, delimiter="/"), level))
        narrow = [top for top in tops if top.next_page is None]
        below = [folder for top in narrow for folder in top.folders]
        if len(below) > _TOO_MANY:
            break
        wide += [folder for folder, top in zip(level, tops, strict=True) if top.next_page]
        found += [top.files for top in narrow if top.files]
        level = below
        if not level or len(wide) + len(level) >= _ENOUGH:
            break
    return found, wide + level


def _listed(pool: ThreadPoolExecutor, bucket: str, folders: list[str]) -> Iterator[list[FileEntry]]:
    """The pages of these folders, some at a time; a next page is asked for when one was taken."""
    waiting = deque(folders)
    asked: dict[Future[Page], str] = {}
    try:
        while waiting or asked:
            while waiting and len(asked) < _LISTERS:
                folder = waiting.popleft()
                asked[pool.submit(page, bucket, folder)] = folder
            for done in wait(asked, return_when=FIRST_COMPLETED).done:
                folder, got = asked.pop(done), done.result()
                if got.next_page is not None:
                    asked[pool.submit(page, bucket, folder, got.next_page)] = folder
                if got.files:
                    yield got.files
    finally:
        for left in asked:
            left.cancel()
