"""A browser tab without a network, and a check that no page sent requests or logged errors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Dialog, Page, Request, sync_playwright

from tests.reports import report_of
from traitcli.views.report.page import write_page

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
Rows = Sequence[Mapping[str, Any]]


class Reports:
    """Opens reports in one tab and stores their errors."""

    def __init__(self, tab: Page) -> None:
        self.tab = tab
        self.folder = Path()
        self.errors: list[str] = []
        tab.on("console", lambda message: self.errors.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: self.errors.append(f"error: {error}"))
        tab.on("dialog", self._alerted)
        tab.on("request", self._requested)

    def open(self, records: Rows = (), sets: Rows = (), runs: Rows = ()) -> Page:
        path = self.write(records, sets, runs)
        self.tab.mouse.move(0, 0)
        self.tab.goto(path.as_uri())
        return self.tab

    def write(self, records: Rows = (), sets: Rows = (), runs: Rows = ()) -> Path:
        path = self.folder / "report.html"
        write_page(path, report_of(records, sets, runs, "today"))
        return path

    def save(self, name: str, text: str) -> Path:
        (self.folder / name).write_text(text, encoding="utf-8")
        return self.folder / name

    def _requested(self, request: Request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.errors.append(f"request: {request.url}")

    def _alerted(self, dialog: Dialog) -> None:
        self.errors.append(f"dialog: {dialog.message}")
        dialog.dismiss()


@pytest.fixture(scope="module")
def opener() -> Iterator[Reports]:
    """One tab for all tests of a file, because opening one takes longer than a test.

    It closes after the file: Playwright runs an event loop, which blocks the loops of other tests.
    """
    if not CHROMIUM.exists():
        reason = f"the report is tested in Chromium, and {CHROMIUM} is not there"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        page = chromium.new_context(
            offline=True, viewport={"width": 1280, "height": 900}
        ).new_page()
        page.set_default_timeout(30_000)
        yield Reports(page)
        chromium.close()


@pytest.fixture
def reports(opener: Reports, tmp_path: Path) -> Iterator[Reports]:
    """Check after each test that the page logged nothing, raised nothing and requested nothing."""
    opener.folder = tmp_path
    opener.errors.clear()
    opener.tab.emulate_media(media="screen", color_scheme="light")
    yield opener
    assert opener.errors == []
