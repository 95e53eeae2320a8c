"""The page in a real browser: what a reader of it sees, and what it asks of the world."""

import shutil
from contextlib import contextmanager

import pytest
from playwright.sync_api import sync_playwright

from mrkd.reports import write_evaluation_page
from tests.support.evaluations import write_evaluation

CHROMIUM = shutil.which("chromium")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")


@pytest.fixture(scope="module")
def page_uri(tmp_path_factory):
    return write_evaluation_page(write_evaluation(tmp_path_factory.mktemp("page")))


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield browser
        browser.close()


@contextmanager
def opened(browser, uri, width, **options):
    """The page after all charts are drawn, with what it asked for and what it complained of."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    page = context.new_page()
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(uri)
    for chart in page.locator(".chart").all():
        chart.scroll_into_view_if_needed()
        chart.locator("svg.main-svg").first.wait_for()
    yield page, asked, complaints
    context.close()


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_stands_alone_without_complaint_and_fits_its_window(browser, page_uri, width):
    with opened(browser, page_uri, width) as (page, asked, complaints):
        assert [url for url in asked if not url.startswith("data:")] == [page_uri]
        assert complaints == []
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_every_picture_is_there_with_its_heat_map(browser, page_uri):
    with opened(browser, page_uri, 1280) as (page, _, _):
        cards = page.locator(".cards svg")
        assert cards.count() == page.locator(".cards .heat").count() == 48
        sizes = page.evaluate(
            """Promise.all([...document.querySelectorAll(".cards image")].map((image) => {
                const loaded = new Image();
                loaded.src = image.href.baseVal;
                return loaded.decode().then(() => loaded.naturalWidth);
            }))"""
        )
        assert set(sizes) == {64}
        boxes = [cards.nth(number).bounding_box() for number in (0, 47)]
        assert all(box["width"] > 100 for box in boxes)


def test_the_switches_show_and_hide_what_lies_over_the_pictures(browser, page_uri):
    with opened(browser, page_uri, 1280) as (page, _, _):
        for switch, drawn in (("#heat", ".heat"), ("#found", ".region"), ("#truth", ".truth")):
            first = page.locator(f".cards {drawn}").first
            assert first.is_visible()
            page.locator(switch).uncheck()
            assert not first.is_visible()


def test_text_in_charts_follows_a_dark_page(browser, page_uri):
    colours = set()
    for scheme in ("light", "dark"):
        with opened(browser, page_uri, 1280, color_scheme=scheme) as (page, _, _):
            tick = page.locator(".js-plotly-plot .xtick text").first
            colour = "[getComputedStyle(e).fill, getComputedStyle(document.body).color]"
            fill, ink = tick.evaluate(f"e => {colour}")
            assert fill == ink
            colours.add(fill)
    assert len(colours) == 2


def test_without_scripts_the_page_still_shows_figures_and_pictures(browser, page_uri):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_uri)
    assert page.get_by_role("link", name="plate").is_visible()
    assert page.locator(".cards svg").count() == 48
    context.close()
