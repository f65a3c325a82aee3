"""The table of inspect methods on 80 columns."""

from __future__ import annotations

from rich.cells import cell_len

from tests.unit.test_vector_tables import printed
from traitcli.views.tables.methods import methods_table

METHOD = {
    "trait": "refusal",
    "method": "mean_difference",
    "layer": 12,
    "auroc": 0.8412,
    "auroc_low": 0.71,
    "auroc_high": 0.923,
    "ahead": None,
    "ahead_error": None,
    "d": 1.52,
    "neutral_auroc": 0.7212,
    "neutral_auroc_low": 0.58,
    "neutral_auroc_high": 0.823,
    "neutral_ahead": None,
    "neutral_ahead_error": None,
    "split_half_cosine": 0.81,
    "cosine": 1.0,
    "kept": 146,
    "evaluation_rollouts": 200,
    "seconds": 0.1,
    "note": "",
}
WHITENED = METHOD | {
    "method": "whitened_difference",
    "auroc": 0.8912,
    "ahead": 0.05,
    "ahead_error": 0.02,
    "neutral_ahead": 0.01,
    "neutral_ahead_error": 0.04,
    "cosine": 0.612,
}
NO_NEUTRAL = dict.fromkeys(key for key in METHOD if key.startswith("neutral_")) | {
    "note": "no neutral readings: 3 of 9 rollouts were not read"
}
ANSWERS = {
    "answers_from": "x.jsonl",
    "answers": 1000,
    "answers_positive": 473,
    "answers_prompts": 427,
    "rolling_auroc": 0.93,
    "rolling_auroc_low": 0.9,
    "rolling_auroc_high": 0.94,
    "rolling_ahead": None,
    "rolling_ahead_low": None,
    "rolling_ahead_high": None,
    "mean_auroc": 0.9,
    "mean_auroc_low": 0.87,
    "mean_auroc_high": 0.92,
    "mean_ahead": None,
    "mean_ahead_low": None,
    "mean_ahead_high": None,
}
BEHIND = {
    "rolling_ahead": -0.11,
    "rolling_ahead_low": -0.15,
    "rolling_ahead_high": -0.08,
    "mean_ahead": -0.05,
    "mean_ahead_low": -0.08,
    "mean_ahead_high": 0.01,
}


def test_methods_are_compared_trait_by_trait_and_summed_up():
    evil = METHOD | {"trait": "evil"}
    worse = WHITENED | {"trait": "evil", "neutral_ahead": -0.1, "ahead": -0.1, "ahead_error": 0.2}

    assert printed(methods_table, METHOD, WHITENED, evil, worse) == [
        "refusal  146 rollouts, 200 held out",
        "method               layer      AUROC (95 %)        lead    gap  split-half",
        "────────────────────────────────────────────────────────────────────────────",
        "mean difference         12  0.72 (0.58–0.82)           –  +0.12        0.81",
        "whitened difference     12  0.72 (0.58–0.82)  +0.01±0.04  +0.17        0.81",
        "",
        "evil  146 rollouts, 200 held out",
        "method               layer      AUROC (95 %)        lead    gap  split-half",
        "────────────────────────────────────────────────────────────────────────────",
        "mean difference         12  0.72 (0.58–0.82)           –  +0.12        0.81",
        "whitened difference     12  0.72 (0.58–0.82)  -0.10±0.04  +0.17        0.81",
        "",
        "layer: the layer that build-vector chooses with the method · AUROC: separation",
        "of held-out answers behind their bare questions, with a 95 % interval · lead:",
        "AUROC minus that of the mean difference, ± one standard error · gap: how much",
        "more the AUROC is with the persona in the prompt · split-half: cosine between",
        "the vectors of two halves of the questions · better, worse: by two standard",
        "errors",
        "whitened difference: on neutral readings better for 0 of 2 traits, worse for 1;",
        "  with the persona better for 1 of 2 traits, worse for 0",
    ]


PERSONA = [
    "method               with persona (95 %)        lead    d   cos",
    "────────────────────────────────────────────────────────────────",
    "mean difference         0.84 (0.71–0.92)           –  1.5  1.00",
    "whitened difference     0.89 (0.71–0.92)  +0.05±0.02  1.5  0.61",
]


def test_verbose_adds_the_separation_with_the_persona():
    shown = printed(methods_table, METHOD, WHITENED, verbose=True)

    assert shown[6:10] == PERSONA
    assert "with persona: AUROC of held-out rollouts behind their own prompts" in " ".join(shown)


def test_without_neutral_readings_the_persona_is_shown_and_a_note_says_why():
    shown = printed(methods_table, METHOD | NO_NEUTRAL, WHITENED | NO_NEUTRAL)

    assert shown[3].split() == ["mean", "difference", "12", "–", "–", "–", "0.81"]
    assert shown[6:10] == PERSONA
    assert shown[11] == "refusal: no neutral readings: 3 of 9 rollouts were not read"
    assert shown[-1] == (
        "whitened difference: with the persona better for 1 of 1 traits, worse for 0"
    )


def test_labelled_answers_have_a_table_of_their_own():
    shown = printed(methods_table, METHOD | ANSWERS, WHITENED | ANSWERS | BEHIND)

    assert shown[6:12] == [
        "refusal on x.jsonl: 473 of 1,000 answers show it, 427 prompts",
        "method                     rolling(8)                    lead              mean",
        "────────────────────────────────────────────────────────────────────────────────",
        "mean difference      0.93 (0.90–0.94)                       –  0.90 (0.87–0.92)",
        "whitened difference  0.93 (0.90–0.94)  -0.11 (-0.15 to -0.08)  0.90 (0.87–0.92)",
        "",
    ]
    assert max(map(cell_len, shown)) <= 80


def test_verbose_adds_the_lead_of_the_mean():
    shown = printed(methods_table, METHOD | ANSWERS, WHITENED | ANSWERS | BEHIND, verbose=True)

    assert shown[16:21] == [
        "",
        "method                           mean                    lead",
        "──────────────────────────────────────────────────────────────",
        "mean difference      0.90 (0.87–0.92)                       –",
        "whitened difference  0.90 (0.87–0.92)  -0.05 (-0.08 to +0.01)",
    ]


def test_names_from_files_cannot_write_to_the_terminal():
    hostile = {"answers_from": "x\x1b[2J.jsonl", "trait": "e\x1b[2J", "note": "n\x1b[2J"}

    assert "\x1b" not in "".join(printed(methods_table, METHOD | ANSWERS | hostile))
