"""Text in terminal cells: wrapped, fitted, and indented behind a label."""

from __future__ import annotations

from traitcli.views.cells import LineWrapper, fit, wrap, wrap_labelled


def plain(lines):
    return [line.plain for line in lines]


def test_lines_break_at_spaces_and_drop_the_space():
    assert plain(wrap("the quick brown fox", 10)) == ["the quick", "brown fox"]


def test_a_word_longer_than_a_line_is_cut():
    assert plain(wrap("abcdefghij klm", 4)) == ["abcd", "efgh", "ij", "klm"]


def test_wide_characters_break_anywhere_and_never_overflow():
    assert plain(wrap("日本語日本", 5)) == ["日本", "語日", "本"]


def test_combining_marks_stay_with_their_letter():
    assert plain(wrap("abcde\u0301f", 5)) == ["abcde\u0301", "f"]


def test_indentation_and_tabs_survive():
    assert plain(wrap("a:\n\treturn\n  b\n\nc", 20)) == ["a:", "    return", "  b", "", "c"]


def test_text_added_in_parts_wraps_like_the_whole_text():
    text = "If you are short of money, I could help: 日本語の翻訳 or  teaching.\n\n\tcode()\n" * 3
    for width in (10, 17, 33):
        wrapper = LineWrapper(width)
        for char in text:
            wrapper.add(char)
        wrapper.end_line()

        assert plain(wrapper.pop_finished()) == plain(wrap(text, width))


def test_the_last_line_follows_a_new_width():
    wrapper = LineWrapper(20)
    wrapper.add("one two three four")

    wrapper.resize(9)

    assert plain(wrapper.pop_finished()) == ["one two", "three"]
    assert wrapper.line.plain == "four"


def test_text_too_long_for_a_column_is_cut_with_an_ellipsis():
    assert fit("corrigibility", 8) == "corrigi…"
    assert fit("日本語", 4) == "日 …"
    assert fit("ab", 4, right=True) == "  ab"


def test_later_lines_are_indented_by_a_short_label_or_by_two_cells():
    assert plain(wrap_labelled("fix: ", "set the key\nor not", 14)) == [
        "fix: set the",
        "     key",
        "     or not",
    ]
    assert plain(wrap_labelled("a long label: ", "set the key", 20)) == [
        "a long label: set",
        "  the key",
    ]


def test_a_width_that_terminals_disagree_about_counts_as_the_larger():
    assert plain(wrap("👍🏽👍🏽", 4)) == ["👍🏽", "👍🏽"]
    assert plain(wrap("निनि", 2)) == ["नि", "नि"]
