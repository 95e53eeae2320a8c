import cv2
import numpy as np
import pyarrow as pa
import pytest

from mrkd import storage
from mrkd.nights.part_verdicts import PARTS
from mrkd.reports import load_night_data
from mrkd.reports.night.page import night_page
from mrkd.storage import schema
from tests.support.night_pages import RUN, Plant, write_plant
from tests.support.page_text import open_items, section, text_of


def test_a_night_without_a_record_says_so(tmp_path):
    uri = write_plant(tmp_path, Plant(num_nights=0, num_images=8))
    storage.delete(storage.join(uri, "night.json"))
    page = night_page(load_night_data(uri))
    assert "The night left no record of its speed" in section(page, "running")
    assert "0 earlier nights: 5 are needed to say what is usual." in text_of(page)


@pytest.mark.parametrize(
    ("name", "content"),
    [("night.json", b'{"schema": 9}'), ("golden.json", b"{"), ("parts.parquet", b"PAR1")],
)
def test_a_record_that_is_damaged_leaves_a_line(tmp_path, name, content):
    uri = write_plant(tmp_path, Plant(num_nights=0, num_images=8))
    storage.write(storage.join(uri, name), content)
    data = load_night_data(uri)
    assert len(data.gaps) == 1
    assert name in data.gaps[0]
    assert f"Not shown: {data.gaps[0]}" in text_of(night_page(data))


def test_parts_and_reference_parts_are_shown_where_there_are_any(tmp_path):
    uri = write_plant(tmp_path, Plant(num_nights=0, num_images=8))
    assert 'id="parts"' not in night_page(load_night_data(uri))
    parts = [
        {
            "category": "plate",
            "part": f"p{n}",
            "verdict": verdict,
            "num_views": 2,
            "reason": "" if verdict == "OK" else f"because {n}",
            "image_uri": f"file:///{n}.png",
            "missing_views": ["top"] if verdict == "ERROR" else [],
        }
        for n, verdict in enumerate(["OK", "OK", "ERROR", "NOK"])
    ]
    table = pa.Table.from_pylist(parts, schema=PARTS)
    storage.write(storage.join(uri, "parts.parquet"), schema.to_parquet(table))
    image = {
        "category": "plate",
        "label": "good",
        "model_version": "v1",
        "calibration": 1,
        "threshold": 1.0,
        "image_score": 1.2,
        "low": 0.3,
        "high": 0.6,
    }
    golden = {
        "schema": 1,
        "run": RUN,
        "at": "",
        "uri": "g",
        "tolerance": 3,
        "state": "failed",
        "forced": True,
        "without": ["ring"],
        "unused": [],
        "images": [
            image | {"image_uri": "g/1.png", "problem": "scores 1.2, above"},
            image | {"image_uri": "g/2.png", "problem": "", "image_score": None},
        ],
    }
    storage.write_json(storage.join(uri, "golden.json"), golden)
    page = night_page(load_night_data(uri))
    shown = text_of(section(page, "parts"))
    assert "1 part lacks a view" in shown
    assert "plate 2 1 1" in shown
    assert shown.index("p3 NOK because 3") < shown.index("p2 ERROR because 2")
    assert "file:///2.png top" in shown
    golden_shown = text_of(section(page, "golden"))
    assert "1 of 2 reference parts do not score as they should , and the night was forced" in (
        golden_shown
    )
    assert "plate good 1.2 1 0.3 to 0.6 scores 1.2, above g/1.png" in golden_shown
    assert (
        open_items(page)[0] == "1 reference part does not score as it should: the night was forced"
    )
    assert "1 part lacks a view" in open_items(page)


def test_an_image_that_was_overwritten_since_leaves_its_card_without_a_picture(tmp_path):
    uri = write_plant(tmp_path, Plant(num_nights=0, num_images=8))
    changed = tmp_path / "archive" / "plate" / "L1" / "good-0001.png"
    changed.write_bytes((tmp_path / "archive" / "ring" / "L1" / "good-0001.png").read_bytes())
    data = load_night_data(uri)
    shown = {one.image.uri: one.image for one in (*data.borderline, *data.audit)}
    assert shown[changed.as_uri()].pixels is None
    assert shown[changed.as_uri()].anomaly_map is not None
    assert [uri for uri, one in shown.items() if one.pixels is None] == [changed.as_uri()]


def test_pictures_of_a_tar_are_its_members(tmp_path):
    uri = write_plant(tmp_path, Plant(num_nights=0, num_images=8, tars=(("plate", "L1"),)))
    data = load_night_data(uri)
    shown = {one.image.uri: one.image for one in (*data.borderline, *data.audit)}
    members = {uri: one for uri, one in shown.items() if ".tar#" in uri}
    assert len(members) >= 4
    for member, one in members.items():
        name = member.rpartition("#")[2]
        same = cv2.imread(str(tmp_path / "archive" / "plate" / "L2" / name))
        assert np.array_equal(one.pixels, same[..., ::-1])
