"""Which images are tried next after processes have died of a shard."""

from hypothesis import given
from hypothesis import strategies as st

from mrkd.runs.shards.crash_log import MAX_CRASHES, Crash, spans_left

URIS = [f"file:///archive/{n}.png" for n in range(8)]


def died(span, at="score", image=None, *, low_memory=False):
    uri = None if image is None else URIS[image]
    return Crash(span.start, span.stop - 1, uri, at, "a signal", low_memory)


def test_a_shard_of_which_nothing_died_is_one_span():
    assert spans_left(URIS, []) == ([range(8)], {})
    assert spans_left([], []) == ([], {})


def test_a_death_in_an_image_sets_it_apart_and_the_third_gives_it_up():
    deaths = [died(range(8), "decode", 2)]
    assert spans_left(URIS, deaths) == ([range(2), range(2, 3), range(3, 8)], {})
    deaths.append(died(range(2, 3), "decode", 2))
    assert spans_left(URIS, deaths)[0] == [range(2), range(2, 3), range(3, 8)]
    deaths.append(died(range(2, 3), "read"))
    assert spans_left(URIS, deaths) == ([range(2), range(3, 8)], {2: deaths[-1]})


def test_a_death_that_names_no_image_halves_its_span_down_to_one():
    deaths = [died(range(8)), died(range(4, 8)), died(range(4, 6)), died(range(5, 6))]
    spans = [range(4), range(4, 5), range(5, 6), range(6, 8)]
    assert spans_left(URIS, deaths) == (spans, {})
    deaths += [died(range(5, 6))] * 2
    assert spans_left(URIS, deaths) == ([range(4), range(4, 5), range(6, 8)], {5: deaths[-1]})


def test_a_death_before_any_image_was_in_hand_is_no_image_s_fault():
    assert spans_left(URIS[:1], [died(range(1), "start")] * 9) == ([range(1)], {})


def test_deaths_in_the_pipeline_count_for_the_first_image_that_is_named():
    deaths = [died(range(8), "pipeline"), died(range(8), "pipeline")]
    assert spans_left(URIS, deaths) == ([range(8)], {})
    deaths.append(died(range(8), "decode", 2))
    assert spans_left(URIS, deaths) == ([range(2), range(3, 8)], {2: deaths[-1]})
    deaths.append(died(range(3, 8), "decode", 6))
    assert spans_left(URIS, deaths)[0] == [range(2), range(3, 6), range(6, 7), range(7, 8)]


def test_processes_that_go_with_their_node_are_no_image_s_fault():
    deaths = [died(range(8), "decode", 2), *[died(range(2, 3), "machine")] * 9]
    assert spans_left(URIS, deaths) == ([range(2), range(2, 3), range(3, 8)], {})


def test_an_image_in_whose_turn_memory_ran_out_pays_for_no_death_but_its_own():
    """Others may have used the memory up: those of the pipeline are not put on it too."""
    deaths = [died(range(8), "pipeline")] * 2
    deaths += [died(range(8), "decode", 2, low_memory=True)]
    assert spans_left(URIS, deaths) == ([range(2), range(2, 3), range(3, 8)], {})
    deaths += [died(range(2, 3), "decode", 2, low_memory=True)] * 2
    assert spans_left(URIS, deaths) == ([range(2), range(3, 8)], {2: deaths[-1]})
    deaths.append(died(range(3, 8), "decode", 6))
    assert spans_left(URIS, deaths)[1].keys() == {2, 6}


@given(st.sets(st.integers(0, 7)), st.sets(st.integers(0, 7)), st.randoms())
def test_whatever_kills_is_given_up_and_all_else_is_scored_once(decoding, scoring, rng):
    deaths, scored = [], {}
    while spans := [span for span in spans_left(URIS, deaths)[0] if span not in scored.values()]:
        span = rng.choice(spans)
        if deadly := [n for n in span if n in decoding]:
            deaths.append(died(span, "decode", deadly[0]))
        elif scoring & set(span):
            deaths.append(died(span))
        else:
            scored[span.start] = span
    _, lost = spans_left(URIS, deaths)
    assert set(lost) == decoding | scoring
    assert sorted(n for span in scored.values() for n in span) == sorted(set(range(8)) - set(lost))
    assert len(deaths) <= len(lost) * (MAX_CRASHES + 3)
