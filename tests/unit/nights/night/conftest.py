"""A night of nine images in two categories, and its four shards."""

import pytest

from mrkd.nights.night import Night
from tests.support.nights import add, config, folder_in_memory


@pytest.fixture
def folder():
    with folder_in_memory() as folder:
        yield folder


@pytest.fixture
def archive(folder):
    add(folder / "archive", *[f"plate/{n}.png" for n in range(7)], "0012/a.png", "0012/b.png")
    return folder / "archive"


@pytest.fixture
def night(folder):
    return Night(str(folder / "workspace"), "night-1")


@pytest.fixture
def settings(night, archive):
    return config(night.workspace, archive)
