import csv
import re
import unicodedata
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from mrkd.config import DataConfig
from mrkd.data import datasets
from mrkd.errors import ConfigError
from tests.support.parts import make_parts


def load(root, layout="mvtec", **more):
    return datasets.load(DataConfig(root=str(root), layout=layout, **more))


def counts(samples):
    return Counter((s.split, s.defect, s.gt_label) for s in samples)


def write_split(path, rows, columns=("path", "tile", "part")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture
def parts(tmp_path):
    return make_parts(
        tmp_path / "parts", categories=3, train=4, test_good=2, test_defect=4, size=32
    )


def test_the_drawn_parts_are_the_same_bytes_each_time(parts, tmp_path):
    again = make_parts(
        tmp_path / "again", categories=3, train=4, test_good=2, test_defect=4, size=32
    )
    files = sorted(p.relative_to(parts) for p in parts.rglob("*.png"))
    assert len(files) == 3 * (4 + 2 + 4 + 4)
    assert all((parts / f).read_bytes() == (again / f).read_bytes() for f in files)


def test_mvtec_folders_become_samples_with_masks_paired_by_name(parts):
    found = load(parts)
    assert list(found) == ["0012", "plate", "ring"]
    assert counts(found["plate"]) == {
        ("train", "good", 0): 4,
        ("test", "good", 0): 2,
        ("test", "scratch", 1): 2,
        ("test", "spot", 1): 2,
    }
    for sample in found["plate"]:
        if sample.gt_label:
            assert Path(sample.gt_mask_uri).stem == Path(sample.image_uri).stem + "_mask"
            assert f"/ground_truth/{sample.defect}/" in sample.gt_mask_uri
        else:
            assert sample.gt_mask_uri is None


def test_samples_are_sorted_and_their_images_can_be_read(parts):
    samples = load(parts)["ring"]
    uris = [s.image_uri for s in samples]
    assert uris == sorted(uris)
    assert datasets.read_image(samples[0]) == datasets.read_image(samples[0].image_uri)
    assert datasets.read_image(samples[0]) == Path(uris[0].removeprefix("file://")).read_bytes()


def test_categories_are_chosen_by_patterns(parts):
    assert list(load(parts, categories=("r*", "0012"))) == ["0012", "ring"]
    with pytest.raises(ConfigError, match=r"'bolt' fits none .* it has 0012, plate, ring"):
        load(parts, categories=("*", "bolt"))


def test_excluded_images_are_left_out_of_training_alone(parts):
    found = load(parts, exclude=("ring/train/good/001.png", "000.png"))
    assert counts(found["ring"])["train", "good", 0] == 2
    assert counts(found["plate"])["train", "good", 0] == 3
    assert counts(found["plate"])["test", "good", 0] == 2


def test_an_image_is_excluded_by_its_uri_or_whole_path_components(parts):
    good = parts / "ring" / "train" / "good"
    (good / "000.png").rename(good / "1.png")
    (good / "002.png").rename(good / "11.png")
    for entry in ("1.png", "good/1.png", str(good / "1.png"), f"file://{good}/1.png"):
        left = [Path(one.image_uri).name for one in load(parts, exclude=(entry,))["ring"]]
        assert "1.png" not in left
        assert "11.png" in left


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("ring/train/good/01.png", "'ring/train/good/01.png', which fits no training image; did "),
        ("00.png", "'00.png', which fits no training image; did you mean '00"),
        ("test/good/000.png", "'test/good/000.png', which fits no training image"),
        ("", "'', which fits no training image"),
    ],
)
def test_an_exclusion_that_fits_no_training_image_is_refused(parts, entry, words):
    with pytest.raises(ConfigError, match=f"^data.exclude names {words}"):
        load(parts, exclude=(entry,))


def test_an_exclusion_may_be_of_a_category_that_is_not_selected(parts):
    load(parts, categories=("plate",), exclude=("ring/train/good/001.png",))
    with pytest.raises(ConfigError, match=r"^data.exclude names 'ring/train/good/9.png'"):
        load(parts, categories=("plate",), exclude=("ring/train/good/9.png",))


@pytest.mark.parametrize(
    ("pattern", "name", "group"),
    [
        ("{run}_{n}", "lot-7_0012", "lot-7"),
        ("{run}_{n}", "lot_7_0012", "lot_7"),
        ("{part}-{station}_*", "4711-left_a", "4711 left"),
        ("{n}_{part}*", "17_cap", "c"),
    ],
)
def test_names_of_files_say_which_images_belong_together(parts, pattern, name, group):
    good = parts / "ring" / "train" / "good"
    (good / "000.png").rename(good / f"{name}.png")
    groups = {Path(one.image_uri).stem: one.group for one in load(parts, group=pattern)["ring"]}
    assert groups[name] == group
    assert [one for one in groups.values() if one is not None] == [group]


