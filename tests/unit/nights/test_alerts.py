"""What of a night asks for somebody, and that a webhook hears of it once."""

import pytest

from mrkd import storage
from mrkd.config import AlertsConfig
from mrkd.errors import ArtefactError, ConfigError
from mrkd.nights import alerts
from mrkd.nights.alerts import Alert
from mrkd.reports import load_night_data
from tests.support.night_pages import Plant, write_plant
from tests.support.webhooks import webhook

FOUND = [Alert("nok_rate", "plate", "L1", "plate, line L1: 12.0% are NOK", 0.12, 0.1)]
HOOK = AlertsConfig(webhook="MRKD_TEST_HOOK")


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A night with a line of many NOK, a dark one, a silent one, and a category without model."""
    plant = Plant(
        nok_rate={("ring", "L1"): 0.5},
        looks={("plate", "L1"): {"brightness": 0.6}},
        silent=(("plate", "L2"),),
    )
    return load_night_data(write_plant(tmp_path_factory.mktemp("plant"), plant))


def kinds(data, config):
    return {
        (one.kind, one.category, one.line)
        for one in alerts.find(data.compared, data.lights, config)
    }


def test_what_lies_beyond_a_limit_is_found_by_category_and_line(odd):
    config = AlertsConfig(error_share=0.1, nok_rate=0.2)
    found = kinds(odd, config)
    assert found >= {
        ("nok_rate", "ring", "L1"),
        ("silent_line", "plate", "L2"),
        ("drift_pictures", "plate", "L1"),
        ("error_share", "new", "L1"),
    }
    assert {place[1:] for place in found if "drift" not in place[0]} == {
        ("ring", "L1"),
        ("plate", "L2"),
        ("new", "L1"),
    }


def test_a_limit_that_is_not_set_or_not_passed_finds_nothing(odd):
    config = AlertsConfig(error_share=1.0, nok_rate=0.0, silent_lines=False)
    assert all(kind.startswith("drift_") for kind, *_ in kinds(odd, config))
    assert {place for place in kinds(odd, AlertsConfig()) if place[0] == "nok_rate"} == set()
    red = kinds(odd, config)
    assert red <= kinds(odd, AlertsConfig(error_share=1.0, silent_lines=False, drift="amber"))


def test_an_alert_says_what_where_and_how_much(odd):
    texts = {
        one.kind: one.text
        for one in alerts.find(odd.compared, odd.lights, AlertsConfig(nok_rate=0.2))
    }
    assert texts["silent_line"] == (
        "plate, line L2: no images; in 30 of 30 nights before there were some"
    )
    (rate,) = (
        one
        for one in alerts.find(odd.compared, odd.lights, AlertsConfig(nok_rate=0.2))
        if one.kind == "nok_rate"
    )
    assert rate.value == pytest.approx(0.5, abs=0.02)
    assert rate.limit == 0.2
    assert rate.text.startswith("ring, line L1: ")


def test_without_a_webhook_they_are_stored(tmp_path):
    record, failure = alerts.tell(str(tmp_path), "night-1", FOUND, AlertsConfig())
    assert failure == ""
    stored = storage.read_json(f"{tmp_path}/alerts.json")
    assert (stored["run"], stored["alerts"][0]["text"]) == ("night-1", FOUND[0].text)
    assert alerts.read(str(tmp_path)) == record
    assert record[0].sent_at is None


def test_a_night_without_any_leaves_no_file(tmp_path):
    alerts.tell(str(tmp_path), "night-1", [], AlertsConfig())
    assert storage.list_files(str(tmp_path)) == []


def test_a_server_that_fails_twice_is_asked_a_third_time(tmp_path, monkeypatch):
    monkeypatch.setattr(alerts, "_PAUSES_S", (0.01, 0.01))
    with webhook(500, 503) as hook:
        monkeypatch.setenv("MRKD_TEST_HOOK", hook.url)
        record, failure = alerts.tell(str(tmp_path), "night-1", FOUND, HOOK)
    assert (hook.asked, failure) == (3, "")
    (content,) = hook.taken
    assert content["run"] == "night-1"
    assert content["text"] == f"night-1\n- {FOUND[0].text}"
    assert [one["kind"] for one in content["alerts"]] == ["nok_rate"]
    assert record[0].sent_at


def test_an_alert_is_sent_once_and_a_new_one_of_a_later_start_by_itself(tmp_path, monkeypatch):
    late = Alert("drift_pictures", "plate", "L1", "plate, line L1: drift of pictures (red)")
    with webhook() as hook:
        monkeypatch.setenv("MRKD_TEST_HOOK", hook.url)
        for found in (FOUND, FOUND, [*FOUND, late], []):
            alerts.tell(str(tmp_path), "night-1", found, HOOK)
    told = [[one["kind"] for one in content["alerts"]] for content in hook.taken]
    assert told == [["nok_rate"], ["drift_pictures"]]


def test_what_could_not_be_sent_is_told_without_its_url_and_sent_by_the_next_start(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(alerts, "_PAUSES_S", (0.01, 0.01))
    with webhook(500, 500, 500) as hook:
        monkeypatch.setenv("MRKD_TEST_HOOK", hook.url)
        record, failure = alerts.tell(str(tmp_path), "night-1", FOUND, HOOK)
        assert "the webhook of MRKD_TEST_HOOK answered 500: 1 alerts wait" in failure
        assert "secret-path" not in failure
        assert record[0].sent_at is None
        record, failure = alerts.tell(str(tmp_path), "night-1", [], HOOK)
    assert (failure, len(hook.taken)) == ("", 1)
    assert record[0].sent_at


def test_a_refusal_is_not_repeated_and_a_server_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(alerts, "_PAUSES_S", (0.01, 0.01))
    with webhook(403) as hook:
        monkeypatch.setenv("MRKD_TEST_HOOK", hook.url)
        _, failure = alerts.tell(str(tmp_path), "night-1", FOUND, HOOK)
    assert (hook.asked, "answered 403" in failure) == (1, True)
    _, failure = alerts.tell(str(tmp_path), "night-1", FOUND, HOOK)
    assert "cannot be reached" in failure


@pytest.mark.parametrize("value", [None, "", "ftp://x", "hooks.example.com"])
def test_a_webhook_whose_variable_holds_no_url_is_refused_before_a_night_begins(monkeypatch, value):
    monkeypatch.delenv("MRKD_TEST_HOOK", raising=False)
    if value is not None:
        monkeypatch.setenv("MRKD_TEST_HOOK", value)
    with pytest.raises(ConfigError, match=r"alerts\.webhook names the environment variable"):
        alerts.url_of(HOOK)


def test_a_url_in_a_config_is_refused_without_being_repeated():
    with pytest.raises(ConfigError, match="put the URL into one") as error:
        AlertsConfig(webhook="https://hooks.example.com/T0/B0/secret")
    assert "secret/" not in str(error.value)
    assert "hooks.example.com" not in str(error.value)


def test_a_record_that_is_none_is_named(tmp_path):
    storage.write_json(f"{tmp_path}/alerts.json", {"alerts": [{"what": 1}]})
    with pytest.raises(ArtefactError, match=r"alerts\.json is not a record of alerts"):
        alerts.read(str(tmp_path))
