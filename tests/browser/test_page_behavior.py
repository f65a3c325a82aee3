"""The page keeps its layout for long names, right-to-left text and other screens."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.conftest import Reports
from tests.browser.data import COMMAND, FULL, RUN, SET, example, vector
from tests.browser.reading import box, cells, of_run, part

pytestmark = pytest.mark.browser


def test_a_long_question_of_an_example_is_readable_without_a_mouse(reports: Reports) -> None:
    long = vector("joy", examples=[example("positive", True, question="A long question. " * 60)])
    page = reports.open(sets=[{**SET, "vectors": [long], "cosines": [[1.0]]}])

    page.locator(".examples summary").click()

    assert Axe().run(page).response["violations"] == []


@pytest.mark.parametrize("letters", [60, 300])
def test_a_long_name_of_a_trait_stays_within_the_page(reports: Reports, letters: int) -> None:
    name = "x" * letters
    record = {
        "tokens": ["a", "b"],
        "trait_scores": {name: [1.0, -1.0]},
        "prompt": name,
        "name": name,
    }
    sets = [{**SET, "name": name, "model": name}, {**SET, "name": f"{name}2"}]
    page = reports.open([record], sets)

    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_token_that_changes_the_text_direction_does_not_affect_later_tokens(
    reports: Reports,
) -> None:
    tokens = ["one\u202e", " two", " three"]
    page = reports.open([{"tokens": tokens, "trait_scores": {"evil": [1.0, 2.0, 3.0]}}])

    positions = [box(token)["x"] for token in part(page, "tokens").locator(".token").all()]
    assert positions == sorted(positions)


def test_a_right_to_left_answer_is_shown_from_right_to_left(reports: Reports) -> None:
    page = reports.open([{"tokens": ["שלום", " עולם"], "trait_scores": {"evil": [1.0, 2.0]}}])

    first, second = (box(token)["x"] for token in part(page, "tokens").locator(".token").all())
    assert first > second


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (9.94, "9.9 s"),
        (9.97, "10 s"),
        (59.7, "1 min 0 s"),
        (3599.8, "1 h 0 min"),
        (7199.8, "2 h 0 min"),
    ],
)
def test_a_time_is_rounded_into_the_next_unit(reports: Reports, seconds: float, shown: str) -> None:
    page = reports.open(runs=[{**RUN, "commands": [{**COMMAND, "seconds": seconds}]}])

    assert cells(of_run(page, "commands"))[0][3] == shown


def test_every_focusable_element_has_a_name(reports: Reports) -> None:
    page = reports.open([FULL, FULL], [SET], [RUN])
    page.locator("#second").select_option("1")
    session = page.context.new_cdp_session(page)

    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()

    found = [
        (node["role"]["value"], node["name"]["value"])
        for node in nodes
        if not node["ignored"]
        and any(each["name"] == "focusable" for each in node.get("properties", ()))
    ]
    assert len(found) > 40
    assert [role for role, name in found if not name.strip() and role != "RootWebArea"] == []
