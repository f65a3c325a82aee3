"""How a complete answer is shown: rows and notes as text, bars and charts in a notebook."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rich.style import Style

from traitcli.interventions import Cap, Condition, Gate
from traitcli.records import Crossing, TokenScores
from traitcli.views.answer import answer_text, notes, summaries
from traitcli.views.formatting import format_score
from traitcli.views.notebook import answer_html
from traitcli.views.palette import ON_COLOR, background

TOKENS = ("I", " can", "not", " help", ".")
EVIL = (0.5, -2.5, 1.5, 4.5, 0.0)
PLAIN = (2.0, -8.0, 4.0, 1.0, -1.0)


def record(**more: Any) -> TokenScores:
    fields: dict[str, Any] = {
        "tokens": TOKENS,
        "raw": {"evil": tuple(10 * score for score in EVIL), "plain": PLAIN},
        "calibrated": {"evil": EVIL},
        "prompt": "How?",
        "response": "".join(TOKENS),
        "layers": {"evil": 15, "plain": 7},
        "model": "tiny",
        "seed": 3,
        "prompt_tokens": 5,
        "finish_reason": "length",
    }
    return TokenScores(**fields | more)


BRAKED = record(
    steering=(
        Cap("evil", 0.5, at_most=True, layer=15),
        Gate("plain", 1.0, 7, Condition("evil", above=True, score=1.0)),
    ),
    braked={"evil<=0.5@15": (1, 3), "plain=1@7 if evil>1": (2,)},
    crossings=(Crossing("mean(evil)>1", "stop", 3, 1.25),),
    finish_reason="alarm",
)


# Rows and notes


def test_a_row_has_the_mean_and_the_highest_score_with_its_token():
    evil, plain = summaries(record())

    assert (evil.mean, evil.highest, evil.at, evil.layer) == (0.8, 4.5, 3, 15)
    assert (plain.mean, plain.highest, plain.at, plain.calibrated) == (-0.4, 4.0, 2, False)


def test_massive_tokens_are_in_no_row():
    [evil, _] = summaries(record(massive={"evil": (3,)}))

    assert (evil.mean, evil.highest, evil.at) == (-0.125, 1.5, 2)


def test_an_answer_without_tokens_has_rows_without_scores():
    empty = record(tokens=(), raw={"evil": ()}, calibrated={"evil": ()}, response="")

    [row] = summaries(empty)

    assert (row.mean, row.highest, row.at) == (None, None, -1)
    assert "evil        –       –  –" in str(answer_text(empty))
    assert "<span" not in answer_html(empty)


def test_notes_name_steering_alarms_and_brakes():
    assert notes(BRAKED) == [
        "steered by evil ≤ +0.5 at layer 15, plain +1 at layer 7 if evil > +1",
        "alarm mean(evil)>1: +1.25 at token 3; the answer ends here",
        "brake evil<=0.5@15 held at 2 of 5 tokens",
        "brake plain=1@7 if evil>1 held at 1 of 5 tokens",
    ]
    assert notes(record()) == []


def test_an_answer_as_text():
    assert str(answer_text(BRAKED)) == (
        "I ⟨can⟩⁻⟨not help⟩⁺.\n"
        "\n"
        "trait    mean     max  at\n"
        "evil    +0.80   +4.50  help\n"
        "plain   −0.40   +4.00  not  raw\n"
        "\n"
        "⟨…⟩⁺ and ⟨…⟩⁻ hold tokens where evil reaches +1 or −1, its class means\n"
        "steered by evil ≤ +0.5 at layer 15, plain +1 at layer 7 if evil > +1\n"
        "alarm mean(evil)>1: +1.25 at token 3; the answer ends here\n"
        "brake evil<=0.5@15 held at 2 of 5 tokens\n"
        "brake plain=1@7 if evil>1 held at 1 of 5 tokens"
    )


def test_braked_tokens_are_underlined_on_a_terminal_with_colors():
    text = answer_text(BRAKED, "truecolor")

    lines = [span for span in text.spans if isinstance(span.style, Style) and span.style.underline]
    assert "".join(text.plain[span.start : span.end] for span in lines) == " cannot help"


# In a notebook


def charts(page):
    """Trait -> the chart's view box, and name -> path of what is drawn in it."""
    found = {}
    for row in re.findall(r"<tr[^>]*><th scope=\"row\">(.*?)</tr>", page):
        name, chart = row.split("<small>")[0], row.partition('class="tc-chart')[2]
        box = [float(x) for x in re.search(r'viewBox="([^"]+)"', chart)[1].split()]
        found[name] = box, dict(re.findall(r'<path class="([\w-]+)" d="([^"]*)"', chart))
    return found


def columns(path):
    """Token -> height above zero; y grows downwards."""
    return {int(x): -float(y) for x, y in re.findall(r"M(\d+) 0v(-?[\d.]+)h1", path)}


def test_a_chart_has_a_column_for_each_token_up_to_three():
    box, paths = charts(answer_html(record()))["evil"]

    assert box == [0, -3, 5, 6]
    assert columns(paths["tc-up"]) == {0: 0.5, 2: 1.5, 3: 3.0}
    assert columns(paths["tc-down"]) == {1: -2.5}


