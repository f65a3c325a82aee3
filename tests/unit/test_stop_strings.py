"""Stop strings against a search in the whole text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from traitcli.generation.stop_strings import StopStrings

texts = st.lists(st.text("ab", max_size=3), max_size=12)
strings = st.lists(st.text("ab", min_size=1, max_size=5), max_size=3)


@given(texts, strings)
def test_what_is_released_is_the_text_before_the_first_stop_string(tokens, stops):
    whole, stop, released = "", StopStrings(stops), []
    for number, text in enumerate(tokens):
        whole += text
        released += stop.feed(text, number)
        if stop.found:
            break
        # No part of a stop string that may still come.
        shown = "".join(one for one, _ in released)
        assert not any(one in shown for one in stops)
    if not stop.found:
        released += stop.flush()

    starts = [whole.find(one) for one in stops if one in whole]
    shown = "".join(one for one, _ in released)
    assert stop.found == bool(starts)
    assert shown == (whole[: min(starts)] if starts else whole)
    assert [number for _, number in released] == list(range(len(released)))


def test_text_is_held_back_only_while_it_may_begin_a_stop_string():
    stop = StopStrings(["\n\n", "END"])

    assert stop.feed("a", 0) == [("a", 0)]
    assert stop.feed("b\n", 1) == []
    assert stop.feed("E", 2) == [("b\n", 1)]
    assert stop.feed("x", 3) == [("E", 2), ("x", 3)]
    assert stop.feed("yEND z", 4) == [("y", 4)]
