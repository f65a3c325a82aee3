"""The documentation pages: generated parts are up to date, and link targets exist."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("docs/design/*.md"),
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "runs/README.md",
        ROOT / "vectors/README.md",
    ]
)
LONGEST_LINE = 100


@pytest.fixture(scope="module")
def make_configs():
    """The script docs/make_configs.py, imported as a module."""
    spec = importlib.util.spec_from_file_location("make_configs", ROOT / "docs" / "make_configs.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # A dataclass looks up its module there.
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_table_of_settings_matches_the_config(make_configs):
    page = make_configs.PAGE.read_text(encoding="utf-8")

    assert make_configs.with_table(page) == page, "stale: run python docs/make_configs.py"


def test_every_setting_has_a_meaning(make_configs):
    keys = list(make_configs.settings())

    assert [key.key for key in keys if not key.meaning] == []


each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def links_in(page):
    """Path and heading of each link to another page: `vectors.md#which-layer` in two parts."""
    targets = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    return [target.partition("#")[::2] for target in targets if "://" not in target]


def headings_of(page):
    """The anchors of a page's headings, as GitHub derives them."""
    lines = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL).splitlines()
    titles = [line.lstrip("#").strip().lower() for line in lines if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@each_page
def test_a_page_links_to_files_that_exist(page):
    assert [path for path, _ in links_in(page) if path and not (page.parent / path).exists()] == []


@each_page
def test_a_page_links_to_headings_that_exist(page):
    links = [(path, heading) for path, heading in links_in(page) if heading]

    assert [
        (path, heading)
        for path, heading in links
        if heading not in headings_of(page.parent / path if path else page)
    ] == []


@each_page
def test_a_page_has_short_lines(page):
    lines = page.read_text(encoding="utf-8").splitlines()

    assert [line for line in lines if len(line) > LONGEST_LINE] == []


def test_the_index_lists_every_page():
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / path).resolve() for path, _ in links_in(index)}

    assert [page for page in ROOT.glob("docs/**/*.md") if page not in listed | {index}] == []


@each_page
def test_a_page_names_modules_that_exist(page):
    named = re.findall(r"`([a-z_/]+\.py)`", page.read_text(encoding="utf-8"))

    missing = [
        name
        for name in named
        if not (ROOT / name).exists() and not list(ROOT.glob(f"traitcli/**/{name}"))
    ]

    assert missing == []
