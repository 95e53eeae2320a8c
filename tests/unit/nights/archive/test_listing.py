import pytest

from mrkd.config import ArchiveConfig
from mrkd.errors import ConfigError
from mrkd.nights.archive import IMAGES, UNMATCHED, Template, list_images, passed_over
from tests.support.nights import add
from tests.support.tars import put, tar_bytes


def test_a_template_reads_category_and_attributes_out_of_a_key():
    template = Template("{category}/{line}/{date}/{name}")
    key = "0012/line-3/2026-11-23/a.png"
    assert template.parse(key) == ("0012", {"line": "line-3", "date": "2026-11-23"})


def test_only_the_name_holds_slashes():
    template = Template("{category}/{line}/{name}")
    assert template.parse("plate/l1/deep/er/a.png") == ("plate", {"line": "l1"})
    assert template.parse("plate/a.png") == (UNMATCHED, {})


def test_a_field_ends_where_the_text_after_it_begins():
    template = Template("{line}/{category}_{serial}_{name}.png")
    assert template.parse("l1/plate_0_7_a.png") == ("plate", {"line": "l1", "serial": "0"})


def test_text_of_a_template_stands_for_itself():
    assert Template("in (1)/{category}+{name}").parse("in (1)/a+b.png") == ("a", {})
    assert Template("{{raw}}/{category}/{name}").parse("{raw}/a/b.png") == ("a", {})


@pytest.mark.parametrize("category", ["-plate", "pla te", "ü", ".", "x" * 101, UNMATCHED])
def test_a_category_that_is_no_name_is_unmatched(category):
    assert Template("{category}/{line}/{name}").parse(f"{category}/l/a.png") == (UNMATCHED, {})


@pytest.mark.parametrize(
    "template",
    [
        "{category}/{name",
        "{category}/{name}/{name}",
        "{category}/{name}/{}",
        "{category}/{name}/{0}",
        "{category:>8}/{name}",
        "{category!r}/{name}",
        "{category}/{name}/{a.b}",
    ],
)
def test_a_template_that_cannot_be_read_is_refused(template):
    with pytest.raises(ConfigError, match=r"archive\.template"):
        Template(template)


def test_images_are_listed_by_category_then_uri_and_none_is_left_out(tmp_path):
    uris = add(tmp_path, "b/l1/1.png", "a/l2/2.JPG", "stray.png", "a/l1/3.png")
    add(tmp_path, "a/l1/notes.txt")
    config = ArchiveConfig(uri=str(tmp_path), template="{category}/{line}/{name}")
    images = list_images(config)
    assert images.schema.equals(IMAGES)
    assert images["image_uri"].to_pylist() == [uris[3], uris[1], uris[0], uris[2]]
    assert images["category"].to_pylist() == ["a", "a", "b", UNMATCHED]
    assert images["attributes"].to_pylist() == [[("line", f"l{n}")] for n in (1, 2, 1)] + [[]]
    assert images["image_bytes"].to_pylist() == [5] * 4


def test_a_slash_at_the_end_of_the_archive_changes_nothing(tmp_path):
    add(tmp_path, "a/1.png")
    tables = [list_images(ArchiveConfig(uri=f"{tmp_path}{end}")) for end in ("", "/")]
    assert tables[0].equals(tables[1])
    assert tables[0]["category"].to_pylist() == ["a"]


def test_an_archive_that_is_not_there_has_no_images(tmp_path):
    assert list_images(ArchiveConfig(uri=str(tmp_path / "none"))).num_rows == 0


def test_what_is_neither_image_nor_tar_is_counted_by_suffix(tmp_path):
    add(tmp_path, "a/1.png", "a/2.JFIF", "a/3.jpe", "a/4.gif", "a/5.GIF", "a/6.heic", "a/7.jp2")
    add(tmp_path, "a/8.png.part", "a/9", "a/10.tar.gz", "a/11.tgz", "a/12.zip", "a/.DS_Store")
    images = list_images(ArchiveConfig(uri=str(tmp_path)))
    assert images.num_rows == 3
    assert passed_over(images) == {
        ".gif": 2, ".heic": 1, ".jp2": 1, ".part": 1, "no suffix": 1,
        ".tar.gz": 1, ".tgz": 1, ".zip": 1, "hidden": 1,
    }  # fmt: skip


def test_suffixes_without_end_are_counted_together(tmp_path):
    add(tmp_path, "a/1.png", *(f"a/{n}.x{n}" for n in range(200)))
    counts = passed_over(list_images(ArchiveConfig(uri=str(tmp_path))))
    assert sum(counts.values()) == 200
    assert len(counts) <= 31
    assert max(counts, key=counts.__getitem__) == "others"


def test_a_manifest_names_what_it_means_and_passes_nothing_over(tmp_path):
    add(tmp_path, "a/1.png", "a/2.gif")
    (tmp_path / "m.csv").write_text("image_uri\na/1.png\n")
    assert passed_over(list_images(ArchiveConfig(manifest=str(tmp_path / "m.csv")))) == {}


def test_members_of_tars_that_are_passed_over_are_counted_too(tmp_path):
    members = {
        **dict.fromkeys(("x.png", "y.GIF", "z.gif", "a/._x.png", "w.png.part", "none"), b"x"),
        "x.json": b'{"line": "1"}',  # its fields are read
        "y.json": b"[",
    }
    for name in ("1.tar", "2.tar"):
        put(tmp_path, f"a/{name}", tar_bytes(members))
    add(tmp_path, "a/3.gif")
    images = list_images(ArchiveConfig(uri=str(tmp_path)))
    assert images.num_rows == 2
    assert passed_over(images) == {
        ".gif": 5, "hidden": 2, ".part": 2, "no suffix": 2, ".json": 2,
    }  # fmt: skip


def test_suffixes_without_end_in_tars_are_counted_together(tmp_path):
    for tar in range(3):
        members = {f"{n}.{tar}x{n}": b"x" for n in range(50)}
        put(tmp_path, f"a/{tar}.tar", tar_bytes(members))
    counts = passed_over(list_images(ArchiveConfig(uri=str(tmp_path))))
    assert sum(counts.values()) == 150
    assert len(counts) <= 31


def test_what_macos_writes_beside_an_image_is_no_image(tmp_path):
    add(tmp_path, "a/1.png", "a/._1.png", "._2.png", "a/.3.png")
    images = list_images(ArchiveConfig(uri=str(tmp_path)))
    assert [uri.rpartition("/")[2] for uri in images["image_uri"].to_pylist()] == [
        ".3.png",
        "1.png",
    ]
    assert passed_over(images) == {"hidden": 2}


def test_folders_without_end_that_hold_themselves_are_counted_together(tmp_path):
    add(tmp_path, "a/1.png")
    for n in range(40):
        (tmp_path / "a" / f"up{n}").symlink_to(tmp_path)
    counts = passed_over(list_images(ArchiveConfig(uri=str(tmp_path))))
    assert sum(counts.values()) == 40
    assert len(counts) <= 31
