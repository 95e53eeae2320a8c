"""Every figure that a README states stands in a committed results file."""

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
RESULTS = TOP / "tests" / "bench" / "results"
LEDGER = RESULTS / "readmes_202611.md"
READMES = sorted(
    path.relative_to(TOP).as_posix()
    for path in TOP.rglob("README.md")
    if not any(part.startswith(".") for part in path.relative_to(TOP).parts)
)

UNIT = r"(?:ms|s|min|minutes?|hours?|h|images/s|GMAC/s|GMAC|[KMG]i?B|%|times)"
FIGURE = re.compile(
    rf"(?<![\w.\-/])[+-]?\d[\d,]*(?:\.\d+)?[ \u00a0]?{UNIT}(?![\w/])"
    r"|(?<![\w.])[+-]?0\.\d{2,4}(?![\d.])"
)
NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?")
LINK = re.compile(r"\]\([./]*tests/bench/(results/[\w.-]+\.md|LOG\.md)\)")


def figures(text):
    """What a text states, without code: constants and commands are no measurements."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return FIGURE.findall(re.sub(r"`[^`\n]*`", "", text))


def sections(text):
    return re.split(r"^## ", text, flags=re.MULTILINE)


def number(text):
    return float(NUMBER.search(text).group().replace(",", ""))


def digits(text):
    return len(NUMBER.search(text).group().partition(".")[2])


def stands_in(figure, text):
    """Whether a number of the text is the figure, or rounds to it; a change of sign is another."""
    wanted, places = number(figure), digits(figure)
    found = (float(one.replace(",", "")) for one in NUMBER.findall(text))
    return any(round(one, places) == wanted for one in found)


def ledger():
    rows = re.findall(r"^\| (\S+\.md) \| ([^|]+) \| [^|]+ \|$", LEDGER.read_text(), re.MULTILINE)
    return {(readme, one) for readme, listed in rows for one in re.split(r",\s(?=\d)", listed)}


def untraced(readme, text, *, known):
    missing = []
    for section in sections(text):
        linked = "".join((TOP / "tests/bench" / name).read_text() for name in LINK.findall(section))
        missing += [
            figure
            for figure in figures(section)
            if (readme, figure) not in known and not stands_in(figure, linked)
        ]
    return missing


@pytest.mark.parametrize("readme", READMES)
def test_every_figure_of_a_readme_stands_in_a_results_file(readme):
    assert untraced(readme, (TOP / readme).read_text(), known=ledger()) == []


def test_every_row_of_the_ledger_is_of_a_figure_that_is_stated():
    stated = {(readme, one) for readme in READMES for one in figures((TOP / readme).read_text())}
    assert ledger() - stated == set()


@pytest.mark.parametrize("template", sorted((TOP / "mrkd/reports/templates").glob("*.j2")))
def test_a_page_states_no_figure_of_its_own(template):
    text = re.sub(r"\{[{%#].*?[}%#]\}", "", template.read_text())
    text = re.sub(r"<[^>]*>", "", text).replace("&nbsp;", " ")
    # Levels and bounds, of which each is a constant of the code.
    assert set(figures(text)) <= {"95 %", "100 %", "2 %", "0.005"}


def test_a_figure_that_stands_nowhere_is_found():
    text = "## Speed\nIt takes 7.3 s ([figures](../tests/bench/results/fleet_2-cores_202611.md)).\n"
    assert untraced("mrkd/README.md", text, known=set()) == ["7.3 s"]
    assert untraced("mrkd/README.md", text.replace("7.3", "326.7"), known=set()) == []
    assert untraced("mrkd/README.md", text.replace("7.3", "327"), known=set()) == []
    assert untraced("mrkd/README.md", "an AUROC of 0.123", known=set()) == ["0.123"]
    assert untraced("mrkd/README.md", "`lr = 0.123`", known=set()) == []