def test_images_named_otherwise_are_told_of_and_a_pattern_that_fits_none_is_refused(parts, caplog):
    good = parts / "ring" / "train" / "good"
    (good / "000.png").rename(good / "lot-7_0.png")
    load(parts, group="{lot}_{n}")
    assert "not_in_groups category=ring images=3 of=4 first=" in caplog.text
    with pytest.raises(ConfigError, match="no good image is named so"):
        load(parts, group="{lot}-{n}-{m}")


@pytest.mark.parametrize(
    ("pattern", "error"),
    [
        ("{n}", "must hold a field that names the group"),
        ("part*", "must hold a field that names the group"),
        ("{a}_{a}", "occurs twice"),
        ("{1}_{n}", "is not a field's name"),
    ],
)
def test_a_pattern_that_names_no_group_is_refused(pattern, error):
    with pytest.raises(ConfigError, match=error):
        DataConfig("parts", group=pattern)


def test_a_category_without_images_is_there_with_none(parts):
    (parts / "washer" / "train" / "good").mkdir(parents=True)
    (parts / ".cache").mkdir()
    assert load(parts)["washer"] == []
    assert load(parts, "folder", categories=("washer",)) == {"washer": []}


@pytest.mark.parametrize("layout", ["mvtec", "folder", "elpv", "cifar10"])
def test_a_missing_root_is_a_config_error_that_names_it(tmp_path, layout):
    with pytest.raises(ConfigError, match="nowhere"):
        load(tmp_path / "nowhere", layout)


def test_a_category_whose_name_cannot_be_in_a_path_is_named_and_the_others_go_on(parts):
    (parts / "ring").rename(parts / "ring (new)")
    found = load(parts)
    assert list(found) == ["0012", "plate"]
    assert re.match(r"category 'ring \(new\)' is not a name", found.failed["ring (new)"])
    assert load(parts, categories=("plate",)).failed == {}
    with pytest.raises(ConfigError, match=r"category 'ring \(new\)' is not a name.*rename its"):
        load(parts, categories=("ring*",))


@pytest.mark.parametrize(
    "name",
    [
        "lost+found",
        "__MACOSX",
        ".ipynb_checkpoints",
        "@eaDir",
        "System Volume Information",
        "$RECYCLE.BIN",
        "#recycle",
    ],
)
@pytest.mark.parametrize("layout", ["mvtec", "folder"])
def test_folders_of_systems_are_not_categories(parts, tmp_path, layout, name):
    if layout == "folder":
        (tmp_path / "set").mkdir()
        (parts / "ring" / "train" / "good").rename(tmp_path / "set" / "ring")
        parts = tmp_path / "set"
    (parts / name).mkdir()
    found = load(parts, layout)
    assert name not in found
    assert "ring" in found
    assert found.failed == {}


@pytest.mark.parametrize(
    "name", ["Good", "GOOD", "OK", "ok", "normal", "good ", "good_parts", "i.O.", "no_defect"]
)
@pytest.mark.parametrize("part", ["train", "test", "val", "validation"])
def test_a_folder_whose_name_means_good_is_refused_with_what_to_do(parts, part, name):
    folder = parts / "ring" / part / name
    folder.mkdir(parents=True)
    (parts / "ring" / "test" / "good" / "000.png").rename(folder / "x.png")
    with pytest.raises(ConfigError, match=f"/ring/{part} holds a folder {name!r}, whose name") as e:
        load(parts)
    assert "rename it to 'good'" in str(e.value)


@pytest.mark.parametrize("name", ["not_good", "NOK", "no_good", "n.i.O.", "bad", "goods_missing"])
def test_a_defect_whose_name_only_holds_a_word_for_good_is_a_defect(parts, name):
    (parts / "ring" / "test" / "spot").rename(parts / "ring" / "test" / name)
    assert counts(load(parts, categories=("ring",))["ring"])["test", name, 1] == 2


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Train", "train"),
        ("training", "train"),
        ("Test", "test"),
        ("Val", "val"),
        ("Ground_Truth", "ground_truth"),
        ("ground truth", "ground_truth"),
    ],
)
def test_a_folder_whose_name_only_nearly_is_the_layouts_is_refused(parts, name, meant):
    ring = parts / "ring"
    if meant == "val":
        (ring / name / "good").mkdir(parents=True)
        (ring / "test" / "good" / "000.png").rename(ring / name / "good" / "000.png")
    else:
        (ring / meant).rename(ring / name)
    with pytest.raises(ConfigError, match=f"/ring holds a folder {name!r}: layout .* {meant!r}"):
        load(parts)


