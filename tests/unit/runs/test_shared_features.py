from pathlib import Path

from mrkd.runs import shared_features


def test_a_folder_below_a_runs_folder_is_a_path_of_the_machine_and_goes_with_it():
    whole = Path(shared_features.folder_of("s3://plant/evaluations/one"))
    below = Path(shared_features.folder_of("s3://plant/evaluations/one", "cap"))
    assert whole.is_absolute()
    assert below == whole / "cap"
    assert whole != Path(shared_features.folder_of("s3://plant/evaluations/two"))
