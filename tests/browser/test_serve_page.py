"""The page of `traitcli serve`: chat, colors, lines, steering and records, over a real socket."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import Reports
from tests.browser.reading import (
    backgrounds,
    box,
    color_of,
    content,
    count_of,
    pixels,
    settle,
    terminal,
)
from tests.browser.serving import Script, Tabs, ask, download, end, scripted, token
from tests.http_service import Running, serving, wait_until
from tests.unit.test_brakes import VECTORS
from traitcli.api.model import Model
from traitcli.config import Config, ModelConfig
from traitcli.generation.live_batch import LiveLimits
from traitcli.monitoring.record_files import read_records
from traitcli.serving.guard import LOOPBACK_HOSTS, Access
from traitcli.serving.service import Service

pytestmark = pytest.mark.browser

KEY = "secret-123"
MARKUP = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!-- \u2028"
HOSTILE = [MARKUP, "\u202eabc\u202d", "\x1b[2J\x1b]0;x\x07", "javascript:alert(3)", "{{7*7}}\u2066"]
TRAITS = [{"name": "evil", "layer": 2, "has_scale": True}]


def tiny_service(loaded: Any, **options: Any) -> Service:
    # Its answers end at their length limit only.
    own = replace(loaded("llama"), stop_ids=frozenset())
    model = Model(own, Config(name="tiny", model=ModelConfig(id=own.name)), lambda event: None)
    limits = LiveLimits(slots=4, capacity=512, waiting=3)
    return Service(model, traits=VECTORS.values(), limits=limits, **options)


@pytest.fixture(scope="module")
def running(loaded: Any) -> Iterator[Running]:
    with serving(tiny_service(loaded), loaded("llama")) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(loaded: Any) -> Iterator[Running]:
    """A server that wants a key, and stops every answer at its eighth token."""
    access = Access(KEY, LOOPBACK_HOSTS)
    service = tiny_service(loaded, stop_on=["any(evil)>-1000"])
    with serving(service, loaded("llama"), access=access) as running:
        yield running


@pytest.fixture
def tabs(opener: Reports) -> Iterator[Tabs]:
    """Check after each test that no page logged, raised or requested anything elsewhere."""
    browser = opener.tab.context.browser
    assert browser
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme="light", reduced_motion="reduce"
    )
    tabs = Tabs(context)
    yield tabs
    context.close()
    assert tabs.errors == []


@pytest.fixture
def page(tabs: Tabs, running: Running) -> Page:
    page = tabs.open(running.address)
    expect(page.locator("#traits .row")).to_have_count(3)
    set_up(page, max_tokens=12)
    return page


def set_up(page: Page, **settings: object) -> None:
    page.locator(".settings").evaluate("e => { e.open = true; }")
    for name, value in settings.items():
        page.locator(f"#{name.replace('_', '-')}").fill(str(value))


def tokens(page: Page, turn: int = 1) -> Any:
    return page.locator(f'.turn[data-turn="{turn}"] .token')


def hover(page: Page) -> int:
    """Point at a token of the answer; its index. Parts of characters have no place."""
    seen = tokens(page).filter(has_text=re.compile(r"\S")).nth(1)
    seen.hover()
    return int(seen.get_attribute("data-i") or "")


def slider(page: Page, trait: str) -> Any:
    return page.get_by_role("slider", name=f"Steer the next answer along {trait}", exact=True)


def button_of(page: Page, trait: str) -> Any:
    return page.locator("#traits .name", has_text=trait)


# Answers


def test_tokens_come_with_the_text_and_the_colors_of_the_terminal(page: Page) -> None:
    page.locator("#trait").select_option("evil")

    ask(page, "How does it work?")

    [record] = download(page)
    assert record["prompt"] == "How does it work?"
    assert content(page.locator(".turn .asked")) == record["prompt"]
    shown = tokens(page).evaluate_all("all => all.map(e => e.textContent)")
    assert "".join(shown) == record["response"]
    assert tokens(page).count() == len(record["tokens"]) == 12
    assert backgrounds(tokens(page)) == terminal(record["calibrated_scores"]["evil"])
    assert len(set(backgrounds(tokens(page)))) > 3


def test_another_trait_colors_the_tokens_that_are_there(page: Page) -> None:
    page.locator("#trait").select_option("evil")
    ask(page, "How does it work?")

    button_of(page, "refusal").click()

    [record] = download(page)
    assert backgrounds(tokens(page)) == terminal(record["calibrated_scores"]["refusal"])
    assert page.locator("#trait").input_value() == "refusal"


def test_a_trait_without_a_scale_is_colored_by_its_own_range(page: Page) -> None:
    ask(page, "How does it work?")

    page.locator("#trait").select_option("plain")

    [record] = download(page)
    raw = record["trait_scores"]["plain"]
    assert len(set(backgrounds(tokens(page)))) > 3
    blue = [color[2] > color[0] for color in backgrounds(tokens(page)) if len(color) == 3]
    negative = [
        score < 0
        for score, color in zip(raw, backgrounds(tokens(page)), strict=True)
        if len(color) == 3
    ]
    assert blue == negative
    assert "no scale" in page.locator("#meaning").inner_text()


def test_the_lines_show_the_answer_and_the_chosen_trait_stands_out(page: Page) -> None:
    canvas = page.locator("#lines canvas")
    settle(page)
    empty = pixels(canvas)
    button_of(page, "evil").click()
    color = color_of(page.locator("#traits .row.chosen .swatch"))
    settle(page)
    assert count_of(canvas, color) == 0

    ask(page, "How does it work?")

    settle(page)
    assert pixels(canvas) != empty
    assert count_of(canvas, color) > 30


def test_means_and_scores_at_a_token_are_those_of_the_record(page: Page) -> None:
    ask(page, "How does it work?")
    [record] = download(page)
    value = page.locator("#traits .row", has_text="evil").locator(".value")

    def shown() -> float:
        return float(value.inner_text().replace("−", "-"))

    scores = record["calibrated_scores"]["evil"]
    assert shown() == pytest.approx(sum(scores) / len(scores), abs=0.0051)
    index = hover(page)
    expect(page.locator("#position")).to_contain_text(f"token {index + 1} of 12")
    assert shown() == pytest.approx(scores[index], abs=0.0051)


def test_a_chat_goes_on(page: Page) -> None:
    set_up(page, system="Be brief.")
    ask(page, "How does it work?")
    ask(page, "Tell me more.")

    first, second = download(page)
    assert [each["content"] for each in second["history"]] == [
        "Be brief.",
        "How does it work?",
        first["response"],
    ]


def test_settings_reach_the_model(page: Page) -> None:
    set_up(page, temperature=0, max_tokens=5, seed=7, system="Be brief.")
    ask(page, "How does it work?")
    page.locator("#new").click()
    set_up(page, seed=8)
    ask(page, "How does it work?")

    [record] = download(page)
    assert (record["seed"], len(record["tokens"])) == (8, 5)
    assert record["history"] == [{"role": "system", "content": "Be brief."}]
    assert tokens(page).count() == 5
    expect(page.locator(".turn .facts")).to_contain_text("cut at the token limit")


def test_a_setting_that_cannot_be_is_not_sent(page: Page) -> None:
    set_up(page, max_tokens=0)

    page.locator("#message").fill("How does it work?")
    page.locator("#message").press("Enter")

    assert page.locator(".turn").count() == 0
    assert page.locator("#max-tokens").evaluate("e => e.matches(':focus')")


# Steering


def test_sliders_steer_the_next_answer_until_they_are_off(page: Page) -> None:
    ask(page, "How does it work?")
    slider(page, "evil").fill("-2")
    slider(page, "refusal").fill("1.5")
    ask(page, "Tell me more.")
    page.locator("#unsteer").click()
    ask(page, "And then?")

    plain, steered, after = download(page)
    assert [(each["trait"], each["coefficient"]) for each in steered["steering"]] == [
        ("evil", -2.0),
        ("refusal", 1.5),
    ]
    assert not plain.get("steering")
    assert not after.get("steering")
    chips = page.locator('.turn[data-turn="2"] .pushes li').all_inner_texts()
    assert chips == ["evil=−2", "refusal=1.5"]


def test_brakes_are_taken_as_monitor_takes_them(page: Page) -> None:
    set_up(page, more_steering="evil<=-0.3, refusal=1 if evil>1")

    ask(page, "How does it work?")

    [record] = download(page)
    assert [each["kind"] for each in record["steering"]] == ["cap", "gate"]
    held = record["braked_tokens"]["evil<=-0.3@2"]
    assert 0 < len(held) < len(record["tokens"])
    underlined = page.locator(".token.braked").evaluate_all("all => all.map(one => one.dataset.i)")
    assert sorted(map(int, underlined)) == held
    expect(page.locator(".turn .notes")).to_contain_text(
        f"evil<=-0.3@2 held at {len(held)} tokens of {len(record['tokens'])}, underlined"
    )


# Stopping


@pytest.mark.parametrize("way", ["button", "escape", "new chat"])
def test_stopping_frees_the_slot_of_the_server(page: Page, running: Running, way: str) -> None:
    set_up(page, max_tokens=480)
    page.locator("#message").fill("How does it work?")
    with running.held(steps=12) as wait_for_leaving:
        page.locator("#message").press("Enter")
        expect(tokens(page).nth(4)).to_be_attached()

        if way == "button":
            page.locator("#stop").click()
        elif way == "escape":
            page.keyboard.press("Escape")
        else:
            page.locator("#new").click()
        wait_for_leaving()
    expect(page.locator("#send")).to_be_visible()
    running.wait_until_free()
    if way == "new chat":
        assert page.locator(".turn").count() == 0
        return
    [record] = download(page)
    assert record["finish_reason"] == "interrupted"
    count = tokens(page).count()
    assert 4 < count <= len(record["tokens"]) < 480
    expect(page.locator(".turn .facts")).to_contain_text("stopped by you")
    # What it had said belongs to the conversation.
    set_up(page, max_tokens=4)
    ask(page, "Go on.")
    assert download(page)[1]["history"][1]["content"] == "".join(record["tokens"][:count])


# Records


def test_a_conversation_is_a_file_that_the_report_reads(
    page: Page, opener: Reports, tmp_path: Path
) -> None:
    ask(page, "How does it work?")
    ask(page, "Tell me more.")
    expect(page.locator("#download")).to_be_enabled()

    with page.expect_download() as found:
        page.locator("#download").click()

    assert found.value.suggested_filename.startswith("chat-")
    path = tmp_path / found.value.suggested_filename
    found.value.save_as(path)
    assert [record.prompt for record in read_records(path)] == [  # type: ignore[union-attr]
        "How does it work?",
        "Tell me more.",
    ]
    opener.folder = tmp_path
    report = opener.open()
    report.locator("#open").set_input_files([path])
    expect(report.locator("#status")).to_have_text("2 records opened.")


# Alarms and keys


def test_an_alarm_that_stops_is_named(tabs: Tabs, guarded: Running) -> None:
    page = tabs.open(guarded.address)
    expect(page.locator("#key")).to_be_focused()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("The server does not take this key.")
    page.locator("#key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#key-form")).to_be_hidden()

    ask(page, "How does it work?")

    expect(page.locator(".turn .facts")).to_contain_text("stopped by an alarm")
    expect(page.locator(".turn .notes")).to_contain_text("Alarm any(evil)>-1000")
    [record] = download(page)
    assert record["finish_reason"] == "alarm"


def test_a_key_stays_in_its_tab(tabs: Tabs, guarded: Running) -> None:
    page = tabs.open(guarded.address)
    page.locator("#key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#message")).to_be_focused()

    other = tabs.open(guarded.address)

    expect(other.locator("#key")).to_be_visible()
    assert page.evaluate("JSON.stringify([localStorage.length, document.cookie])") == '[0,""]'
    page.reload()
    expect(page.locator("#traits .row")).to_have_count(3)
    assert KEY not in page.content()


def test_a_chat_goes_on_with_another_key(tabs: Tabs, guarded: Running) -> None:
    page = tabs.open(guarded.address)
    page.locator("#key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#traits .row")).to_have_count(3)
    ask(page, "How does it work?")
    page.evaluate("sessionStorage.setItem('traitcli-key', 'expired')")

    ask(page, "Tell me more.")

    expect(page.locator(".turn .error")).to_contain_text("The server needs another API key.")
    page.locator("#key").fill(KEY)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".turn .facts").last).to_contain_text("stopped by an alarm")
    expect(page.locator("#lines canvas")).to_have_count(1)
    first, second = download(page)
    assert [each["content"] for each in second["history"]] == [first["prompt"], first["response"]]


def test_a_server_without_traits_still_chats(tabs: Tabs) -> None:
    script = Script([], [token("Hi", 0), end("stop", mean={})])
    script.may_go_on.set()
    with scripted(script) as address:
        page = tabs.open(address)

        ask(page, "Hello!")

        assert content(page.locator(".turn .tokens")) == "Hi"
        assert not page.locator("#lines").is_visible()


# Errors


def test_what_the_server_refuses_is_said_and_may_be_tried_again(page: Page) -> None:
    set_up(page, more_steering="envy=2")

    ask(page, "How does it work?")

    notes = page.locator(".turn .notes")
    expect(notes).to_contain_text("The server refused this:")
    expect(notes).to_contain_text("envy")
    set_up(page, more_steering="")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".turn .facts")).to_contain_text("12 tokens")
    [record] = download(page)
    assert (record["prompt"], record.get("history", [])) == ("How does it work?", [])


def test_a_message_that_is_sent_before_the_page_has_loaded_is_sent_then(tabs: Tabs) -> None:
    script = Script(TRAITS, status=500, error="out of memory")
    script.may_load.clear()
    with scripted(script) as address:
        page = tabs.open(address)
        ask(page, "Hello!")
        expect(page.locator(".turn")).to_have_count(0)

        script.may_load.set()

        expect(page.locator(".turn .error")).to_contain_text("out of memory")
        expect(page.locator("#message")).to_have_value("")


@pytest.mark.parametrize(
    ("status", "headers", "shown"),
    [
        (429, {"retry-after": "2"}, "The server is busy: too many requests wait."),
        (503, {}, "The server is about to stop, and takes no more requests."),
        (500, {}, "The server has made a mistake: out of memory"),
    ],
)
def test_errors_are_shown_in_plain_words(
    tabs: Tabs, status: int, headers: dict[str, str], shown: str
) -> None:
    script = Script(TRAITS, status=status, error="out of memory", headers=headers)
    with scripted(script) as address:
        page = tabs.open(address)

        ask(page, "Hello!")

        expect(page.locator(".turn .error")).to_contain_text(shown)
        expect(page.locator(".turn").get_by_role("alert")).to_contain_text(shown)


def test_a_lost_connection_keeps_what_has_arrived(tabs: Tabs) -> None:
    script = Script(TRAITS, [token("So", 0, evil=1.0), token(" far", 1, evil=2.0)], is_cut=True)
    script.may_go_on.set()
    with scripted(script) as address:
        page = tabs.open(address)

        ask(page, "Hello!")

        expect(page.locator(".turn .error")).to_contain_text("The connection was lost.")
        assert content(page.locator(".turn .tokens")) == "So far"


def test_a_server_that_is_gone_is_named(tabs: Tabs) -> None:
    with scripted(Script(TRAITS)) as address:
        page = tabs.open(address)
        expect(page.locator("#traits .row")).to_have_count(1)

    ask(page, "Hello!")

    expect(page.locator(".turn .error")).to_contain_text("The server cannot be reached.")


def test_the_page_says_that_it_waits(tabs: Tabs) -> None:
    script = Script(TRAITS, [token("Hi", 0, evil=1.0), end("stop", mean={"evil": 1.0})])
    with scripted(script) as address:
        page = tabs.open(address)
        page.locator("#message").fill("Hello!")
        page.locator("#message").press("Enter")
        waiting = page.locator(".turn .waiting")

        expect(waiting).to_contain_text("Waiting for the first token, 2 s")
        script.may_go_on.set()

        expect(page.locator(".turn .facts")).to_contain_text("1 token · ended by the model")
        assert not waiting.is_visible()


# Hostile text


def test_hostile_text_of_the_model_is_shown_and_does_nothing(tabs: Tabs) -> None:
    traits = [{"name": text, "layer": text, "has_scale": True, "verdict": text} for text in HOSTILE]
    chunks = [token(text, k, **{MARKUP: float(k)}) for k, text in enumerate(HOSTILE)]
    alarm = {"rule": MARKUP, "action": "stop", "token": 1, "score": 2.0}
    script = Script(traits, [*chunks, end(MARKUP, mean={}, alarms=[alarm])], model=MARKUP)
    script.may_go_on.set()
    with scripted(script) as address:
        page = tabs.open(address)
        page.locator("#more-steering").evaluate("(e, text) => { e.value = text; }", MARKUP)

        ask(page, MARKUP)

        assert content(page.locator(".turn .tokens")) == "".join(HOSTILE)
        assert content(page.locator(".turn .asked")) == MARKUP
        assert MARKUP in content(page.locator(".turn .notes"))
        assert MARKUP.strip() in content(page.locator("#model"))
        assert content(page.locator("#traits .name").first) == MARKUP
        assert page.locator("img, script:not([src]), iframe").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_token_that_turns_the_direction_does_not_turn_later_tokens(tabs: Tabs) -> None:
    texts = ["one\u202e", " two", " three"]
    chunks = [token(text, k, evil=1.0) for k, text in enumerate(texts)]
    script = Script(TRAITS, [*chunks, end("stop")])
    script.may_go_on.set()
    with scripted(script) as address:
        page = tabs.open(address)

        ask(page, "Hello!")

        positions = [box(each)["x"] for each in tokens(page).all()]
        assert positions == sorted(positions)


def test_the_browser_is_told_to_run_and_load_nothing_else(page: Page, tabs: Tabs) -> None:
    failure = page.evaluate(
        """() => {
            try { document.body.insertAdjacentHTML("beforeend", "<b>x</b>"); }
            catch (error) { return error.name; }
        }"""
    )
    assert failure == "TypeError"
    assert "TrustedHTML" in tabs.errors.pop()
    assert page.evaluate("typeof uPlot") == "function"
    response = page.reload()
    assert response
    policy = response.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy


# Two tabs


def test_two_tabs_are_independent_at_the_same_time(tabs: Tabs, running: Running) -> None:
    first, second = tabs.open(running.address), tabs.open(running.address)
    for page, text in ((first, "How does it work?"), (second, "Tell me more.")):
        set_up(page, max_tokens=150)
        page.locator("#message").fill(text)
    slider(second, "evil").fill("3")

    with running.held(steps=20):
        first.locator("#message").press("Enter")
        expect(tokens(first).nth(5)).to_be_attached()
        second.locator("#message").press("Enter")
        # It joins while the other one is written.
        wait_until(lambda: running.service.counts.waiting == 1)
        assert running.service.counts.running == 1
    for page in (first, second):
        expect(page.locator("#send")).to_be_visible(timeout=30_000)

    [one], [other] = download(first), download(second)
    assert (one["prompt"], other["prompt"]) == ("How does it work?", "Tell me more.")
    assert not one.get("steering")
    assert [each["coefficient"] for each in other["steering"]] == [3.0]
    assert slider(first, "evil").input_value() == "0"


# Keyboard, contrast, narrow windows


def test_everything_is_done_with_the_keyboard(page: Page) -> None:
    page.locator("#message").focus()
    page.keyboard.type("How does it work?")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("Really?")
    page.keyboard.press("Enter")
    expect(page.locator(".turn .facts")).to_contain_text("12 tokens")
    expect(page.locator("#message")).to_be_focused()

    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"trait", "log", "tokens", "message", "send", "download", "new"} <= reached
    assert {"name", "push", "max-tokens", "system", "more-steering"} <= reached

    tokens_of_turn = page.locator(".turn .tokens")
    tokens_of_turn.focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#position")).to_contain_text("token 11 of 12")
    expect(page.locator("#news")).to_contain_text("token 11 of 12")

    slider(page, "evil").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#steering")).to_contain_text("evil=−0.5")
    assert slider(page, "evil").get_attribute("aria-valuetext") == "−0.5"
    [record] = download(page)
    assert record["prompt"] == "How does it work?\nReally?"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["empty", "answers", "error"])
def test_axe_finds_nothing(page: Page, scheme: Any, view: str) -> None:
    page.emulate_media(color_scheme=scheme)
    if view == "answers":
        slider(page, "evil").fill("-2")
        ask(page, "How does it work?")
        hover(page)
    elif view == "error":
        set_up(page, more_steering="envy=2")
        ask(page, "How does it work?")

    found = Axe().run(page).response["violations"]

    assert [
        f"{each['id']}: {node['target']}: {node['failureSummary']}"
        for each in found
        for node in each["nodes"]
    ] == []


@pytest.mark.parametrize("width", [320, 700, 1000])
def test_nothing_sticks_out_of_a_narrow_window(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 700})

    ask(page, "How does it work?" * 20)

    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # The page follows the end of the answer in its next frame.
    page.wait_for_function(
        """() => {
          const end = [...document.querySelectorAll(".turn .token")].at(-1);
          const message = document.getElementById("message");
          return end.getBoundingClientRect().bottom <= message.getBoundingClientRect().top;
        }"""
    )
