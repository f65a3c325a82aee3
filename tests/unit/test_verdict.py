"""The verdict, its reason and the doubts that follow from the measurements of a vector."""

from __future__ import annotations

from dataclasses import replace

import pytest

from traitcli.vector_quality import VectorQuality
from traitcli.vectors.labelled import LabelledTest
from traitcli.vectors.verdict import nearest_trait, with_near_duplicates, with_verdict

FINE = VectorQuality(
    auroc=0.94,
    auroc_low=0.88,
    auroc_high=0.97,
    null_p=0.01,
    neutral_auroc=0.8,
    neutral_auroc_low=0.7,
    neutral_auroc_high=0.88,
    neutral_null_p=0.01,
    neutral_length_lead=3.0,
    neutral_embedding_lead=2.0,
    contrast=60.0,
    judge_trusted=True,
    length_auroc=0.6,
    length_does_as_well=False,
    embedding_layer_auroc=0.7,
    embedding_layer_does_as_well=False,
    split_half_cosine=0.9,
    massive_share=0.1,
    massive_dimensions=1,
)
TEST = LabelledTest(
    name="xstest",
    source="refusals.jsonl",
    texts=768,
    positive=300,
    prompts=250,
    position="response_avg",
    layer=3,
    fingerprint="1",
    summary="rolling(8)",
    auroc=0.92,
    low=0.9,
    high=0.94,
    length_auroc=0.66,
    length_lead_low=0.2,
    words_auroc=0.7,
    words_lead_low=0.1,
)
LABELS = (
    "test on labelled answers of another source with "
    "traitcli inspect labels FILE --trait TRAIT --keep NAME"
)


def test_a_vector_that_separates_neutral_readings_reads_its_own_texts():
    judged = with_verdict(FINE)

    assert judged == replace(
        FINE,
        verdict="reads its own texts",
        verdict_reason="not tested elsewhere: AUROC 0.80 (0.70–0.88) without the persona",
        to_raise=LABELS,
        doubts=(),
    )


MORE = "collect more rollouts (extract.repeats) or ask more questions"


@pytest.mark.parametrize(
    ("measured", "verdict", "reason", "to_raise"),
    [
        (
            {"neutral_auroc": None},
            "reads its instruction",
            "no neutral readings: AUROC 0.94 (0.88–0.97) is with the persona",
            "run traitcli extract: it reads the stored answers again",
        ),
        (
            {"neutral_auroc": 0.55, "neutral_auroc_low": 0.5, "neutral_auroc_high": 0.6},
            "reads its instruction",
            "may be chance without the persona: the interval of AUROC 0.55 (0.50–0.60) reaches 0.5",
            MORE,
        ),
        (
            {"neutral_null_p": 0.06},
            "reads its instruction",
            "may be chance without the persona: vectors of shuffled labels do as well in 6% of "
            "trials",
            MORE,
        ),
        (
            {"neutral_length_lead": 0.9},
            "reads its instruction",
            "may be length: the length separates about as well (0.60 against 0.80 (0.70–0.88))",
            "ask questions whose answers differ less in length",
        ),
        (
            {"neutral_embedding_lead": -1.0},
            "reads its instruction",
            "may be lexical: the embedding layer separates about as well "
            "(0.70 against 0.80 (0.70–0.88))",
            "ask questions whose answers differ less in single words",
        ),
        (
            {"neutral_auroc": None, "auroc_low": 0.5},
            "not shown",
            "may be chance: the interval of AUROC 0.94 (0.50–0.97) with the persona reaches 0.5",
            MORE,
        ),
        (
            {"neutral_auroc": None, "null_p": 0.06},
            "not shown",
            "may be chance: vectors of shuffled labels do as well in 6% of trials",
            MORE,
        ),
        (
            {"neutral_auroc": None, "auroc": None},
            "not shown",
            "not measured: there are no held-out rollouts",
            f"run traitcli extract, or {LABELS}",
        ),
    ],
)
def test_each_lower_rung_has_its_reason_and_what_would_raise_it(
    measured, verdict, reason, to_raise
):
    judged = with_verdict(replace(FINE, **measured))

    assert (judged.verdict, judged.verdict_reason, judged.to_raise) == (verdict, reason, to_raise)


@pytest.mark.parametrize("auroc", [0.97, None])
def test_a_file_of_an_earlier_version_is_at_most_on_the_first_rung(auroc):
    judged = with_verdict(VectorQuality(auroc=auroc, verdict="good"))

    assert judged.verdict == ("reads its instruction" if auroc else "not shown")


@pytest.mark.parametrize(
    "measured", [{"neutral_null_p": 0.05}, {"neutral_length_lead": 1.0}, {"contrast": 40.0}]
)
def test_a_vector_exactly_on_the_bound_reads_its_own_texts(measured):
    judged = with_verdict(replace(FINE, **measured))

    assert (judged.verdict, judged.doubts) == ("reads its own texts", ())


def test_a_vector_that_passes_every_kept_test_carries_over():
    judged = with_verdict(FINE, [TEST, replace(TEST, name="two", auroc=0.985, low=0.98, high=0.99)])

    assert judged.verdict == "carries over"
    assert judged.verdict_reason == (
        "xstest and 1 more: AUROC 0.92 (0.90–0.94) on 768 answers, words 0.70, length 0.66; "
        "AUROC 0.98 (0.98–0.99) on 768 answers, words 0.70, length 0.66"
    )


