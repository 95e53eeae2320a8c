"""The page of one image: what each night made of it."""

import re

from mrkd import storage
from mrkd.model.registry import promotions
from mrkd.nights.image_history import history
from mrkd.reports import history_page
from tests.support.closed_nights import failed, write_night
from tests.support.comparisons import write_comparison


def written(tmp_path):
    """Workspace and image of two nights that scored it and a third that could not read it."""
    found = write_comparison(tmp_path)
    uri = found.rows["image_uri"][0].as_py()
    write_night(found.workspace, "night-3", [failed(uri, "unreachable", image_etag=None)])
    return found.workspace, uri


def pictures(html):
    return re.findall(r'<image (?:class="heat" )?href="data:image/(\w+);', html)


def test_the_page_shows_each_night_s_verdict_and_map_over_the_picture(tmp_path):
    workspace, uri = written(tmp_path)
    html = history_page(workspace, uri, history(workspace, uri))
    assert "3 rows in 3 nights" in html
    assert re.findall(r"<tr><th>(night-\d)/1</th>", html) == ["night-3", "night-2", "night-1"]
    assert sorted(pictures(html)) == ["jpeg", "jpeg", "png", "png"]
    assert html.count('class="badge ERROR"') == html.count('class="badge NOK"') == 1
    assert "it is damaged: send it again" in html
    assert html.count("RANDOM WEIGHTS") == 1


def test_the_word_of_whoever_promoted_the_model_is_shown_as_text(tmp_path):
    workspace, uri = written(tmp_path)
    promotions.promote(workspace, "plate", "v1", by="ada", why="<b>caps</b> were missed")
    place = storage.join(workspace, "nights", "night-2", "manifests", "manifest-1.json")
    storage.write_json(place, storage.read_json(place) | {"closed_at": "2099-01-01T00:00:00+00:00"})
    html = history_page(workspace, uri, history(workspace, uri))
    assert "&lt;b&gt;caps&lt;/b&gt; were missed" in html
    assert re.search(r"ada, 20\d\d-\d\d-\d\dT\d\d:\d\dZ", html)


def test_an_image_that_was_overwritten_and_a_model_that_is_gone_leave_their_place(tmp_path):
    workspace, uri = written(tmp_path)
    storage.write(uri, b"another picture")
    storage.delete(f"{workspace}/models/plate/v1/model.json")
    html = history_page(workspace, uri, history(workspace, uri))
    assert pictures(html) == []
    assert html.count("The image can no longer be read") == 3
    assert html.count('class="note">Not shown:') == 1
