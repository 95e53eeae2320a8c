"""The pages in a real browser: what a reader of them sees, and what they ask of the world."""

import shutil
from contextlib import contextmanager

import pytest
from playwright.sync_api import sync_playwright

from mrkd.reports import write_page
from tests.support.evaluations import write_evaluation
from tests.support.fleets import KINDS, write_fleet
from tests.support.night_pages import Plant, write_plant
from tests.support.searches import write_search
from tests.support.studies import write_study

CHROMIUM = shutil.which("chromium")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")


@pytest.fixture(scope="module")
def page_uri(tmp_path_factory):
    return write_page(write_evaluation(tmp_path_factory.mktemp("page")))


@pytest.fixture(scope="module")
def fleet_uri(tmp_path_factory):
    return write_page(write_fleet(tmp_path_factory.mktemp("fleet")))


@pytest.fixture(scope="module")
def large_fleet_uri(tmp_path_factory):
    """More categories than have their charts open."""
    kinds = {**KINDS, **{f"part-{n:02}": "passed" for n in range(24)}}
    return write_page(write_fleet(tmp_path_factory.mktemp("large"), kinds))


@pytest.fixture(scope="module")
def night_uri(tmp_path_factory):
    """A night with a darker line and a silent one."""
    plant = Plant(looks={("plate", "L2"): {"brightness": 0.85}}, silent=(("ring", "L2"),))
    return write_page(write_plant(tmp_path_factory.mktemp("night"), plant))


@pytest.fixture(scope="module")
def search_uri(tmp_path_factory):
    return write_page(write_search(tmp_path_factory.mktemp("search")))


@pytest.fixture(scope="module")
def study_uri(tmp_path_factory):
    return write_page(write_study(tmp_path_factory.mktemp("study")))


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield browser
        browser.close()


