"""The chart of scores over time."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.conftest import Reports
from tests.browser.data import BANK
from tests.browser.reading import settle

pytestmark = pytest.mark.browser

MEANS = [-1.0, 0.0, 1.0, 0.5]
DAYS = [(date(2025, 1, 30) + timedelta(days=k)).isoformat() for k in range(len(MEANS))]


def text(day: str, mean: float) -> dict[str, object]:
    scores = {"evil": [mean, mean], "refusal": [-mean, -mean]}
    return {
        "prompt": "Why?",
        "tokens": ["So", "."],
        "trait_scores": scores,
        "calibrated_scores": scores,
        "model": "tiny",
        "about": {"file": "a.jsonl", "time": f"{day}T12:00:00Z"},
    }


TEXTS = [text(day, mean) for day, mean in zip(DAYS, MEANS, strict=True)]


def test_a_report_without_logs_has_no_chart_over_time(reports: Reports) -> None:
    page = reports.open([BANK])

    expect(page.locator("#drift")).to_be_hidden()


def test_the_chart_has_a_point_for_each_day_and_the_pointer_reads_it(reports: Reports) -> None:
    page = reports.open([*TEXTS, text(DAYS[2], 2.0)])
    place = page.locator("#drift-list .u-over")
    place.scroll_into_view_if_needed()
    settle(page)
    size = place.bounding_box()
    assert size is not None
    caption = page.locator("#drift-list [data-part=caption]")

    found = []
    for k in range(len(DAYS)):
        left = size["width"] * k / (len(DAYS) - 1)
        # Both ends of the chart are points: one pixel inside of them.
        place.hover(position={"x": min(max(left, 1), size["width"] - 1), "y": 20}, force=True)
        found.append(caption.text_content())

    assert found == [
        f"{DAYS[0]} · 1 text · evil −1.00 · refusal +1.00",
        f"{DAYS[1]} · 1 text · evil 0.00 · refusal 0.00",
        f"{DAYS[2]} · 2 texts · evil +1.50 · refusal −1.50",
        f"{DAYS[3]} · 1 text · evil +0.50 · refusal −0.50",
    ]


def test_the_numbers_are_a_table_too_and_the_section_is_accessible(reports: Reports) -> None:
    page = reports.open(TEXTS)

    page.locator("#drift-list summary").click()

    rows = page.locator("#drift-list tr").all_inner_texts()
    assert [row.split() for row in rows[:2]] == [
        ["Day", "Texts", "evil", "refusal"],
        [DAYS[0], "1", "−1.00", "+1.00"],
    ]
    faults = Axe().run(page, context="#drift").response["violations"]
    assert [fault["id"] for fault in faults] == []
