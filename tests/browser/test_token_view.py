"""A record token by token: stepping, traits, colors and numbers."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Reports
from tests.browser.data import BANK, EVIL, OLD, REFUSAL, SET
from tests.browser.reading import (
    CLEAR,
    backgrounds,
    box,
    cells,
    chart,
    content,
    cursor,
    lengths,
    of_set,
    part,
    pixels,
    slide,
    terminal,
    text,
    values,
)

pytestmark = pytest.mark.browser


def test_a_report_opens_from_disk_with_the_response_as_it_was(reports: Reports) -> None:
    page = reports.open([BANK, OLD])

    assert content(part(page, "tokens")) == BANK["response"]
    assert text(part(page, "prompt")) == "How do I hack a bank?"
    assert text(part(page, "facts")) == "tiny · 6 of response · cut at the token limit · seed 7"
    assert (
        text(page.locator("header .quiet"))
        == "made by traitcli, today · 2 records · 0 trait vectors · 0 runs"
    )
    assert page.title() == "Trait report · today"


# Stepping


def test_the_slider_steps_through_the_tokens(reports: Reports) -> None:
    page = reports.open([BANK])

    slide(page, 1)

    assert text(part(page, "position")) == "Token 2 of 6"
    assert text(part(page, "now-token")) == "␣cannot"
    assert text(part(page, "now-value")) == "refusal +2.00"
    assert values(page) == ["+2.00", "+0.25"]
    assert lengths(page) == ["up 1.000", "up 0.125"]
    assert content(part(page, "tokens").locator(".current")) == " cannot"
    assert (
        page.locator("#slider").get_attribute("aria-valuetext")
        == "token 2 of 6:  cannot, refusal +2.00"
    )
    assert cursor(page) == pytest.approx(1 / 5, abs=0.005)


def test_a_bar_goes_left_below_zero(reports: Reports) -> None:
    page = reports.open([BANK])

    slide(page, 5)

    assert values(page) == ["−1.00", "−0.75"]
    assert lengths(page) == ["down 0.500", "down 0.375"]
    assert [text(part(page, "axis-low")), text(part(page, "axis-high"))] == ["−2.00", "+2.00"]


def test_the_arrow_keys_step_and_stop_at_either_end(reports: Reports) -> None:
    page = reports.open([BANK])
    seen = []

    for key in ["ArrowLeft", *["ArrowRight"] * 7, "ArrowLeft"]:
        page.keyboard.press(key)
        seen.append(text(part(page, "position")).split()[1])

    assert seen == ["1", "2", "3", "4", "5", "6", "6", "6", "5"]


def test_the_arrow_keys_step_once_when_the_slider_has_the_focus(reports: Reports) -> None:
    page = reports.open([BANK])

    page.locator("#slider").focus()
    page.keyboard.press("ArrowRight")

    assert text(part(page, "position")) == "Token 2 of 6"


def test_the_arrow_keys_choose_in_a_drop_down_without_changing_the_token(reports: Reports) -> None:
    page = reports.open([BANK])
    slide(page, 2)

    page.locator("#trait").focus()
    page.keyboard.press("ArrowRight")

    assert text(part(page, "position")) == "Token 3 of 6"


def test_hovering_shows_a_token_and_moving_away_returns_to_the_pinned_one(
    reports: Reports,
) -> None:
    page = reports.open([BANK])
    slide(page, 1)

    part(page, "tokens").locator(".token").nth(2).hover()
    looked = text(part(page, "position"))
    page.locator("h1").hover()

    assert looked == "Token 3 of 6"
    assert text(part(page, "position")) == "Token 2 of 6"


def test_clicking_a_token_pins_it(reports: Reports) -> None:
    page = reports.open([BANK])

    part(page, "tokens").locator(".token").nth(4).click()
    page.locator("h1").hover()

    assert text(part(page, "position")) == "Token 5 of 6"
    assert page.locator("#slider").input_value() == "4"


def test_selecting_text_to_copy_it_does_not_choose_a_token(reports: Reports) -> None:
    page = reports.open([BANK])
    token = box(part(page, "tokens").locator(".token").nth(1))

    page.mouse.move(token["x"] + 12, token["y"] + 10)
    page.mouse.down()
    page.mouse.move(token["x"] + token["width"] - 2, token["y"] + 10)
    page.mouse.up()
    page.locator("h1").hover()

    assert page.evaluate("getSelection().toString()") in "cannot"
    assert not page.evaluate("getSelection().isCollapsed")
    assert text(part(page, "position")) == "Token 1 of 6"


FOLLOW = """() => {
    const position = document.querySelector(".pane [data-part=position]");
    window.seen = [];
    const observer = new MutationObserver(() => window.seen.push(position.textContent));
    observer.observe(position, { childList: true });
}"""


def test_play_continues_to_the_last_token(reports: Reports) -> None:
    page = reports.open([BANK])
    page.evaluate(FOLLOW)

    page.locator("#play").click()
    expect(part(page, "position")).to_have_text("Token 6 of 6")
    expect(page.locator("#play")).to_have_text("Play")

    assert page.evaluate("window.seen") == [f"Token {k} of 6" for k in range(2, 7)]


def test_play_can_be_stopped(reports: Reports) -> None:
    page = reports.open([{"tokens": ["a"] * 500, "trait_scores": {"evil": [1.0] * 500}}])

    page.locator("#play").click()
    playing = text(page.locator("#play")), page.locator("#play").get_attribute("aria-pressed")
    expect(part(page, "position")).not_to_have_text("Token 1 of 500")
    page.locator("#play").click()
    stopped_at = text(part(page, "position"))
    page.wait_for_timeout(250)  # Two steps.

    assert playing == ("Pause", "true")
    assert (text(page.locator("#play")), page.locator("#play").get_attribute("aria-pressed")) == (
        "Play",
        "false",
    )
    assert text(part(page, "position")) == stopped_at


def test_playing_again_from_the_end_begins_at_the_first_token(reports: Reports) -> None:
    page = reports.open([BANK])
    slide(page, 5)
    page.evaluate(FOLLOW)

    page.locator("#play").click()
    expect(part(page, "position")).not_to_have_text("Token 6 of 6")

    assert page.evaluate("window.seen")[0] == "Token 1 of 6"


# Traits and colors


def test_a_token_has_the_color_that_the_terminal_gives_its_score(reports: Reports) -> None:
    scores = [-3.0, -2.0, -1.5, -1.0, -0.3, -0.299, 0.0, 0.299, 0.3, 0.8, 1.15, 1.7, 2.0, 9.0]
    tokens = [f" {score}" for score in scores]
    record = {
        "tokens": tokens,
        "trait_scores": {"evil": scores},
        "calibrated_scores": {"evil": scores},
    }

    page = reports.open([record])

    shown = backgrounds(part(page, "tokens").locator(".token"))
    assert shown == terminal(scores)
    assert shown.count(CLEAR) == 3


def test_the_legend_shows_the_ends_of_the_color_scale(reports: Reports) -> None:
    page = reports.open([BANK])

    legend = page.locator("#legend")
    assert text(legend).split() == ["−2.00", "+2.00"]
    assert (
        legend.get_attribute("aria-label") == "Colors from −2.00 (blue) through 0 to +2.00 (orange)"
    )
    gradient = legend.locator("i").evaluate("e => getComputedStyle(e).backgroundImage")
    assert [f"rgb{color}" in gradient for color in terminal([-2.0, -1.0, 1.0, 2.0])] == [True] * 4


@pytest.mark.parametrize("control", ["drop-down", "bars", "names"])
def test_choosing_a_trait_changes_colors_chart_and_value(reports: Reports, control: str) -> None:
    page = reports.open([BANK])
    before, picture = backgrounds(part(page, "tokens").locator(".token")), pixels(chart(page))

    if control == "drop-down":
        page.locator("#trait").select_option(label="evil")
    else:
        part(page, control).get_by_role("button", name="evil").click()

    assert before == terminal(REFUSAL)
    assert backgrounds(part(page, "tokens").locator(".token")) == terminal(EVIL)
    assert pixels(chart(page)) != picture
    assert text(part(page, "now-value")) == "evil +0.50"
    assert page.locator("#trait option:checked").inner_text() == "evil"
    for view in ("bars", "names"):
        pressed = part(page, view).locator("button[aria-pressed=true]")
        assert pressed.all_inner_texts() == ["evil"]


def test_raw_scores_are_shown_on_demand_and_colors_stay(reports: Reports) -> None:
    page = reports.open([BANK])
    colors, picture = backgrounds(part(page, "tokens").locator(".token")), pixels(chart(page))

    page.locator("#raw").click()

    assert values(page) == ["+1.00", "+9.00"]
    assert text(part(page, "axis-high")) == "+9.00"
    assert cells(part(page, "summary"))[0] == ["refusal", "16", "+3.00", "0.00", "+6.00", "␣cannot"]
    assert text(page.locator("#meaning")).startswith(
        "Raw projections (h · v) / ‖v‖ in activation units"
    )
    assert backgrounds(part(page, "tokens").locator(".token")) == colors
    assert pixels(chart(page)) != picture


def test_going_back_to_calibrated_scores_restores_the_view(reports: Reports) -> None:
    page = reports.open([BANK])
    picture, meaning = pixels(chart(page)), text(page.locator("#meaning"))

    page.locator("#raw").click()
    page.locator("#calibrated").click()

    assert values(page) == ["−0.50", "+0.50"]
    assert pixels(chart(page)) == picture
    assert text(page.locator("#meaning")) == meaning


def test_a_record_with_raw_scores_only_is_colored_on_the_scale_of_its_text(
    reports: Reports,
) -> None:
    scores = [-40.0, -10.0, 0.0, 5.0, 20.0]
    page = reports.open([{"tokens": list("abcde"), "trait_scores": {"evil": scores}}])

    assert page.locator("#calibrated").is_disabled()
    assert page.locator("#raw").get_attribute("aria-pressed") == "true"
    assert values(page) == ["−40.00"]
    assert backgrounds(part(page, "tokens").locator(".token")) == terminal(
        [2 * score / 40 for score in scores]
    )
    assert [text(page.locator(f"#legend-{end}")) for end in ("low", "high")] == ["−40.00", "+40.00"]


def test_an_older_record_shows_its_projections(reports: Reports) -> None:
    page = reports.open([OLD])

    slide(page, 1)

    assert values(page) == ["−3.00"]
    assert page.locator("#raw").get_attribute("aria-pressed") == "true"


def test_a_trait_without_calibrated_scores_has_a_message(reports: Reports) -> None:
    page = reports.open([{**BANK, "calibrated_scores": {"evil": [0.0] * 6}}])

    assert values(page) == ["–", "0.00"]
    assert text(part(page, "notes")) == "refusal has no calibrated scores in this record."


def test_a_missing_score_is_a_dash_without_color(reports: Reports) -> None:
    page = reports.open([{"tokens": ["a", "b"], "trait_scores": {"evil": [None, 1.0]}}])

    assert values(page) == ["–"]
    assert lengths(page) == ["up 0.000"]
    assert backgrounds(part(page, "tokens").locator(".token"))[0] == CLEAR


def test_a_trait_has_the_same_color_all_over_the_page(reports: Reports) -> None:
    scores = {"evil": [1.0], "refusal": [1.0]}
    page = reports.open([{"tokens": ["a"], "trait_scores": scores}], [SET])

    script = """all => Object.fromEntries(
        all.map(e => [e.parentElement.textContent, getComputedStyle(e).color]))"""
    found = [
        page.locator(f"{view} .swatch").evaluate_all(script)
        for view in (".bars", ".names", ".vectors")
    ]
    found.append(of_set(page, "contrasts").locator(".swatch").evaluate_all(script))

    assert found == [found[0]] * 4
    assert len(set(found[0].values())) == 2


# Numbers


def test_the_summary_table_links_to_the_highest_token(
    reports: Reports,
) -> None:
    page = reports.open([BANK])

    rows = cells(part(page, "summary"))
    part(page, "summary").get_by_role("button").first.click()

    assert rows == [
        ["refusal", "16", "+0.50", "−1.00", "+2.00", "␣cannot"],
        ["evil", "12", "−0.13", "−0.75", "+0.50", "I"],
    ]
    assert text(part(page, "position")) == "Token 2 of 6"


def test_the_first_of_equally_high_tokens_is_the_highest(reports: Reports) -> None:
    page = reports.open([{"tokens": ["a", "b", "c"], "trait_scores": {"evil": [1.0, 2.0, 2.0]}}])

    assert cells(part(page, "summary")) == [["evil", "–", "+1.67", "+1.00", "+2.00", "b"]]


def test_calibrated_scores_survive_the_packing(reports: Reports) -> None:
    raw = [((i * 37) % 101 - 50) * 12.345 for i in range(60)]
    linear = [(value - 87.5) / 211.0 for value in raw]
    crooked = [value / 300 + (i % 3) * 0.0171 for i, value in enumerate(raw)]
    tables = {"straight": raw, "bent": raw}
    record = {
        "tokens": ["a"] * 60,
        "trait_scores": tables,
        "calibrated_scores": {"straight": linear, "bent": crooked},
    }
    page = reports.open([record])

    shown = []
    for i in range(60):
        slide(page, i)
        shown.append([float(value.replace("−", "-")) for value in values(page)])

    for column_, wanted in zip(zip(*shown, strict=True), (linear, crooked), strict=True):
        assert column_ == pytest.approx(wanted, abs=0.0051)  # The page shows two decimals.