def test_an_image_in_a_part_itself_is_refused_with_where_it_belongs(parts):
    good = parts / "ring" / "train" / "good"
    (good / "000.png").rename(good.parent / "000.png")
    with pytest.raises(ConfigError, match=r"train/000.png is in 'train' itself: move .*train/good"):
        load(parts)


def test_images_in_deeper_folders_are_used_with_their_masks_and_their_rows_in_a_split(parts):
    ring = parts / "ring"
    for part, name in (("train", "good"), ("test", "spot"), ("ground_truth", "spot")):
        (ring / part / name / "lot-1").mkdir()
        for path in sorted((ring / part / name).glob("*.png"))[:1]:
            path.rename(path.parent / "lot-1" / path.name)
    found = load(parts)["ring"]
    assert counts(found) == counts(load(parts)["plate"])
    (deep,) = [one for one in found if "/test/spot/lot-1/" in one.image_uri]
    assert "/ground_truth/spot/lot-1/" in deep.gt_mask_uri
    paths = [one.image_uri.partition("/ring/")[2] for one in found]
    rows = [(path.replace("/", "\\"), "1", "test") for path in paths]
    write_split(ring / "split.csv", rows)
    assert {one.split for one in load(parts)["ring"]} == {"test"}


def test_files_that_are_not_used_are_counted_by_ending_in_notes_and_log(parts, caplog):
    good = parts / "ring" / "train" / "good"
    for name in ("a.gif", "b.gif", "c.HEIC", "d.jp2", "e.png.part", "f", "._000.png", ".x.jpg"):
        (good / name).write_bytes(b"x")
    (parts / "ring" / "readme.txt").write_text("beside the images")
    (parts / "ring" / "extra").mkdir()
    (parts / "ring" / "extra" / "000.png").write_bytes((good / "000.png").read_bytes())
    found = load(parts)
    hidden, ending, outside = found.notes["ring"]
    assert "2 files are hidden" in hidden
    assert "6 files are not used, by ending (2 .gif, 1 .heic, 1 .jp2, 1 .part, 1 no" in ending
    assert outside.startswith("1 file is outside the folders of layout mvtec")
    assert not found.notes["plate"]
    assert len(found["ring"]) == len(found["plate"])
    assert "not_used category ring: 6 files" in caplog.text


def test_jpegs_of_rarer_endings_are_images(parts):
    good = parts / "ring" / "train" / "good"
    (good / "000.png").rename(good / "000.JFIF")
    (good / "001.png").rename(good / "001.jpe")
    assert counts(load(parts)["ring"])["train", "good", 0] == 4


def test_a_wrong_layout_says_what_was_expected(parts):
    with pytest.raises(ConfigError, match="looks like one category, give the folder above"):
        load(parts / "ring")
    with pytest.raises(ConfigError, match="layout folder has the good images in the category"):
        load(parts, "folder")
    (parts / "ring" / "train").rename(parts / "ring" / "training")
    (parts / "ring" / "test").rename(parts / "ring" / "testing")
    with pytest.raises(ConfigError, match=r"'ring' .* and no image where layout mvtec has them"):
        load(parts)


def test_a_mask_without_its_image_is_named_and_an_image_without_its_mask_is_used(parts):
    mask = next((parts / "ring" / "ground_truth" / "spot").iterdir())
    mask.rename(mask.with_name("other_mask.png"))
    (note,) = load(parts).notes["ring"]
    assert "1 mask is without an image and not used, such as " in note
    assert "other_mask.png': expected test/spot/other.png" in note
    mask.with_name("other_mask.png").unlink()
    assert [s.gt_mask_uri for s in load(parts)["ring"] if s.defect == "spot"].count(None) == 1


