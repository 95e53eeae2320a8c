"""People's verdicts: read from a table, matched with a night's rows, counted, weighted."""

import hashlib
import shutil
import time
from datetime import UTC, datetime, timedelta

import pytest

from mrkd import storage
from mrkd.errors import ArtefactError, ConfigError
from mrkd.nights.manifest import open_night, read_manifests
from mrkd.nights.reviews import error_rates, import_labels
from mrkd.nights.reviews import store as record
from mrkd.nights.reviews.labels_csv import Label, read_labels
from tests.support.closed_nights import failed, scored, write_night
from tests.support.night_pages import RUN, Plant, write_plant

AT = "2026-11-24T06:30:00+00:00"


def table(folder, text, encoding="utf-8"):
    path = folder / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return str(path)


def test_a_table_as_a_spreadsheet_saves_it_is_understood(tmp_path):
    text = (
        "\ufeffURI;Verdict;Who;When;Remark\r\n"
        "s3://plant/a.png;ok;Ann  B;2026-11-24;fine\r\n"
        "s3://plant/b.png;NOK;Bo;2026-11-24T06:30+01:00;a scratch\r\n"
        ";;;;\r\n"
        "s3://plant/a.png;nok;Cy;2026-11-25T00:00:01Z;after all\r\n"
    )
    assert read_labels(table(tmp_path, text)) == [
        Label("s3://plant/a.png", "NOK", "Cy", "2026-11-25T00:00:01+00:00"),
        Label("s3://plant/b.png", "NOK", "Bo", "2026-11-24T05:30:00+00:00"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "lacks the column 'uri'.*found nothing"),
        ("uri,verdict,who\n", "lacks the column 'when'"),
        ("uri,verdict,who,when\n", "holds no verdict"),
        ("uri,verdict,who,when\na.png,good,Ann,2026-11-24\n", "line 2: verdict is 'good'"),
        ("uri,verdict,who,when\na.png,OK,,2026-11-24\n", "line 2: who is empty"),
        ("uri,verdict,who,when\n,OK,Ann,2026-11-24\n", "line 2: uri is empty"),
        ("uri,verdict,who,when\ns3://a:b@c/1.png,OK,Ann,2026-11-24\n", "line 2: an s3:// URI does"),
        ("uri,verdict,who,when\na.png,OK,Ann\n", "line 2: when is ''"),
        ("uri,verdict,who,when\na.png,OK,Ann,24.11.2026\n", "line 2: when is '24.11.2026'"),
        ("uri,verdict,who,when\na,OK,Ann,0001-01-01T00:00+14:00\n", "line 2: when is"),
        (
            "uri,verdict,who,when\na,OK,Ann,2999-01-01\n",
            "line 2: when is '2999-01-01', which is in",
        ),
        ("uri,verdict,who,when\na,OK,Ann,9999-12-31T23:59-12:00\n", "line 2: when is"),
        (
            "uri,verdict,who,when\na,OK,Ann,2026-11-24\na,NOK,Bo,2026-11-24\n",
            "is OK and NOK at one time",
        ),
    ],
)
def test_a_table_that_is_none_is_refused_with_its_line(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words):
        read_labels(table(tmp_path, text))


def test_text_of_another_encoding_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is not UTF-8"):
        read_labels(table(tmp_path, "uri,verdict,who,when\nä,OK,Ann,2026-11-24\n", "latin-1"))


def test_a_clock_that_is_a_little_fast_and_a_day_that_has_begun_in_the_east_are_no_future(tmp_path):
    now = datetime.now(UTC)
    fast, day = now + timedelta(minutes=5), (now + timedelta(hours=13)).replace(tzinfo=None)
    text = f"uri,verdict,who,when\ns3://plant/a,OK,A,{fast.isoformat()}\ns3://plant/b,OK,A,{day.isoformat()}\n"
    assert len(read_labels(table(tmp_path, text))) == 2
    text = f"uri,verdict,who,when\ns3://plant/a,OK,A,{(now + timedelta(hours=1)).isoformat()}\n"
    with pytest.raises(ConfigError, match="in the future"):
        read_labels(table(tmp_path, text))


def a_plant(folder):
    """A workspace with a night of files and, from one line, of members of a tar; and its rows."""
    uri = write_plant(folder, Plant(num_nights=0, tars=(("plate", "L1"),)))
    rows = open_night(uri).to_table(columns=["image_uri", "category", "is_anomalous", "error_kind"])
    return uri.rpartition("/nights/")[0], rows.to_pylist()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return a_plant(tmp_path_factory.mktemp("plant"))


@pytest.fixture
def plant(written):
    """A workspace and its rows, without reviews: all that a test leaves there."""
    yield written
    shutil.rmtree(f"{written[0].removeprefix('file://')}/reviews", ignore_errors=True)


def uris(rows, category, anomalous):
    own = [r for r in rows if r["category"] == category and r["is_anomalous"] == anomalous]
    return sorted(row["image_uri"] for row in own)


