import json
import re

import plotly.graph_objects as go
import pytest

from mrkd import storage
from mrkd.errors import ArtefactError
from mrkd.reports import write_page
from mrkd.reports.search.charts import response
from mrkd.reports.search.load import load_search_data
from mrkd.reports.search.page import search_page
from mrkd.training.search import Search
from tests.support.searches import small_search, write_search


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    uri = write_search(tmp_path_factory.mktemp("search"))
    return uri, load_search_data(uri)


@pytest.fixture(scope="module")
def html(written):
    return search_page(written[1])


def words(html):
    return " ".join(re.sub("<[^>]*>", " ", html).split())


def test_what_is_loaded_is_what_the_search_left(written):
    _, data = written
    assert [group.record["categories"] for group in data.groups] == [["plate"], ["ring"]]
    (plate, _) = data.groups
    assert len(plate.trials) == 16
    assert len(plate.configs) == 13
    assert [one["is_default"] for one in plate.board].count(True) == 1
    assert all(len(one["objectives"]) == 3 for one in plate.board)
    means = [sum(one["objectives"]) / 3 for one in plate.board]
    assert means == sorted(means, reverse=True)
    (test,) = plate.tests
    winner = test["winner"]["image_auroc"]["value"]
    assert test["optimism"] == pytest.approx(means[0] - winner)


def test_the_page_says_who_won_and_how_sure_that_is(html):
    said = words(html)
    assert "16 configs tried: 13 came to their end, 2 were ended early, 1 failed" in said
    assert "The winner is better than the default on the test" in said
    assert "Of the trials that came to their end, at one seed each" in said
    assert "can show no difference between the winner and the default" in said
    assert "the training diverged; lower train.learning_rate" in said


def test_the_page_says_what_each_key_does_and_what_was_not_searched(html):
    said = words(html)
    assert re.search(r"train\.mask_rate: .* costs 0\.\d{3}", said)
    assert "not searched: efficientnet_lite0" in said
    assert "best.toml" in said


def test_every_chart_is_one_that_plotly_draws(html):
    charts = re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    # For each of two groups: parallel, three responses, importance, two costs, learning.
    assert len(charts) == 16
    for chart in charts:
        go.Figure(json.loads(chart))


def test_an_axis_is_on_a_log_scale_where_its_key_was_drawn_on_one(written):
    _, data = written
    group = data.groups[0]
    kinds = {}
    for effect in group.effects:
        column = [one.values[effect.key] for one in group.trials]
        spec = response(effect, column, [0.5] * len(column), metric="image AUROC")
        kinds[effect.key] = spec["layout"]["xaxis"].get("type")
    assert kinds == {
        "train.mask_rate": None,
        "train.learning_rate": "log",
        "model.simam": None,
    }


def test_a_search_that_is_not_done_has_no_page_yet(tmp_path):
    search = Search(small_search(tmp_path, tmp_path))
    search.begin()
    with pytest.raises(ArtefactError, match="is not done: start the search again"):
        load_search_data(search.uri)


def test_the_page_is_built_again_from_what_is_stored(written):
    page_uri = write_page(written[0])
    assert storage.read(page_uri) == search_page(load_search_data(written[0])).encode()


def test_a_search_goes_on_from_when_it_began(tmp_path):
    config = small_search(tmp_path, tmp_path)
    search = Search(config)
    search.begin()
    uri = storage.join(search.uri, "search.json")
    storage.write_json(uri, storage.read_json(uri) | {"started_at": "2026-11-01T00:00:00+00:00"})
    Search(config).begin()
    assert storage.read_json(uri)["started_at"] == "2026-11-01T00:00:00+00:00"


def test_two_categories_without_a_winner_still_have_a_page(tmp_path):
    uri = write_search(tmp_path, num_trials=2)
    data = load_search_data(uri)
    assert data.groups[0].configs == {}
    assert "came to their end" in search_page(data)
