"""Colors of scores: diverging, readable on any terminal, and absent without color."""

from __future__ import annotations

import pytest
from rich.color import Color

from traitcli.views.monitor.token_styles import TokenStyler
from traitcli.views.palette import BLUE, FAINT, ORANGE, Palette, background, palette_for

SCORES = [side * step / 20 for step in range(6, 60) for side in (-1, 1)]
FULL, NONE = Palette("full"), Palette("none")


def luminance(color: Color) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [part / 255 for part in color.get_truecolor()]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Color, other: Color) -> float:
    """Contrast ratio as WCAG 2 defines it, from 1 to 21."""
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("score", [None, 0.0, 0.29, -0.29, float("nan")])
def test_a_score_near_zero_or_unknown_has_no_background(score):
    assert FULL.token(score) is None


@pytest.mark.parametrize(("depth", "least"), [("full", 4.5), ("256", 4.5), ("16", 4.0)])
def test_a_colored_token_sets_two_colors_with_enough_contrast(depth, least):
    styles = [Palette(depth).token(score) for score in SCORES]

    assert all(style.color and style.bgcolor for style in styles)
    assert min(contrast(style.color, style.bgcolor) for style in styles) >= least


def test_below_zero_is_blue_and_above_is_orange():
    below, above = (background(score).get_truecolor() for score in (-2.0, 2.0))

    assert below.blue > below.green > below.red
    assert above.red > above.green > above.blue


def test_a_stronger_score_has_a_more_vivid_color():
    for side in (-1, 1):
        spread = [
            max(c) - min(c)
            for c in (background(side * s / 10).get_truecolor() for s in range(3, 21))
        ]

        assert spread == sorted(set(spread))


@pytest.mark.parametrize("score", [2.0, 2.5, 40.0, float("inf")])
def test_scores_beyond_two_look_like_two(score):
    assert background(score) == background(2.0)
    assert background(-score) == background(-2.0)


def test_blue_and_orange_differ_for_red_green_color_blindness():
    gaps = [
        abs(background(-s).get_truecolor().blue - background(s).get_truecolor().blue)
        for s in (1.0, 1.5, 2.0)
    ]

    assert min(gaps) > 100


@pytest.mark.parametrize("ink", [BLUE, ORANGE])
@pytest.mark.parametrize("paper", ["#000000", "#ffffff"])
def test_foregrounds_have_contrast_on_black_and_on_white(ink, paper):
    assert contrast(Color.parse(ink), Color.parse(paper)) >= 3


@pytest.mark.parametrize(
    ("color_system", "no_color", "depth"),
    [
        ("truecolor", False, "full"),
        ("256", False, "256"),
        ("standard", False, "16"),
        ("windows", False, "16"),
        ("truecolor", True, "none"),
        (None, False, "none"),
    ],
)
def test_the_palette_follows_the_terminal(color_system, no_color, depth):
    assert palette_for(color_system, no_color=no_color) == Palette(depth)


def test_a_palette_without_colors_gives_no_color():
    assert NONE.token(2.0) is None
    assert NONE.foreground(2.0).color is None
    assert NONE.foreground(0.0).color is None


def written(palette, *tokens):
    ink = TokenStyler(palette)
    return "".join(text for token in tokens for text, _ in ink.style(*token)) + "".join(
        t for t, _ in ink.end()
    )


def test_without_colors_brackets_enclose_tokens_beyond_a_class_mean():
    text = written(NONE, ("I", 0.9), (" can", 1.0), ("not", 2.0), (" say", -0.4), (" yes", -1.2))

    assert text == "I ⟨cannot⟩⁺ say ⟨yes⟩⁻"


def test_brackets_close_at_a_line_end_and_ignore_empty_tokens():
    text = written(
        NONE,
        ("No", 1.2),
        ("", -3.0),
        ("!", 1.2),
        ("\n\n", 1.2),
        ("Yes", -1.0),
        (" ", 0.0),
        ("so", -1.0),
    )

    assert text == "⟨No!⟩⁺\n\n⟨Yes so⟩⁻"


def test_a_color_starts_at_the_word_and_joins_consecutive_words():
    ink = TokenStyler(FULL)

    first, second = ink.style(" can", 2.0), ink.style(" not", 1.0)

    assert first == [(" ", None), ("can", FULL.token(2.0))]
    assert second == [(" ", FULL.token(1.0)), ("not", FULL.token(1.0))]


def test_the_faintest_colored_score_has_a_color():
    assert FULL.token(FAINT) is not None
    assert FULL.token(-FAINT) is not None
