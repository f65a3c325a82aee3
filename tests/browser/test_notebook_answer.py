"""An answer in a notebook: hostile text does nothing, and it is readable in every theme."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.browser.conftest import Reports
from tests.browser.reading import content, contrast, parse_color
from traitcli.interventions import Cap
from traitcli.records import Crossing, TokenScores
from traitcli.views.notebook import answer_html

pytestmark = pytest.mark.browser

HOSTILE = [
    "<script>alert(1)</script>",
    "</style></div></table><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    "\"'><svg onload=alert(4)>",
    "<style>*{display:none}</style><link rel=stylesheet href=https://example.com/x.css>",
    "&lt;b&gt; &#0; <!--",
    "\u202eabc\u202d",
    "nul\x00and\x1b[31m",
    "zero\u200bwidth\ufeff\u2028",
    "\ud83d",
    "a" + "\u0301" * 60,
]
SHOWN = [
    *HOSTILE[:6],
    r"\u202eabc\u202d",
    r"nul\x00and\x1b[31m",
    r"zero\u200bwidth\ufeff\u2028",
    r"\ud83d",
]
"""What a reader sees in their place, but for the last, whose marks are cut."""
THEMES: dict[str, tuple[Any, str, str]] = {
    "system-light": ("light", "<html lang=en>", "<body>"),
    "system-dark": ("dark", "<html lang=en>", "<body>"),
    "jupyter-light": ("dark", "<html lang=en>", '<body data-jp-theme-light="true">'),
    "jupyter-dark": ("light", "<html lang=en>", '<body data-jp-theme-light="false">'),
    "vscode-light": ("dark", "<html lang=en>", '<body class="vscode-light">'),
    "vscode-dark": ("light", "<html lang=en>", '<body class="vscode-dark">'),
    "vscode-contrast-dark": ("light", "<html lang=en>", '<body class="vscode-high-contrast">'),
    "vscode-contrast-light": (
        "dark",
        "<html lang=en>",
        '<body class="vscode-high-contrast vscode-high-contrast-light">',
    ),
    "colab-dark": ("light", '<html lang=en theme="dark">', "<body>"),
    "docs-light": ("dark", "<html lang=en>", '<body data-theme="light">'),
}
"""Name -> color scheme of the system, and what the page says of its theme."""


def record(tokens: list[str], name: str = "evil", **more: Any) -> TokenScores:
    scores = tuple((k - len(tokens) // 2) / 10 for k in range(len(tokens)))
    fields: dict[str, Any] = {
        "prompt": tokens[0],
        "response": "".join(tokens),
        "layers": {name: 3, "plain": 4},
        "model": tokens[-1],
        "seed": 1,
        "prompt_tokens": 4,
        "finish_reason": "length",
    }
    return TokenScores(
        tokens=tuple(tokens),
        raw={name: scores, "plain": scores},
        calibrated={name: scores},
        **fields | more,
    )


MARKED = record(
    [f" word{k}" for k in range(50)],
    steering=(Cap("evil", 0.5, True, 3),),
    braked={"evil<=0.5@3": (1, 2, 40)},
    crossings=(Crossing("mean(evil)>1", "stop", 45, 1.25),),
)


@pytest.fixture
def shown(reports: Reports) -> Callable[..., Page]:
    """Opens a record as a notebook shows it; `reports` then checks that nothing was requested."""

    def show(
        scores: TokenScores,
        scheme: Any = "light",
        html: str = "<html lang=en>",
        body: str = "<body>",
    ) -> Page:
        page = f"<!doctype html>{html}<meta charset=utf-8><title>t</title>{body}<main><h1>n</h1>"
        path = reports.save("answer.html", f"{page}{answer_html(scores)}</main>")
        reports.tab.emulate_media(color_scheme=scheme)
        reports.tab.goto(path.as_uri())
        return reports.tab

    return show


def kinds(page: Page) -> list[str]:
    """The kinds of the elements in the answer, in order."""
    found: list[str] = page.evaluate(
        "[...document.querySelectorAll('.traitcli-answer *')].map(e => e.localName)"
    )
    return found


def test_hostile_tokens_are_shown_and_do_nothing(shown: Callable[..., Page]) -> None:
    harmless = kinds(shown(record(["harmless"] * len(HOSTILE))))

    page = shown(record(HOSTILE))

    assert kinds(page) == harmless
    tokens = page.locator(".tc-text span")
    assert tokens.count() == len(HOSTILE)
    assert [content(tokens.nth(k)) for k in range(len(SHOWN))] == SHOWN
    assert content(tokens.last).startswith("a\u0301\u0301\u0301\u0301\\u0301")
    assert page.locator(".tc-text").is_visible()


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_in_any_other_field_does_nothing(
    shown: Callable[..., Page], hostile: str
) -> None:
    def marked(text: str) -> TokenScores:
        return record(
            [text, "b", "c", text],
            name=text,
            finish_reason=text,
            steering=(Cap(text, 0.5, True, 3),),
            braked={f"{text}<=0.5@3": (1,)},
            crossings=(Crossing(f"{text}>1", "fail", 2, 1.5),),
        )

    def outside_of_charts(page: Page) -> list[str]:
        return [kind for kind in kinds(page) if kind != "path"]

    harmless = outside_of_charts(shown(marked("harmless")))

    page = shown(marked(hostile))

    assert outside_of_charts(page) == harmless
    assert page.locator("tbody tr").count() == 2
    assert page.locator("tbody th").first.is_visible()


def test_a_response_without_scores_and_an_error_are_escaped(shown: Callable[..., Page]) -> None:
    from traitcli.api.answer import Answer
    from traitcli.record_json import FailedRecord

    text = "".join(HOSTILE[:5])
    bare = record(["x"], prompt="")
    empty = TokenScores((), {}, {}, "", text, {}, "tiny", 1, 1, "stop")
    failed = Answer.of(FailedRecord(prompt=text, error=text, about={}))

    assert shown(bare).locator(".tc-prompt").count() == 0
    assert content(shown(empty).locator(".tc-text")) == text
    page = shown(failed)
    assert content(page.locator(".tc-error")) == text
    assert set(kinds(page)) == {"style", "div"}


@pytest.mark.parametrize("theme", THEMES)
def test_the_notebook_decides_between_light_and_dark(
    shown: Callable[..., Page], theme: str
) -> None:
    page = shown(MARKED, *THEMES[theme])

    panel = page.locator(".traitcli-answer").evaluate("e => getComputedStyle(e).backgroundColor")
    assert (sum(parse_color(panel)[:3]) < 3 * 60) == theme.endswith("dark")


@pytest.mark.parametrize("theme", ["system-light", "jupyter-dark"])
def test_everything_is_readable(shown: Callable[..., Page], theme: str) -> None:
    page = shown(MARKED, *THEMES[theme])

    assert [each["id"] for each in Axe().run(page).response["violations"]] == []
    pairs = page.locator(".traitcli-answer :not(style, svg *)").evaluate_all("""all => {
        const written = all.filter((e) =>
            [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
        return written.map((e) => {
            let at = e;
            while (/, 0\\)$/.test(getComputedStyle(at).backgroundColor)) at = at.parentElement;
            return [getComputedStyle(e).color, getComputedStyle(at).backgroundColor];
        });
    }""")
    ratios = [contrast(parse_color(text), parse_color(behind)) for text, behind in pairs]
    # All tokens, the table, notes and legend.
    assert len(ratios) > 70
    assert min(ratios) >= 4.5


@pytest.mark.parametrize("theme", ["system-light", "jupyter-dark"])
def test_charts_stand_out(shown: Callable[..., Page], theme: str) -> None:
    page = shown(MARKED, *THEMES[theme])
    track = page.locator(".tc-chart").first.evaluate("e => getComputedStyle(e).backgroundColor")

    ratios = {}
    for name in ("tc-up", "tc-down", "tc-hold"):
        script = "e => getComputedStyle(e).fill"
        color = page.locator(f".tc-chart .{name}").first.evaluate(script)
        ratios[name] = contrast(parse_color(color), parse_color(track))

    # WCAG 2.2 asks for 3 where a graphic carries meaning.
    assert min(ratios.values()) >= 3, ratios


def test_an_answer_fits_where_it_is(shown: Callable[..., Page]) -> None:
    page = shown(MARKED)
    for width in (1200, 700, 360):
        page.set_viewport_size({"width": width, "height": 900})

        box = page.locator(".traitcli-answer").bounding_box()
        table = page.locator("table").bounding_box()

        assert box
        assert table
        assert box["width"] <= width
        assert table["x"] + table["width"] <= box["x"] + box["width"]
    page.set_viewport_size({"width": 1280, "height": 900})
