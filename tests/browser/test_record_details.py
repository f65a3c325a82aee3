"""The optional parts of a record, and records without them."""

from __future__ import annotations

import json
import random

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Reports
from tests.browser.data import BANK, FULL, TOKENS
from tests.browser.reading import (
    CLEAR,
    backgrounds,
    cells,
    column,
    content,
    part,
    slide,
    terminal,
    text,
    values,
)
from traitcli.views.report.data_files import summarize

pytestmark = pytest.mark.browser


def test_a_record_shows_how_it_was_made(reports: Reports) -> None:
    page = reports.open([FULL])

    page.locator(".pane summary").click()

    assert text(part(page, "facts")) == (
        "tiny · 12 tokens of prompt · 6 of response · cut at the token limit · 2.0 tokens/s · "
        "seed 7 · 2026-11-25T06:00:00+00:00"
    )
    assert text(part(page, "about")) == "file: prompts.txt · line: 3"
    assert (
        text(part(page, "steering"))
        == "steered along evil: coefficient −1.50 at layer 12 · dose 0.40"
    )
    assert part(page, "history").locator("dt, dd").all_inner_texts() == [
        "System",
        "Be kind.",
        "User",
        "Hello",
    ]
    assert text(part(page, "earlier-count")) == "2 earlier messages"


def test_brakes_are_described_and_the_tokens_where_they_held_are_underlined(
    reports: Reports,
) -> None:
    steering = [
        {"kind": "ablate", "trait": "evil", "layer": None},
        {"kind": "cap", "trait": "<b>evil", "score": 0.5, "at_most": True, "layer": 12},
        {
            "kind": "gate",
            "trait": "refusal",
            "coefficient": 1.0,
            "layer": 9,
            "dose": 0.2,
            "when": {"trait": "evil", "above": True, "score": 1.0},
        },
    ]
    braked = {"<b>evil<=0.5@12": [1, 3], "other": [99, "x"]}
    page = reports.open([FULL | {"steering": steering, "braked_tokens": braked}])

    assert part(page, "steering").locator("li").evaluate_all(
        "all => all.map(e => e.textContent)"
    ) == [
        "evil ablated at every layer",
        "<b>evil capped: ≤ +0.50 at layer 12",
        "steered along refusal: coefficient +1.00 at layer 9 if evil > +1.00 · dose 0.20",
        "<b>evil<=0.5@12 held at 2 tokens of 6, underlined",
        "other held at 0 tokens of 6, underlined",
    ]
    marked = part(page, "tokens").locator(".braked")
    assert marked.evaluate_all("all => all.map(e => Number(e.dataset.i))") == [1, 3]
    assert "underline" in marked.first.evaluate("e => getComputedStyle(e).textDecorationLine")


def test_an_alarm_links_to_its_token(reports: Reports) -> None:
    page = reports.open([FULL])

    part(page, "alarms").get_by_role("button", name="Sorry").click()

    assert part(page, "alarms").locator("li").evaluate_all(
        "all => all.map(e => e.textContent)"
    ) == ["Alarm refusal>1.5: +1.50 at Sorry"]
    assert text(part(page, "position")) == "Token 5 of 6"


def test_the_tokens_of_the_prompt_are_colored_where_they_have_scores(reports: Reports) -> None:
    page = reports.open([FULL])
    tokens = part(page, "prompt").locator(".token")

    refusal = backgrounds(tokens)
    page.locator("#trait").select_option("evil")

    assert content(part(page, "prompt")) == "How do I"
    assert refusal == terminal([1.0, -0.5, 0.0])
    assert backgrounds(tokens) == terminal([0.0, 0.5, -0.5])


def test_the_heat_map_has_a_row_per_layer_in_the_terminal_colors(
    reports: Reports,
) -> None:
    page = reports.open([FULL])
    canvas = part(page, "cells")

    shown = [[tuple(pixel) for pixel in column(canvas, i)] for i in range(6)]

    rows = reversed(FULL["layer_scores"]["calibrated_scores"])
    wanted = [
        [(*color, 255) if color != CLEAR else CLEAR for color in terminal(row)] for row in rows
    ]
    assert shown == [list(each) for each in zip(*wanted, strict=True)]
    assert text(part(page, "heat-map-title")) == "refusal at every layer"


