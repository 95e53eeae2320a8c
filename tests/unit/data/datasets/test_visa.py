from pathlib import Path

import cv2
import numpy as np
import pytest

from mrkd import storage
from mrkd.config import DataConfig
from mrkd.data import datasets, images
from mrkd.data.images import Geometry
from mrkd.errors import CategoryError, ConfigError

HEADER = "object,split,label,image,mask"
SIDE = 8


def load(root, **more):
    return datasets.load(DataConfig(root=str(root), layout="visa", **more))


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def write_category(root, name):
    """Three good images to train, one to test and two anomalies, and their rows."""
    rng = np.random.default_rng(0)
    rows = []
    for part, stem in [("train", "0003"), ("train", "0001"), ("test", "0000"), ("train", "0002")]:
        path = f"{name}/Data/Images/Normal/{stem}.JPG"
        rows.append(f"{name},{part},normal,{path},")
        write(root / path, rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    for stem in ("001", "000"):
        path, gt_mask = f"{name}/Data/Images/Anomaly/{stem}.JPG", np.zeros((SIDE, SIDE), np.uint8)
        gt_mask[1, 1:4], gt_mask[5, 5] = 1, 7  # two kinds of defect
        rows.append(f"{name},test,anomaly,{path},{name}/Data/Masks/Anomaly/{stem}.png")
        write(root / path, rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
        write(root / name / "Data" / "Masks" / "Anomaly" / f"{stem}.png", gt_mask)
    return rows


def write_split(root, rows):
    path = root / "split_csv" / "1cls.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([*rows, ""]))


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "LICENSE-DATASET").write_text("CC BY 4.0")
    rows = [HEADER, *write_category(tmp_path, "candle"), *write_category(tmp_path, "pipe_fryum")]
    write_split(tmp_path, rows)
    return rows


def test_the_split_file_says_parts_and_labels(rows, tmp_path):
    found = load(tmp_path)
    assert list(found) == ["candle", "pipe_fryum"]
    base = storage.join(str(tmp_path), "candle", "Data")
    listed = [
        (s.image_uri.removeprefix(f"{base}/Images/"), s.split, s.gt_label, s.defect)
        for s in found["candle"]
    ]
    assert listed == [
        ("Anomaly/000.JPG", "test", 1, "anomaly"),
        ("Anomaly/001.JPG", "test", 1, "anomaly"),
        ("Normal/0000.JPG", "test", 0, "good"),
        ("Normal/0001.JPG", "train", 0, "good"),
        ("Normal/0002.JPG", "train", 0, "good"),
        ("Normal/0003.JPG", "train", 0, "good"),
    ]
    etags = {file.uri: file.etag for file in storage.list_files(base)}
    assert all(s.etag and s.etag == etags[s.image_uri] for s in found["candle"])


def test_categories_are_chosen_and_the_others_need_not_be_there(rows, tmp_path):
    (tmp_path / "candle" / "Data" / "Images").rename(tmp_path / "elsewhere")
    assert list(load(tmp_path, categories=("pipe*",))) == ["pipe_fryum"]
    with pytest.raises(ConfigError, match=r"0003.JPG' of 'candle', which is not there: unpack"):
        load(tmp_path)
    with pytest.raises(ConfigError, match=r"'bolt' fits none .* it has candle, pipe_fryum"):
        load(tmp_path, categories=("bolt",))


def test_a_mask_is_defective_wherever_it_is_above_0(rows, tmp_path):
    for sample in load(tmp_path)["candle"]:
        if sample.gt_label:
            geometry = Geometry((SIDE, SIDE), (SIDE, SIDE), "stretch")
            gt_mask = datasets.read_gt_mask(sample.gt_mask_uri, geometry)
            assert np.argwhere(gt_mask).tolist() == [[1, 1], [1, 2], [1, 3], [5, 5]]
            # As a page draws it, from the URI alone.
            drawn = images.to_mask(images.decode(datasets.read_image(sample.gt_mask_uri)))
            assert (drawn == gt_mask).all()
        else:
            assert sample.gt_mask_uri is None


def test_a_damaged_mask_is_named(rows, tmp_path):
    sample = load(tmp_path)["candle"][0]
    Path(sample.gt_mask_uri.removeprefix("file://").partition("#")[0]).write_text("no image")
    with pytest.raises(CategoryError, match=r"000.png#above-0' cannot be read"):
        datasets.read_gt_mask(sample.gt_mask_uri, Geometry((8, 8), (8, 8), "stretch"))


def test_a_root_without_the_split_file_is_refused(tmp_path):
    write_category(tmp_path, "candle")
    with pytest.raises(ConfigError, match=r"holds no split_csv/1cls.csv: layout visa is the folde"):
        load(tmp_path)


def test_a_mask_that_is_not_there_is_named(rows, tmp_path):
    (tmp_path / "candle" / "Data" / "Masks" / "Anomaly" / "001.png").unlink()
    with pytest.raises(ConfigError, match=r"Masks/Anomaly/001.png' of 'candle', which is not ther"):
        load(tmp_path)


@pytest.mark.parametrize(
    "row",
    [
        "candle,val,normal,candle/Data/Images/Normal/0001.JPG,",
        "candle,train,anomaly,candle/Data/Images/Anomaly/000.JPG,",
        "candle,test,broken,candle/Data/Images/Anomaly/000.JPG,",
        "candle,test,normal,candle/Data/Images/Normal/0001.JPG,mask.png",
        "candle,test,normal,,",
        "candle,test",
    ],
)
def test_a_row_of_another_form_is_refused(rows, tmp_path, row):
    write_split(tmp_path, [HEADER, row])
    with pytest.raises(ConfigError, match=r"1cls.csv' line 2 holds .*: expected <category>,train"):
        load(tmp_path)


def test_an_image_twice_is_refused_with_both_lines(rows, tmp_path):
    write_split(tmp_path, [*rows, rows[2]])
    with pytest.raises(ConfigError, match=r"twice, in lines 3 and 14: keep one"):
        load(tmp_path)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_split_file_is_read_as_a_spreadsheet_saves_it(rows, tmp_path, separator, encoding):
    text = "\n".join(rows).replace("object,split", "object, Split ").replace(",", separator)
    (tmp_path / "split_csv" / "1cls.csv").write_text(text, encoding=encoding)
    assert {name: len(some) for name, some in load(tmp_path).items()} == {
        "candle": 6,
        "pipe_fryum": 6,
    }


def test_a_split_file_with_other_columns_is_refused(rows, tmp_path):
    write_split(tmp_path, ["path,group,part", "candle/a.JPG,1,train"])
    with pytest.raises(ConfigError, match=r"has the columns \['path', 'group', 'part'\]: expected"):
        load(tmp_path)