def estimated(workspace, run, versions=None):
    """What is said of a night's models, those of its newest revision."""
    manifests = read_manifests(storage.join(workspace, "nights", run))
    newest = {name: pin.version for one in manifests for name, pin in one.pins.items() if pin}
    return error_rates.estimate(workspace, {run: manifests}, versions or newest)


def say(workspace, verdicts, who="Ann", at=AT):
    return import_labels.bring(
        workspace, [Label(uri, verdict, who, at) for uri, verdict in verdicts.items()], by="test"
    )


def test_verdicts_are_matched_with_files_and_members_and_false_calls_are_copied(plant):
    workspace, rows = plant
    called, fine = uris(rows, "plate", True), uris(rows, "plate", False)
    assert ["#" in uri for uri in called] == [True, False]
    (empty, *_) = uris(rows, "ring", None)
    found = say(
        workspace,
        {called[0]: "OK", called[1]: "NOK", fine[0]: "NOK", fine[1]: "OK", empty: "NOK"}
        | {"file:///nowhere.png": "OK"},
    )
    assert found.unmatched == ("file:///nowhere.png",)
    assert (found.known, found.unread, found.runs) == (0, (), (RUN,))
    assert found.uri == f"{workspace}/reviews/imports/1.parquet"
    of = {one.image_uri: one for one in found.reviews}
    assert {uri: (one.called, one.verdict) for uri, one in of.items()} == {
        called[0]: ("NOK", "OK"),
        called[1]: ("NOK", "NOK"),
        fine[0]: ("OK", "NOK"),
        fine[1]: ("OK", "OK"),
        empty: ("ERROR", "NOK"),
    }
    assert [uri for uri, one in of.items() if one.copy] == [called[0]]
    copy = storage.read(f"{workspace}/reviews/{of[called[0]].copy}")
    assert hashlib.sha256(copy).hexdigest() == of[called[0]].sha256
    assert copy.startswith(b"\x89PNG")
    assert of[called[1]].sha256 == hashlib.sha256(storage.read(called[1])).hexdigest()
    assert record.read(workspace) == sorted(found.reviews, key=lambda one: one.key)


def test_what_stands_is_not_stored_again_and_the_newest_word_counts(plant):
    workspace, rows = plant
    (uri, *_) = uris(rows, "ring", True)
    say(workspace, {uri: "OK"})
    again = say(workspace, {uri: "OK"})
    assert (again.reviews, again.known, again.uri) == ((), 1, "")
    say(workspace, {uri: "NOK"}, who="Bo", at="2026-11-25T00:00:00+00:00")
    (stands,) = record.read(workspace)
    assert (stands.verdict, stands.by) == ("NOK", "Bo")
    say(workspace, {uri: "OK"}, who="Cy", at="2026-11-23T00:00:00+00:00")
    assert record.read(workspace) == [stands]  # an older word that came late


def test_an_image_that_was_overwritten_since_has_a_verdict_and_no_bytes(tmp_path):
    workspace, rows = a_plant(tmp_path)
    (uri, *_) = uris(rows, "ring", True)
    storage.write(uri, b"something else")
    found = say(workspace, {uri: "OK"})
    assert found.unread == (uri,)
    assert (found.reviews[0].sha256, found.reviews[0].copy) == ("", "")
    (one,) = estimated(workspace, RUN)
    assert one.nok.num_wrong == 1


def test_a_verdict_says_nothing_of_other_bytes_under_the_same_name(tmp_path):
    workspace = f"file://{tmp_path}"
    write_night(workspace, "a", [scored("file:///no/1.png", 0.9)])
    say(workspace, {"file:///no/1.png": "OK"})
    write_night(workspace, "b", [scored("file:///no/1.png", 0.9, image_etag="e2")])
    assert [one.image_etag for one in record.read(workspace)] == ["e1"]
    pins = {"plate": "v1"}
    assert [one.nok.num_seen for one in estimated(workspace, "a", pins)] == [1]
    assert estimated(workspace, "b", pins) == []
    found = say(workspace, {"file:///no/1.png": "NOK"})
    assert [one.image_etag for one in found.reviews] == ["e2"]
    assert len(record.read(workspace)) == 2


def test_a_superseded_row_is_nobodys(tmp_path):
    workspace = f"file://{tmp_path}"
    write_night(
        workspace,
        "a",
        [scored("file:///no/1.png", 0.9, revision=1), failed("file:///no/2.png", revision=1)],
        [scored("file:///no/1.png", 0.1, revision=2, image_etag="e2")],
    )
    found = say(workspace, {"file:///no/1.png": "OK", "file:///no/2.png": "OK"})
    assert {(one.image_etag, one.called) for one in found.reviews} == {
        ("e2", "OK"),
        ("e1", "ERROR"),
    }


def test_a_damaged_import_is_named(plant):
    workspace, rows = plant
    say(workspace, {uris(rows, "ring", True)[0]: "OK"})
    storage.write(f"{workspace}/reviews/imports/1.parquet", b"no Parquet")
    with pytest.raises(ArtefactError, match=r"imports/1\.parquet"):
        record.read(workspace)


