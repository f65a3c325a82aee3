"""The report as a file: self-contained, inert whatever a model wrote, replaced in one step."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from traitcli.errors import TraitError
from traitcli.views.report import write_report

RECORD = {
    "prompt": "How do I hack a bank?",
    "response": "I cannot",
    "tokens": ["I", " cannot"],
    "trait_scores": {"refusal": [0.5, 2.25]},
    "calibrated_scores": {"refusal": [-0.5, 1.25]},
}
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]></SCRIPT ><img src=x onerror=alert(1)>",
    "&lt;b&gt; \u2028 \u2029 \ud800",
    '"};alert(1);//\\',
]


class Page(HTMLParser):
    """The elements of a page, and the text inside script and style."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.inside = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = dict(attrs).get("type") or tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        self.texts[self.inside] = self.texts.get(self.inside, "") + data

    @property
    def data(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.texts["application/json"])
        return loaded

    @property
    def policy(self) -> str:
        metas = [attributes for tag, attributes in self.elements if tag == "meta"]
        return next(str(meta["content"]) for meta in metas if meta.get("http-equiv") == "Content-Security-Policy")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "report.html"


def test_the_page_refers_to_nothing_outside_itself(path: Path) -> None:
    write_report(path, [RECORD], [{"trait": "refusal"}], "today")

    page = Page(path)
    names = ("src", "href", "action", "data", "srcset", "poster", "style", "ping")
    addresses = {value for _, attributes in page.elements for name, value in attributes.items() if name in names}
    assert addresses == {"data:,"}
    assert not any(text in page.source for text in ("http:", "https:", "@import", "url("))


def test_only_the_script_and_style_of_the_page_may_run(path: Path) -> None:
    write_report(path, [RECORD], [], "today")

    page = Page(path)
    script, style = (
        base64.b64encode(hashlib.sha256(page.texts[kind].encode()).digest()).decode() for kind in ("module", "style")
    )
    assert page.policy == (
        f"default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_model_wrote_is_data_and_never_markup(path: Path, text: str) -> None:
    record = {"prompt": text, "response": text, "tokens": [text], "trait_scores": {text: [1.0]}, "model": text}
    write_report(path, [RECORD], [], "today")
    harmless = Page(path).elements

    write_report(path, [record], [{"trait": text, "verdict_reason": text}], "today")

    page = Page(path)
    assert page.elements == harmless
    assert page.data == {"records": [record], "vectors": [{"trait": text, "verdict_reason": text}]}
    assert not set("<>&\u2028\u2029") & set(page.texts["application/json"])


def test_the_date_is_text_too(path: Path) -> None:
    write_report(path, [], [], "<b>today</b>")

    assert "b" not in [tag for tag, _ in Page(path).elements]


def test_a_record_with_the_old_key_travels_as_it_is(path: Path) -> None:
    old = {"response": "I", "tokens": ["I"], "projections": {"refusal": [0.5]}}

    write_report(path, [old], [], "today")

    assert Page(path).data["records"] == [old]


def test_numbers_that_javascript_cannot_read_are_made_so_that_it_can(path: Path) -> None:
    scores = [float("nan"), float("inf"), 1 / 3]

    write_report(path, [{**RECORD, "trait_scores": {"refusal": scores}, "seed": 2**53}], [], "today")

    record = Page(path).data["records"][0]
    assert record["trait_scores"] == {"refusal": [None, None, 0.333333]}
    assert record["seed"] == "9007199254740992"


def test_what_the_page_does_not_show_stays_at_home(path: Path) -> None:
    write_report(path, [{**RECORD, "host": "secret"}], [{"trait": "refusal", "path": "/home/secret"}], "today")

    assert "secret" not in path.read_text(encoding="utf-8")


def test_a_report_is_replaced_and_never_half_written(path: Path) -> None:
    path.write_text("the old report", encoding="utf-8")
    with path.open(encoding="utf-8") as reader:
        write_report(path, [RECORD], [], "today")

        assert reader.read() == "the old report"
    assert path.read_text(encoding="utf-8").endswith("</html>")
    assert list(path.parent.iterdir()) == [path]


def test_a_report_that_cannot_be_written_leaves_nothing_behind_and_says_why(path: Path) -> None:
    path.mkdir()

    with pytest.raises(TraitError, match="cannot write") as caught:
        write_report(path, [RECORD], [], "today")

    assert caught.value.cause == "Is a directory"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_a_clear_error(path: Path) -> None:
    path.write_text("", encoding="utf-8")

    with pytest.raises(TraitError, match="cannot write"):
        write_report(path / "report.html", [RECORD], [], "today")


def test_a_missing_folder_is_made(path: Path) -> None:
    write_report(path.parent / "new" / "report.html", [], [], "today")

    assert (path.parent / "new" / "report.html").is_file()


def test_a_report_needs_no_heavy_package() -> None:
    heavy = {"torch", "transformers", "pandas", "numpy", "openai"}
    code = f"import sys, traitcli.views.report; print(*sorted({heavy!r} & set(sys.modules)))"

    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert loaded.stdout.split() == []
