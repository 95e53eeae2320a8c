"""The errors of mrkd.

    MrkdError                what a user can act on; `exit_code` is the command's
    |- ConfigError           a key, value, name or root is wrong: nothing was started (exit 2)
    |- DeviceError           a GPU that the process holds, or was asked for, cannot be used
    |- CategoryError         one category cannot be trained or evaluated; the others go on
    |  `- MemoryShortError   a training needs more memory than its worker has
    |- ImageDecodeError      one image cannot be read; it becomes a row of that `kind`
    |- StorageError          a file or folder cannot be read or written
    |- ArtefactError         a stored model or calibration is damaged or does not fit
    |  |- StandsError        a version of that name is complete: it is never written over
    |  `- TeacherError       teacher weights are missing, altered or of another network
    |- NightError            a night cannot go on: held by another run, or rows do not add up
    |  `- GoldenError        reference parts do not score as they should
    `- StoppedError          a signal ended a run; the same command goes on

`ValueError` stays for a caller's argument, `assert` for our own invariants.
"""

from __future__ import annotations


class MrkdError(Exception):
    """Base of all errors that mrkd raises for its users; one line of text that says what to do."""

    exit_code = 1


class ConfigError(MrkdError):
    """A config key, value, name or root is wrong; nothing was started."""

    exit_code = 2


class DeviceError(MrkdError):
    """A GPU that the process holds, or that the config asks for, cannot be used."""


class CategoryError(MrkdError):
    """One category cannot be trained or evaluated."""


class MemoryShortError(CategoryError):
    """A training needs more memory than its worker has."""


class ImageDecodeError(MrkdError):
    """One image cannot be read.

    Args:
        kind: a member of `mrkd.storage.schema.ERROR_KINDS`, stored in the image's row.
        message: one line that says what was found and what to do.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return self.message


class StorageError(MrkdError):
    """A file or folder cannot be read or written.

    Args:
        message: one line that names it and says what to do.
        kind: a member of `mrkd.storage.schema.ERROR_KINDS`, stored in the image's row.
    """

    def __init__(self, message: str, kind: str = "unreachable") -> None:
        super().__init__(message, kind)
        self.message = message
        self.kind = kind

    def __str__(self) -> str:
        return self.message


class ArtefactError(MrkdError):
    """A stored model or calibration is damaged or does not fit."""


class StandsError(ArtefactError):
    """A version of that name is complete: it is never written over."""


class TeacherError(ArtefactError):
    """Teacher weights are missing, altered or of another network."""


class NightError(MrkdError):
    """A night cannot go on."""


class GoldenError(NightError):
    """Reference parts do not score as they should: the images changed, not the product."""


class StoppedError(MrkdError):
    """A signal ended a run; the same command goes on."""
