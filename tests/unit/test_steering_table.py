"""The table and the verdict of inspect steering on 80 columns."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.test_tables import printed
from traitcli.views.tables.steering import steering_table

STEP: dict[str, Any] = {
    "coefficient": 0.0,
    "dose": 0.0,
    "answers": 20,
    "empty": 0,
    "missing": 0,
    "score": 31.2,
    "error": 3.9,
    "coherence": 80.4,
    "log_probability": None,
    "perplexity": None,
    "repetition": None,
    "kept": True,
    "wrong": None,
}
STEPS = [
    STEP
    | {
        "coefficient": -3.5312,
        "dose": -0.4,
        "score": 24.4,
        "empty": 2,
        "missing": 1,
        "wrong": 0.25,
    },
    STEP,
    STEP | {"coefficient": 3.5312, "dose": 0.4, "score": 69.0},
    STEP
    | {
        "coefficient": 8.8,
        "dose": 1.0,
        "score": None,
        "error": None,
        "coherence": 12.0,
        "kept": False,
    },
]
ROW: dict[str, Any] = {
    "trait": "refusal",
    "model": "org/tiny",
    "layer": 22,
    "judge": "openai:gpt",
    "coherence_by": "judge",
    "least_coherence": 50.0,
    "steps": STEPS,
    "kept": (-3.5312, 3.5312),
    "rising": (-3.5312, 3.5312),
    "rise": {"mean": 44.6, "error": 4.2, "questions": 17},
    "monotone": True,
    "verdict": "steers both ways",
    "missing_reasons": {"no reply in time": 1},
    "notes": [],
    "written": [
        {
            "coefficient": step["coefficient"],
            "question": question,
            "response": f"{question} {step['dose']:g}",
        }
        for step in STEPS
        for question in ("Why?", "How?")
    ],
}


def verdict(**changed: Any) -> str:
    lines = printed(steering_table, ROW | changed, width=300)
    return next(line for line in lines if line.startswith(f"{(ROW | changed)['verdict']}: "))


def test_a_trait_has_a_line_for_each_coefficient_and_a_verdict():
    assert printed(steering_table, ROW) == [
        "refusal  org/tiny, layer 22",
        "   coefficient   dose   score  wrong  coherence  answers  empty  missing",
        "─────────────────────────────────────────────────────────────────────────",
        "✓        −3.53  −0.40  24 ± 4    25%         80       20      2        1",
        "✓            0      0  31 ± 4      –         80       20      0        0",
        "✓        +3.53  +0.40  69 ± 4      –         80       20      0        0",
        "          +8.8  +1.00       –      –         12       20      0        0",
        "steers both ways: score 24 → 69 (+45 ± 4) from dose −0.40 to +0.40, rising at",
        "  every step; coherent from dose −0.40 to +0.40 (coefficient −3.53 to +3.53)",
        "without a score: 1 × no reply in time",
        "",
        "judge: openai:gpt",
        "dose: coefficient · ‖vector‖ / ‖hidden state‖ · score: mean trait score, 0–100,",
        "± its standard error",
        "✓ coherent: the mean coherence is 50 or more, here and at all doses nearer to 0",
        "wrong: share of the questions whose score moves the wrong way",
    ]


BRAKE: dict[str, Any] = STEP | {
    "text": "evil<=0@22",
    "score": 20.0,
    "effect": {"mean": -11.2, "error": 3.0, "questions": 17},
    "wrong": 0.1,
    "equal": {
        "coefficient": -3.1,
        "dose": -0.3,
        "coherence": 71.0,
        "perplexity": None,
        "repetition": None,
    },
}


def test_brakes_have_a_table_of_their_own_with_the_push_of_equal_effect():
    unknown = BRAKE | {"text": "evil=ablate@all", "kept": False, "effect": None, "equal": None}

    lines = printed(steering_table, ROW | {"brakes": [BRAKE, unknown]})

    assert [line.rstrip() for line in lines[11:15]] == [
        "   brake             score   change  wrong  coherence  equal push",
        "──────────────────────────────────────────────────────────────────",
        "✓  evil<=0@22       20 ± 4  −11 ± 3    10%         80    −3.1: 71",
        "   evil=ablate@all  20 ± 4        –    10%         80           –",
    ]
    assert "equal push: the coefficient that moves the mean score as far" in " ".join(lines)


def test_the_push_of_equal_effect_shows_perplexity_and_repetition_without_a_judge():
    equal = BRAKE["equal"] | {"coherence": None, "perplexity": 6.84, "repetition": 0.012}
    step = {"coherence": None, "perplexity": 5.0, "repetition": 0.0}
    steps = [one | step for one in STEPS]
    brake = BRAKE | step | {"equal": equal}

    lines = printed(
        steering_table,
        ROW | {"coherence_by": "stand-ins", "steps": steps, "brakes": [brake]},
        width=120,
    )

    assert any(line.endswith("−3.1: 6.8, 1%") for line in lines)


def test_the_substitute_for_coherence_has_another_name():
    steps = [step | {"coherence": None, "perplexity": 3.44, "repetition": 0.014} for step in STEPS]

    lines = printed(steering_table, ROW | {"coherence_by": "stand-ins", "steps": steps}, width=120)

    assert (
        lines[1]
        == "   coefficient   dose   score  wrong  perplexity  repetition  answers  empty  missing"
    )
    assert (
        lines[3]
        == "✓        −3.53  −0.40  24 ± 4    25%         3.4          1%       20      2        1"
    )
    assert "intact from dose −0.40 to +0.40" in " ".join(line.strip() for line in lines)
    assert "this replaces coherence, which the judge does not give" in " ".join(lines)
    assert not any("coherent" in line for line in lines)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (
            {"verdict": "steers up only", "rising": (0.0, 3.5312), "monotone": False},
            "score 31 → 69 (+45 ± 4) from dose 0 to +0.40, rising up to there only",
        ),
        (
            {"verdict": "does not steer"},
            "score 24 → 69 (+45 ± 4) from dose −0.40 to +0.40, which may be chance",
        ),
        (
            {"verdict": "steers the wrong way", "rising": (0.0, 0.0)},
            "the score never rises; coherent from dose",
        ),
        (
            {"verdict": "falls apart", "rising": (0.0, 0.0), "kept": (0.0, 0.0)},
            "answers break at every strength; coherent at no dose",
        ),
        (
            {"verdict": "falls apart", "rising": None, "kept": None, "rise": None},
            "unsteered answers have no score to compare with; not coherent even unsteered",
        ),
        (
            {"verdict": "cannot tell", "rise": None},
            "too few questions have a score at both ends; coherent from dose",
        ),
    ],
)
def test_each_verdict_shows_its_evidence(changed, text):
    assert text in verdict(**changed)


def test_an_answer_under_each_coefficient_is_shown_and_does_nothing_to_the_terminal():
    hostile = [dict(one) for one in ROW["written"]]
    hostile[0]["response"] = "\x1b[2Jgone\u202e"
    hostile[2]["response"] = " "

    lines = printed(
        lambda console, rows: steering_table(console, rows, show=True), ROW | {"written": hostile}
    )

    assert lines[10:15] == [
        "question: Why?",
        r"  −0.40 \x1b[2Jgone\u202e",
        "      0 (empty)",
        "  +0.40 Why? 0.4",
        "  +1.00 Why? 1",
    ]


def test_colors_show_the_verdict_and_the_doses_that_are_kept():
    coloured = {"force_terminal": True, "color_system": "truecolor", "legacy_windows": False}

    good, bad = (
        printed(steering_table, ROW | {"verdict": text}, **coloured)
        for text in ("steers both ways", "falls apart")
    )

    assert any("\x1b[32m✓" in line for line in good)
    assert any(line.startswith("\x1b[32msteers both ways: ") for line in good)
    assert any(line.startswith("\x1b[1;31mfalls apart: ") for line in bad)
