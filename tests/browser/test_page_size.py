"""Long records and many records: a step changes few elements, and the file stays small.

`make bench-report` measures the time.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

from benchmarks.report import long_record
from tests.browser.conftest import Reports
from tests.browser.reading import part, text

pytestmark = pytest.mark.browser

CHANGES = """async () => {
    const slider = document.getElementById("slider");
    const seen = [];
    const observer = new MutationObserver((changes) => seen.push(...changes));
    const before = [...document.querySelectorAll("*")];
    const everything = { subtree: true, childList: true, attributes: true, characterData: true };
    observer.observe(document, everything);
    for (const index of [5, 6, 7, 30, 8]) {
        slider.value = index;
        slider.dispatchEvent(new Event("input"));
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    }
    observer.disconnect();
    const after = document.querySelectorAll("*");
    const isSame = before.length === after.length && before.every((node, i) => node === after[i]);
    return [seen.length, isSame];
}"""


def test_a_step_in_a_long_record_changes_no_more_than_in_a_short_one(
    reports: Reports,
) -> None:
    few, is_same = reports.open([long_record(0, 40)]).evaluate(CHANGES)

    many, is_still_the_same = reports.open([long_record(0, 4000)]).evaluate(CHANGES)

    assert (is_same, is_still_the_same) == (True, True)
    assert 0 < many <= few


def test_the_last_of_four_thousand_tokens_is_reached(reports: Reports) -> None:
    page: Page = reports.open([long_record(0, 4000)])

    page.locator("#slider").fill("3999")

    assert text(part(page, "position")) == "Token 4,000 of 4,000"
    assert part(page, "tokens").evaluate("e => e.scrollTop + e.clientHeight > e.scrollHeight - 60")


def test_a_hundred_records_make_a_file_small_enough_for_email(reports: Reports) -> None:
    path = reports.write([long_record(k, 1000) for k in range(100)])

    assert path.stat().st_size < 20e6 / 4  # With 4,000 tokens each, they would be below 20 MB.
