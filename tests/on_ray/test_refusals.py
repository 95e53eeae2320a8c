"""Fleets that a cluster can never hold."""

import pytest

from mrkd.errors import ConfigError
from mrkd.runs import train
from tests.support.models import small_config
from tests.support.parts import make_parts
from tests.support.rays import RAY


def test_a_group_that_no_cluster_holds_is_refused_before_anything_is_written(tmp_path):
    root = make_parts(tmp_path / "parts", 1)
    values = {"fleet.workers_per_category": 5, "fleet.cpus_per_worker": 1.0}
    config = small_config(str(root), str(tmp_path / "workspace"), **values)
    with pytest.raises(ConfigError, match="have room for 2"):
        train.run(config, RAY)
    assert not (tmp_path / "workspace").exists()
