"""The demo's parts that take no training; `.ci/run` runs the whole of it."""

import subprocess
import sys

from mrkd.cli import demo
from mrkd.config import ArchiveConfig, DataConfig
from mrkd.data import images
from mrkd.errors import ImageDecodeError
from mrkd.nights.archive import list_images


def test_without_its_photographs_the_demo_says_how_to_get_them_and_starts_nothing(tmp_path):
    code = (
        "import sys\n"
        "sys.modules['elpv_dataset'] = None  # found by nobody, as if it were not installed\n"
        "from mrkd.cli import main\n"
        f"sys.exit(main(['demo', '--out', {str(tmp_path / 'demo')!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'mrkd[demo]'" in done.stderr
    assert not (tmp_path / "demo").exists()


def test_the_archive_holds_unseen_cells_and_three_files_that_are_no_images(tmp_path):
    demo._write_archive(str(tmp_path), DataConfig(demo._photographs(), "elpv"))
    listed = list_images(ArchiveConfig(str(tmp_path)))
    assert listed["category"].unique().to_pylist() == ["mono", "poly"]
    assert 0.01 * listed.num_rows > 3, "fewer errors than the default allows"
    kinds = {}
    for path in tmp_path.glob("poly/*.png"):
        try:
            images.decode(path.read_bytes())
        except ImageDecodeError as error:
            kinds[path.name] = error.kind
    assert kinds == {"broken.png": "truncated", "empty.png": "empty", "notes.png": "decode"}