@pytest.mark.parametrize("place", ["in the category", "beside it", "named by the config"])
def test_a_split_file_gives_parts_and_groups(parts, place):
    paths = [p.relative_to(parts / "ring") for p in (parts / "ring").glob("t*/*/*.png")]
    rows = [(str(p), f"tile{n % 3}", "val" if n % 2 else "test") for n, p in enumerate(paths)]
    path = {
        "in the category": parts / "ring" / "split.csv",
        "beside it": parts / "split.csv",
        "named by the config": parts.parent / "mine.csv",
    }[place]
    if place == "named by the config":
        rows = [(f"ring/{p}", group, part) for p, group, part in rows]
    write_split(path, rows)
    split_csv = str(path) if place == "named by the config" else ""
    for sample in load(parts, categories=("ring",), split_csv=split_csv)["ring"]:
        n = next(n for n, p in enumerate(paths) if sample.image_uri.endswith(f"/ring/{p}"))
        assert (sample.group, sample.split) == (f"tile{n % 3}", "val" if n % 2 else "test")


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([], ("path", "part"), r"has the columns \['path', 'part'\]: expected path, group, part"),
        ([], ("path", "group", "part"), "does not name 'test/good/000.png' of 'ring' .and 9 more"),
        ([("a", "1", "tset")], ("path", "group", "part"), "line 2: part 'tset' is none of train"),
    ],
)
def test_a_split_file_that_does_not_fit_is_refused(parts, rows, columns, message):
    write_split(parts / "ring" / "split.csv", rows, columns)
    with pytest.raises(ConfigError, match=message):
        load(parts)


def test_a_second_mask_of_an_image_is_named(parts):
    mask = next((parts / "ring" / "ground_truth" / "spot").iterdir())
    mask.with_name(mask.name.replace("_mask", "")).write_bytes(mask.read_bytes())
    (note,) = load(parts).notes["ring"]
    assert "is a second mask of an image" in note


def test_a_mask_beside_its_image_is_refused_with_where_it_belongs(parts):
    mask = next((parts / "ring" / "ground_truth" / "spot").iterdir())
    mask.rename(parts / "ring" / "test" / "spot" / mask.name)
    with pytest.raises(ConfigError, match=r"is a mask beside its image.* move it to ground_truth/"):
        load(parts)


def test_accents_in_a_split_file_may_be_of_one_letter_or_two(parts):
    ring = parts / "ring"
    forms = partial(unicodedata.normalize, "NFC"), partial(unicodedata.normalize, "NFD")
    for n, form in enumerate(forms):
        name = form("ä") + f"{n}.png"
        (ring / "test" / "good" / f"00{n}.png").rename(ring / "test" / "good" / name)
    for form in forms:
        rows = [(form(path), *more) for path, *more in split_rows(ring)]
        write_split(ring / "split.csv", rows)
        assert {one.split for one in load(parts)["ring"]} == {"test"}


def test_a_folder_instead_of_a_split_file_is_named_as_one(parts):
    (parts / "ring" / "split.csv").mkdir()
    (parts / "ring" / "split.csv" / "x").write_text("x")
    with pytest.raises(ConfigError, match=r"split.csv is a folder or a device: name a file"):
        load(parts)


def split_rows(ring):
    return [(str(p.relative_to(ring)), "1", "test") for p in sorted(ring.glob("t*/*/*.png"))]


@pytest.mark.parametrize("again", ["{}", "ring/{}", "./{}"])
@pytest.mark.parametrize("part", ["val", "test"])
def test_an_image_twice_in_a_split_file_is_refused_with_both_lines(parts, again, part):
    rows = split_rows(parts / "ring")
    write_split(parts / "ring" / "split.csv", [*rows, (again.format(rows[1][0]), "2", part)])
    message = f"names {rows[1][0]!r} twice, in lines 3 and {len(rows) + 2}: keep one"
    with pytest.raises(ConfigError, match=message):
        load(parts)


def test_a_row_of_a_split_file_that_names_no_image_is_refused_with_its_line(parts):
    rows = split_rows(parts / "ring")
    write_split(parts / "ring" / "split.csv", [*rows, ("train/good/9.png", "2", "val")])
    with pytest.raises(ConfigError, match=r"line 12 names 'train/good/9.png', which is not an ima"):
        load(parts)


def test_a_split_file_beside_categories_may_name_images_of_the_others(parts):
    rows = [(f"{n}/{p}", *o) for n in ("ring", "plate") for p, *o in split_rows(parts / n)]
    write_split(parts / "split.csv", rows)
    found = load(parts, categories=("ring", "plate"))
    assert {one.split for some in found.values() for one in some} == {"test"}
    write_split(parts / "split.csv", [*rows, ("plate/train/good/9.png", "2", "val")])
    load(parts, categories=("ring",))
    with pytest.raises(ConfigError, match=r"line 22 names 'plate/train/good/9.png'"):
        load(parts, categories=("plate",))


def test_a_split_file_that_is_not_there_is_named(parts):
    with pytest.raises(ConfigError, match=r"the file '.*mine.csv' does not exist: correct the"):
        load(parts, split_csv=str(parts / "mine.csv"))


