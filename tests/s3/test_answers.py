"""Errors of mrkd.storage by what a server answers: redirects, pages of others, codes of S3."""

from __future__ import annotations

import pytest

from mrkd import storage
from mrkd.errors import StorageError
from tests.support.answering_server import AnsweringServer

URI = "s3://bucket/plates/1.png"
ASKS = {
    "list": lambda: storage.list_files("s3://bucket/plates"),
    "folders": lambda: storage.list_names("s3://bucket/plates"),
    "get": lambda: storage.read(URI),
    "range": lambda: storage.fetch_range(URI, 0, 9, if_match=None),
    "head": lambda: storage.stat(URI),
    "put": lambda: storage.write(URI, b"1"),
    "put_if": lambda: storage.write(URI, b"1", if_absent=True),
    "delete": lambda: storage.delete(URI),
}
PAGE = "<!DOCTYPE html><html><body><p>Log in<br></body></html>"
XHTML = '<html xmlns="http://www.w3.org/1999/xhtml"><body>Log in</body></html>'


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    with AnsweringServer() as one:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": one.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            monkeypatch.setenv(name, value)
        yield one


def _error(name: str) -> StorageError:
    with pytest.raises(StorageError) as caught:
        ASKS[name]()
    assert "s3://bucket/plates" in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("status", "name"),
    [*((status, "list") for status in (301, 302, 307, 308)), *((302, name) for name in ASKS)],
)
def test_a_redirect_is_one_error_that_names_the_address(server, status, name):
    server.answer(status, PAGE, Location="https://me:pw@other.example/x?signature=topsecret")
    error = _error(name)
    assert error.kind == "unreachable"
    assert "redirects to https://other.example, which" in str(error)
    assert "AWS_ENDPOINT_URL" in str(error)
    assert "topsecret" not in str(error)
    assert len(server.seen) < 5


def test_a_redirect_without_an_address_is_an_error(server):
    server.answer(301)
    assert "redirects to another address" in str(_error("list"))


@pytest.mark.parametrize("name", ["list", "get", "head"])
def test_a_redirect_to_a_region_that_does_not_end_says_so(server, name):
    server.answer(301, x_amz_bucket_region="eu-north-1")
    assert "AWS_REGION" in str(_error(name))


@pytest.mark.parametrize(
    ("name", "page"), [*((name, XHTML) for name in ASKS), ("list", PAGE), ("put", PAGE)]
)
def test_a_web_page_is_not_an_answer_of_s3(server, name, page):
    server.answer(200, page, Content_Type="text/html; charset=utf-8")
    error = _error(name)
    assert error.kind == "unreachable"
    assert "is not an S3 server, or a proxy or login page" in str(error)
    assert len(server.seen) < 10


def test_a_web_page_whose_type_is_in_capitals_is_one_too(server):
    server.answer(403, PAGE, Content_Type="TEXT/HTML")
    assert "a proxy or login page" in str(_error("list"))


@pytest.mark.parametrize("status", [403, 404, 407])
def test_a_proxy_that_refuses_is_not_taken_for_s3(server, status):
    for page in (PAGE, XHTML):
        server.answer(status, page, Content_Type="text/html")
        for name in ("list", "get"):
            assert "a proxy or login page" in str(_error(name))


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<other/>",
        "<ListBucketResult><Contents><Key>plates/1</Key></Contents></ListBucketResult>",
        "<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>",
    ],
)
def test_what_is_not_a_listing_is_never_taken_for_an_empty_one(server, body):
    server.answer(200, body, Content_Type="application/xml")
    assert "listing" in str(_error("list"))


@pytest.mark.parametrize(
    ("status", "code", "kind", "says", "never"),
    [
        (403, "InvalidObjectState", "forbidden", "archived (Glacier", "credentials"),
        (403, "RequestTimeTooSkewed", "forbidden", "clock is wrong", "credentials"),
        (403, "RequestExpired", "forbidden", "clock is wrong", "credentials"),
        (400, "KMS.DisabledException", "unreachable", "In KMS enable", "network"),
        (400, "KMS.KMSInvalidStateException", "unreachable", "encryption key", "network"),
        (400, "KMS.NotFoundException", "unreachable", "encryption key", "network"),
        (400, "KMSInvalidStateException", "unreachable", "encryption key", "network"),
        (400, "AuthorizationHeaderMalformed", "unreachable", "set AWS_REGION", "network"),
        (507, "XMinioStorageFull", "unreachable", "storage is full", "network"),
        (400, "ExpiredToken", "forbidden", "check the credentials", "network"),
        (403, "AccessDenied", "forbidden", "check the credentials", "network"),
        (404, "NoSuchBucket", "missing", "check bucket and key", "network"),
        (418, "Teapot", "unreachable", "the network", "credentials"),
    ],
)
def test_each_code_of_s3_has_its_cause_and_its_remedy(server, status, code, kind, says, never):
    server.refuse(status, code)
    for name in ("get", "range", "list"):
        error = _error(name)
        assert error.kind == kind
        assert says.lower() in str(error).lower()
        assert code in str(error)
        assert never not in str(error)


def test_a_wrong_clock_is_found_by_the_answers_date_where_there_is_no_body(server):
    server.answer(403, Date="Tue, 01 Dec 2020 10:00:00 GMT")
    assert "clock is wrong" in str(_error("head"))
    for date in ("", "yesterday"):
        server.answer(403, Date=date)
        assert "check the credentials" in str(_error("head"))


def test_a_refused_head_without_a_reason_names_what_it_may_be(server):
    server.answer(400)
    assert "expired, AWS_REGION, and the object's encryption key" in str(_error("head"))


def test_a_server_without_tls_is_not_called_a_fault_of_the_network(server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint.replace("http:", "https:"))
    assert "AWS_CA_BUNDLE" in str(_error("head"))
