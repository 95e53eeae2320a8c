"""Decoder of text files written by hand: UTF-8, with or without the mark that editors put."""

from __future__ import annotations

import codecs

from mrkd.errors import ConfigError

_UTF_8, _UTF_16 = codecs.BOM_UTF8, (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


def decoded(data: bytes, name: str, *, utf_16: bool = False) -> str:
    """The text of a file.

    Args:
        data: its bytes.
        name: its name for messages.
        utf_16: whether UTF-16 with a mark is read too, as spreadsheets save it.

    Raises:
        ConfigError: it has another encoding, or holds a NUL; with the line and the byte.
    """
    if data.startswith(_UTF_32) or (data.startswith(_UTF_16) and not utf_16):
        kind = "UTF-32" if data.startswith(_UTF_32) else "UTF-16"
        raise ConfigError(
            f"{name} is not UTF-8: it begins with the byte 0x{data[0]:02x} of {kind}; save it as "
            "UTF-8"
        )
    encoding = "utf-16" if data.startswith(_UTF_16) else "utf-8"
    if encoding == "utf-8" and b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise ConfigError(
            f"{name} line {line} holds the byte 0x00, which no text does: it may be UTF-16 without "
            "a mark, or damaged; save it as UTF-8"
        )
    try:
        text = data.removeprefix(_UTF_8).decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            raise ConfigError(
                f"{name} is not UTF-16, as its first bytes say: byte 0x{data[error.start]:02x} at "
                f"{error.start} ({error.reason}); save it as UTF-8"
            ) from error
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{name} line {line} is not UTF-8: it holds the byte 0x{error.object[error.start]:02x} "
            f"({error.reason}), as Latin-1 or Windows-1252 may; save it as UTF-8"
        ) from error
    if "\0" in text:
        raise ConfigError(f"{name} holds a NUL, which no text does: it is damaged")
    return text
