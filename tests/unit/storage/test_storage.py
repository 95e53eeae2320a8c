"""Local places of mrkd.storage: names, listings, conditions, and what a writer leaves behind."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mrkd import storage
from mrkd.errors import StorageError

ODD_NAMES = ["a b.png", "ü/漢字.png", "100%25.png", "a#1.png", "a?b=c&d.png", "new\nline.png"]


@pytest.fixture
def root(tmp_path):
    return f"file://{tmp_path}"


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_is_taken_as_it_is_written(tmp_path, root, name):
    uri = storage.join(root, name)
    assert storage.write(uri, b"123")
    assert (tmp_path / name).read_bytes() == b"123"
    assert storage.read(str(tmp_path / name)) == b"123"
    assert storage.list_files(root) == [storage.stat(uri)]
    assert uri == f"{root}/{name}"


@pytest.mark.parametrize(
    ("uri", "parts", "joined"),
    [
        ("s3://bucket", ("a", "b/c"), "s3://bucket/a/b/c"),
        ("s3://bucket/a/", (), "s3://bucket/a"),
        ("s3://bucket/a//", ("/b/", "", "c"), "s3://bucket/a/b/c"),
        ("file:///a/b/", ("c",), "file:///a/b/c"),
        ("/a/../b", ("c",), "file:///b/c"),
        ("/", ("a",), "file:///a"),
        ("/", (), "file:///"),
    ],
)
def test_places_are_joined_by_single_slashes(uri, parts, joined):
    assert storage.join(uri, *parts) == joined


def test_a_relative_path_starts_at_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage.write("a/b.txt", b"1")
    assert storage.stat("a/b.txt").uri == f"file://{tmp_path}/a/b.txt"


@pytest.mark.parametrize(
    "uri", ["", "a\0b", "gs://bucket/x", "file://host/x", "http://host/x", "s3:///x", "s3://"]
)
def test_a_place_of_no_known_kind_is_refused(uri):
    with pytest.raises(StorageError, match="s3://bucket/key") as caught:
        storage.read(uri)
    assert caught.value.kind == "missing"


def test_credentials_in_a_uri_are_refused_and_not_repeated():
    with pytest.raises(StorageError, match="AWS environment") as caught:
        storage.list_files("s3://AKIAKEY:topsecret@bucket/x")
    assert "topsecret" not in str(caught.value)


def test_a_signed_url_is_refused_and_its_signature_not_repeated():
    uri = "https://key:topsecret@host/plate/1.png?X-Amz-Signature=topsecret"
    with pytest.raises(StorageError, match=r"https://host/plate/1\.png is of no kind") as caught:
        storage.read(uri)
    assert "topsecret" not in str(caught.value)


def test_a_bucket_is_no_file():
    with pytest.raises(StorageError, match="name a file"):
        storage.write("s3://bucket", b"")


def test_a_listing_is_sorted_deep_and_by_suffix_in_any_case(tmp_path, root):
    names = ["b.PNG", "a/z.jpg", "a b.png", "a/deep/er/x.png", "a.txt", ".hidden.png"]
    for name in names:
        storage.write(f"{root}/{name}", b"")
    (tmp_path / "empty").mkdir()
    found = storage.list_files(str(tmp_path), suffixes=(".png", ".Jpg"))
    assert [f.uri for f in found] == sorted(f"{root}/{n}" for n in names if n != "a.txt")
    assert len(storage.list_files(root)) == len(names)
    assert storage.list_names(root) == ["a", "empty"]
    assert storage.list_names(f"{root}/none") == []
    assert storage.list_files(f"{root}/none") == []


def test_links_are_followed_but_not_in_circles(tmp_path, root):
    storage.write(f"{root}/real/x.png", b"1")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere")
    uris = [f"{root}/{name}" for name in ("link/x.png", "lost.png", "real/x.png")]
    assert [f.uri for f in storage.list_files(root)] == uris
    with pytest.raises(StorageError) as caught:
        storage.read(f"{root}/lost.png")
    assert caught.value.kind == "missing"
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    assert [f.uri for f in storage.list_files(root)] == uris


def test_a_folder_without_files_does_not_exist(tmp_path, root):
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert not storage.exists(f"{root}/a")
    storage.write(f"{root}/a/b/x", b"")
    assert storage.exists(f"{root}/a")
    assert storage.exists(f"{root}/a/b/x")
    assert not storage.exists(f"{root}/a/b/x/y")
    storage.delete(f"{root}/a/b/x")
    storage.delete(f"{root}/a/b/x")
    assert not storage.exists(f"{root}/a")


def test_nothing_unfinished_is_left_or_listed(tmp_path, root):
    storage.write(f"{root}/x", b"1")
    storage.write(f"{root}/x", b"2", if_absent=True)
    storage.write(f"{root}/x", b"3", if_match=storage.stat(f"{root}/x").etag)
    (tmp_path / ".mrkd-0123").write_bytes(b"from a writer that was killed")
    assert [f.uri for f in storage.list_files(root)] == [f"{root}/x"]
    assert storage.read(f"{root}/x") == b"3"


def test_readers_never_see_half_a_file(root):
    whole = [bytes([n]) * 1_000_000 for n in range(2)]
    storage.write(f"{root}/x", whole[0])
    stop = threading.Event()

    def rewrite():
        while not stop.is_set():
            for data in whole:
                storage.write(f"{root}/x", data)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        assert all(storage.read(f"{root}/x") in whole for _ in range(50))
    finally:
        stop.set()
        writer.join()


def test_one_of_many_writers_wins_an_absent_place(root):
    for round_ in range(5):
        uri = f"{root}/race-{round_}"
        with ThreadPoolExecutor(8) as pool:
            writes = [pool.submit(storage.write, uri, b"%d" % n, if_absent=True) for n in range(8)]
        won = [write.result() for write in writes]
        assert sum(won) == 1
        assert storage.read(uri) == b"%d" % won.index(True)


def test_one_of_many_writers_wins_over_the_same_version(root):
    uri = f"{root}/lease.json"
    storage.write(uri, b"0")
    for round_ in range(1, 6):
        etag = storage.fetch(uri).etag
        data = [b"%d" % (10 * round_ + n) for n in range(8)]
        with ThreadPoolExecutor(8) as pool:
            writes = [pool.submit(storage.write, uri, each, if_match=etag) for each in data]
        won = [write.result() for write in writes]
        assert sum(won) == 1
        assert storage.read(uri) == data[won.index(True)]


def test_each_overwrite_has_an_etag_of_its_own(root):
    etags = set()
    for n in range(40):  # many of them within one tick of the file system's clock
        storage.write(f"{root}/x", b"%02d" % n)
        etags.add(storage.stat(f"{root}/x").etag)
    assert len(etags) == 40


def test_a_file_may_be_removed_while_others_look_at_it_and_write_over_it(root):
    uri, is_over = f"{root}/x", threading.Event()

    def remove():
        while not is_over.is_set():
            storage.delete(uri)

    def write(n):
        storage.write(uri, b"%03d" % n)
        if seen := storage.stat(uri):
            storage.write(uri, b"-%03d" % n, if_match=seen.etag)

    with ThreadPoolExecutor(9) as pool:
        removing = pool.submit(remove)
        try:
            list(pool.map(write, range(1000)))
        finally:
            is_over.set()
        removing.result()


def test_a_refused_write_of_what_stands_there_counts_as_done(root):
    assert storage.write(f"{root}/x", b"same", if_absent=True)
    assert storage.write(f"{root}/x", b"same", if_absent=True)
    assert not storage.write(f"{root}/x", b"else", if_absent=True)
    assert not storage.write(f"{root}/x", b"else", if_match="4-1")
    assert not storage.write(f"{root}/absent", b"else", if_match="4-1")
    with pytest.raises(ValueError, match="exclude"):
        storage.write(f"{root}/x", b"", if_absent=True, if_match="4-1")


def test_a_fetch_gives_the_etag_and_heeds_its_conditions(tmp_path, root):
    storage.write(f"{root}/x", b"one")
    status = (tmp_path / "x").stat()
    etag = f"3-{status.st_mtime_ns}"
    assert storage.fetch(f"{root}/x", if_match=etag, max_bytes=3) == (b"one", etag)
    with pytest.raises(StorageError, match="at most 2") as caught:
        storage.fetch(f"{root}/x", max_bytes=2)
    assert caught.value.kind == "too_large"
    storage.write(f"{root}/x", b"two")
    with pytest.raises(StorageError, match="list it again") as caught:
        storage.fetch(f"{root}/x", if_match=etag)
    assert caught.value.kind == "changed"


def test_a_range_is_these_bytes_and_fewer_only_at_the_end(root):
    uri, data = f"{root}/x.tar", bytes(range(256)) * 8
    storage.write(uri, data)
    etag = storage.stat(uri).etag
    for start, length in ((0, 512), (100, 0), (2000, 512), (2048, 1), (9000, 9)):
        found = storage.fetch_range(uri, start, length, if_match=etag)
        assert found == (data[start : start + length], etag)
    with pytest.raises(ValueError, match="negative"):
        storage.fetch_range(uri, -1, 5, if_match=None)
    storage.write(uri, data)
    with pytest.raises(StorageError, match="list it again") as caught:
        storage.fetch_range(uri, 0, 5, if_match=etag)
    assert caught.value.kind == "changed"


def test_a_listing_may_be_taken_in_parts(tmp_path, root):
    for n in range(1005):
        (tmp_path / f"{n:04}.png").touch()
    before = storage.requests()
    parts = [len(part) for part in storage.iter_files(root, suffixes=(".PNG",))]
    assert parts == [1000, 5]
    assert list(storage.iter_files(f"{root}/none")) == []
    assert storage.requests() == before  # which are those of S3


def test_a_file_that_goes_while_its_folder_is_listed_is_left_out(tmp_path, root):
    for n in range(1020):
        (tmp_path / f"{n:04}").touch()
    parts = storage.iter_files(root)
    found = [file.uri for file in next(parts)]
    left = sorted(f"{root}/{n:04}" for n in range(1020) if f"{root}/{n:04}" not in found)
    for uri in left[1:]:
        storage.delete(uri)
    assert [file.uri for part in parts for file in part] == left[:1]


def test_what_is_no_file_is_missing_and_a_pipe_does_not_block(tmp_path, root):
    os.mkfifo(tmp_path / "pipe.png")
    for uri in (f"{root}/none", f"{root}/none/x", root, f"{root}/pipe.png"):
        with pytest.raises(StorageError) as caught:
            storage.read(uri)
        assert caught.value.kind == "missing"
        assert uri in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_forbidden(tmp_path, root):
    (tmp_path / "x").touch(mode=0)
    with pytest.raises(StorageError) as caught:
        storage.read(f"{root}/x")
    assert caught.value.kind == "forbidden"


def test_other_faults_of_the_file_system_are_unreachable(tmp_path, root):
    (tmp_path / "folder" / "x").mkdir(parents=True)
    with pytest.raises(StorageError) as caught:
        storage.write(f"{root}/folder", b"")
    assert caught.value.kind == "unreachable"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_json_survives_and_damage_is_named(root):
    value = {"name": "ü", "list": [1, 2.5, None, True]}
    storage.write_json(f"{root}/x.json", value)
    assert storage.read_json(f"{root}/x.json") == value
    storage.write(f"{root}/x.json", b"{")
    with pytest.raises(StorageError, match=r"x\.json is not JSON"):
        storage.read_json(f"{root}/x.json")
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(f"{root}/x.json", float("nan"))


def test_pyarrow_opens_a_local_place(tmp_path, root):
    storage.write(f"{root}/a b%20.txt", b"1")
    filesystem, path = storage.open_uri(f"{root}/a b%20.txt")
    assert path == str(Path(tmp_path) / "a b%20.txt")
    assert filesystem.open_input_file(path).read() == b"1"
