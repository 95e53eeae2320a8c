"""A stored file as a seekable stream."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from mrkd import storage
from mrkd.storage import FileEntry

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_FIRST_BYTES = 2**20
_MOST_BYTES = 8 * 2**20


class RangeFile(io.RawIOBase):
    """Reads ahead by ranges, all of the one version whose ETag is in the entry.

    A block has 1 MiB; while one is read right after the other they double, up to 8 MiB, as a
    request costs its latency. Not for several threads at once.

    Raises:
        StorageError: as `storage.fetch_range`; `kind` is changed where the file was overwritten.
    """

    def __init__(self, file: FileEntry) -> None:
        super().__init__()
        self.file = file
        self._position = 0
        self._start, self._block = 0, b""
        self._step = _FIRST_BYTES

    def read_at(self, position: int, length: int) -> bytes:
        """The bytes `[position, position + length)`, fewer only at the file's end."""
        length = min(length, self.file.num_bytes - position)
        if length <= 0:
            return b""
        end = self._start + len(self._block)
        if not self._start <= position or position + length > end:
            follows = self._start <= position <= end + _FIRST_BYTES and self._block
            self._step = min(2 * self._step, _MOST_BYTES) if follows else _FIRST_BYTES
            wanted = min(max(length, self._step), self.file.num_bytes - position)
            found = storage.fetch_range(self.file.uri, position, wanted, if_match=self.file.etag)
            self._start, self._block = position, found.data
        begin = position - self._start
        return self._block[begin : begin + length]

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to `offset`, counted from the start, from here or from the end."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.file.num_bytes}
        self._position = max(0, origin[whence] + offset)
        return self._position

    def size(self) -> int:
        """The file's size in bytes, as pyarrow asks for it."""
        return self.file.num_bytes

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fills the buffer; less only at the file's end."""
        view = memoryview(buffer).cast("B")
        data = self.read_at(self._position, len(view))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
