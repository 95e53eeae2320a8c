"""Pages of odd nights: hostile names, large figures, errors alone, many categories."""

import re
from dataclasses import replace
from typing import Any

import pytest

from mrkd import storage
from mrkd.errors import StorageError
from mrkd.nights import drift
from mrkd.nights.drift import Earlier, Finding
from mrkd.reports import load_night_data
from mrkd.reports.night.page import night_page
from mrkd.reports.night.rows import ErrorKind
from mrkd.reports.night.texts import MEASURES
from tests.support.closed_nights import failed, scored, write_night
from tests.support.night_pages import RUN, Plant, write_plant
from tests.support.page_text import open_items, section, text_of


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    uri = write_plant(tmp_path_factory.mktemp("plant"), Plant(num_nights=6, num_images=20))
    return load_night_data(uri)


def test_hostile_names_and_messages_are_only_text(data):
    odd = """</script></pre>"'><img src=x onerror="alert(1)">"""
    row = replace(
        data.compared[0], line=odd, tonight=replace(data.compared[0].tonight, line=odd), runs=(odd,)
    )
    shown = data.highest[0]
    scored = {**shown.image.row, "attributes": [("line", odd)], "image_uri": f"file:///{odd}"}
    shown = replace(shown, image=replace(shown.image, row=scored))
    part: dict[str, Any] = {
        "category": "plate",
        "part": odd,
        "verdict": "NOK",
        "reason": odd,
        "image_uri": odd,
    }
    part |= {"missing_views": [odd]}
    golden: dict[str, Any] = {"category": "a", "label": odd, "image_uri": odd, "problem": odd}
    golden |= {"image_score": 1.0, "threshold": 1.0, "low": None, "high": None}
    error = {"image_uri": odd, "error_kind": "decode", "error_message": odd}
    page = night_page(
        replace(
            data,
            compared=(row,),
            lights={(row.category, odd): data.lights["0012", ""]},
            before=Earlier((replace(data.profile, run=odd),), (odd,)),
            highest=(shown,),
            errors=(ErrorKind("decode", 1, {odd: 1}, (error,)),),
            parts={"counts": {odd: (0, 1, 0)}, "missing": 1, "shown": [part]},
            golden={"state": "failed", "forced": True, "images": [golden], "without": [odd]},
            gaps=(odd,),
            config={odd: odd, "archive": {"uri": odd}},
        )
    )
    assert "<img" not in page
    assert page.count("&lt;img src=x") > 15


def test_lines_whose_names_join_alike_have_places_of_their_own(data):
    one = data.compared[2]
    both = [("a", "b-c"), ("a-b", "c")]
    rows = tuple(
        replace(one, category=c, line=name, tonight=replace(one.tonight, category=c, line=name))
        for c, name in both
    )
    lights = dict.fromkeys(both, data.lights["plate", "L1"])
    page = night_page(replace(data, compared=rows, lights=lights))
    places = re.findall(r'id="(line-.*?)"', page)
    assert len(places) == len(set(places)) == 2
    assert all(f'href="#{place}"' in page for place in places)


def test_large_figures_are_written_out(data):
    finding = Finding("nok_rate", "nights", "red", figure=1.0, amber=0.1, red=0.2, now=1.0)
    lights = replace(data.lights["plate", "L1"], nok_rate=(finding,))
    page = night_page(replace(data, lights={**data.lights, ("plate", "L1"): lights}))
    assert "plate, line L1: NOK rate red, 100 points more defective" in open_items(page)
    far = replace(data, highest=(replace(data.highest[0], margin=1234.5),))
    assert "apart +1234 " in text_of(section(night_page(far), "highest"))


def test_what_did_not_move_has_no_direction():
    assert {measure.moved(0.0) for measure in MEASURES.values()} == {""}


def test_a_night_of_errors_alone_has_a_page(tmp_path):
    uri = write_night(str(tmp_path), RUN, [failed(f"plate/{n}.png") for n in range(9)])
    page = night_page(load_night_data(uri))
    assert "9 ERROR could not be scored, 100 % of all" in text_of(page).replace(
        "\N{NO-BREAK SPACE}", " "
    )
    assert "9 decode damaged" in text_of(section(page, "errors"))
    assert 'class="cards"' not in page


def test_a_night_of_three_hundred_categories_shows_pictures_of_twenty(tmp_path):
    rows = [
        scored(f"c{c:03}/{n}.png", 0.6 + c / 1000 if n else 0.2, category=f"c{c:03}")
        for c in range(300)
        for n in range(2)
    ]
    data = load_night_data(write_night(str(tmp_path), RUN, rows))
    assert len(data.compared) == 300
    assert [one.category for one in data.highest] == [f"c{c:03}" for c in range(299, 279, -1)]
    assert len(night_page(data)) < 6e6


def test_a_shard_that_is_gone_is_told(tmp_path):
    uri = write_night(str(tmp_path), RUN, [scored("plate/1.png", 0.2)])
    drift.store(uri)
    (shard,) = storage.list_files(storage.join(uri, "scores"))
    storage.delete(shard.uri)
    with pytest.raises(StorageError, match=r"the rows of .* cannot be read .*shard is gone"):
        load_night_data(uri)