def test_the_heat_map_marks_the_token_and_a_click_goes_to_another(reports: Reports) -> None:
    page = reports.open([FULL])
    size = part(page, "cells").bounding_box()
    assert size

    part(page, "cells").click(position={"x": size["width"] * 3.5 / 6, "y": 20})
    page.locator("h1").hover()

    mark = part(page, "at").bounding_box()
    assert mark
    assert text(part(page, "position")) == "Token 4 of 6"
    assert (mark["x"] - size["x"]) / size["width"] == pytest.approx(3.5 / 6, abs=0.01)


def test_missing_parts_of_a_record_take_no_space(reports: Reports) -> None:
    page = reports.open([BANK])

    assert not part(page, "earlier").is_visible()
    assert not part(page, "heat-map").is_visible()
    assert [
        content(part(page, name)) for name in ("notes", "alarms", "steering", "history", "about")
    ] == [""] * 5
    assert part(page, "prompt").locator(".token").count() == 0


def opened_from_file(reports: Reports, record: object) -> Page:
    """A report whose page opens a file, because Python would refuse these records."""
    page = reports.open()
    page.locator("#open").set_input_files(reports.save("record.json", json.dumps(record)))
    expect(page.locator("#status")).to_have_text("1 record opened.")
    return page


@pytest.mark.parametrize(
    ("tokens", "scores", "message"),
    [
        ([], {"evil": []}, "The response is empty: the model stopped before its first token."),
        (["a"], {"evil": [None]}, "This record has no trait scores."),
        (["a"], {"evil": None}, "This record has no trait scores."),
        (["a"], None, "This record has no trait scores."),
        (["a"], {}, "This record has no trait scores."),
    ],
)
def test_a_record_with_nothing_to_show_has_a_message(
    reports: Reports, tokens: list[str], scores: object, message: str
) -> None:
    record = {"prompt": "p", "response": "".join(tokens), "tokens": tokens, "trait_scores": scores}

    page = opened_from_file(reports, record)

    assert page.get_by_text(message).is_visible()
    assert not part(page, "lines").is_visible()


def test_scores_that_do_not_fit_the_tokens_are_pointed_out(reports: Reports) -> None:
    scores = {"evil": [1.0]}
    record = {"prompt": "p", "response": "ab!", "tokens": ["a", "b"], "trait_scores": scores}
    page = opened_from_file(reports, record)

    slide(page, 1)

    assert part(page, "notes").locator("li").all_inner_texts() == [
        "evil has 1 scores for 2 tokens.",
        "The tokens do not add up to the response.",
    ]
    assert values(page) == ["–"]


def test_a_line_break_is_colored_without_adding_text(reports: Reports) -> None:
    page = reports.open([BANK])

    slide(page, 3)

    assert text(part(page, "now-token")) == ".↵↵"
    assert part(page, "tokens").locator(".token").nth(3).locator(".break").count() == 2
    assert content(part(page, "tokens")) == "".join(TOKENS)


def test_the_table_has_the_numbers_of_the_json_report(reports: Reports) -> None:
    noise = random.Random(5)
    row = [noise.gauss(0, 2) for _ in range(60)]
    scores = {
        "evil": [None if i % 7 == 3 else value for i, value in enumerate(row)],
        "joy": row[::-1],
    }
    record = {"tokens": [f"t{i}" for i in range(60)], "trait_scores": scores}
    page = reports.open([record])

    shown = cells(part(page, "summary"))

    for (trait, _, *numbers, at), (name, summary) in zip(
        shown, summarize(record).items(), strict=True
    ):
        raw = summary["raw"]
        assert (trait, at) == (name, f"t{raw['at']}")
        found = [float(number.replace("−", "-")) for number in numbers]
        assert found == pytest.approx([raw["mean"], raw["min"], raw["max"]], abs=0.0051)
