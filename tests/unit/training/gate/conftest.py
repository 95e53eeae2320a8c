import pytest

from mrkd.config import DataConfig
from mrkd.data import datasets
from tests.support.parts import make_parts
from tests.support.rivals import digested


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """The samples of a category: 40 good ones to train on, 6 good and 6 defective ones to test."""
    root = make_parts(tmp_path_factory.mktemp("parts"), categories=1, train=40)
    return datasets.load(DataConfig(str(root)))["plate"]


@pytest.fixture(scope="session")
def good(parts):
    """Its good training images with the sha256 of their files."""
    return digested(sample for sample in parts if sample.split == "train")


@pytest.fixture
def workspace(tmp_path):
    return str(tmp_path / "workspace")
