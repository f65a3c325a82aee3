"""Takes docs/pictures/notebook-*.webp: what an answer looks like in a notebook, light and dark.

    pip install nbconvert                        # only this script needs it
    python docs/make_notebook_pictures.py        # runs docs/notebooks/watch-and-steer.ipynb

The pages have JupyterLab's own styles. The browser is the system's Chromium, without a network.
"""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parent
CHROMIUM = "/usr/bin/chromium"
WIDTH, HEIGHT = 1020, 900
SCALE = 1.5
NOTEBOOK = "watch-and-steer"
SHOTS = {"notebook-light": ("light", "answer"), "notebook-dark": ("dark", "held")}
"""Name of the picture -> (theme, the last line of the cell that it shows)."""


def execute() -> Any:
    """The notebook after its cells ran in an empty folder."""
    # One thread, so that pictures from two machines agree: the number of cores changes the order of
    # sums, and that can change a sampled word.
    os.environ["OMP_NUM_THREADS"] = "1"
    notebook = nbformat.read(DOCS / "notebooks" / f"{NOTEBOOK}.ipynb", as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        return NotebookClient(notebook, kernel_name="python3", resources=resources).execute()


def page_of(notebook: Any, theme: str, last_line: str) -> str:
    """One cell with its output, as JupyterLab shows it."""
    from nbconvert import HTMLExporter

    cells = [cell for cell in notebook.cells if cell.source.splitlines()[-1] == last_line]
    one = nbformat.from_dict({**notebook, "cells": cells})
    page, _ = HTMLExporter(template_name="lab", theme=theme).from_notebook_node(one)
    return str(page)


def shoot(notebook: Any) -> None:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        for name, (theme, last_line) in SHOTS.items():
            size = {"width": WIDTH, "height": HEIGHT}
            context = chromium.new_context(
                offline=True, viewport=size, device_scale_factor=SCALE, color_scheme="light"
            )
            page = context.new_page()
            page.set_content(page_of(notebook, theme, last_line), wait_until="domcontentloaded")
            box = page.locator(".jp-Cell").bounding_box()
            assert box
            clip = {"x": 0, "y": 0, "width": WIDTH, "height": box["y"] + box["height"] + 8}
            picture = Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip)))

            # Lossless WebP takes a third of the size of PNG.
            path = DOCS / "pictures" / f"{name}.webp"
            picture.convert("RGB").save(path, lossless=True, method=6)
            print(path)
            context.close()
        chromium.close()


def main() -> int:
    if not Path(CHROMIUM).exists():
        print(f"error: {CHROMIUM} is missing; the pictures are taken with it", file=sys.stderr)
        return 2
    if not importlib.util.find_spec("nbconvert"):
        print("error: nbconvert is missing; run pip install nbconvert", file=sys.stderr)
        return 2
    shoot(execute())
    return 0


if __name__ == "__main__":
    sys.exit(main())
