"""Local folders with one bad file, link or folder: the rest is listed, and that one is named."""

import errno
import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from mrkd import storage
from mrkd.config import ArchiveConfig
from mrkd.errors import StorageError
from mrkd.nights.archive.listing import list_entries
from tests.support.unprivileged import unprivileged


@pytest.fixture
def root(tmp_path):
    """URI of a folder with two good files."""
    uri = f"file://{tmp_path}"
    storage.write(f"{uri}/a/1.png", b"1")
    storage.write(f"{uri}/z.png", b"2")
    return uri


@pytest.fixture
def open_root():
    """A folder with two good files, on a path that is open to any user."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        for path in ("a/1.png", "shut/2.png", "z.png"):
            storage.write(f"{name}/{path}", b"1")
        yield Path(name)


def names(root):
    return [file.uri.removeprefix(f"{root}/") for file in storage.list_files(root)]


def _raw(folder: Path, name: bytes) -> Path:
    return Path(os.fsdecode(bytes(folder) + b"/" + name))


def test_a_file_whose_name_is_not_utf_8_is_listed_and_its_reading_says_why(tmp_path, root):
    _raw(tmp_path, b"Pr\xfcf.png").write_bytes(b"3")
    assert names(root) == ["Pr\\xfcf.png", "a/1.png", "z.png"]
    uri = f"{root}/Pr\\xfcf.png"
    for read in (storage.read, lambda uri: storage.fetch_range(uri, 0, 1, if_match=None)):
        with pytest.raises(StorageError, match="not UTF-8, so no row can name it: rename") as got:
            read(uri)
        assert got.value.kind == "unsupported"
        assert uri in str(got.value)


def test_a_text_file_whose_name_is_not_utf_8_hides_no_image(tmp_path, root):
    _raw(tmp_path, b"\xff.txt").touch()
    assert {entry.key for entry in list_entries(ArchiveConfig(root), Counter())} == {
        "a/1.png",
        "z.png",
    }


def test_a_folder_whose_name_is_not_utf_8_is_looked_into(tmp_path, root):
    _raw(tmp_path, b"\xe9t\xe9").mkdir()
    (_raw(tmp_path, b"\xe9t\xe9") / "1.png").touch()
    assert "\\xe9t\\xe9/1.png" in names(root)
    with pytest.raises(StorageError, match="rename"):
        storage.read(f"{root}/\\xe9t\\xe9/1.png")


def test_a_folder_whose_name_is_not_utf_8_is_not_a_category(tmp_path, root, caplog):
    _raw(tmp_path, b"\xe9t\xe9").mkdir()
    assert storage.list_names(root) == ["a"]
    assert f"{root}/\\xe9t\\xe9: its name is not UTF-8" in caplog.text


def test_a_root_whose_name_is_not_utf_8_is_refused(tmp_path):
    folder = _raw(tmp_path, b"\xff")
    folder.mkdir()
    with pytest.raises(StorageError, match=r"udcff.*is not UTF-8.*rename"):
        storage.list_files(str(folder))


def test_a_name_with_a_backslash_is_itself(tmp_path, root):
    storage.write(f"{root}/\\xff.png", b"4")
    assert storage.read(f"{root}/\\xff.png") == b"4"
    with pytest.raises(StorageError, match="is not there"):
        storage.read(f"{root}/\\xfe.png")


def test_a_folder_without_permission_is_passed_over_by_name(open_root, caplog):
    (open_root / "shut").chmod(0)
    with unprivileged():
        assert names(f"file://{open_root}") == ["a/1.png", "z.png"]
        assert storage.list_names(str(open_root)) == ["a", "shut"]
    assert f"folder_passed_over reason=file://{open_root}/shut: no permission" in caplog.text


def test_a_folder_without_permission_is_counted_with_its_reason(open_root):
    (open_root / "shut").chmod(0)
    counts = Counter()
    with unprivileged():
        entries = list(list_entries(ArchiveConfig(str(open_root)), counts))
    assert {entry.key for entry in entries} == {"a/1.png", "z.png"}
    [(reason, number)] = counts.items()
    assert reason.startswith(f"{storage.FOLDER}file://{open_root}/shut: no permission")
    assert number == 1


def test_a_root_without_permission_is_an_error(open_root):
    (open_root / "shut").chmod(0)
    with unprivileged(), pytest.raises(StorageError, match="shut: no permission") as caught:
        storage.list_files(str(open_root / "shut"))
    assert caught.value.kind == "forbidden"


def test_files_in_a_folder_that_can_only_be_listed_are_forbidden_one_by_one(open_root):
    (open_root / "shut").chmod(0o444)
    uri = f"file://{open_root}/shut/2.png"
    with unprivileged():
        assert "shut/2.png" in names(f"file://{open_root}")
        with pytest.raises(StorageError) as caught:
            storage.read(uri)
    assert caught.value.kind == "forbidden"
    assert uri in str(caught.value)


def test_a_link_into_a_folder_without_permission_is_listed_and_forbidden(open_root):
    (open_root / "link.png").symlink_to(open_root / "shut" / "2.png")
    (open_root / "shut").chmod(0)
    with unprivileged():
        assert names(f"file://{open_root}") == ["a/1.png", "link.png", "z.png"]
        assert storage.list_names(str(open_root)) == ["a", "shut"]
        with pytest.raises(StorageError) as caught:
            storage.read(f"{open_root}/link.png")
    assert caught.value.kind == "forbidden"


def test_a_link_to_a_folder_that_holds_it_is_passed_over_by_name(tmp_path, root, caplog):
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert names(root) == ["a/1.png", "z.png"]
    assert f"{root}/a/up: it links to a folder that holds it" in caplog.text


def test_links_of_two_folders_to_each_other_end(tmp_path, root):
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "a").symlink_to(tmp_path / "a")
    assert names(root) == ["a/1.png", "b/a/1.png", "z.png"]


def test_a_link_to_itself_is_listed_and_its_reading_says_why(tmp_path, root):
    (tmp_path / "self.png").symlink_to("self.png")
    assert names(root) == ["a/1.png", "self.png", "z.png"]
    assert storage.list_names(root) == ["a"]
    with pytest.raises(StorageError, match=r"self\.png: Too many levels of symbolic links"):
        storage.read(f"{root}/self.png")


def test_a_tree_too_deep_for_the_file_system_hides_nothing_beside_it(tmp_path, root, caplog):
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):  # each by its parent, as the whole path is too long for one call
        os.mkdir("d" * 250, dir_fd=folder)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    assert names(root) == ["a/1.png", "z.png"]
    assert os.strerror(errno.ENAMETOOLONG) in caplog.text
