"""The folder of shared teacher features is a path of the machine, never a URI."""

import tempfile
from pathlib import Path

from mrkd.on_ray import shared_features


def test_a_category_has_a_folder_below_that_of_its_run():
    whole = Path(shared_features.folder_of("s3://plant/evaluations/e"))
    below = Path(shared_features.folder_of("s3://plant/evaluations/e", "plate"))
    assert below == whole / "plate"
    assert whole.parent == Path(tempfile.gettempdir())