def test_a_chart_of_raw_scores_has_their_own_scale_and_no_class_means():
    box, paths = charts(answer_html(record()))["plain"]

    assert box == [0, -8, 5, 16]
    assert columns(paths["tc-up"]) == {0: 2.0, 2: 4.0, 3: 1.0}
    assert "tc-faint" not in paths


def test_tokens_that_do_not_count_are_not_in_a_chart():
    scores = (float("nan"), *EVIL[1:])
    odd = record(raw={"evil": scores}, calibrated={"evil": scores}, massive={"evil": (3,)})

    _, paths = charts(answer_html(odd))["evil"]

    assert columns(paths["tc-up"]) == {2: 1.5}


def test_of_many_tokens_the_strongest_stands_for_its_neighbors():
    scores = tuple((-1) ** k * (k % 7) / 4 for k in range(1000))
    long = record(
        tokens=("a",) * 1000,
        raw={"evil": scores},
        calibrated={"evil": scores},
        braked={"evil<=0@15": (999,)},
    )

    box, paths = charts(answer_html(long))["evil"]

    # 1000 tokens in at most 160 columns are seven for each.
    groups = [scores[at : at + 7] for at in range(0, 1000, 7)]
    wanted = [max(group, key=abs) for group in groups]
    drawn = columns(paths["tc-up"]) | columns(paths["tc-down"])
    assert box[2] == len(wanted) == 143
    assert drawn == pytest.approx({k: score for k, score in enumerate(wanted) if score})
    assert paths["tc-hold"].startswith("M142 ")


def test_brakes_and_alarms_are_marked_in_the_chart_of_their_trait():
    found = charts(answer_html(BRAKED))

    held = {
        name: re.findall(r"M(\d+)", paths.get("tc-hold", "")) for name, (_, paths) in found.items()
    }
    alarms = {name: paths.get("tc-line", "")[:4] for name, (_, paths) in found.items()}
    assert held == {"evil": ["1", "3"], "plain": ["2"]}
    assert alarms == {"evil": "M3.5", "plain": ""}


@pytest.mark.parametrize(
    ("rule", "is_of_evil"),
    [
        ("evil>1", True),
        ("evil@fpr=1%", True),
        ("rolling(evil,16)>1", True),
        ("first(evil)<-1", True),
        ("plain>1", False),
        ("mean(evil-2)>1", False),
        ("", False),
    ],
)
def test_an_alarm_belongs_to_the_trait_that_its_rule_names(rule, is_of_evil):
    page = answer_html(record(crossings=(Crossing(rule, "fail", 0, 1.0),)))

    assert ("tc-line" in charts(page)["evil"][1]) == is_of_evil


@pytest.mark.parametrize(("mean", "bar"), [(1.0, (0, 1)), (-0.5, (-0.5, 0.5)), (-7.0, (-2, 2))])
def test_a_bar_goes_from_zero_to_the_mean_and_ends_at_two(mean, bar):
    one = record(tokens=("a",), raw={"evil": (mean,)}, calibrated={"evil": (mean,)})

    found = re.search(r'class="tc-(?:up|down)" d="M(-?[\d.]+) .22h([\d.]+)v', answer_html(one))

    assert tuple(map(float, found.groups())) == bar


def test_pointing_at_a_token_shows_its_scores_and_marks():
    page = answer_html(BRAKED)

    tip = re.findall(r'<span[^>]* title="([^"]*)"', page)[3]
    assert tip.splitlines() == [
        "token 3",
        f"evil {format_score(4.5)}",
        f"plain {format_score(1.0)}",
        "brake evil&lt;=0.5@15",
        "alarm mean(evil)&gt;1",
    ]


def test_the_space_before_a_colored_word_has_the_color_of_the_word_before_it():
    scores = (1.0, -1.0, 0.0, 2.0)
    some = record(
        tokens=("a", " b", " c", "  d"), raw={"evil": scores}, calibrated={"evil": scores}
    )

    found = re.findall(r"<span[^>]*>(.*?)</span>", answer_html(some))

    colors = [background(score).get_truecolor().hex for score in scores]
    a, b, d = (f'<i style="background:{colors[k]};color:{ON_COLOR}">' for k in (0, 1, 3))
    assert found == [f"{a}a</i>", f"{a} </i>{b}b</i>", " c", f"  {d}d</i>"]


def test_line_breaks_have_no_color():
    scores = (2.0,) * 4
    some = record(
        tokens=(".\n\n", " a", "\n", "\n b"), raw={"evil": scores}, calibrated={"evil": scores}
    )

    found = re.findall(r"<span[^>]*>(.*?)</span>", answer_html(some), re.DOTALL)

    plain = [re.sub(r"<i [^>]*>(.*?)</i>", r"[\1]", text) for text in found]
    assert plain == ["[.]\n\n", " [a]", "\n", "\n [b]"]


def test_there_is_nothing_to_load_or_to_run():
    page = answer_html(BRAKED)

    assert not re.search(r"<script|<link|<img|url\(|@import|https?:|\bon\w+=|\bid=", page)
