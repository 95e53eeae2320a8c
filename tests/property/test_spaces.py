"""Search spaces and dates that people write: read, or refused by our own errors."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mrkd.config import SearchConfig, night_dates
from mrkd.errors import ConfigError, MrkdError
from mrkd.training.search import spaces

HEAD = "from mrkd.training.search.space import choice, loguniform, randint, uniform\n"
NUMBERS = st.sampled_from(
    ["0", "-1", "0.5", "1e999", "float('nan')", "None", "'a'", "10**400", "10**30", ""]
)
KEYS = st.sampled_from(
    ["'train.mask_rate'", "'train.learning_rate'", "'model.x'", "3", "None", "''"]
)
CALLS = st.builds(
    "{}({}, {})".format, st.sampled_from(["uniform", "loguniform", "randint", "choice", "x"]),
    NUMBERS, NUMBERS,
)  # fmt: skip
SPACES = st.builds("SPACE = {{{}: {}}}".format, KEYS, CALLS | NUMBERS)
CONFIG = {"workspace": "w", "run": "r", "data": {"root": "p"}, "model": {"preset": "masked"}}


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    text=SPACES, cut=st.integers(0, 80), encoding=st.sampled_from(["utf-8", "utf-16", "latin-1"])
)
def test_a_space_is_read_or_refused(text, cut, encoding, tmp_path_factory):
    whole = HEAD + text
    # A name of its own: Python would take the compiled file of one of the same size and second.
    path = tmp_path_factory.getbasetemp() / f"space{abs(hash((text, cut, encoding)))}.py"
    path.write_bytes(whole[: len(whole) - cut % 7].encode(encoding))
    try:
        spaces.check(spaces.load(str(path)), SearchConfig.from_dict(CONFIG))
    except MrkdError as error:
        assert str(error)


WINDOWS = st.text(max_size=8) | st.builds("{}{}".format, st.integers(), st.sampled_from("dhms"))

# Bytes of a command line that are no UTF-8 are surrogates.
FORMS = st.just("%Y/%m/%d") | st.text(st.characters(exclude_characters="{}"), max_size=6)


@settings(max_examples=300, deadline=None)
@given(day=st.dates().map(str) | st.text(max_size=12), window=WINDOWS, form=FORMS)
@example(day="2026-11-23", window="3d", form="\udcff")
def test_a_day_and_a_window_are_read_or_refused(day, window, form):
    raw = {"run": "n-{date}", "archive": {"uri": f"a/{{date:{form}}}"}}
    try:
        one = night_dates.day_of(day)
        for earlier in night_dates.days_before(raw, one, window):
            night_dates.fill(raw, earlier)
    except ConfigError as error:
        assert str(error)


@pytest.mark.parametrize("window", ["1d", "366d"])
def test_the_first_days_of_the_calendar_have_no_days_before(window):
    raw = {"run": "n-{date}", "archive": {"uri": "a/{date}"}}
    with pytest.raises(ConfigError, match="past the year 1"):
        night_dates.days_before(raw, night_dates.day_of("0001-01-01"), window)
