"""The sentences of a report: computed for any number of vectors and answers, harmless anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.reports import report_of
from traitcli.views.findings import findings

Row = dict[str, Any]

EIGHT = ("apt", "bold", "calm", "dull", "evil", "fair", "glad", "hurt")
LABELS = (
    "test on labelled answers of another source with "
    "traitcli inspect labels FILE --trait TRAIT --keep NAME"
)
READ_AGAIN = "run traitcli extract: it reads the stored answers again"
MORE = "more rollouts"
STEPS = {
    "carries over": "test on answers of more sources",
    "reads its own texts": LABELS,
    "reads its instruction": READ_AGAIN,
    "not shown": MORE,
}
SCALE = "−1 and +1 are the means of negative and positive examples, so"
HOSTILE = "\x1b[2J\u202eevil\n<b>\ud800"


def vector(trait: str, verdict: str | None, **more: Any) -> dict[str, Any]:
    step = STEPS.get(verdict or "")
    return {
        "trait": trait,
        "model": "tiny",
        "layer": 1,
        "verdict": verdict,
        "to_raise": step,
    } | more


def of(*vectors: Row, name: str = "run demo") -> Row:
    return {"name": name, "model": "tiny", "vectors": vectors}


def answer(
    prompt: str, scores: Mapping[str, Sequence[float | None]], **more: Any
) -> dict[str, Any]:
    """A record in which each trait has one score for each token."""
    count = len(next(iter(scores.values())))
    return {
        "name": "saved",
        "prompt": prompt,
        "tokens": ["a"] * count,
        "trait_scores": {trait: [9.0] * count for trait in scores},
        "calibrated_scores": scores,
        "layers": dict.fromkeys(scores, 1),
        "model": "tiny",
    } | more


def about_vectors(*vectors: Row) -> str:
    return findings(report_of(sets=[of(*vectors)]))[0]


def about_answers(records: Sequence[Any], *vectors: Row) -> str:
    return findings(report_of(records, [of(*vectors)]))[1]


def next_step(*vectors: Row) -> str:
    return findings(report_of(sets=[of(*vectors)]))[2]


TRUSTED = vector("evil", "reads its own texts")
REFUSAL = vector("refusal", "carries over")


# Vectors


def test_a_report_of_nothing_says_so():
    assert findings(report_of()) == (
        "This report has no trait vectors.",
        "This report has no monitored answers.",
        "Without vectors there is nothing to test. Next, run traitcli extract.",
    )


@pytest.mark.parametrize(
    ("verdict", "known"),
    [
        ("carries over", "carries over to answers of another source"),
        ("reads its own texts", "reads its own texts"),
        ("reads its instruction", "is only known to read its instruction"),
        ("not shown", "is not shown to read its trait"),
        ("weak", "has no verdict"),
        (None, "has no verdict"),
    ],
)
def test_one_vector_has_a_sentence_of_its_own(verdict, known):
    assert about_vectors(vector("evil", verdict)) == f"The vector of evil {known}."


def test_vectors_of_one_verdict_are_not_counted_apart():
    two = [vector(trait, "not shown") for trait in EIGHT[:2]]
    eight = [vector(trait, None) for trait in EIGHT]

    assert about_vectors(*two) == "Both vectors are not shown to read their trait: apt and bold."
    assert about_vectors(*eight) == (
        "All 8 vectors have no verdict: apt, bold, calm, dull, evil, fair, glad, and hurt."
    )


def test_eight_vectors_are_named_by_what_they_read_the_best_first():
    verdicts = [*["not shown"] * 2, *["reads its instruction"] * 3, *["reads its own texts"] * 2]
    vectors = map(vector, EIGHT, [*verdicts, "carries over"])

    assert about_vectors(*vectors) == (
        "Of 8 vectors, 1 carries over to answers of another source (hurt), "
        "2 read their own texts (fair and glad), "
        "3 are only known to read their instruction (calm, dull, and evil), "
        "and 2 are not shown to read their trait (apt and bold)."
    )


def test_many_vectors_are_counted_and_only_some_named():
    sentence = about_vectors(*(vector(f"t{number}", "not shown") for number in range(1000)))

    assert sentence == (
        "All 1,000 vectors are not shown to read their trait: "
        "t0, t1, t2, t3, t4, t5, t6, and 993 others."
    )


def test_a_trait_with_two_vectors_is_named_with_their_sets():
    sets = [of(TRUSTED, name="run a"), of(vector("evil", "not shown"), REFUSAL, name="run b")]

    assert findings(report_of(sets=sets))[0] == (
        "Of 3 vectors, 1 carries over to answers of another source (refusal), "
        "1 reads its own texts (evil (run a)), "
        "and 1 is not shown to read its trait (evil (run b))."
    )


# Answers


def test_the_score_of_one_answer_on_one_trait_is_compared_with_the_class_means():
    above, below = answer("Hi", {"evil": [0.5, 1.5]}), answer("Hi", {"evil": [-0.5, -1.5]})

    assert about_answers([above], TRUSTED) == (
        f"The answer to “Hi” scores +1.00 on evil; {SCALE} it is nearer to the positive ones."
    )
    assert about_answers([below], TRUSTED) == (
        f"The answer to “Hi” scores −1.00 on evil; {SCALE} it is not nearer to the positive ones."
    )


def test_each_trusted_trait_has_the_answer_that_scores_highest_on_it():
    records = [
        answer("First", {"evil": [0.5], "refusal": [-1.0], "bold": [9.0]}),
        answer("Second", {"evil": [0.2], "refusal": [-0.5], "bold": [7.0]}),
    ]

    assert about_answers(records, TRUSTED, REFUSAL, vector("bold", "not shown")) == (
        "Of 2 answers, the answer to “First” scores highest on evil (+0.50) and the answer to "
        f"“Second” on refusal (−0.50); {SCALE} 1 of these is nearer to the positive ones; "
        "1 other trait does not count, because its vector is not known to read more at that layer."
    )


@pytest.mark.parametrize(
    ("sign", "which"), [(1, "these are"), (-1, "none of these is")], ids=["above", "below"]
)
def test_of_eight_trusted_traits_the_three_highest_are_named(sign, which):
    scores = {trait: [sign * (number + 1) / 10] for number, trait in enumerate(EIGHT)}
    vectors = [vector(trait, "carries over") for trait in EIGHT]
    high = ["+0.80 on hurt, +0.70 on glad, and +0.60 on fair"]
    low = ["−0.10 on apt, −0.20 on bold, and −0.30 on calm"]

    [shown] = high if sign > 0 else low
    assert about_answers([answer("Hi", scores)], *vectors) == (
        f"The answer to “Hi” scores {shown}; {SCALE} {which} nearer to the positive ones."
    )


def test_hundreds_of_answers_give_one_short_sentence():
    records = [answer(f"Prompt {n}", {trait: [n / 1000] for trait in EIGHT}) for n in range(500)]

    sentence = about_answers(records, *(vector(trait, "carries over") for trait in EIGHT))

    assert sentence.startswith(
        "Of 500 answers, the answer to “Prompt 499” scores highest on apt (+0.50), bold (+0.50), "
        "and calm (+0.50); "
    )


def test_without_a_trusted_vector_scores_show_nothing():
    one = answer("Hi", {"evil": [2.0]})
    alone = "No vector here is known to read more than its instruction, so the scores of "

    for vectors in ([], [vector("evil", "reads its instruction")], [vector("evil", None)]):
        assert about_answers([one], *vectors) == (
            f"{alone}the answer do not show that a trait is there."
        )
        assert about_answers([one] * 3, *vectors) == (
            f"{alone}3 answers do not show that a trait is there."
        )


@pytest.mark.parametrize(
    "other",
    [
        {"layers": {"evil": 2}},
        {"layers": {}},
        {"model": "large"},
        {"calibrated_scores": {}},
        {"calibrated_scores": {"evil": [None]}},
        {"calibrated_scores": {"unknown": [1.0]}},
    ],
)
def test_scores_of_another_direction_or_without_a_scale_do_not_count(other):
    one = answer("Hi", {"evil": [2.0]}, **other)

    by = "is of a vector here that reads more than its instruction, at the layer of that vector."
    assert about_answers([one], TRUSTED) == f"No calibrated score of the answer {by}"
    assert about_answers([one, one], TRUSTED) == f"No calibrated score of 2 answers {by}"


def test_a_trait_is_trusted_only_if_all_its_vectors_are():
    sets = [of(TRUSTED, name="run a"), of(vector("evil", "not shown"), name="run b")]

    _, sentence, _ = findings(report_of([answer("Hi", {"evil": [2.0]})], sets))

    assert sentence.startswith("No vector here is known to read more than its instruction")


def test_massive_tokens_and_skipped_thinking_do_not_count():
    one = answer(
        "Hi",
        {"evil": [9.0, 1.0, 50.0, 2.0]},
        massive_tokens={"evil": [2]},
        thinking_tokens=1,
        skips_thinking=True,
    )

    assert "scores +1.50 on evil" in about_answers([one], TRUSTED)


def test_a_steered_answer_and_one_without_a_prompt_are_named_as_such():
    steering = [{"trait": "evil", "coefficient": 2.0, "layer": 1}]
    steered = answer("Hi", {"evil": [2.0]}, steering=steering)

    assert about_answers([steered], TRUSTED).startswith("The steered answer to “Hi” scores")
    assert about_answers([answer(" ", {"evil": [2.0]})], TRUSTED).startswith(
        "The answer in saved scores"
    )


@pytest.mark.parametrize(
    ("score", "compared"),
    [
        (3.0, "above the threshold +2.50 of 1% false positives"),
        (2.0, "above the threshold +1.50 of 5% false positives"),
        (1.0, "not above the threshold +1.50 of 5% false positives"),
    ],
)
def test_a_stored_threshold_is_compared_at_the_length_of_the_answer(score, compared):
    points = [(8, 0.01, 3.0), (32, 0.01, 2.0), (8, 0.05, 2.0), (32, 0.05, 1.0)]
    rows = [{"tokens": tokens, "fpr": rate, "threshold": value} for tokens, rate, value in points]
    # halfway between 8 and 32 tokens, by their logarithm
    one = answer("Hi", {"evil": [score] * 16})

    sentence = about_answers([one], TRUSTED | {"thresholds": rows})

    assert f"scores +{score:.2f}, {compared} on evil" in sentence


# The next step


def test_the_next_step_is_that_of_the_vectors_that_need_least():
    trusted, low = vector("bold", "reads its own texts"), vector("calm", "not shown")

    assert next_step(low, REFUSAL, TRUSTED, trusted) == (
        f"evil and bold are not shown to carry over to answers of another source. Next, {LABELS}."
    )
    assert next_step(low, REFUSAL) == (f"calm is not shown to read its trait. Next, {MORE}.")
    assert (
        next_step(REFUSAL)
        == "refusal is not tested on all sources. Next, test on answers of more sources."
    )


def test_the_next_step_of_most_vectors_of_a_verdict_is_named():
    vectors = [vector(trait, "reads its instruction") for trait in EIGHT]
    vectors[:2] = [one | {"to_raise": MORE} for one in vectors[:2]]

    assert next_step(*vectors) == (
        f"6 vectors are not shown to read more than their instruction. Next, {READ_AGAIN}."
    )


def test_vectors_without_a_verdict_lead_to_inspect():
    assert next_step(vector("evil", "weak"), vector("bold", None)) == (
        "What these vectors read is not known. Next, run traitcli inspect vectors --verbose."
    )


# Hostile text


def test_hostile_names_prompts_and_steps_are_one_printable_line():
    rows = [vector(HOSTILE, "reads its own texts", to_raise=HOSTILE)] * 2
    record = answer(HOSTILE, {HOSTILE: [1.0]})

    sentences = findings(report_of([record], [of(*rows, name=HOSTILE), of(*rows)]))

    for sentence in sentences:
        assert r"\x1b[2J\u202eevil <b>\ud800" in sentence
        assert sentence.isprintable()
        sentence.encode()


def test_long_names_and_prompts_are_cut():
    record = answer("p" * 100_000, {"t" * 5000: [1.0]})

    sentences = findings(report_of([record], [of(vector("t" * 5000, "carries over"))]))

    assert max(map(len, sentences)) < 300
    assert f"“{'p' * 59}…”" in sentences[1]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 1.7e308])
def test_impossible_scores_do_not_count(score):
    scores = {"evil": [1.0, *[score] * 3]}

    assert "scores +1.00 on evil" in about_answers([answer("Hi", scores)], TRUSTED)