def test_defects_are_never_trained_on(parts):
    paths = [p.relative_to(parts / "ring") for p in (parts / "ring").glob("t*/*/*.png")]
    write_split(parts / "ring" / "split.csv", [(p, "0", "train") for p in paths])
    with pytest.raises(ConfigError, match="training takes good images alone"):
        load(parts)


def test_images_in_a_folder_of_their_own_are_good_and_train(parts, tmp_path):
    (parts / "ring" / "train" / "good").rename(tmp_path / "ring")
    found = datasets.load(DataConfig(f"file://{tmp_path}", "folder", ("ring",)))
    assert counts(found["ring"]) == {("train", "good", 0): 4}
    assert found["ring"][0].image_uri == f"file://{tmp_path}/ring/000.png"


def elpv_root(folder, lines):
    folder.mkdir()
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_solar_cells_are_cut_by_blocks_and_uncertain_ones_set_apart(tmp_path):
    lines = [
        f"images/cell{n:04}.png  {(0.0, 1.0, 1 / 3, 2 / 3)[n % 4]}    {('mono', 'poly')[n % 2]}"
        for n in range(1, 2001)
    ]
    found = load(elpv_root(tmp_path / "elpv", lines), "elpv")
    samples = found["mono"] + found["poly"]
    assert {s.defect: (s.gt_label, s.headline) for s in samples} == {
        "good": (0, True),
        "p100": (1, True),
        "p33": (1, False),
        "p67": (1, False),
    }
    by_block: dict[tuple, set] = {}
    for sample in samples:
        number = int(sample.image_uri[-8:-4])
        assert sample.group == f"block{(number - 1) // 50:02}"
        by_block.setdefault((sample.group, sample.gt_label), set()).add(sample.split)
    assert all(len(splits) == 1 for splits in by_block.values())
    assert {split for (_, label), splits in by_block.items() if label for split in splits} == {
        "val",
        "test",
    }
    # A block whose good cells are held out has all its cells in one half.
    for (block, label), splits in by_block.items():
        if not label and splits != {"train"}:
            assert by_block[block, 1] == splits


def test_solar_cells_with_a_broken_label_file_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected path, probability, mono or poly"):
        load(elpv_root(tmp_path / "elpv", ["images/cell0001.png 1.0 amorphous"]), "elpv")


@pytest.mark.parametrize("separator", [" ", ",", ";", "\t", " ; "])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_labels_of_solar_cells_are_read_as_an_editor_saves_them(tmp_path, separator, encoding):
    root = elpv_root(tmp_path / "elpv", [])
    line = separator.join(("images/cell0001.png", "1.0", "mono"))
    (root / "labels.csv").write_text(f"{line}\n", encoding=encoding)
    assert [one.defect for one in load(root, "elpv")["mono"]] == ["p100"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("images/cell0002.png word mono", "line 2 holds"),
        ("images/cell0002.png nan mono", "line 2 holds"),
        ("images/cell0002.png 1.5 mono", "line 2 holds"),
        ("images/cellABCD.png 1.0 mono", "line 2 holds"),
        (f"images/cell{'9' * 5000}.png 1.0 mono", "line 2 holds"),
        ("images/cell0001.png 0.0 poly", "twice, in lines 1 and 2"),
        ("./images/cell0001.png 0.0 mono", "line 2 holds"),
        ("images/../images/cell0001.png 0.0 mono", "line 2 holds"),
    ],
)
def test_a_wrong_line_of_labels_is_refused_with_its_number(tmp_path, line, words):
    root = elpv_root(tmp_path / "elpv", ["images/cell0001.png 1.0 mono", line])
    with pytest.raises(ConfigError, match=words):
        load(root, "elpv")


def test_the_real_solar_cells_are_cut_in_balance():
    package = pytest.importorskip("elpv_dataset", reason="needs pip install elpv-dataset")
    root = Path(package.__file__).parent / "data"
    found = load(root, "elpv")
    assert {name: len(samples) for name, samples in found.items()} == {"mono": 1074, "poly": 1550}
    for samples in found.values():
        good = Counter(s.split for s in samples if s.defect == "good")
        anomalous = Counter(s.split for s in samples if s.defect == "p100")
        assert good["train"] / good.total() == pytest.approx(0.75, abs=0.04)
        assert good["val"] / (good["val"] + good["test"]) == pytest.approx(0.5, abs=0.12)
        assert anomalous["val"] / anomalous.total() == pytest.approx(0.5, abs=0.12)
