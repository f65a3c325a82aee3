"""Text of a model on a terminal: it has no effect on the terminal, and nothing is hidden."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from traitcli.views.printable import one_line, printable


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b31m", r"\x9b31m"),
        ("a\x00b", r"a\x00b"),
        ("\x07\x08\x7f", r"\x07\x08\x7f"),
        ("one\r\ntwo", "one\\r\ntwo"),
        ("\x85", r"\x85"),
        ("a\u2028b\u2029", r"a\u2028b\u2029"),
    ],
)
def test_control_characters_are_escaped(hostile, shown):
    assert printable(hostile) == shown


@pytest.mark.parametrize(
    ("hidden", "shown"),
    [
        ("user\u202etxt.exe", r"user\u202etxt.exe"),
        ("\u2066a\u2069", r"\u2066a\u2069"),
        ("pass\u200bword", r"pass\u200bword"),
        ("\ufeff", r"\ufeff"),
        ("\u3164", r"\u3164"),
        ("A\U000e0041", r"A\U000e0041"),
        ("a\ufe00", r"a\ufe00"),
        ("\ue000", r"\ue000"),
        ("\ud83d", r"\ud83d"),
    ],
)
def test_invisible_characters_are_escaped(hidden, shown):
    assert printable(hidden) == shown


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "tab\tand\nnewline",
        "naïve café",
        "日本語",
        "नमस्ते",
        "مرحبا",
        "שלום",
        "e\u0301",
        "👍🏽 🇩🇪",
        "\U0001fae8",
        "−1 ≤ x",
    ],
)
def test_text_of_modern_languages_is_unchanged(text):
    assert printable(text) == text


def test_rich_markup_stays_plain_text():
    assert printable("[red]a[/red] :smile:") == "[red]a[/red] :smile:"


def test_combining_marks_beyond_the_fourth_are_escaped():
    shown = printable("a" + "\u0301" * 6)

    assert shown == "a" + "\u0301" * 4 + r"\u0301" * 2


def test_the_selector_that_widens_an_emoji_is_dropped():
    assert printable("⚠\ufe0f!") == "⚠!"


def test_no_unicode_character_becomes_a_control_or_format_character():
    every = "".join(map(chr, range(sys.maxunicode + 1)))

    shown = set(printable(every)) - {"\n", "\t"}

    assert {
        c for c in shown if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    } == set()


def test_one_line_has_no_line_break():
    assert one_line(" a\n\tb \x1b ") == r"a b \x1b"
