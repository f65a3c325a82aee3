"""The page is safe and accessible: hostile text, screen readers, contrast and print."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import Reports
from tests.browser.data import BANK, FULL, OTHER_SET, RUN, SET, vector
from tests.browser.reading import (
    backgrounds,
    cells,
    chart,
    color_of,
    content,
    contrast,
    count_of,
    of_run,
    of_set,
    parse_color,
    part,
    settle,
    slide,
    terminal,
    text,
    until_drawn_in,
    values,
)

pytestmark = pytest.mark.browser

MARKUP = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!-- \u2028"
BACKWARDS = "\u202eabc\u202d"
TABLES = {
    *(
        "trait_scores",
        "calibrated_scores",
        "layers",
        "about",
        "settings",
        "versions",
        "missing_reasons",
    ),
    *("positive", "negative"),
}
"""Tables whose keys are data."""


def poisoned(value: Any, text: str, key: str = "") -> Any:
    """The value with `text` in place of every string, and of every key that is data."""
    if isinstance(value, Mapping):
        keep = key not in TABLES
        return {
            name if keep else f"{text}{k or ''}": poisoned(item, text, name)
            for k, (name, item) in enumerate(value.items())
        }
    if isinstance(value, list | tuple):
        return [poisoned(item, text, key) for item in value]
    return text if isinstance(value, str) else value


def elements(page: Page) -> dict[str, int]:
    """The number of elements of each kind."""
    counted: dict[str, int] = page.evaluate("""() => {
        const counts = {};
        for (const { localName } of document.querySelectorAll("*")) {
            counts[localName] = (counts[localName] ?? 0) + 1;
        }
        return counts;
    }""")
    return counted


# Hostile text


@pytest.mark.parametrize("hostile", [MARKUP, BACKWARDS])
def test_hostile_text_in_every_field_is_shown_and_does_nothing(
    reports: Reports, hostile: str
) -> None:
    whole = [[FULL], [SET, OTHER_SET], [RUN]]
    page = reports.open(*poisoned(whole, "harmless"))
    wanted = elements(page)

    page = reports.open(*poisoned(whole, hostile))

    assert elements(page) == wanted
    for selector in (
        "#trait option",
        ".bars .name",
        ".names .name",
        ".summary th[scope=row]",
        ".pane .token",
        ".history dd",
    ):
        assert content(page.locator(selector).first).strip() == hostile.strip()
    for selector in (
        ".vectors th[scope=row]",
        ".example .asked",
        ".example .answered",
        ".name-of",
        ".settings dd",
    ):
        assert content(page.locator(selector).first).removesuffix(" …").strip() == hostile.strip()
    assert hostile.strip() in content(of_set(page, "intro"))
    assert hostile.strip() in content(of_run(page, "name"))
    assert hostile.strip() in content(of_run(page, "failures").locator("li").first)


def test_hostile_text_stays_text_while_the_page_is_used(reports: Reports) -> None:
    page = reports.open(*poisoned([[FULL, FULL], [SET, OTHER_SET], [RUN]], MARKUP))
    before = elements(page)

    page.locator("#second").select_option("1")
    page.locator("#second").select_option("-1")
    page.locator("#sets").select_option("1")
    page.locator("#sets").select_option("0")
    page.locator("#trait").select_option(index=1)
    slide(page, 3)
    part(page, "tokens").locator(".token").nth(2).hover()

    assert elements(page) == before


def test_hostile_text_from_a_file_is_shown_and_does_nothing(reports: Reports) -> None:
    page = reports.open([poisoned(FULL, "harmless")])
    wanted = elements(page)
    page = reports.open()

    page.locator("#open").set_input_files(
        [reports.save("x.json", json.dumps(poisoned(FULL, MARKUP)))]
    )
    expect(part(page, "position")).to_have_text("Token 1 of 6")

    assert elements(page) == wanted
    assert content(part(page, "tokens")) == MARKUP * 6


@pytest.mark.parametrize("source", ["report", "file"])
def test_a_trait_may_have_the_name_of_any_javascript_property(
    reports: Reports, source: str
) -> None:
    scores = json.loads(
        '{"constructor": [1.0], "__proto__": [2.0], "toString": [3.0], "hasOwnProperty": [4.0]}'
    )
    record = {
        "tokens": ["a"],
        "trait_scores": scores,
        "calibrated_scores": scores,
        "finish_reason": "toString",
    }
    page = reports.open([record] if source == "report" else [])
    if source == "file":
        page.locator("#open").set_input_files([reports.save("x.json", json.dumps(record))])
        expect(part(page, "position")).to_have_text("Token 1 of 1")

    page.locator("#trait").select_option("__proto__")

    assert values(page) == ["+1.00", "+2.00", "+3.00", "+4.00"]
    assert [row[1] for row in cells(part(page, "summary"))] == ["–"] * 4
    assert text(part(page, "now-value")) == "__proto__ +2.00"
    assert backgrounds(part(page, "tokens").locator(".token")) == terminal([2.0])
    assert text(part(page, "facts")) == "1 of response · toString"


def test_a_vector_and_a_run_may_have_the_name_of_a_javascript_property(reports: Reports) -> None:
    dropped = {"positive": json.loads('{"__proto__": 3}')}
    trait = {
        **RUN["traits"][0],
        "trait": "valueOf",
        "missing_reasons": json.loads('{"__proto__": 2}'),
    }
    run = {
        **RUN,
        "traits": [trait],
        "settings": json.loads('{"__proto__": "toString"}'),
        "commands": [],
    }

    page = reports.open(
        sets=[
            {
                **SET,
                "vectors": [vector("__proto__", verdict="constructor", dropped=dropped)],
                "cosines": [[1.0]],
            }
        ],
        runs=[run],
    )

    assert text(page.locator(".vectors th[scope=row]")) == "__proto__"
    assert content(of_set(page, "table").locator(".verdict")).startswith("· constructor")
    assert content(page.locator(".examples summary")) == "__proto__3 positive: __proto__"
    assert text(of_run(page, "failures")) == "valueOf: 2 scores missing: __proto__"
    assert content(of_run(page, "settings")) == "__proto__toString"


def test_a_token_of_a_hundred_thousand_letters_stays_within_the_page(reports: Reports) -> None:
    token = "x" * 100_000
    page = reports.open([{"tokens": [token, "b"], "trait_scores": {"evil": [1.0, -1.0]}}])

    assert content(part(page, "tokens")) == f"{token}b"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_report_does_not_run_added_scripts(reports: Reports) -> None:
    page = reports.open([BANK])

    page.evaluate("""() => {
        const added = document.createElement("script");
        added.textContent = "document.title = 'run'";
        document.body.append(added);
    }""")

    assert page.title() == "Trait report · today"
    assert reports.errors.pop().startswith("console: ")
    assert reports.errors == []


# Accessibility


def full_page(reports: Reports) -> Page:
    """A report with every feature, opened so that every part is visible."""
    joy = vector("joy", verdict="not shown", layer=1)
    page = reports.open(
        [FULL, BANK],
        [{**SET, "vectors": [*SET["vectors"], joy], "cosines": [[0.5] * 3] * 3}, OTHER_SET],
        [RUN],
    )
    page.evaluate(
        "() => document.querySelectorAll('details:not([hidden])')"
        ".forEach((each) => { each.open = true; })"
    )
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["one", "two", "empty"])
def test_axe_finds_nothing_serious(reports: Reports, scheme: Any, view: str) -> None:
    reports.tab.emulate_media(color_scheme=scheme)
    page = full_page(reports) if view != "empty" else reports.open()
    if view == "two":
        page.locator("#second").select_option("1")

    found = Axe().run(page).response["violations"]

    faults = []
    for each in found:
        if each["impact"] in ("serious", "critical"):
            faults += [f"{each['id']}: {n['target']}: {n['failureSummary']}" for n in each["nodes"]]
    assert faults == []


def test_every_control_can_be_reached_with_the_tab_key(reports: Reports) -> None:
    page = full_page(reports)
    script = """() => {
        const all = "button:enabled, select:enabled, input:enabled, a[href], summary, "
            + "[tabindex='0']";
        const found = [...document.querySelectorAll(all)];
        const seen = found.filter((each) => each.checkVisibility());
        seen.forEach((each, k) => { each.dataset.control = k; });
        return seen.length;
    }"""
    count = page.evaluate(script)
    reached = set()

    for _ in range(2 * count):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.dataset.control ?? ''"))

    assert count > 30
    assert set(map(str, range(count))) - reached == set()


def test_every_control_has_a_name(reports: Reports) -> None:
    page = full_page(reports)
    page.locator("#second").select_option("1")
    session = page.context.new_cdp_session(page)

    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()

    roles = {"button", "combobox", "slider", "link", "image", "region"}
    exposed = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    named = [(node["role"]["value"], node["name"]["value"]) for node in exposed]
    assert {role for role, _ in named} >= {"button", "combobox", "slider", "link", "image"}
    assert [role for role, name in named if not name.strip()] == []


def test_equal_controls_of_two_panes_have_different_names(reports: Reports) -> None:
    page = full_page(reports)

    assert page.get_by_role("slider", name="Token").count() == 1
    assert page.get_by_role("button", name="Zoom in").count() == 1
    assert page.get_by_role("combobox", name="Compare with").count() == 1
    smoothing = page.get_by_role("group", name="Smoothing of the lines").get_by_role("button")
    assert smoothing.all_inner_texts() == ["off", "5", "10"]


# Contrast


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_token_is_readable_on_every_background(reports: Reports, scheme: Any) -> None:
    scores = [k / 50 for k in range(-110, 111)]
    record = {
        "tokens": ["a"] * len(scores),
        "trait_scores": {"evil": scores},
        "calibrated_scores": {"evil": scores},
    }
    reports.tab.emulate_media(color_scheme=scheme)
    page = reports.open([record])

    tokens = part(page, "tokens").locator(".token")
    text_colors = tokens.evaluate_all("all => all.map(e => getComputedStyle(e).color)")
    panel = backgrounds(page.locator(".reading"))[0]
    found = [
        contrast(parse_color(color), panel if len(background_color) == 4 else background_color)
        for color, background_color in zip(text_colors, backgrounds(tokens), strict=True)
    ]

    assert min(found) >= 4.5
    assert len({round(ratio, 1) for ratio in found}) > 10


# Print


def test_a_printed_page_has_all_details_and_light_colors(reports: Reports) -> None:
    reports.tab.emulate_media(color_scheme="light")
    page = reports.open([FULL], [SET], [RUN])
    light = color_of(page.locator(".names .swatch").first)
    page.emulate_media(color_scheme="dark")
    dark = color_of(page.locator(".names .swatch").first)
    until_drawn_in(page, dark)

    def shown() -> tuple[list[bool], list[tuple[bool, bool]]]:
        settle(page)
        opened: list[bool] = page.locator("details").evaluate_all("all => all.map(e => e.open)")
        canvases = [
            chart(page),
            of_set(page, "auroc").locator("canvas"),
            of_set(page, "magnitude").locator("canvas"),
        ]
        return opened, [
            (count_of(each, light) > 30, count_of(each, dark) > 30) for each in canvases
        ]

    before = shown()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    during = shown()
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")

    assert before == ([False] * 4, [(False, True)] * 3)
    assert during == ([True] * 4, [(True, False)] * 3)
    assert shown() == before


def test_a_printed_page_has_no_controls_and_the_whole_text(reports: Reports) -> None:
    long = {"tokens": [f" word{i}" for i in range(1500)], "trait_scores": {"evil": [1.0] * 1500}}
    page = reports.open([long], [SET], [RUN])

    page.emulate_media(media="print")

    assert not any(
        page.locator(selector).is_visible()
        for selector in ("#slider", "#play", "header nav", ".open")
    )
    assert part(page, "tokens").evaluate("e => e.scrollHeight <= e.clientHeight + 1")
