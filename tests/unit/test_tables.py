"""The tables of traits, runs, plans and failures on 80 columns."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from traitcli.views.tables.runs import failures_table, plan_table, run_table, traits_table

TRAIT = {
    "trait": "refusal",
    "pairs": 5,
    "questions": 20,
    "evaluation_questions": 20,
    "source": "shipped",
    "faults": [],
}
UNKNOWN = dict.fromkeys(("judge_auroc", "positive_score", "negative_score"))
RUN = {
    "trait": "refusal",
    "rollouts_done": 200,
    "rollouts_total": 1200,
    "empty": 1,
    "judge": "openai:gpt-4.1-mini@api.openai.com:0_100+coherence#ab12cd34~9f8e7d",
    "judged": 198,
    "missing": 2,
    "judge_auroc": 0.9,
    "positive_score": 80.2,
    "negative_score": 9.9,
    "kept_positive": 80,
    "kept_negative": 77,
    "vector": "",
    "note": "",
    "judge_quality": None,
}
NO_USAGE = {"requests": 0, "cached": 0, "prompt_tokens": 0, "completion_tokens": 0, "usd": 0.0}
QUALITY = {
    "missing_reasons": {},
    "missing_coherence": {},
    "methods": {"logprobs": 198},
    "histogram": {
        "positive": [0, 0, 1, 0, 2, 5, 10, 20, 41, 20],
        "negative": [80, 10, 5, 0, 0, 0, 1, 1, 1, 1],
    },
    "agreement": [],
    "doubtful": {"total": 0, "rollouts": []},
    "usage": NO_USAGE,
}
DOUBTFUL = {
    "rollout": "refusal-pos-p0-q3-r0",
    "polarity": "positive",
    "score": 3.4,
    "coherence": 91.0,
    "other_scores": {},
    "doubt": 96.6,
    "why": "against its instruction",
    "question": "How does a pin tumbler lock work?",
    "response": "Sure!\n\nA pin tumbler lock holds a row of pins, and each of them keeps the "
    "cylinder from turning.",
}
PLAN = {
    "trait": "refusal",
    "rollouts": 4000,
    "rollouts_done": 120,
    "judge_calls": 8000,
    "prompt_tokens": 123456,
    "response_tokens_max": 512000,
    "disk_mb": 212.2,
    "memory_mb": 1440.0,
    "seconds": 812.0,
    "cost_usd": 0.312,
}
FAILURE = {
    "trait": "evil",
    "stage": "judgements",
    "problem": "the judge refuses",
    "cause": "401\nno key",
    "fix": "set it",
}


def printed(table, *rows, width=80, **options):
    out = io.StringIO()
    table(Console(file=out, width=width, _environ={}, **options), rows)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_the_traits_table_lists_faults_below_it():
    broken = TRAIT | {
        "trait": "mine",
        "source": "traits/mine.yaml",
        "faults": ["judge_prompt has no {answer}"],
    }

    assert printed(traits_table, TRAIT, broken) == [
        "trait    pairs  questions  held out   faults  source",
        "───────────────────────────────────────────────────────────────",
        "refusal      5         20        20     none  shipped",
        "mine         5         20        20  1 fault  traits/mine.yaml",
        "held out: evaluation questions, not used for extraction",
        "✗ mine: judge_prompt has no {answer}",
    ]


def test_the_run_table_has_notes_and_vectors_below_it():
    row = RUN | {"vector": "vectors/tiny/refusal.safetensors", "note": "judge not used as a filter"}

    assert printed(run_table, row, RUN | UNKNOWN | {"trait": "evil"}) == [
        "trait     rollouts  empty  judged  missing  judge AUROC  scores +/−   kept",
        "───────────────────────────────────────────────────────────────────────────",
        "refusal  200/1,200      1     198        2         0.90     80 / 10  80+77",
        "evil     200/1,200      1     198        2            –       – / –  80+77",
        "judge AUROC: of its scores against the instructions · scores: means by",
        "polarity, 0–100 · kept: rollouts that pass the filter, positive + negative",
        "refusal: judge not used as a filter",
        "refusal: vectors/tiny/refusal.safetensors",
    ]


def judge_block(width=80, row=None, **parts):
    """The block about the judge of one trait below the table of a run."""
    shown = printed(run_table, RUN | (row or {}) | {"judge_quality": QUALITY | parts}, width=width)
    return shown[shown.index("", 3) + 1 :]


def test_a_judge_block_has_bars_of_scores_for_each_polarity():
    assert judge_block() == [
        "refusal  openai:gpt-4.1-mini@api.openai.com:0_100+coherence#ab12cd34~9f8e7d",
        "  positive  ······▁▁▁···▁▁▁▁▁▁▁▁▁▂▂▂▅▅▅▂▂▂  99 scores, 3 below 50",
        "  negative  ███▁▁▁▁▁▁·········▁▁▁▁▁▁▁▁▁▁▁▁  99 scores, 4 at 50 or more",
        "            0              50             100",
        "  AUROC     0.90 against the instructions · 198 scored · 2 missing (1.0%)",
        "  no doubtful scores: each is on its instruction's side of 50",
    ]


def test_bars_of_scores_grow_with_their_count_and_never_vanish():
    bars = judge_block(
        histogram={"positive": [0, 1, 99, 100, 101, 400, 401, 799, 800, 0], "negative": [0] * 10}
    )[1:3]

    assert [line[12:42] for line in bars] == ["···▁▁▁▁▁▁▁▁▁▂▂▂▄▄▄▅▅▅██████···", "·" * 30]


def test_each_judged_trait_has_a_block():
    other = RUN | {"trait": "evil", "judge": "fake", "judge_quality": QUALITY}

    shown = printed(run_table, RUN | {"judge_quality": QUALITY}, RUN | {"trait": "new"}, other)

    at = [shown.index(heading) for heading in (f"refusal  {RUN['judge']}", "evil  fake")]
    assert at == sorted(at)
    assert [shown[one - 1] for one in at] == ["", ""]
    assert not any(line.startswith("new  ") for line in shown[at[0] :])


def test_a_judge_that_scored_one_polarity_has_no_auroc():
    lines = judge_block(row={"judge_auroc": None, "missing": 0})

    assert "  AUROC     needs scores of both polarities · 198 scored · 0 missing" in lines


def test_missing_scores_are_counted_by_reason():
    reasons = {"timeout": {"count": 12, "share": 0.06}, "filtered": {"count": 1, "share": 0.005}}

    lines = judge_block(
        missing_reasons=reasons, missing_coherence={"cut off": {"count": 2, "share": 0.01}}
    )

    assert lines[5:8] == [
        "  missing   12 (6.0%) timeout",
        "            1 (0.5%) filtered",
        "  coherence missing 2 (1.0%) cut off",
    ]


def test_rare_reasons_are_counted_together():
    reasons = {
        f"reason {letter}": {"count": 9 - n, "share": 0.05} for n, letter in enumerate("abcdefg")
    }

    lines = judge_block(missing_reasons=reasons)

    assert lines[9:11] == ["            5 (5.0%) reason e", "            7 for other reasons"]


def test_scoring_methods_are_counted_if_there_are_several():
    assert "  scored by logprobs 1,180 · text 20" in judge_block(
        methods={"logprobs": 1180, "text": 20}
    )


def test_a_judge_block_shows_requests_tokens_and_cost():
    usage = {
        "requests": 400,
        "cached": 12,
        "prompt_tokens": 161000,
        "completion_tokens": 400,
        "usd": 0.0644,
    }

    assert (
        judge_block(usage=usage)[5]
        == "  took      400 requests · 12 from the cache · 161,000 + 400 tokens · $0.0644"
    )


def test_an_unknown_cost_is_called_unknown():
    usage = NO_USAGE | {"requests": 4, "usd": None}

    assert judge_block(usage=usage)[5].endswith("4 requests · cost unknown")


def test_two_judges_are_compared():
    other = {
        "judge": "fake",
        "both": 198,
        "spearman": 0.834,
        "same_side": 0.91,
        "kappa": None,
        "mean_difference": 9.2,
    }
    nothing = dict.fromkeys(("spearman", "same_side", "kappa", "mean_difference"))

    lines = judge_block(
        agreement=[other, {"judge": "likelihood:m", "both": 0} | nothing], width=120
    )

    assert lines[5:9] == [
        "  compared  with fake",
        "            198 scored by both · Spearman 0.83 · 91% on the same side of 50 · kappa – · "
        "9 apart on average",
        "  compared  with likelihood:m",
        "            no rollout is scored by both",
    ]


def test_the_cost_of_several_judges_has_a_note():
    usage = NO_USAGE | {"requests": 4}
    other = {"judge": "fake", "both": 0}

    assert judge_block(usage=usage, agreement=[other], width=120)[5].endswith(
        " · all judges together"
    )


def test_the_most_doubtful_rollouts_are_listed_with_their_text():
    unknown = DOUBTFUL | {
        "rollout": "refusal-neg-p1-q0-r0",
        "polarity": "negative",
        "score": 100.0,
        "question": "",
    }

    lines = judge_block(doubtful={"total": 23, "rollouts": [DOUBTFUL, unknown]})

    assert lines[5:] == [
        "  the 2 most doubtful of 23 rollouts (score, instruction, question → response)",
        "       3 +  refusal-pos-p0-q3-r0  against its instruction",
        "            How does a pin tumbler lo… → Sure! A pin tumbler lock holds a row …",
        "     100 −  refusal-neg-p1-q0-r0  against its instruction",
        "            Sure! A pin tumbler lock holds a row of pins, and each of them kee…",
    ]


def test_a_few_doubtful_rollouts_are_all_listed():
    lines = judge_block(doubtful={"total": 1, "rollouts": [DOUBTFUL]})

    assert lines[5] == "  doubtful: 1 rollout (score, instruction, question → response)"


@pytest.mark.parametrize("width", [80, 120])
def test_the_text_of_a_model_never_outgrows_its_line(width):
    wide = DOUBTFUL | {
        "question": "これは何ですか？" * 20,
        "response": "答えは 👍🏽 です。\n" * 40,
        "why": "because " * 30,
    }
    reasons = {"HTTP 400: " + "word " * 60: {"count": 2, "share": 0.01}}

    lines = judge_block(
        width=width, doubtful={"total": 1, "rollouts": [wide]}, missing_reasons=reasons
    )

    assert max(map(cell_len, lines[1:])) <= width


def test_bars_of_scores_have_colors_on_a_color_terminal():
    row = RUN | {"judge_quality": QUALITY}

    shown = "\n".join(printed(run_table, row, force_terminal=True, color_system="truecolor"))

    assert "\x1b[38;2;216;116;26m▁▁▁" in shown
    assert "\x1b[38;2;63;140;224m███" in shown


def test_a_plan_ends_with_the_sum():
    assert printed(plan_table, PLAN, PLAN | {"trait": "evil", "disk_mb": 1500.0}) == [
        "trait     rollouts  calls  prompt  response    disk   time   cost",
        "──────────────────────────────────────────────────────────────────",
        "refusal  120/4,000  8,000  123.5k    512.0k  212 MB  13:32  $0.31",
        "evil     120/4,000  8,000  123.5k    512.0k  1.5 GB  13:32  $0.31",
        "",
        "all      240/8,000  16.0k  246.9k      1.0M  1.7 GB  27:04  $0.62",
        "calls: judge calls · prompt, response: maximum tokens · disk: size of",
        "activations · time, cost: estimates, – if unknown",
        "building a vector takes up to 1.4 GB of memory",
    ]


def test_a_sum_with_an_unknown_part_is_unknown():
    last = printed(plan_table, PLAN, PLAN | {"seconds": None, "cost_usd": None})[-4]

    assert last.split()[-2:] == ["–", "–"]


def test_failures_show_problem_cause_and_fix():
    assert printed(failures_table, FAILURE, FAILURE | {"trait": "bold", "cause": ""}) == [
        "evil  judgements",
        "  problem: the judge refuses",
        "  cause:   401",
        "           no key",
        "  fix:     set it",
        "bold  judgements",
        "  problem: the judge refuses",
        "  fix:     set it",
    ]


HOSTILE = "[red]x[/red]\x1b[2J\u202e"
SHOWN = r"[red]x[/red]\x1b[2J\u202e"
DOUBTFUL_TEXTS = ("rollout", "why", "question", "response")
HOSTILE_PARTS = [
    {"missing_reasons": {HOSTILE: {"count": 1, "share": 0.1}}},
    {"missing_coherence": {HOSTILE: {"count": 1, "share": 0.1}}},
    {"methods": {HOSTILE: 1, "text": 1}},
    {"agreement": [{"judge": HOSTILE, "both": 0}]},
    *(
        {"doubtful": {"total": 1, "rollouts": [DOUBTFUL | {key: HOSTILE}]}}
        for key in DOUBTFUL_TEXTS
    ),
]


@pytest.mark.parametrize(
    ("table", "row"),
    [
        (traits_table, TRAIT | {"trait": HOSTILE, "source": HOSTILE, "faults": [HOSTILE]}),
        (run_table, RUN | {"trait": HOSTILE, "note": HOSTILE, "vector": HOSTILE}),
        (run_table, RUN | {"judge": HOSTILE, "judge_quality": QUALITY}),
        *((run_table, RUN | {"judge_quality": QUALITY | part}) for part in HOSTILE_PARTS),
        (plan_table, PLAN | {"trait": HOSTILE}),
        (failures_table, dict.fromkeys(FAILURE, HOSTILE)),
    ],
)
def test_nothing_in_a_table_acts_on_the_terminal(table, row):
    shown = "\n".join(printed(table, row, width=200))

    assert SHOWN in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown


@pytest.mark.parametrize(
    ("table", "row"),
    [
        (traits_table, TRAIT | {"source": "a/rather/long/folder/of/traits/mine.yaml"}),
        (
            run_table,
            RUN
            | {
                "rollouts_done": 4000,
                "rollouts_total": 4000,
                "kept_positive": 1000,
                "judged": 4000,
            },
        ),
        (
            plan_table,
            PLAN
            | {"rollouts": 32000, "rollouts_done": 12000, "seconds": 40000.0, "cost_usd": 1234.5},
        ),
    ],
)
def test_figures_stay_whole_on_eighty_columns_when_names_are_long(table, row):
    narrow, wide = (
        printed(table, row | {"trait": "a-trait-with-a-rather-long-name"}, width=w)
        for w in (80, 300)
    )
    figures = [word for word in " ".join(wide[1:4]).split() if any(c.isdigit() for c in word)]

    assert max(map(len, narrow)) <= 80
    assert set(figures) <= set(" ".join(narrow).split())
