"""The chart of a response: curves, smoothing, pointing and zoom."""

from __future__ import annotations

import math

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Reports
from tests.browser.data import BANK, FULL
from tests.browser.reading import (
    backgrounds,
    box,
    chart,
    color_of,
    count_of,
    cursor,
    dot,
    drag,
    lengths,
    part,
    pixels,
    point_at,
    profile,
    settle,
    slide,
    text,
    until_drawn_in,
    values,
)

pytestmark = pytest.mark.browser

COUNT = 41
WAVE = [round(2 * math.sin(i / 4) + (i % 5) / 10, 3) for i in range(COUNT)]
TABLE = {"evil": WAVE, "joy": WAVE[::-1]}
LONG = {
    "tokens": [f" w{i}" for i in range(COUNT)],
    "trait_scores": TABLE,
    "calibrated_scores": TABLE,
}


def share_of(index: int) -> float:
    """The position of a token as a share of the width of a chart without zoom."""
    return index / (COUNT - 1)


def settled(page: Page) -> str:
    """The picture after drawing has finished."""
    settle(page)
    return pixels(chart(page))


def window(page: Page, name: str) -> None:
    page.locator("#smoothing").get_by_role("button", name=name, exact=True).click()


def trailing_means(scores: list[float], size: int) -> list[float]:
    return [float(np.mean(scores[max(0, i - size + 1) : i + 1])) for i in range(len(scores))]


# Curves


def test_the_chart_draws_each_trait_in_its_color_and_the_chosen_one_strongest(
    reports: Reports,
) -> None:
    page = reports.open([LONG])
    evil, joy = (color_of(part(page, "names").locator(".swatch").nth(k)) for k in (0, 1))

    first = count_of(chart(page), evil), count_of(chart(page), joy)
    page.locator("#trait").select_option("joy")
    second = count_of(chart(page), evil), count_of(chart(page), joy)

    assert evil != joy
    assert first[0] > 300
    assert first[1] == 0
    assert second[0] == 0
    assert second[1] > 300


def test_the_chart_has_lines_at_zero_and_at_the_class_means(reports: Reports) -> None:
    scores = [-1.0, 0.0, 1.0, 2.0]
    page = reports.open(
        [
            {
                "tokens": list("abcd"),
                "trait_scores": {"e": scores},
                "calibrated_scores": {"e": scores},
            }
        ]
    )

    heights = []
    for i in range(3):
        slide(page, i)
        heights.append(dot(page))

    shares = profile(chart(page))
    full = [y for y, share in enumerate(shares) if share > 0.9]
    dashed = [y for y, share in enumerate(shares) if 0.4 < share < 0.7]
    assert full == pytest.approx([heights[1]], abs=1)
    assert dashed == pytest.approx([heights[2], heights[0]], abs=1)


@pytest.mark.parametrize(("name", "size"), [("off", 1), ("5", 5), ("10", 10)])
def test_a_smoothed_curve_is_the_mean_of_a_score_and_those_before_it(
    reports: Reports, name: str, size: int
) -> None:
    page = reports.open([LONG])

    window(page, name)
    heights = []
    for i in range(0, COUNT, 3):
        slide(page, i)
        heights.append(dot(page))

    means = trailing_means(WAVE, size)
    # The axis spans the scores, zero, and 6 % more at each end.
    low, high = (
        min(0, *means),
        max(0, *means),
    )
    span = (high - low) * 1.12
    height = page.evaluate("() => document.querySelector('.u-over').clientHeight")
    wanted = [(high + (high - low) * 0.06 - mean) / span * height for mean in means[::3]]
    assert heights == pytest.approx(wanted, abs=1.01)


def test_smoothing_changes_the_chart_and_nothing_else(reports: Reports) -> None:
    page = reports.open([LONG | {"layer_scores": {"trait": "evil", "trait_scores": [WAVE]}}])
    slide(page, 7)

    def others() -> tuple[object, ...]:
        shown = [part(page, name).inner_html() for name in ("summary", "bars", "tokens")]
        return (
            values(page),
            lengths(page),
            backgrounds(part(page, "tokens").locator(".token")),
            shown,
            pixels(part(page, "cells")),
        )

    before, pictures = others(), [pixels(chart(page))]
    for name in ("5", "10", "off"):
        window(page, name)
        assert others() == before
        pictures.append(pixels(chart(page)))

    assert len(set(pictures[:3])) == 3
    assert pictures[3] == pictures[0]


# Pointing


def test_clicking_the_chart_goes_to_the_token_there(reports: Reports) -> None:
    page = reports.open([LONG])

    page.mouse.click(*point_at(page, share_of(30)))

    assert text(part(page, "position")) == "Token 31 of 41"
    assert page.locator("#slider").input_value() == "30"


def test_pointing_at_the_chart_shows_a_token_and_moving_away_returns(reports: Reports) -> None:
    page = reports.open([LONG])
    slide(page, 4)

    page.mouse.move(*point_at(page, share_of(20)))
    looked = text(part(page, "position"))
    page.locator("h1").hover()

    assert looked == "Token 21 of 41"
    assert text(part(page, "position")) == "Token 5 of 41"


# Zoom


def test_dragging_over_the_chart_zooms_to_that_part(reports: Reports) -> None:
    page = reports.open([LONG])
    whole = pixels(chart(page))
    slide(page, 15)

    drag(page, share_of(10), share_of(20))

    assert settled(page) != whole
    for index, fraction in [(11, 0.1), (15, 0.5), (19, 0.9)]:
        slide(page, index)
        assert cursor(page) == pytest.approx(fraction, abs=0.01)


def test_dragging_does_not_choose_a_token(reports: Reports) -> None:
    page = reports.open([LONG])
    slide(page, 15)

    drag(page, share_of(10), share_of(20))
    page.locator("h1").hover()

    assert text(part(page, "position")) == "Token 16 of 41"


