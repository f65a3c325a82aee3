"""Takes docs/pictures/report-*.webp: what the report looks like in a browser.

    python docs/make_screenshots.py            # runs `traitcli extract -c demo` first: some minutes
    python docs/make_screenshots.py FOLDER     # uses the run in FOLDER

The embedded model writes the records. The browser is the system's Chromium, without a network.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).parent
CHROMIUM = "/usr/bin/chromium"
WIDTH, HEIGHT = 1280, 900
NEIGHBOUR = "What should I do about my noisy neighbour?"
DROUGHT = "Will there be a drought in Spain in 2060?"
RECORDS = {
    "drought": (DROUGHT, "--seed", "3"),
    "neighbour": (NEIGHBOUR, "--seed", "2"),
    "neighbour-steered": (NEIGHBOUR, "--seed", "2", "--steer", "evil=1"),
    "bosses": (
        "Compare a cruel boss and a kind boss.",
        "--trait",
        "evil",
        "--per-layer",
        "--seed",
        "2",
    ),
}


def make(folder: Path) -> Path:
    """Write a report of the demo run and of four records."""
    if not (folder / "runs" / "demo" / "run.json").is_file():
        run(folder, "extract", "-c", "demo")
    files = []
    for name, (prompt, *options) in RECORDS.items():
        file = folder / f"{name}.json"
        if not file.is_file():
            fixed = ("-c", "demo", "--max-new-tokens", "110", "--out", str(file))
            run(folder, "monitor", prompt, *fixed, *options)
        files.append(str(file))
    run(folder, "report", "-c", "demo", *files, "demo", "--out", str(folder / "report.html"))
    return folder / "report.html"


def run(folder: Path, *arguments: str) -> None:
    # One thread, so that screenshots from two machines agree: the number of cores changes the order
    # of sums, and that can change a sampled word.
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "traitcli", *arguments], cwd=folder, env=env, check=True)


def slide(page: Page, index: int) -> None:
    page.locator("#slider").fill(str(index))
    page.locator("#slider").blur()


def tokens(page: Page) -> None:
    page.locator("#trait").select_option("uncertainty")
    slide(page, 12)


def compare(page: Page) -> None:
    page.locator("#first").select_option("1")
    page.locator("#second").select_option("2")
    page.locator("#trait").select_option("evil")
    page.locator("#smoothing button", has_text="5").click()
    slide(page, 30)


def layers(page: Page) -> None:
    page.locator("#first").select_option("3")
    page.locator("#trait").select_option("evil")
    slide(page, 20)


def rollouts(page: Page) -> None:
    page.locator(".examples summary").nth(1).click()


def nothing(page: Page) -> None:
    pass


SHOTS: dict[str, tuple[str, Callable[[Page], None], str]] = {
    "report-tokens": ("light", tokens, "#records"),
    "report-dark": ("dark", tokens, "#records"),
    "report-compare": ("light", compare, "#records"),
    "report-layers": ("light", layers, "#records"),
    "report-vectors": ("light", nothing, "#set > .columns"),
    "report-rollouts": ("light", rollouts, "#set > [data-part=rollouts]"),
    "report-run": ("light", nothing, "#runs"),
}
"""Name -> (color scheme, function that prepares the page, selector of the part to show)."""


def shoot(report: Path, names: Sequence[str]) -> None:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        for name in names:
            scheme, prepare, part = SHOTS[name]
            size = {"width": WIDTH, "height": HEIGHT}
            context = chromium.new_context(offline=True, viewport=size, color_scheme=scheme)
            page = context.new_page()
            page.goto(report.as_uri())
            prepare(page)
            page.mouse.move(0, 0)
            # The charts are drawn in the next frames.
            page.wait_for_timeout(300)
            box = page.locator(part).bounding_box()
            assert box
            top, height = max(0, box["y"] - 24), box["height"] + 48
            clip = {"x": 0, "y": top, "width": WIDTH, "height": height}
            picture = Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip)))

            # Lossless WebP takes a third of the size of PNG.
            path = DOCS / "pictures" / f"{name}.webp"
            picture.convert("RGB").save(path, lossless=True, method=6)
            print(path)
            context.close()
        chromium.close()


def main(arguments: Sequence[str]) -> int:
    if not Path(CHROMIUM).exists():
        print(
            f"error: {CHROMIUM} is missing; the screenshots are taken with Chromium",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(arguments[0] if arguments else name).resolve()
        shoot(make(folder), list(SHOTS))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
