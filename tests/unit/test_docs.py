"""The documentation pages: what is generated in them is fresh, and what they point to is there."""

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
        ROOT / "runs/README.md",
        ROOT / "vectors/README.md",
    ]
)
LONGEST_LINE = 100


@pytest.fixture(scope="module")
def make_configs():
    """docs/make_configs.py, which is a script and in no package."""
    spec = importlib.util.spec_from_file_location("make_configs", ROOT / "docs" / "make_configs.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_table_of_settings_is_what_the_config_says(make_configs):
    page = make_configs.PAGE.read_text(encoding="utf-8")

    assert make_configs.with_table(page) == page, "stale: run python docs/make_configs.py"


def test_every_setting_has_a_meaning(make_configs):
    keys = list(make_configs.settings())

    assert [key.key for key in keys if not key.meaning] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_links_to_files_that_exist_and_its_lines_are_short(page):
    text = page.read_text(encoding="utf-8")
    links = [
        link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link
    ]

    assert [link for link in links if not (page.parent / link).exists()] == []
    assert [line for line in text.splitlines() if len(line) > LONGEST_LINE] == []