def test_each_call_is_counted_with_its_interval_and_the_images_stand_for_all_of_their_call(plant):
    workspace, rows = plant
    called, fine = uris(rows, "ring", True), uris(rows, "ring", False)
    say(
        workspace,
        {called[0]: "OK", called[1]: "NOK", fine[0]: "NOK"} | dict.fromkeys(fine[1:20], "OK"),
    )
    (one,) = estimated(workspace, RUN)
    assert (one.category, one.model_version, one.gap) == ("ring", "v1", "")
    assert (one.nok.num_images, one.nok.num_seen, one.nok.num_wrong) == (2, 2, 1)
    assert (one.ok.num_images, one.ok.num_seen, one.ok.num_wrong) == (78, 20, 1)
    assert one.ok.wrong.value == pytest.approx(0.05)
    assert one.ok.wrong.low < 0.05 < one.ok.wrong.high < 0.25
    own = one.points[0]
    # One of 20 stands for 3.9 of 78 good calls: 3.9 escapes and 1 defect that was found.
    assert own.escapes.value == pytest.approx(3.9 / 4.9)
    assert own.false_calls.value == pytest.approx(1 / (19 * 3.9 + 1))
    assert own.escapes_in_10000.value == pytest.approx(10_000 * 3.9 / 80)
    assert own.false_calls_in_10000.value == pytest.approx(10_000 / 80)
    assert own.threshold == one.threshold


@pytest.mark.parametrize(
    ("called_nok", "called_ok", "words"),
    [
        (["NOK"], [], "nobody has looked at images that were called good"),
        ([], ["NOK", "OK"], "nobody has looked at images that were called defective"),
        (["OK"], ["OK"], "none of them is a defective part"),
        (["NOK"], ["NOK"], "none of them is a good part"),
    ],
)
def test_too_few_verdicts_propose_nothing_and_say_why(plant, called_nok, called_ok, words):
    workspace, rows = plant
    said = dict(zip(uris(rows, "ring", True), called_nok, strict=False))
    said |= dict(zip(uris(rows, "ring", False), called_ok, strict=False))
    say(workspace, said)
    (one,) = estimated(workspace, RUN)
    assert one.points == ()
    assert words in one.gap


def test_verdicts_on_images_without_a_score_alone_count_as_nothing(plant):
    workspace, rows = plant
    say(workspace, {uris(rows, "ring", None)[0]: "NOK"})
    (one,) = estimated(workspace, RUN)
    assert (one.ok.num_seen, one.nok.num_seen) == (0, 0)
    assert "could not be scored" in one.gap


def test_a_stored_verdict_of_the_future_is_outranked_by_a_later_import(plant):
    """As an import of before stored it."""
    workspace, rows = plant
    (uri, *_) = uris(rows, "plate", True)
    import_labels.bring(
        workspace, [Label(uri, "NOK", "Ann", "2999-01-01T00:00:00+00:00")], by="ann"
    )
    time.sleep(1.1)  # times are whole seconds
    later = datetime.now(UTC).isoformat(timespec="seconds")
    brought = import_labels.bring(workspace, [Label(uri, "OK", "Bo", later)], by="bo")
    assert (len(brought.reviews), brought.overtaken) == (1, 0)
    (one,) = record.read(workspace)
    assert (one.verdict, one.by) == ("OK", "Bo")


def test_verdicts_that_are_older_than_the_stored_one_are_counted_as_overtaken(plant):
    workspace, rows = plant
    (uri, *_) = uris(rows, "plate", True)
    import_labels.bring(workspace, [Label(uri, "OK", "Ann", AT)], by="ann")
    old = Label(uri, "NOK", "Bo", "2026-11-23T00:00:00+00:00")
    brought = import_labels.bring(workspace, [old], by="bo")
    assert (brought.reviews, brought.known, brought.overtaken, brought.uri) == ((), 0, 1, "")
    (one,) = record.read(workspace)
    assert (one.verdict, one.by) == ("OK", "Ann")


def test_a_verdict_of_a_fast_clock_is_imported_once(plant):
    workspace, rows = plant
    (uri, *_) = uris(rows, "plate", True)
    ahead = (datetime.now(UTC) + timedelta(minutes=5)).isoformat(timespec="seconds")
    assert len(say(workspace, {uri: "OK"}, at=ahead).reviews) == 1
    again = say(workspace, {uri: "OK"}, at=ahead)
    assert (again.reviews, again.known, again.overtaken, again.uri) == ((), 1, 0, "")


def test_the_same_word_of_the_same_person_with_a_later_date_is_a_verdict_of_its_own(plant):
    workspace, rows = plant
    (uri, *_) = uris(rows, "plate", True)
    say(workspace, {uri: "OK"})
    ahead = (datetime.now(UTC) + timedelta(minutes=5)).isoformat(timespec="seconds")
    assert len(say(workspace, {uri: "OK"}, at=ahead).reviews) == 1
    between = say(workspace, {uri: "NOK"}, who="Bo", at="2026-11-25T00:00:00+00:00")
    assert (between.overtaken, between.uri) == (1, "")
