"""The verdict and the doubts that follow from the measurements of a vector."""

from __future__ import annotations

from dataclasses import replace

import pytest

from traitcli.vector_quality import VectorQuality
from traitcli.vectors.verdict import nearest_trait, with_near_duplicates, with_verdict

FINE = VectorQuality(
    auroc=0.94,
    auroc_low=0.88,
    auroc_high=0.97,
    null_p=0.01,
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


def test_a_vector_without_a_fault_is_good():
    judged = with_verdict(FINE)

    assert judged == replace(
        FINE, verdict="good", verdict_reason="held-out AUROC 0.94 (0.88–0.97)", doubts=()
    )


def test_keys_missing_from_an_older_file_do_not_lower_its_verdict():
    judged = with_verdict(VectorQuality(auroc=0.97, contrast=None))

    assert (judged.verdict, judged.verdict_reason) == ("good", "held-out AUROC 0.97")


@pytest.mark.parametrize(
    ("measured", "verdict", "reason"),
    [
        (
            {"auroc": 0.6499},
            "unusable",
            "near chance: held-out AUROC 0.64 (0.88–0.97) on unseen questions and pairs",
        ),
        (
            {"null_p": 0.06},
            "unusable",
            "may be chance: vectors of shuffled labels separate as well in 6% of trials "
            "(AUROC 0.94 (0.88–0.97))",
        ),
        ({"auroc": None}, "weak", "not measured: there are no held-out rollouts"),
        ({"auroc": 0.7996}, "weak", "low AUROC: held-out 0.79 (0.88–0.97) is below 0.80"),
        (
            {"auroc": 0.7, "auroc_low": 0.45},
            "weak",
            "low AUROC: held-out 0.70 (0.45–0.97) is below 0.80 and may be chance",
        ),
        (
            {"auroc_low": 0.5},
            "weak",
            "may be chance: held-out AUROC 0.94 (0.50–0.97) of too few held-out rollouts",
        ),
        (
            {"judge_trusted": False},
            "weak",
            "not filtered: the judge cannot tell the polarities apart",
        ),
        (
            {"contrast": 38.6},
            "weak",
            "low contrast: 39 is below 40; the judge sees little of the trait",
        ),
        (
            {"contrast": 39.9},
            "weak",
            "low contrast: 39 is below 40; the judge sees little of the trait",
        ),
        (
            {"split_half_cosine": 0.5},
            "weak",
            "unstable: split-half cosine 0.50 is below 0.70; collect more rollouts",
        ),
        (
            {"split_half_cosine": 0.6999},
            "weak",
            "unstable: split-half cosine 0.69 is below 0.70; collect more rollouts",
        ),
        (
            {"massive_share": 0.6, "massive_dimensions": 3},
            "weak",
            "few dimensions: 60% of its squared norm is in 3 that are large in all activations",
        ),
        (
            {"length_does_as_well": True},
            "weak",
            "may be length: the length of the answer separates about as well (0.60 against 0.94)",
        ),
        (
            {"embedding_layer_does_as_well": True},
            "weak",
            "may be lexical: the embedding layer separates about as well (0.70 against 0.94)",
        ),
    ],
)
def test_each_fault_has_its_verdict_and_its_sentence(measured, verdict, reason):
    judged = with_verdict(replace(FINE, **measured))

    assert (judged.verdict, judged.verdict_reason, judged.doubts) == (verdict, reason, (reason,))


def test_a_flag_without_its_measurements_adds_a_doubt():
    judged = with_verdict(VectorQuality(auroc=0.9, length_does_as_well=True, null_p=0.5))

    assert judged.doubts == (
        "may be chance: vectors of shuffled labels separate as well in 50% of trials (AUROC 0.90)",
        "may be length: the length of the answer separates about as well",
    )


@pytest.mark.parametrize(
    "measured", [{"auroc": 0.8, "auroc_low": 0.51}, {"contrast": 40.0}, {"null_p": 0.05}]
)
def test_a_vector_exactly_on_the_bound_is_good(measured):
    assert with_verdict(replace(FINE, **measured)).verdict == "good"


def test_all_reasons_are_listed_most_severe_first():
    judged = with_verdict(replace(FINE, contrast=10.0, auroc=0.6, length_does_as_well=True))

    assert judged.verdict == "unusable"
    assert [doubt.split(":")[0] for doubt in judged.doubts] == [
        "near chance",
        "may be length",
        "low contrast",
    ]
    assert judged.verdict_reason == judged.doubts[0]


def test_a_vector_that_is_nearly_another_trait_s_is_not_good():
    good = replace(FINE, verdict="good")

    judged = with_near_duplicates(good, {"evil": 0.91, "refusal": -0.2})

    assert (judged.verdict, judged.verdict_reason) == (
        "weak",
        "near-duplicate of evil: cosine 0.91; one of the two may measure the other",
    )
    assert judged.doubts == (judged.verdict_reason,)


def test_a_vector_that_is_nearly_opposite_to_another_trait_s_has_a_doubt_more():
    unusable = VectorQuality(verdict="unusable", verdict_reason="chance", doubts=("chance",))

    judged = with_near_duplicates(unusable, {"evil": -0.85})

    assert (judged.verdict, judged.verdict_reason) == ("unusable", "chance")
    assert judged.doubts == (
        "chance",
        "opposite of evil: cosine -0.85; one of the two may measure the other",
    )


def test_a_vector_unlike_all_others_keeps_its_verdict():
    good = replace(FINE, verdict="good")

    assert with_near_duplicates(good, {"evil": 0.79}) == good
    assert with_near_duplicates(good, {}) == good


def test_the_nearest_trait_is_the_most_alike_or_the_most_opposed():
    assert nearest_trait({"evil": 0.3, "refusal": -0.6}) == "refusal"
    assert nearest_trait({}) is None