def test_answers_of_another_source_count_more_than_the_run_s_own():
    """A test of few rollouts may leave a vector unshown that carries over without a doubt."""
    assert with_verdict(replace(FINE, neutral_auroc_low=0.4), [TEST]).verdict == "carries over"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            {"auroc": 0.4, "low": 0.3, "high": 0.49},
            "does not carry over to xstest: AUROC 0.40 (0.30–0.49) is the wrong way round",
        ),
        (
            {"low": 0.5},
            "does not carry over to xstest: AUROC 0.92 (0.50–0.94) may be chance",
        ),
        (
            {"length_lead_low": 0.0},
            "does not carry over to xstest: AUROC 0.92 (0.90–0.94) is not shown to be better than "
            "length (0.66)",
        ),
        (
            {"words_lead_low": -0.01},
            "does not carry over to xstest: AUROC 0.92 (0.90–0.94) is not shown to be better than "
            "words (0.70)",
        ),
    ],
)
def test_a_vector_that_fails_one_kept_test_does_not_carry_over(changed, reason):
    judged = with_verdict(FINE, [replace(TEST, name="other"), replace(TEST, **changed)])

    assert (judged.verdict, judged.verdict_reason) == ("reads its own texts", reason)
    lower = with_verdict(replace(FINE, neutral_auroc=None), [replace(TEST, **changed)])
    assert (lower.verdict, lower.doubts) == ("reads its instruction", (reason,))


@pytest.mark.parametrize(
    ("changed", "reason", "to_raise"),
    [
        (
            {"words_auroc": None, "words_lead_low": None},
            "not compared on xstest: there are no rollouts to learn words from",
            "run traitcli extract, then measure again: words are learned from rollouts",
        ),
        (
            {"texts": 319},
            "too few answers in xstest: 300 with the trait, 19 without, 250 prompts; it needs 20 "
            "of each and 20 prompts",
            LABELS,
        ),
        (
            {"texts": 40, "positive": 19, "auroc": 0.1, "low": 0.0, "high": 0.2},
            "too few answers in xstest: 19 with the trait, 21 without, 250 prompts; it needs 20 of "
            "each and 20 prompts",
            LABELS,
        ),
        (
            {"prompts": 1, "low": None, "high": None, "length_lead_low": None},
            "too few answers in xstest: 300 with the trait, 468 without, 1 prompt; it needs 20 of "
            "each and 20 prompts",
            LABELS,
        ),
    ],
)
def test_a_kept_test_that_says_nothing_neither_raises_nor_lowers_a_verdict(
    changed, reason, to_raise
):
    says_nothing = replace(TEST, **changed)

    alone = with_verdict(FINE, [says_nothing])
    beside = with_verdict(FINE, [replace(TEST, name="other"), says_nothing])
    failing = with_verdict(FINE, [says_nothing, replace(TEST, name="bad", low=0.4)])

    assert (alone.verdict, alone.verdict_reason) == ("reads its own texts", reason)
    assert (alone.to_raise, alone.doubts) == (to_raise, ())
    assert (beside.verdict, beside.doubts) == ("carries over", (reason,))
    assert failing.verdict_reason.startswith("does not carry over to bad")


@pytest.mark.parametrize(
    ("measured", "doubt"),
    [
        ({"judge_trusted": False}, "not filtered: the judge cannot tell the polarities apart"),
        ({"contrast": 38.6}, "low contrast: 39 is below 40; the judge sees little of the trait"),
        ({"contrast": 39.9}, "low contrast: 39 is below 40; the judge sees little of the trait"),
        (
            {"split_half_cosine": 0.6999},
            "unstable: split-half cosine 0.69 is below 0.70; collect more rollouts",
        ),
        (
            {"massive_share": 0.6, "massive_dimensions": 3},
            "few dimensions: 60% of its squared norm is in 3 that are large in all activations",
        ),
        (
            {"length_does_as_well": True},
            "may be length: the length of the answer separates about as well (0.60 against 0.94)",
        ),
        (
            {"embedding_layer_does_as_well": True},
            "may be lexical: the embedding layer separates about as well (0.70 against 0.94)",
        ),
    ],
)
def test_each_doubt_has_its_sentence_and_leaves_the_verdict(measured, doubt):
    judged = with_verdict(replace(FINE, **measured))

    assert (judged.verdict, judged.doubts) == ("reads its own texts", (doubt,))


def test_a_doubt_is_not_listed_beside_a_reason_of_the_same_label():
    lexical = replace(FINE, neutral_embedding_lead=0.0, embedding_layer_does_as_well=True)

    judged = with_verdict(lexical)

    assert judged.verdict_reason.startswith("may be lexical: ")
    assert judged.doubts == ()


def test_a_flag_without_its_measurements_adds_a_doubt():
    judged = with_verdict(VectorQuality(auroc=0.9, length_does_as_well=True))

    assert judged.doubts == ("may be length: the length of the answer separates about as well",)


def test_a_vector_that_is_nearly_another_trait_s_has_a_doubt_more():
    judged = with_near_duplicates(replace(FINE, doubts=("few",)), {"evil": 0.91, "refusal": -0.2})

    assert judged.doubts == (
        "few",
        "near-duplicate of evil: cosine 0.91; one of the two may measure the other",
    )
    assert with_near_duplicates(FINE, {"evil": -0.85}).doubts == (
        "opposite of evil: cosine -0.85; one of the two may measure the other",
    )


def test_a_vector_unlike_all_others_keeps_its_doubts():
    assert with_near_duplicates(FINE, {"evil": 0.79}) == FINE
    assert with_near_duplicates(FINE, {}) == FINE


def test_the_nearest_trait_is_the_most_alike_or_the_most_opposed():
    assert nearest_trait({"evil": 0.3, "refusal": -0.6}) == "refusal"
    assert nearest_trait({}) is None
