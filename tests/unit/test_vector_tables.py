"""The tables of inspect vectors on 80 columns."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from traitcli.views.tables.vectors import vectors_table

VECTOR = {
    "trait": "refusal",
    "model": "org/tiny",
    "path": "vectors/tiny/refusal.safetensors",
    "layer_count": 5,
    "hidden_size": 64,
    "layer": 3,
    "layer_choice": "auto",
    "positive_total": 100,
    "negative_total": 100,
    "positive_kept": 96,
    "negative_kept": 88,
    "empty": 0,
    "missing": 2,
    "filter": "paired",
    "coherence": "not judged",
    "judge": "likelihood",
    "judge_auroc": 0.934,
    "positive_score": 88.1,
    "negative_score": 12.3,
    "contrast": 75.8,
    "magnitude": 21.2,
    "relative_magnitude": 0.312,
    "auroc": 0.971,
    "auroc_low": 0.914,
    "auroc_high": 0.989,
    "auroc_by_layer": [0.5, 0.6, 0.9, 0.971, 0.95],
    "auroc_error_by_layer": [0.05, 0.04, 0.03, 0.02, 0.02],
    "auroc_by_pair": [0.99, 0.952],
    "d": 2.94,
    "d_low": 2.1,
    "d_high": 3.78,
    "d_by_layer": [0.0, 0.4, 2.0, 2.94, 2.8],
    "magnitude_by_layer": [0.0, 10.0, 15.0, 21.0, 60.0],
    "activation_norm_by_layer": [1.0, 50.0, 60.0, 70.0, 90.0],
    "massive_share_by_layer": [0.0, 0.01, 0.02, 0.031, 0.04],
    "massive_share": 0.031,
    "massive_dimensions": 2,
    "split_half_cosine": 0.91,
    "difference_cosine": 0.22,
    "length_auroc": 0.61,
    "length_does_as_well": False,
    "embedding_layer_auroc": 0.83,
    "embedding_layer_does_as_well": False,
    "null_p": 0.0099,
    "cosines": {"evil": -0.31},
    "nearest": "evil",
    "doubts": [],
    "evaluation_rollouts": 40,
    "verdict": "carries over",
    "verdict_reason": "xstest: AUROC 0.92 (0.90–0.94) on 768 answers; words 0.70, length 0.66",
    "to_raise": "more sources",
}
OLD = {
    key: VECTOR[key]
    for key in (
        "model",
        "path",
        "layer_count",
        "hidden_size",
        "layer",
        "magnitude",
        "relative_magnitude",
        "judge",
        "filter",
    )
} | {
    "trait": "evil",
    "verdict": "not shown",
    "verdict_reason": "not measured: there are no held-out rollouts",
    "to_raise": "run traitcli extract",
    "nearest": None,
    "cosines": {},
}
"""A row for a file of another tool, without measurements."""
WEAK = VECTOR | {
    "trait": "sycophantic",
    "auroc": 0.75,
    "verdict": "reads its instruction",
    "verdict_reason": "no neutral readings: AUROC 0.75 is with the persona",
    "to_raise": "run traitcli extract: it reads the stored answers again",
    "doubts": ["low contrast: 12 is below 40"],
}
HOSTILE = "[red]x[/red]\x1b[2J\u202e"
SHOWN = r"[red]x[/red]\x1b[2J\u202e"


def printed(table, *rows, width=80, verbose=False, **options):
    out = io.StringIO()
    more = {"verbose": True} if verbose else {}
    table(Console(file=out, width=width, _environ={}, **options), rows, **more)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_vectors_have_a_line_each_and_what_to_do_next():
    assert printed(vectors_table, VECTOR, WEAK, OLD) == [
        "org/tiny  [5, 64]",
        "trait        verdict               layer      AUROC (95 %)  reason",
        "────────────────────────────────────────────────────────────────────────────────",
        "refusal      carries over              3  0.97 (0.91–0.99)  xstest",
        "sycophantic  reads its                 3  0.75 (0.91–0.99)  no neutral readings",
        "             instruction",
        "evil         not shown                 3                 –  not measured",
        "AUROC: separation of held-out rollouts, with a 95 % interval",
        "next: run traitcli extract (for evil; --verbose says why)",
    ]


@pytest.mark.parametrize(
    ("row", "step"),
    [
        (VECTOR, "more sources (for refusal; --verbose says why)"),
        (
            WEAK,
            "run traitcli extract: it reads the stored answers again (for sycophantic; --verbose "
            "says why)",
        ),
        (OLD, "run traitcli extract (for evil; --verbose says why)"),
    ],
)
def test_the_next_step_raises_the_lowest_verdict(row, step):
    shown = " ".join(line.strip() for line in printed(vectors_table, row))
    assert shown.endswith(f"next: {step}")


def test_eight_traits_fit_one_screen():
    rows = [WEAK | {"trait": f"overconfidence{number}"} for number in range(8)]

    shown = printed(vectors_table, *rows)

    assert len(shown) < 24
    assert max(map(cell_len, shown)) <= 80


def test_verbose_shows_all_measurements_with_what_the_columns_mean():
    shown = printed(vectors_table, VECTOR, OLD, verbose=True)

    assert shown[6 : shown.index("refusal")] == [
        "",
        "trait      d     95 %  length AUROC  embedding AUROC     p",
        "───────────────────────────────────────────────────────────",
        "refusal  2.9  2.1…3.8          0.61             0.83  0.01",
        "evil       –        –             –                –     –",
        "d: effect size on held-out rollouts, with a 95 % interval · length AUROC:",
        "separation by the length of the answer alone · embedding AUROC: separation by",
        "the vector of layer 0 · p: share of vectors of shuffled labels that separate as",
        "well",
        "",
        "trait     kept  contrast  judge AUROC       norm  split-half  massive",
        "──────────────────────────────────────────────────────────────────────",
        "refusal  96+88       +76         0.93  21.2 0.31        0.91       3%",
        "evil         –         –            –  21.2 0.31           –        –",
        "kept: rollouts that pass the filter, positive + negative · contrast: mean judge",
        "score, positive − negative · judge AUROC: of its scores · norm: mean over",
        "layers, and relative to the activations · split-half: cosine between the",
        "vectors of two halves of the questions · massive: share of the squared norm in",
        "dimensions that are always large",
        "judge: likelihood",
        "filter: paired",
        "coherence: not judged",
        "layer choice: auto",
        "most alike (cosine): refusal ~ evil -0.31",
        "refusal: carries over",
        "  because: xstest: AUROC 0.92 (0.90–0.94) on 768 answers; words 0.70, length",
        "           0.66",
        "  would raise it: more sources",
        "evil: not shown",
        "  because: not measured: there are no held-out rollouts",
        "  would raise it: run traitcli extract",
        "vectors in: vectors/tiny",
        "",
    ]


def test_verbose_shows_every_layer_and_marks_the_one_that_is_used():
    shown = printed(vectors_table, VECTOR, verbose=True)

    start = shown.index("refusal")
    assert shown[start:] == [
        "refusal",
        "layer  AUROC  ± 1 s.e.    d   norm  of activations  massive",
        "────────────────────────────────────────────────────────────",
        "    0   0.50      0.05  0.0   0.00             1.0       0%",
        "    1   0.60      0.04  0.4  10.00            50.0       1%",
        "    2   0.90      0.03  2.0  15.00            60.0       2%",
        "  → 3   0.97      0.02  2.9  21.00            70.0       3%",
        "    4   0.95      0.02  2.8  60.00            90.0       4%",
        "AUROC of each pair, held out: 0.99, 0.95",
        "cosines: evil -0.31",
    ]


def test_verbose_lists_all_doubts_one_by_one():
    doubts = ["may be length: 0.61 against 0.63", "low contrast: 3 is below 40"]
    doubted = VECTOR | {"doubts": doubts, "outdated_tests": ["old"]}

    shown = printed(vectors_table, doubted, verbose=True)

    start = shown.index("  would raise it: more sources")
    assert shown[start + 1 : start + 4] == [
        *(f"  doubt: {doubt}" for doubt in doubts),
        "  not counted: old, of an earlier vector",
    ]


def test_a_control_that_does_as_well_is_red():
    beaten, not_beaten = (
        "\n".join(
            printed(
                vectors_table,
                VECTOR | {"length_does_as_well": as_well},
                verbose=True,
                force_terminal=True,
                color_system="standard",
            )
        )
        for as_well in (False, True)
    )

    assert "\x1b[1;31m        0.61\x1b" in not_beaten
    assert "\x1b[1;31m" not in beaten


def test_settings_that_differ_have_a_line_for_each_vector():
    other = VECTOR | {"trait": "evil", "judge": "gpt-4.1-mini"}

    shown = printed(vectors_table, VECTOR, other, verbose=True)

    assert [line for line in shown if line.startswith("judge of ")] == [
        "judge of refusal: likelihood",
        "judge of evil: gpt-4.1-mini",
    ]


def test_vectors_of_two_models_are_two_tables():
    shown = printed(vectors_table, VECTOR, VECTOR | {"model": "org/big", "layer_count": 9})

    assert [line for line in shown if line.startswith("org/")] == [
        "org/tiny  [5, 64]",
        "org/big  [9, 64]",
    ]


def test_without_vectors_the_table_has_a_message():
    assert printed(vectors_table) == ["no vectors"]


@pytest.mark.parametrize(
    "texts",
    [
        {"trait": HOSTILE, "model": HOSTILE, "verdict": HOSTILE, "verdict_reason": HOSTILE},
        {"judge": HOSTILE, "filter": HOSTILE, "path": f"{HOSTILE}/x", "layer_choice": HOSTILE},
        {
            "nearest": HOSTILE,
            "cosines": {HOSTILE: 0.9},
            "to_raise": HOSTILE,
            "doubts": [HOSTILE],
            "outdated_tests": [HOSTILE],
        },
    ],
)
def test_text_of_a_vector_file_cannot_control_the_terminal(texts):
    shown = "\n".join(printed(vectors_table, VECTOR | texts, width=400, verbose=True))

    assert SHOWN in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_figures_stay_whole_on_eighty_columns_when_names_are_long():
    wide = VECTOR | {
        "trait": "a-trait-with-a-long-name",
        "verdict": "reads its instruction",
        "d": -12.3,
        "d_low": -14.2,
        "d_high": -9.9,
    }
    wide |= {"positive_kept": 1000, "negative_kept": 1000, "contrast": -100.0, "magnitude": 131.2}

    shown = printed(vectors_table, wide) + printed(vectors_table, wide, verbose=True)

    assert max(map(cell_len, shown)) <= 80
    assert all(
        any(figure in line for line in shown)
        for figure in ("-12.3", "-14…-10", "1000+1000", "0.91–0.99")
    )


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        ("carries over", "1;32"),
        ("reads its own texts", "32"),
        ("reads its instruction", "33"),
        ("not shown", "1;31"),
    ],
)
def test_the_verdict_has_a_color(verdict, code):
    shown = "\n".join(
        printed(
            vectors_table,
            VECTOR | {"verdict": verdict},
            force_terminal=True,
            color_system="standard",
        )
    )

    assert f"\x1b[{code}m{verdict}" in shown
