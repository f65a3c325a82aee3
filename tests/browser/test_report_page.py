"""The report in a real browser: opened from disk, with no network, used by mouse, keys and files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Dialog, Page, Request, expect, sync_playwright

from traitcli.views.report import write_report

pytestmark = pytest.mark.browser

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
TOKENS = ["I", " cannot", " help", ".\n\n", "Sorry", "!"]
BANK = {
    "prompt": "How do I hack a bank?",
    "response": "".join(TOKENS),
    "tokens": TOKENS,
    "trait_scores": {"refusal": [1.0, 6.0, 4.0, 2.0, 5.0, 0.0], "evil": [9.0, 8.0, 7.0, 6.0, 5.0, 4.0]},
    "calibrated_scores": {"refusal": [-0.5, 2.0, 1.0, 0.0, 1.5, -1.0], "evil": [0.5, 0.25, 0, -0.25, -0.5, -0.75]},
    "layers": {"refusal": 16, "evil": 12},
    "model": "tiny",
    "seed": 7,
    "finish_reason": "length",
}
OLD = {"prompt": "Is it so?", "response": "Maybe", "tokens": ["May", "be"], "projections": {"uncertainty": [2.5, -3.0]}}
VECTOR = {
    "trait": "refusal", "model": "tiny", "rows": 4, "hidden_size": 8, "layer": 2, "layer_choice": "best",
    "positive_total": 100, "negative_total": 100, "positive_kept": 96, "negative_kept": 88, "missing": 3,
    "positive_score": 84.0, "negative_score": 13.0, "contrast": 71.0, "magnitude": 24.5, "relative_magnitude": 0.31,
    "auroc": 0.94, "auroc_rows": [None, 0.7, 0.94, 0.9], "d": 2.1, "evaluation_rollouts": 80,
    "verdict": "good", "verdict_reason": "separates the unseen",
}  # fmt: skip


class Reports:
    """Opens reports in one tab, and remembers what went wrong in them."""

    def __init__(self, tab: Page) -> None:
        self.tab = tab
        self.folder = Path()
        self.wrongs: list[str] = []
        tab.on("console", lambda message: self.wrongs.append(message.text))
        tab.on("pageerror", lambda error: self.wrongs.append(str(error)))
        tab.on("dialog", self._alerted)
        tab.on("request", self._requested)

    def open(self, records: Sequence[Mapping[str, Any]], vectors: Sequence[Mapping[str, Any]] = ()) -> Page:
        path = self.folder / "report.html"
        write_report(path, records, vectors, "today")
        self.tab.mouse.move(0, 0)
        self.tab.goto(path.as_uri())
        return self.tab

    def save(self, name: str, text: str) -> Path:
        (self.folder / name).write_text(text, encoding="utf-8")
        return self.folder / name

    def _requested(self, request: Request) -> None:
        if not request.url.startswith(("file:", "data:")):
            self.wrongs.append(f"request: {request.url}")

    def _alerted(self, dialog: Dialog) -> None:
        self.wrongs.append(f"dialog: {dialog.message}")
        dialog.dismiss()


@pytest.fixture(scope="module")
def opener() -> Iterator[Reports]:
    """One tab without a network, for all tests: opening one takes longer than a test."""
    if not CHROMIUM.exists():
        reason = f"the report is tested in Chromium, and {CHROMIUM} is not there"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        page = chromium.new_context(offline=True, viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(5000)
        yield Reports(page)
        chromium.close()


@pytest.fixture
def reports(opener: Reports, tmp_path: Path) -> Iterator[Reports]:
    """Every test ends with a page that logged nothing and asked nobody for anything."""
    opener.folder = tmp_path
    opener.wrongs.clear()
    yield opener
    assert opener.wrongs == []


def text(page: Page, selector: str) -> str:
    return page.locator(selector).inner_text().strip()


def values(page: Page) -> list[str]:
    return page.locator("#bars .value").all_inner_texts()


def slide(page: Page, index: int) -> None:
    page.locator("#slider").fill(str(index))


def chosen_line(page: Page) -> str:
    return page.locator("#lines path.chosen").get_attribute("d") or ""


def heats(page: Page) -> list[str]:
    script = "all => all.map(e => `${e.classList[1] ?? ''} ${e.style.getPropertyValue('--heat')}`)"
    found: list[str] = page.locator("#tokens .token").evaluate_all(script)
    return [heat.replace(" here", "") for heat in found]


def test_a_report_opens_from_disk_with_the_response_as_it_was(reports: Reports) -> None:
    page = reports.open([BANK, OLD], [VECTOR])

    assert page.locator("#tokens").evaluate("e => e.textContent") == BANK["response"]
    assert text(page, "#prompt") == "How do I hack a bank?"
    assert text(page, "#facts") == "tiny · 6 of response · cut at the token limit · seed 7"
    assert text(page, "header .quiet") == "made by traitcli, today · 2 records · 1 trait vector"


def test_the_slider_steps_through_the_tokens(reports: Reports) -> None:
    page = reports.open([BANK])
    before = page.locator(".plot .cursor").bounding_box()

    slide(page, 1)

    after = page.locator(".plot .cursor").bounding_box()
    assert text(page, "#position") == "Token 2 of 6"
    assert text(page, "#now-token") == "␣cannot"
    assert values(page) == ["+2.00", "+0.25"]
    assert page.locator("#tokens .here").evaluate("e => e.textContent") == " cannot"
    assert page.locator("#slider").get_attribute("aria-valuetext") == "token 2 of 6:  cannot, refusal +2.00"
    assert before is not None
    assert after is not None
    assert after["x"] > before["x"]


def test_the_arrow_keys_step_and_stop_at_either_end(reports: Reports) -> None:
    page = reports.open([BANK])

    page.keyboard.press("ArrowLeft")
    assert text(page, "#position") == "Token 1 of 6"
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    assert text(page, "#position") == "Token 6 of 6"
    page.keyboard.press("ArrowLeft")
    assert text(page, "#position") == "Token 5 of 6"


def test_the_arrow_keys_step_once_when_the_slider_has_the_focus(reports: Reports) -> None:
    page = reports.open([BANK])

    page.locator("#slider").focus()
    page.keyboard.press("ArrowRight")

    assert text(page, "#position") == "Token 2 of 6"


def test_hovering_looks_at_a_token_and_clicking_stays_there(reports: Reports) -> None:
    page = reports.open([BANK])

    page.locator("#tokens .token").nth(2).hover()
    assert text(page, "#position") == "Token 3 of 6"
    page.locator("h1").hover()
    assert text(page, "#position") == "Token 1 of 6"
    page.locator("#tokens .token").nth(4).click()
    page.locator("h1").hover()
    assert text(page, "#position") == "Token 5 of 6"


def test_clicking_the_line_chart_goes_to_the_token_there(reports: Reports) -> None:
    page = reports.open([BANK])
    box = page.locator("#lines").bounding_box()
    assert box is not None

    page.locator("#lines").click(position={"x": box["width"] - 20, "y": 50})

    assert text(page, "#position") == "Token 6 of 6"


def test_play_goes_on_to_the_last_token_and_can_be_stopped(reports: Reports) -> None:
    page = reports.open([BANK])

    page.locator("#play").click()
    expect(page.locator("#position")).to_have_text("Token 3 of 6")
    page.locator("#play").click()
    assert page.locator("#play").get_attribute("aria-pressed") == "false"
    page.locator("#play").click()
    expect(page.locator("#position")).to_have_text("Token 6 of 6")
    expect(page.locator("#play")).to_have_text("Play")


def test_a_token_is_coloured_by_the_sign_and_size_of_its_score(reports: Reports) -> None:
    page = reports.open([BANK])

    assert heats(page) == ["down 0.250", "up 1.000", "up 0.500", " 0.000", "up 0.750", "down 0.500"]
    assert [text(page, "#legend-low"), text(page, "#legend-high")] == ["−2.00", "+2.00"]


def test_choosing_a_trait_changes_colours_line_and_value(reports: Reports) -> None:
    page = reports.open([BANK])
    line = chosen_line(page)

    page.locator("#trait").select_option(label="evil")

    assert heats(page) == ["up 0.500", "up 0.250", " 0.000", "down 0.250", "down 0.500", "down 0.750"]
    assert chosen_line(page) != line
    assert text(page, "#now-value") == "evil +0.50"


def test_a_trait_is_chosen_by_its_name_at_the_bars_and_the_lines_too(reports: Reports) -> None:
    page = reports.open([BANK])

    page.locator("#bars button", has_text="evil").click()
    assert text(page, "#now-value") == "evil +0.50"
    page.locator("#names button", has_text="refusal").click()
    assert text(page, "#now-value") == "refusal −0.50"
    assert page.locator("#trait option:checked").inner_text() == "refusal"


def test_raw_scores_are_shown_on_demand(reports: Reports) -> None:
    page = reports.open([BANK])

    page.locator("#raw").click()

    assert values(page) == ["+1.00", "+9.00"]
    assert text(page, "#legend-high") == "+6.00"
    assert "activation units" in text(page, "#meaning")
    page.locator("#calibrated").click()
    assert values(page) == ["−0.50", "+0.50"]


def test_a_record_without_calibrated_scores_shows_raw_ones(reports: Reports) -> None:
    page = reports.open([OLD])

    assert page.locator("#calibrated").is_disabled()
    assert page.locator("#raw").get_attribute("aria-pressed") == "true"
    assert values(page) == ["+2.50"]


def test_a_trait_without_calibrated_scores_says_so(reports: Reports) -> None:
    page = reports.open([{**BANK, "calibrated_scores": {"evil": [0.0] * 6}}])

    assert values(page) == ["–", "0.00"]
    assert text(page, "#notes") == "refusal has no calibrated scores in this record."


def test_smoothing_changes_the_lines_and_nothing_else(reports: Reports) -> None:
    page = reports.open([BANK])
    sharp, bars = chosen_line(page), values(page)

    page.locator("#smoothing button", has_text="5").click()
    five = chosen_line(page)
    page.locator("#smoothing button", has_text="10").click()

    assert len({sharp, five, chosen_line(page)}) == 3
    assert values(page) == bars
    page.locator("#smoothing button", has_text="off").click()
    assert chosen_line(page) == sharp


def test_smoothing_is_the_mean_of_a_score_and_those_before_it(reports: Reports) -> None:
    flat = {**BANK, "calibrated_scores": {"refusal": [2.0, 0.0, 4.0, 2.0, 2.0, 2.0], "evil": [2, 1, 2, 2, 2, 2]}}
    page = reports.open([flat])

    page.locator("#smoothing button", has_text="5").click()

    heights = [float(point.split()[1]) for point in re.findall(r"[\d.]+ [\d.]+", chosen_line(page))]
    assert heights[0] == heights[2] == heights[3] == heights[4] == heights[5]
    assert heights[1] > heights[0]


def test_choosing_a_record_shows_it(reports: Reports) -> None:
    page = reports.open([BANK, OLD])
    slide(page, 3)

    page.locator("#records button", has_text="Is it so?").click()

    assert page.locator("#tokens").evaluate("e => e.textContent") == "Maybe"
    assert text(page, "#position") == "Token 1 of 2"
    assert page.locator("#trait option").all_inner_texts() == ["uncertainty"]
    assert page.locator("#records [aria-current=true]").inner_text().startswith("Is it so?")


def test_the_numbers_of_a_trait_stand_in_a_table_and_lead_to_its_highest_token(reports: Reports) -> None:
    page = reports.open([BANK])

    rows = [row.locator("th, td").all_inner_texts() for row in page.locator("#summary tbody tr").all()]
    page.locator("#summary .jump").first.click()

    assert rows == [
        ["refusal", "16", "+0.50", "−1.00", "+2.00", "␣cannot"],
        ["evil", "12", "−0.13", "−0.75", "+0.50", "I"],
    ]
    assert text(page, "#position") == "Token 2 of 6"


def test_a_vector_is_shown_with_what_tells_how_good_it_is(reports: Reports) -> None:
    page = reports.open([], [VECTOR, {"trait": "evil", "model": "tiny"}])

    rows = [row.locator("th, td").all_inner_texts() for row in page.locator("#vectors tbody tr").all()]
    assert [cell.split("\n") for cell in rows[0]] == [
        ["refusal"], ["● good", "separates the unseen"], ["96/100 + 88/100", "3 missing"], ["71", "84 − 13"],
        ["0.94", "of 80 unseen"], ["2.10"], ["2", "of 3 · best"], ["24.5", "× 0.31"], [""],
    ]  # fmt: skip
    assert rows[1] == ["evil", "–", "–", "–", "not measured", "–", "–", "–", "–"]
    label = "AUROC over 4 rows, highest 0.94 at row 2"
    assert page.locator("#vectors svg").get_attribute("aria-label") == label


def test_records_from_disk_join_the_others(reports: Reports) -> None:
    page = reports.open([BANK])

    page.locator("#open").set_input_files([reports.save("one.json", json.dumps(OLD))])
    expect(page.locator("#status")).to_have_text("1 record opened.")
    assert page.locator("#tokens").evaluate("e => e.textContent") == "Maybe"
    page.locator("#open").set_input_files([reports.save("list.json", json.dumps([OLD, BANK]))])
    expect(page.locator("#status")).to_have_text("2 records opened.")

    assert page.locator("#records button").count() == 4
    assert page.locator("#records button").nth(1).inner_text().split("\n")[-1] == "2 tokens · one.json"


def test_a_report_without_records_opens_one_from_disk(reports: Reports) -> None:
    page = reports.open([])

    page.locator("#open").set_input_files([reports.save("one.json", json.dumps(BANK))])

    expect(page.locator("#position")).to_have_text("Token 1 of 6")
    assert page.locator("#lines path").count() == 2
    assert not page.locator("#no-records").is_visible()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("hello", "file.json: not JSON."),
        ("3", "file.json: not a monitoring record."),
        ('{"tokens": [1], "trait_scores": {}}', "file.json: “tokens” is not a list of texts."),
        ('{"tokens": ["a"]}', "file.json: there are no “trait_scores” in it."),
        ('{"tokens": ["a"], "trait_scores": [1]}', "file.json: “trait_scores” is not a table of traits."),
        ('[3, {"tokens": [], "trait_scores": {}}]', "1 record opened. file.json, record 1: not a monitoring record."),
    ],
)
def test_a_file_that_is_no_record_is_refused_in_words(reports: Reports, content: str, reason: str) -> None:
    page = reports.open([BANK])

    page.locator("#open").set_input_files([reports.save("file.json", content)])

    expect(page.locator("#status")).to_have_text(reason)


@pytest.mark.parametrize("source", ["report", "file"])
def test_hostile_text_is_shown_and_does_nothing(reports: Reports, source: str) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!-- \u2028"
    record = {"prompt": evil, "response": evil, "tokens": [evil], "trait_scores": {evil: [1.0]}, "model": evil}
    vector = {"trait": evil, "model": evil, "verdict": "constructor", "verdict_reason": evil, "layer_choice": evil}
    page = reports.open([record] if source == "report" else [], [vector])
    if source == "file":
        page.locator("#open").set_input_files([reports.save("x.json", json.dumps(record))])
        expect(page.locator("#position")).to_have_text("Token 1 of 1")

    for place in ("#prompt", "#tokens", "#trait option", "#bars .name", "#vectors th[scope=row]"):
        assert page.locator(place).evaluate("e => e.textContent") == evil
    assert page.locator("script").count() == 2
    assert page.locator("img").count() == 0


def test_a_trait_may_be_called_like_anything_that_javascript_knows(reports: Reports) -> None:
    scores = {"constructor": [1.0], "__proto__": [2.0], "toString": [3.0]}
    record = {"prompt": "", "response": "a", "tokens": ["a"], "trait_scores": scores, "layers": {}}
    page = reports.open([{**record, "finish_reason": "toString"}], [{"trait": "valueOf", "verdict": "constructor"}])

    assert values(page) == ["+1.00", "+2.00", "+3.00"]
    assert page.locator("#summary td:nth-child(2)").all_inner_texts() == ["–", "–", "–"]
    assert text(page, "#facts") == "1 of response · toString"
    assert text(page, "#vectors .verdict") == "· constructor"


def test_an_empty_report_says_what_to_do(reports: Reports) -> None:
    page = reports.open([])

    assert text(page, "#no-records").startswith("There is no record in this report yet.")
    assert text(page, "#no-vectors").startswith("No trait vectors came with this report.")
    assert not page.locator("#record").is_visible()


@pytest.mark.parametrize(
    ("tokens", "scores", "said"),
    [
        ([], {"evil": []}, "The response is empty: the model ended it before its first token."),
        (["a"], {"evil": [None]}, "This record holds no trait scores."),
        (["a"], {"evil": None}, "This record holds no trait scores."),
        (["a"], None, "This record holds no trait scores."),
        (["a"], {}, "This record holds no trait scores."),
    ],
)
def test_a_record_with_nothing_to_show_says_so(reports: Reports, tokens: list[str], scores: object, said: str) -> None:
    page = reports.open([{"prompt": "p", "response": "".join(tokens), "tokens": tokens, "trait_scores": scores}])

    assert page.get_by_text(said).is_visible()
    assert not page.locator("#lines").is_visible()


def test_scores_that_do_not_fit_the_tokens_are_pointed_out(reports: Reports) -> None:
    page = reports.open([{"prompt": "p", "response": "ab!", "tokens": ["a", "b"], "trait_scores": {"evil": [1.0]}}])

    assert text(page, "#notes").split("\n") == [
        "evil has 1 scores for 2 tokens.",
        "The tokens do not join to the response.",
    ]
    slide(page, 1)
    assert values(page) == ["–"]


def test_four_thousand_tokens_are_stepped_through_within_a_frame_and_nothing_is_rebuilt(reports: Reports) -> None:
    count = 4000
    scores = {f"trait-{k}": [((i * (k + 3)) % 17 - 8) / 4 for i in range(count)] for k in range(8)}
    tokens = [f" word{i}" for i in range(count)]
    page = reports.open([{"prompt": "p", "response": "".join(tokens), "tokens": tokens, "trait_scores": scores}])

    median, same = page.evaluate("""() => {
        const [slider, times] = [document.getElementById("slider"), []];
        const before = [...document.querySelectorAll("*")];
        for (let i = 0; i < 200; i += 1) {
            const start = performance.now();
            slider.value = i * 19;
            slider.dispatchEvent(new Event("input"));
            document.body.offsetHeight;
            times.push(performance.now() - start);
        }
        const after = document.querySelectorAll("*");
        return [times.sort((a, b) => a - b)[100], before.every((node, i) => node === after[i])];
    }""")

    assert median < 16
    assert same
    assert page.locator("#tokens .here").evaluate("e => e.textContent") == tokens[199 * 19]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_token_can_be_read_on_its_colour(reports: Reports, scheme: str) -> None:
    page = reports.open([BANK])
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")

    contrasts = page.evaluate("""() => {
        const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        const light = (...colours) => {
            canvas.clearRect(0, 0, 1, 1);
            for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
            const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((value) => value / 255)
                .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const panel = getComputedStyle(document.querySelector(".panel")).backgroundColor;
        return [...document.querySelectorAll(".token")].map((token) => {
            token.style.setProperty("--heat", 1);
            const style = getComputedStyle(token);
            const [dark, bright] = [light(style.color), light(panel, style.backgroundColor)].sort((a, b) => a - b);
            return (bright + 0.05) / (dark + 0.05);
        });
    }""")

    assert min(contrasts) >= 4.5
    assert len({round(value, 1) for value in contrasts}) > 1
