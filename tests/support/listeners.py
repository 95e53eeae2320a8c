"""What a process and all below it listen on, as Linux tells it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tests.support.processes import descendants

_LISTEN = "0A"
_LOOPBACK = ("0100007F", "0" * 16 + "FFFF0000" + "0100007F", "0" * 24 + "01000000")


class Listener(NamedTuple):
    """One open TCP port.

    Attributes:
        port: its number.
        where: `all` interfaces, `loopback`, or the `node`'s own address.
        title: of the process, as in /proc.
    """

    port: int
    where: str
    title: str


def listeners(root: int) -> list[Listener]:
    """The open TCP ports of a process and those below it, by number."""
    owners: dict[str, str] = {}
    for pid, title in [(root, "root"), *descendants(root)]:
        try:
            for file in Path(f"/proc/{pid}/fd").iterdir():
                target = str(file.readlink())
                if target.startswith("socket:["):
                    owners[target[len("socket:[") : -1]] = title.replace("\0", " ")
        except OSError:  # it has ended, or just closed the file
            continue
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            values = line.split()
            local, state, inode = values[1], values[3], values[9]
            if state != _LISTEN or inode not in owners:
                continue
            address, _, port = local.partition(":")
            where = "node"
            if not address.strip("0"):
                where = "all"
            elif address in _LOOPBACK:
                where = "loopback"
            found.append(Listener(int(port, 16), where, owners[inode]))
    return sorted(found)
