"""The nights that a night is set beside."""

from __future__ import annotations

from dataclasses import dataclass

from mrkd import storage
from mrkd.errors import ArtefactError, StorageError
from mrkd.nights.drift.profile import Profile, read
from mrkd.storage.thread_map import in_threads

NUM_NIGHTS = 30


@dataclass(frozen=True)
class Earlier:
    """The nights before one, as far as they left a profile.

    Args:
        profiles: the newest last, at most `NUM_NIGHTS`.
        without: names of nights, whenever they were, that have none or a damaged one.
    """

    profiles: tuple[Profile, ...] = ()
    without: tuple[str, ...] = ()


def earlier(workspace: str, profile: Profile) -> Earlier:
    """The last nights of a workspace before the one that `profile` is of.

    Nights that try other models out (`Profile.models`) are none of them. The profile of every
    night is read, as it alone says when the night began.

    Raises:
        StorageError: the nights cannot be listed, or a profile that is there cannot be read.
    """
    folder = storage.join(workspace, "nights")
    names = [name for name in storage.list_names(folder) if name != profile.run]
    before: list[Profile] = []
    without: list[str] = []
    uris = [storage.join(folder, name) for name in names]
    for name, one in zip(names, in_threads(_read, uris), strict=True):
        if one is None:
            without.append(name)
        elif one.began_at < profile.began_at and not one.models:
            before.append(one)
            # A workspace may hold the nights of years: the newest alone stay in memory.
            before = sorted(before, key=lambda one: (one.began_at, one.run))[-NUM_NIGHTS:]
    return Earlier(tuple(before), tuple(without))


def _read(night_uri: str) -> Profile | None:
    try:
        return read(night_uri)
    except ArtefactError:
        return None
    except StorageError as error:
        if error.kind != "missing":
            raise
        return None
