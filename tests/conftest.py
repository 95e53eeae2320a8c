"""What all tests share: a clean environment, and markers that follow from a test's folder."""

import os
import secrets
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

TESTS = Path(__file__).parent
MARKED = {"on_ray", "s3", "e2e", "real_data", "bench"}
WITHOUT_RAY = {"test_page.py", "test_demo.py"}
"""Files of `e2e` that start no Ray."""
WITH_RAY = ("s3/test_fleets.py",)
"""Files of other folders that do."""

# Examples share two cores with Ray and its workers: their time says nothing about the code.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


def pytest_configure():
    """Before anything is imported: nothing of the caller's cloud or cluster reaches a test."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "RAY_"))]:
        del os.environ[name]
    os.environ |= {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": "1",  # the other cores have the other workers
        # As `mrkd.runs.on_ray` does where it is imported before Ray.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marker
def pytest_collection_modifyitems(items):
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        if folder in MARKED:
            item.add_marker(folder)


class OneRay(LoadScopeScheduling):  # type: ignore[misc] # xdist has no types
    """Each file goes to one worker, and all files that hold a Ray to the same one, first of all.

    Two Rays at a time would share two cores, and a file's fixtures are made once. Not xdist's own
    `loadgroup`: the names of groups do not reach its scheduler under pytest 9 (xdist 3.8).
    """

    def _split_scope(self, nodeid):
        file = nodeid.partition("::")[0]
        folder, name = file.removeprefix("tests/").split("/")[0], file.rpartition("/")[2]
        holds_ray = folder in ("on_ray", "e2e") and name not in WITHOUT_RAY
        return "ray" if holds_ray or file.endswith(WITH_RAY) else file


def pytest_xdist_make_scheduler(config, log):
    return OneRay(config, log)


@pytest.fixture(scope="session")
def cifar10():
    """CIFAR-10 as PNG sheets or batches, from the folder that the caller names."""
    path = os.environ.get("MRKD_CIFAR10")
    if not path:
        pytest.skip("MRKD_CIFAR10 names no folder")
    if not Path(path).is_dir():
        pytest.fail(f"MRKD_CIFAR10 is {path!r}, which is no folder")
    return Path(path)
