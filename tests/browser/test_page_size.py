"""Long records and many of them: a step changes as little as in short ones, and the file stays small.

How long it takes is measured by `make bench-report`.
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
    observer.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
    for (const index of [5, 6, 7, 30, 8]) {
        slider.value = index;
        slider.dispatchEvent(new Event("input"));
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    }
    observer.disconnect();
    const after = document.querySelectorAll("*");
    return [seen.length, before.length === after.length && before.every((node, i) => node === after[i])];
}"""


def test_a_step_through_four_thousand_tokens_changes_no_more_than_one_through_forty(
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


def test_a_hundred_records_make_a_file_that_can_be_mailed(reports: Reports) -> None:
    path = reports.write([long_record(k, 1000) for k in range(100)])

    assert path.stat().st_size < 20e6 / 4  # of 4,000 tokens each they would be under 20 MB