@contextmanager
def opened(browser, uri, width, *, charts=False, **options):
    """The page, with `charts` after all that are open are drawn; its requests and complaints."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    page = context.new_page()
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(uri)
    for chart in page.locator(".chart:visible").all() if charts else ():
        chart.scroll_into_view_if_needed()
        chart.locator("svg.main-svg").first.wait_for()
    yield page, asked, complaints
    context.close()


@pytest.mark.parametrize(
    "name",
    ["page_uri", "fleet_uri", "large_fleet_uri", "night_uri", "search_uri", "study_uri"],
)
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_stands_alone_without_complaint_and_fits_its_window(browser, width, name, request):
    uri = request.getfixturevalue(name)
    with opened(browser, uri, width, charts=True) as (page, asked, complaints):
        assert [url for url in asked if not url.startswith("data:")] == [uri]
        assert complaints == []
        assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize(("name", "count"), [("page_uri", 48), ("night_uri", 44)])
def test_every_picture_is_there_with_its_heat_map(browser, name, count, request):
    with opened(browser, request.getfixturevalue(name), 1280) as (page, _, _):
        cards = page.locator(".cards svg")
        assert cards.count() == page.locator(".cards .heat").count() == count
        sizes = page.evaluate(
            """Promise.all([...document.querySelectorAll(".cards image")].map((image) => {
                const loaded = new Image();
                loaded.src = image.href.baseVal;
                return loaded.decode().then(() => loaded.naturalWidth);
            }))"""
        )
        assert set(sizes) == {64}
        boxes = [cards.nth(number).bounding_box() for number in (0, count - 1)]
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
        with opened(browser, page_uri, 1280, charts=True, color_scheme=scheme) as (page, _, _):
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


def names(page):
    """Names in the table of all categories that are to be seen, from the top."""
    return page.locator("table.sortable tbody tr:visible > th").all_inner_texts()


def test_a_heading_sorts_its_table_and_what_has_no_value_stands_last(browser, fleet_uri):
    with opened(browser, fleet_uri, 1280) as (page, _, _):
        assert names(page) == ["0012", "cap", "gear", "nut", "plate", "ring"]
        heading = page.locator("table.sortable thead th", has_text="To look")
        heading.get_by_role("button").click()
        assert names(page)[0] == "plate"
        assert names(page)[4:] == ["cap", "nut"], "what has no model has no such number"
        assert heading.get_attribute("aria-sort") == "descending"
        heading.get_by_role("button").click()
        assert names(page)[3:] == ["plate", "cap", "nut"]
        page.locator("table.sortable thead th", has_text="State").get_by_role("button").click()
        assert names(page)[:3] == ["cap", "nut", "ring"], "what needs attention comes first"


def test_a_difference_below_zero_sorts_below_one_above(browser, fleet_uri):
    with opened(browser, fleet_uri, 1280) as (page, _, _):
        page.locator("table.sortable thead th", has_text="Change").get_by_role("button").click()
        assert names(page)[0] == "ring"


def test_a_word_leaves_the_categories_that_hold_it(browser, fleet_uri):
    with opened(browser, fleet_uri, 1280) as (page, _, _):
        page.get_by_role("searchbox").fill("HELD")
        assert names(page) == ["ring"]
        assert page.locator(".category:visible").count() == 1
        page.get_by_role("searchbox").fill("")
        assert len(names(page)) == 6


def test_the_charts_of_many_categories_are_drawn_when_they_are_asked_for(browser, large_fleet_uri):
    with opened(browser, large_fleet_uri, 1280) as (page, _, _):
        assert page.locator(".js-plotly-plot").count() == 0
        page.locator("table.sortable").get_by_role("link", name="part-07").click()
        category = page.locator("#category-part-07")
        category.locator("svg.main-svg").first.wait_for()
        assert category.get_attribute("open") is not None
        assert page.locator(".js-plotly-plot").count() == 2


def test_without_scripts_the_page_of_a_fleet_still_tells_all(browser, fleet_uri):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(fleet_uri)
    assert len(names(page)) == 6
    assert page.locator(".cards svg").count() == 3
    assert not page.get_by_role("searchbox").is_visible()
    context.close()


def test_what_needs_attention_leads_to_where_the_page_says_more(browser, night_uri):
    with opened(browser, night_uri, 1280) as (page, _, _):
        page.locator(".open-items").get_by_role(
            "link", name="plate, line L2: Image quality red"
        ).click()
        place = page.locator("[id='line-plate/L2']")
        assert place.get_by_role("row", name="Brightness earlier nights").is_visible()
        top = place.bounding_box()["y"]
        assert 0 <= top < 900
        assert top >= page.locator(".switches").bounding_box()["height"], "not behind the bar"


def test_every_link_of_the_page_of_a_night_leads_somewhere(browser, night_uri):
    with opened(browser, night_uri, 1280) as (page, _, _):
        missing = page.evaluate(
            """[...document.querySelectorAll("a[href^='#']")].map((a) => a.getAttribute("href"))
                .filter((href) => !document.getElementById(decodeURIComponent(href.slice(1))))"""
        )
        assert missing == []


def test_the_reddest_light_sorts_first_and_a_word_leaves_its_lines(browser, night_uri):
    with opened(browser, night_uri, 1280) as (page, _, _):
        page.locator("table.sortable thead th", has_text="Image quality").get_by_role(
            "button"
        ).click()
        first = page.locator("table.sortable tbody tr").first
        assert "plate" in first.inner_text()
        assert "L2" in first.inner_text()
        page.get_by_role("searchbox").fill("silent")
        assert names(page) == ["ring"]
        page.get_by_role("searchbox").fill("red")
        assert names(page) == ["plate"]


def test_a_green_light_says_why_when_it_is_asked(browser, night_uri):
    with opened(browser, night_uri, 400) as (page, _, _):
        page.locator("table.sortable").get_by_role("link", name="plate").first.click()
        row = page.locator("[id='line-plate/L1']").get_by_role(
            "row", name="Sharpness earlier nights"
        )
        assert row.is_visible()


def test_without_scripts_the_page_of_a_night_still_tells_all(browser, night_uri):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(night_uri)
    assert len(names(page)) == 6
    assert page.locator(".cards svg").count() == 44
    assert page.locator("[id='line-plate/L2'] .light.red").first.is_visible()
    context.close()
