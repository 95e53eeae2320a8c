"""Models, teachers and promotions in a workspace on S3."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from mrkd import storage
from mrkd.data import datasets
from mrkd.errors import ArtefactError
from mrkd.model import artefact
from mrkd.model.artefact import save_load
from mrkd.model.registry import promotions
from mrkd.training.category import train_category
from tests.support.models import small_config
from tests.support.parts import make_parts


@pytest.fixture
def config(bucket, tmp_path):
    make_parts(tmp_path, categories=1, train=32)
    return small_config(str(tmp_path), storage.join(bucket, "workspace"))


def train(config):
    return train_category(config, "plate", datasets.load(config.data)["plate"])


def test_a_model_is_trained_found_up_to_date_and_loaded(config):
    first, second = train(config), train(config)
    assert (first.status, second.status) == ("trained", "up_to_date")
    champion = promotions.champion(config.workspace, "plate")
    assert champion.version == first.version
    assert save_load.load(config.workspace, "plate", champion.version).card.version == first.version
    assert promotions.versions(config.workspace, "plate") == [first.version]


def test_a_changed_byte_is_found(config):
    version = train(config).version
    uri = storage.join(artefact.folder_of(config.workspace, "plate", version), "model.safetensors")
    data = bytearray(storage.read(uri))
    data[-1] ^= 1
    storage.write(uri, bytes(data))
    with pytest.raises(ArtefactError, match=r"model\.safetensors is damaged"):
        save_load.load(config.workspace, "plate", version)


def test_of_two_promotions_at_once_each_number_has_one_winner(config):
    version = train(config).version

    def attempt(name):
        try:
            return promotions.promote(config.workspace, "plate", version, by=name, why="test")
        except ArtefactError:
            return None

    with ThreadPoolExecutor(4) as threads:
        won = [p for p in threads.map(attempt, "abcd") if p]
    stored = promotions.promotions(config.workspace, "plate")[1:]
    assert stored
    assert [p for p in stored if p in won] == stored
    assert all(p in stored for p in won)
