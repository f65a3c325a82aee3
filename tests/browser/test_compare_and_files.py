"""Several records in one page: choosing one, comparing two, and opening more from disk."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Reports
from tests.browser.data import BANK, FULL, OLD, SET
from tests.browser.reading import (
    backgrounds,
    box,
    cells,
    content,
    cursor,
    dot,
    lengths,
    part,
    slide,
    terminal,
    text,
    values,
)

pytestmark = pytest.mark.browser

LONGER = {
    "name": "longer",
    "prompt": "And a safe?",
    "response": "abcdefgh",
    "tokens": list("abcdefgh"),
    "trait_scores": {"refusal": [0.0] * 8, "joy": [0.0] * 8},
    "calibrated_scores": {
        "refusal": [3.0, 2.0, -0.5, 0.5, 1.5, 1.0, 0.0, -4.0],
        "joy": [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0],
    },
}


def compare(reports: Reports) -> Page:
    page = reports.open([{**BANK, "name": "bank"}, LONGER])
    page.locator("#second").select_option("1")
    return page


def panes(page: Page) -> list[str]:
    return page.locator(".pane").evaluate_all("all => all.map(e => e.dataset.pane)")


# Choosing


def test_the_records_are_listed_in_a_drop_down(reports: Reports) -> None:
    page = reports.open([FULL, OLD, {**OLD, "prompt": "word " * 100}])

    assert page.locator("#first option").all_inner_texts() == [
        "1. How do I hack a bank? · 6 tokens · bank",
        "2. Is it so? · 2 tokens",
        f"3. {('word ' * 18)[:90]}… · 2 tokens",
    ]
    assert page.locator("#second option").all_inner_texts()[:2] == [
        "nothing",
        "1. How do I hack a bank? · 6 tokens · bank",
    ]


def test_choosing_a_record_shows_it_from_its_first_token(reports: Reports) -> None:
    page = reports.open([BANK, OLD])
    slide(page, 3)

    page.locator("#first").select_option("1")

    assert content(part(page, "tokens")) == "Maybe"
    assert text(part(page, "position")) == "Token 1 of 2"
    assert page.locator("#slider").get_attribute("max") == "1"
    assert page.locator("#trait option").all_inner_texts() == ["uncertainty"]


def test_a_trait_stays_chosen_in_another_record_that_has_it(reports: Reports) -> None:
    page = reports.open([BANK, {**BANK, "prompt": "Again?"}, LONGER])

    page.locator("#trait").select_option("evil")
    page.locator("#next").click()
    there, colors = (
        page.locator("#trait").input_value(),
        backgrounds(part(page, "tokens").locator(".token")),
    )
    page.locator("#next").click()

    assert there == "evil"
    assert colors == terminal(BANK["calibrated_scores"]["evil"])
    assert page.locator("#trait").input_value() == "refusal"


def test_the_next_and_previous_buttons_cycle_through_all_records(reports: Reports) -> None:
    page = reports.open([BANK, OLD, LONGER])
    seen = []

    for name in ("Next", "Next", "Next", "Previous", "Previous"):
        page.get_by_role("button", name=f"{name} record").click()
        seen.append(page.locator("#first").input_value())

    assert seen == ["1", "2", "0", "2", "1"]
    assert content(part(page, "tokens")) == "Maybe"


def test_a_single_record_leaves_nothing_to_choose(reports: Reports) -> None:
    page = reports.open([BANK])

    assert [page.locator(f"#{name}").is_disabled() for name in ("next", "previous", "second")] == [
        True
    ] * 3


def test_records_with_the_same_name_are_numbered(reports: Reports) -> None:
    page = reports.open([{**OLD, "name": "same"}, {**OLD, "name": "same"}])

    assert page.locator("#first option").all_inner_texts() == [
        "1. Is it so? · 2 tokens · same",
        "2. Is it so? · 2 tokens · same (2)",
    ]


# Comparing


def test_two_records_are_side_by_side_with_their_own_texts(reports: Reports) -> None:
    page = compare(reports)

    left, right = (box(page.locator(f'.pane[data-pane="{k}"]')) for k in (1, 2))
    assert left["x"] + left["width"] < right["x"]
    assert left["y"] == right["y"]
    assert [text(part(page, "title", k)) for k in (1, 2)] == ["bank", "longer"]
    assert [text(part(page, "prompt", k)) for k in (1, 2)] == [
        "How do I hack a bank?",
        "And a safe?",
    ]
    assert [content(part(page, "tokens", k)) for k in (1, 2)] == [BANK["response"], "abcdefgh"]
    assert [len(cells(part(page, "summary", k))) for k in (1, 2)] == [2, 2]


def test_one_slider_moves_both_and_the_shorter_one_stays_at_its_last_token(
    reports: Reports,
) -> None:
    page = compare(reports)
    seen = []

    for index in (1, 5, 7):
        slide(page, index)
        seen.append([text(part(page, "position", k)) for k in (1, 2)])

    assert seen == [
        ["Token 2 of 6", "Token 2 of 8"],
        ["Token 6 of 6", "Token 6 of 8"],
        ["Token 6 of 6", "Token 8 of 8"],
    ]
    assert [cursor(page, k) for k in (1, 2)] == pytest.approx([1, 1], abs=0.01)


def test_the_arrow_keys_continue_to_the_end_of_the_longer_record(reports: Reports) -> None:
    page = compare(reports)
    slide(page, 5)
    page.locator("#slider").blur()

    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")

    assert text(part(page, "position", 2)) == "Token 8 of 8"


def test_bars_and_charts_of_both_records_share_one_scale(reports: Reports) -> None:
    page = compare(reports)

    slide(page, 1)

    assert [values(page, k)[0] for k in (1, 2)] == ["+2.00", "+2.00"]
    assert [lengths(page, k)[0] for k in (1, 2)] == ["up 0.500", "up 0.500"]
    assert [text(part(page, "axis-high", k)) for k in (1, 2)] == ["+4.00", "+4.00"]
    assert dot(page, 1) == dot(page, 2)


def test_the_chosen_trait_and_scores_apply_to_both_records(reports: Reports) -> None:
    page = compare(reports)

    page.locator("#trait").select_option("joy")
    page.locator("#trait").select_option("refusal")
    colors = [backgrounds(part(page, "tokens", k).locator(".token")) for k in (1, 2)]
    page.locator("#raw").click()

    assert colors == [terminal(each["calibrated_scores"]["refusal"]) for each in (BANK, LONGER)]
    assert [values(page, k) for k in (1, 2)] == [["+1.00", "+9.00"], ["0.00", "0.00"]]


def test_a_trait_missing_from_one_record_has_a_message(reports: Reports) -> None:
    page = compare(reports)

    traits = page.locator("#trait option").all_inner_texts()
    page.locator("#trait").select_option("joy")

    assert traits == ["refusal", "evil", "joy"]
    assert text(part(page, "notes", 1)) == "joy was not monitored in this record."
    assert content(part(page, "notes", 2)) == ""
    assert text(part(page, "now-value", 1)) == "joy –"


def test_hovering_over_one_record_moves_both(reports: Reports) -> None:
    page = compare(reports)

    part(page, "tokens", 2).locator(".token").nth(3).hover()

    assert [text(part(page, "position", k)) for k in (1, 2)] == ["Token 4 of 6", "Token 4 of 8"]


def test_returning_to_one_record_removes_the_other(reports: Reports) -> None:
    page = compare(reports)
    both = panes(page)

    page.locator("#second").select_option("-1")
    slide(page, 3)

    assert (both, panes(page)) == (["1", "2"], ["1"])
    assert page.locator("#slider").get_attribute("max") == "5"
    assert text(part(page, "position")) == "Token 4 of 6"
    assert text(part(page, "axis-high")) == "+2.00"


def test_the_parts_of_two_panes_have_different_names(reports: Reports) -> None:
    page = compare(reports)

    ids = page.locator("[id]").evaluate_all("all => all.map(e => e.id)")
    script = "all => all.map(e => e.getAttribute('aria-labelledby'))"
    labels = page.locator(".pane [aria-labelledby]").evaluate_all(script)
    assert len(ids) == len(set(ids))
    assert {name for label in labels for name in label.split()} <= set(ids)
    assert len(labels) == len(set(labels))


# Files


def test_records_from_disk_are_added_to_the_others(reports: Reports) -> None:
    page = reports.open([BANK])

    page.locator("#open").set_input_files([reports.save("one.json", json.dumps(OLD))])
    expect(page.locator("#status")).to_have_text("1 record opened.")
    first = content(part(page, "tokens"))
    page.locator("#open").set_input_files([reports.save("list.json", json.dumps([LONGER, BANK]))])
    expect(page.locator("#status")).to_have_text("2 records opened.")

    assert first == "Maybe"
    assert content(part(page, "tokens")) == "abcdefgh"
    assert page.locator("#first option").all_inner_texts() == [
        "1. How do I hack a bank? · 6 tokens",
        "2. Is it so? · 2 tokens · one.json",
        "3. And a safe? · 8 tokens · longer",
        "4. How do I hack a bank? · 6 tokens · list.json 2",
    ]


def test_several_files_are_opened_at_once(reports: Reports) -> None:
    page = reports.open([])

    files = [reports.save(f"{k}.json", json.dumps(record)) for k, record in enumerate((OLD, BANK))]
    page.locator("#open").set_input_files(files)

    expect(page.locator("#status")).to_have_text("2 records opened.")
    assert page.locator("#first option").count() == 2


@pytest.mark.parametrize("name", ["records.jsonl", "records.txt"])
def test_a_jsonl_file_of_records_is_opened_without_its_failures(
    reports: Reports, name: str
) -> None:
    page = reports.open([])
    lines = [
        OLD,
        {"prompt": "x", "error": "out of memory"},
        BANK,
        {"prompt": "y", "error": "again"},
    ]

    page.locator("#open").set_input_files(
        [reports.save(name, "\n".join(map(json.dumps, lines)) + "\n\n")]
    )

    expect(page.locator("#status")).to_have_text(
        f"2 records opened. {name}: skipped 2 error lines."
    )
    assert page.locator("#first option").count() == 2


def test_a_saved_chat_is_opened_turn_by_turn(reports: Reports) -> None:
    page = reports.open([])
    chat = {"messages": [{"role": "user", "content": "Hello"}], "turns": [FULL, LONGER]}

    page.locator("#open").set_input_files([reports.save("chat.json", json.dumps(chat))])

    expect(page.locator("#status")).to_have_text("2 records opened.")
    assert text(part(page, "earlier-count")) == "2 earlier messages"
    assert (
        page.locator("#first option").all_inner_texts()[1] == "2. And a safe? · 8 tokens · longer"
    )


def test_a_file_from_disk_shows_its_own_scores(reports: Reports) -> None:
    page = reports.open([])

    page.locator("#open").set_input_files([reports.save("full.json", json.dumps(FULL))])
    expect(page.locator("#status")).to_have_text("1 record opened.")
    slide(page, 1)

    assert values(page) == ["+2.00", "+0.25"]
    assert backgrounds(part(page, "tokens").locator(".token")) == terminal(
        FULL["calibrated_scores"]["refusal"]
    )
    assert backgrounds(part(page, "prompt").locator(".token")) == terminal(
        FULL["prompt_scores"]["calibrated_scores"]["refusal"]
    )
    assert part(page, "heat-map").is_visible()


def test_a_report_without_records_opens_one_from_disk(reports: Reports) -> None:
    page = reports.open([], [SET])
    before = page.locator("#no-records").is_visible(), page.locator("#record").is_visible()

    page.locator("#open").set_input_files([reports.save("one.json", json.dumps(BANK))])

    expect(part(page, "position")).to_have_text("Token 1 of 6")
    assert before == (True, False)
    assert not page.locator("#no-records").is_visible()
    assert text(page.locator("#contents")) == "1 record · 2 trait vectors · 0 runs"


def test_a_file_dropped_on_the_page_is_opened(reports: Reports) -> None:
    page = reports.open([BANK])
    script = """(text) => {
        const carried = new DataTransfer();
        carried.items.add(new File([text], "dropped.json", { type: "application/json" }));
        return carried;
    }"""
    carried = page.evaluate_handle(script, json.dumps(OLD))

    page.dispatch_event("body", "dragover", {"dataTransfer": carried})
    over = page.locator(".drop").is_visible()
    page.dispatch_event("body", "drop", {"dataTransfer": carried})

    expect(page.locator("#status")).to_have_text("1 record opened.")
    assert over
    assert not page.locator(".drop").is_visible()
    assert content(part(page, "tokens")) == "Maybe"


def test_the_same_file_can_be_opened_again(reports: Reports) -> None:
    page = reports.open([])
    file = reports.save("one.json", json.dumps(OLD))

    page.locator("#open").set_input_files([file])
    expect(page.locator("#first option")).to_have_count(1)
    page.locator("#open").set_input_files([file])

    expect(page.locator("#first option")).to_have_count(2)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("hello", "file.json: not JSON."),
        ("hello\nthere", "file.json: not JSON."),
        ("", "file.json: not JSON."),
        ("3", "file.json: not a monitoring record."),
        ("null", "file.json: not a monitoring record."),
        ('{"tokens": [1], "trait_scores": {}}', "file.json: “tokens” is not a list of strings."),
        ('{"tokens": ["a"]}', "file.json: “trait_scores” is missing."),
        (
            '{"tokens": ["a"], "trait_scores": [1]}',
            "file.json: “trait_scores” is not a table of traits.",
        ),
        (
            '[3, {"tokens": [], "trait_scores": {}}]',
            "1 record opened. file.json, record 1: not a monitoring record.",
        ),
    ],
)
def test_a_file_without_the_form_of_a_record_is_refused_with_a_reason(
    reports: Reports, written: str, reason: str
) -> None:
    page = reports.open([BANK])

    page.locator("#open").set_input_files([reports.save("file.json", written)])

    expect(page.locator("#status")).to_have_text(reason)


def test_a_refused_file_does_not_change_the_page(reports: Reports) -> None:
    page = reports.open([BANK, OLD])
    page.locator("#second").select_option("1")

    page.locator("#open").set_input_files([reports.save("file.json", "hello")])
    expect(page.locator("#status")).to_have_text("file.json: not JSON.")

    assert [content(part(page, "tokens", k)) for k in (1, 2)] == [BANK["response"], "Maybe"]
    assert page.locator("#second").input_value() == "1"


@pytest.mark.parametrize("written", ["[]", '{"messages": [], "turns": []}'])
def test_a_file_without_records_is_refused_with_a_reason(reports: Reports, written: str) -> None:
    page = reports.open([BANK])

    page.locator("#open").set_input_files([reports.save("file.json", written)])

    expect(page.locator("#status")).to_have_text("file.json: contains no records.")


def test_a_refused_file_keeps_the_selected_token(reports: Reports) -> None:
    page = reports.open([BANK])
    slide(page, 3)

    page.locator("#open").set_input_files([reports.save("file.json", "hello")])
    expect(page.locator("#status")).to_have_text("file.json: not JSON.")

    assert text(part(page, "position")) == "Token 4 of 6"