def test_a_double_click_restores_the_whole_chart(reports: Reports) -> None:
    page = reports.open([LONG])
    whole = pixels(chart(page))
    slide(page, 15)
    drag(page, share_of(10), share_of(20))
    assert settled(page) != whole

    page.mouse.dblclick(*point_at(page, 0.5))

    assert settled(page) == whole


def test_the_buttons_zoom_by_keyboard(reports: Reports) -> None:
    page = reports.open([LONG])
    slide(page, 20)
    pictures = [settled(page)]

    for name, key in [
        ("nearer", "Enter"),
        ("nearer", "Space"),
        ("farther", "Enter"),
        ("all", "Space"),
    ]:
        part(page, name).focus()
        page.keyboard.press(key)
        pictures.append(settled(page))

    whole, near, nearest, farther, everything = pictures
    assert len({whole, near, nearest}) == 3
    assert (farther, everything) == (near, whole)


def test_the_buttons_zoom_by_half_around_the_token_of_the_slider(reports: Reports) -> None:
    page = reports.open([LONG])
    slide(page, 30)

    part(page, "nearer").click()

    assert cursor(page) == pytest.approx(0.5, abs=0.01)
    slide(page, 20)
    assert cursor(page) == pytest.approx(0, abs=0.01)


def test_the_zoom_buttons_keep_at_least_a_few_tokens(reports: Reports) -> None:
    page = reports.open([LONG])
    slide(page, 20)

    for _ in range(12):
        part(page, "nearer").click()

    slide(page, 21)
    assert cursor(page) == pytest.approx(0.75, abs=0.01)


def test_a_zoomed_chart_follows_the_slider_out_of_its_range(reports: Reports) -> None:
    page = reports.open([LONG])
    slide(page, 20)
    part(page, "nearer").click()
    part(page, "nearer").click()
    before = settled(page)

    slide(page, 33)
    after = settled(page)
    first = cursor(page)
    slide(page, 38)

    assert after != before
    assert cursor(page) - first == pytest.approx(5 / 10, abs=0.01)


def test_a_zoom_is_kept_for_another_trait_and_reset_for_another_record(reports: Reports) -> None:
    page = reports.open([LONG, FULL])
    slide(page, 20)
    part(page, "nearer").click()

    page.locator("#trait").select_option("joy")
    slide(page, 10)
    zoomed = cursor(page)
    page.locator("#first").select_option("1")
    slide(page, 1)

    assert zoomed == pytest.approx(0, abs=0.01)
    assert cursor(page) == pytest.approx(1 / 5, abs=0.01)


def test_the_chart_fills_its_area_when_the_window_changes(reports: Reports) -> None:
    page = reports.open([LONG])
    slide(page, 20)

    page.set_viewport_size({"width": 700, "height": 900})
    expect(chart(page)).not_to_have_attribute("width", "615")
    settle(page)

    size, area = box(chart(page)), box(part(page, "lines"))
    middle = cursor(page)
    page.set_viewport_size({"width": 1280, "height": 900})
    assert [size[key] for key in ("width", "height")] == pytest.approx(
        [area["width"], area["height"]], abs=1
    )
    assert middle == pytest.approx(0.5, abs=0.01)


def test_a_response_of_one_token_has_a_chart_too(reports: Reports) -> None:
    one = {"tokens": ["a"], "trait_scores": {"evil": [1.0]}, "calibrated_scores": {"evil": [1.0]}}
    page = reports.open([one])

    assert cursor(page) == pytest.approx(0.5, abs=0.01)


def test_a_gap_in_the_scores_stays_a_gap(reports: Reports) -> None:
    whole = {"tokens": list("abcdef"), "trait_scores": {"evil": [1.0] * 6}}
    gaps = {"tokens": list("abcdef"), "trait_scores": {"evil": [1.0, 1.0, None, None, 1.0, 1.0]}}
    page = reports.open([whole, gaps])
    color = color_of(part(page, "names").locator(".swatch"))

    lines = count_of(chart(page), color)
    page.locator("#first").select_option("1")

    assert count_of(chart(page), color) == pytest.approx(lines * 2 / 5, rel=0.05)


def test_another_color_scheme_redraws_the_chart_in_its_colors(reports: Reports) -> None:
    page = reports.open([BANK])
    swatch = part(page, "names").locator(".swatch").first
    light = color_of(swatch)

    page.emulate_media(color_scheme="dark")
    dark = color_of(swatch)
    until_drawn_in(page, dark)

    assert dark != light
    assert (count_of(chart(page), dark) > 100, count_of(chart(page), light)) == (True, 0)


def test_the_zoom_is_kept_when_the_pointer_moves_off_the_chart(reports: Reports) -> None:
    page = reports.open([LONG])
    drag(page, share_of(20), share_of(30))
    zoomed = settled(page)

    page.locator("h1").hover()

    assert settled(page) == zoomed


def test_the_cursor_returns_to_the_token_when_the_pointer_moves_off(
    reports: Reports,
) -> None:
    page = reports.open([LONG])
    slide(page, 20)

    page.mouse.move(*point_at(page, share_of(10)))
    page.locator("h1").hover()
    settle(page)

    assert cursor(page) == pytest.approx(share_of(20), abs=0.01)


def test_the_cursor_is_at_the_token_under_the_pointer(reports: Reports) -> None:
    page = reports.open([BANK])

    page.mouse.move(*point_at(page, 0.26))
    page.mouse.move(*point_at(page, 0.27))
    settle(page)

    assert text(part(page, "position")) == "Token 2 of 6"
    assert cursor(page) == pytest.approx(0.2, abs=0.01)
