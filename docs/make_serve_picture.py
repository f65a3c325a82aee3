"""Takes docs/pictures/serve.webp: the page of `traitcli serve` after a turn that was steered.

    python docs/make_serve_picture.py

The embedded model answers. The browser is the system's Chromium, which talks to this server only.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).parent
CHROMIUM = "/usr/bin/chromium"
SIZE = {"width": 1280, "height": 840}
SEED, TOKENS = "3", "62"
TRAIT, PUSH = "uncertainty", "1.5"
TURNS = ("Will there be a drought in Spain in 2060?", "Will it rain there tomorrow?")
HOVERED = 24
"""The token of the last answer whose scores are shown."""


@contextmanager
def serve() -> Iterator[str]:
    """The address of a server of the embedded model."""
    # One thread, so that pictures from two machines agree: the number of cores changes the order of
    # sums, and that can change a sampled word.
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "traitcli", "serve", "--port", "0"]
    server = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr
        found = re.search(r"http://\S+", server.stderr.readline())
        if not found:
            raise SystemExit("error: the server did not start")
        yield found[0]
    finally:
        server.terminate()
        server.communicate()


def chat(page: Page) -> None:
    """Two turns, the second one steered."""
    page.locator(".settings summary").click()
    page.locator("#seed").fill(SEED)
    page.locator("#max-tokens").fill(TOKENS)
    page.locator(".settings summary").click()
    page.locator("#trait").select_option(TRAIT)
    for number, text in enumerate(TURNS):
        if number:
            page.get_by_role("slider", name=f"along {TRAIT}").fill(PUSH)
        page.locator("#message").fill(text)
        page.locator("#message").press("Enter")
        page.locator("#send").wait_for(timeout=120_000)
    page.locator("#message").blur()
    page.locator(".turn").last.locator(".token").nth(HOVERED).hover()


def shoot(address: str) -> None:
    """Write the picture."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = chromium.new_context(viewport=SIZE, color_scheme="light").new_page()
        page.goto(address)
        chat(page)
        # The chart is drawn in the next frames.
        page.wait_for_timeout(500)
        picture = Image.open(io.BytesIO(page.screenshot()))
        chromium.close()
    # Lossless WebP takes a third of the size of PNG.
    path = DOCS / "pictures" / "serve.webp"
    picture.convert("RGB").save(path, lossless=True, method=6)
    print(path)


def main() -> int:
    if not Path(CHROMIUM).exists():
        print(f"error: {CHROMIUM} is missing; the picture is taken with it", file=sys.stderr)
        return 2
    with serve() as address:
        shoot(address)
    return 0


if __name__ == "__main__":
    sys.exit(main())
