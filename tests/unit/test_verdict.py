"""Which row is read and what is said of a vector, from numbers that are given."""

from __future__ import annotations

import pytest

from traitcli.vectors.verdict import choose_row, quality_fault, verdict_on, with_near_duplicates

FINE = {
    "auroc": 0.94,
    "auroc_low": 0.88,
    "auroc_high": 0.97,
    "null_p": 0.01,
    "contrast": 60.0,
    "judge_trusted": True,
    "length_auroc": 0.6,
    "length_does_as_well": False,
    "words_auroc": 0.7,
    "words_do_as_well": False,
    "split_half_cosine": 0.9,
    "massive_share": 0.1,
    "massive_dimensions": 1,
}


def test_a_vector_without_a_fault_is_good():
    assert verdict_on(FINE) == ("good", "held-out AUROC 0.94 (0.88–0.97)", [])


def test_what_an_older_file_does_not_tell_is_not_held_against_it():
    assert verdict_on({"auroc": 0.97, "contrast": None})[:2] == ("good", "held-out AUROC 0.97")


@pytest.mark.parametrize(
    ("told", "verdict", "reason"),
    [
        (
            {"auroc": 0.6499},
            "unusable",
            "held-out AUROC 0.64 (0.88–0.97): near chance on questions and pairs it has",
        ),
        (
            {"null_p": 0.06},
            "unusable",
            "vectors of shuffled labels separate as well in 6% of all trials",
        ),
        (
            {"auroc": None},
            "weak",
            "no held-out rollouts: nothing shows that it separates what it has not seen",
        ),
        ({"auroc": 0.7996}, "weak", "held-out AUROC 0.79 (0.88–0.97) is below 0.8"),
        (
            {"auroc": 0.7, "auroc_low": 0.45},
            "weak",
            "held-out AUROC 0.70 (0.45–0.97) is below 0.8, and may be chance",
        ),
        (
            {"auroc_low": 0.5},
            "weak",
            "held-out AUROC 0.94 (0.50–0.97): too few held-out rollouts to tell it from chance",
        ),
        (
            {"judge_trusted": False},
            "weak",
            "the judge cannot tell the polarities apart, so nothing was filtered",
        ),
        ({"contrast": 38.6}, "weak", "contrast 39 is below 40"),
        ({"contrast": 39.9}, "weak", "contrast 39 is below 40: the judge sees little of the trait"),
        (
            {"split_half_cosine": 0.5},
            "weak",
            "halves of its rollouts give other vectors (cosine 0.50)",
        ),
        (
            {"massive_share": 0.6},
            "weak",
            "60% of it lies in 1 dimensions that are large in all activations",
        ),
        (
            {"length_does_as_well": True},
            "weak",
            "it may measure length: the length of the answer alone is not clearly behind",
        ),
        (
            {"words_do_as_well": True},
            "weak",
            "it may measure words: the vector of row 0, which sees no context",
        ),
    ],
)
def test_each_fault_has_its_verdict_and_its_words(told, verdict, reason):
    found, words, doubts = verdict_on(FINE | told)

    assert (found, len(doubts)) == (verdict, 1)
    assert words == doubts[0]
    assert words.startswith(reason)


@pytest.mark.parametrize(
    "told", [{"auroc": 0.8, "auroc_low": 0.51}, {"contrast": 40.0}, {"null_p": 0.05}]
)
def test_on_the_bound_it_is_still_good(told):
    assert verdict_on(FINE | told)[0] == "good"


def test_all_doubts_are_told_the_worst_first():
    verdict, reason, doubts = verdict_on(
        FINE | {"contrast": 10.0, "auroc": 0.6, "length_does_as_well": True}
    )

    assert verdict == "unusable"
    assert [doubt.split(" ")[0] for doubt in doubts] == ["held-out", "it", "contrast"]
    assert reason == doubts[0]


def test_a_vector_that_is_nearly_another_trait_s_is_not_good():
    told = with_near_duplicates(
        FINE | {"verdict": "good", "verdict_reason": "", "doubts": []},
        {"evil": 0.91, "refusal": -0.2},
    )

    assert told["nearest"] == "evil"
    assert told["verdict"] == "weak"
    assert told["verdict_reason"] == (
        "it points the way of evil (cosine 0.91): one of the two may measure the other"
    )
    assert told["doubts"] == [told["verdict_reason"]]


def test_a_vector_that_is_nearly_against_another_trait_s_is_told_too():
    told = with_near_duplicates(
        {"verdict": "unusable", "verdict_reason": "chance", "doubts": ["chance"]}, {"evil": -0.85}
    )

    assert (told["verdict"], told["verdict_reason"]) == ("unusable", "chance")
    assert told["doubts"][1].startswith("it points the way against evil (cosine -0.85)")


def test_a_vector_unlike_all_others_stays_what_it_is():
    quality = FINE | {"verdict": "good", "doubts": []}

    assert with_near_duplicates(quality, {"evil": 0.79}) == quality | {
        "cosines": {"evil": 0.79},
        "nearest": "evil",
    }


def test_a_vector_alone_has_no_nearest():
    assert with_near_duplicates(FINE, {})["nearest"] is None


def test_the_row_of_the_best_auroc_is_chosen_where_it_stands_out():
    values = [0.5, 0.5, 0.6, 0.7, 0.9, 0.8, 0.5, 0.5, 0.5]

    assert choose_row(values, [0.05] * 9, rows=9) == 4


def test_the_earliest_row_within_one_standard_error_of_the_best_is_chosen():
    values = [0.5, 0.5, 0.6, 0.87, 0.9, 0.91, 0.5, 0.5, 0.5]

    assert choose_row(values, [0, 0, 0, 0, 0, 0.02, 0, 0, 0], rows=9) == 4
    assert choose_row(values, [0, 0, 0, 0, 0, 0.05, 0, 0, 0], rows=9) == 3


@pytest.mark.parametrize("blocks", [2, 3, 4, 5, 6, 12, 26, 30, 32, 80])
def test_the_chosen_row_stays_within_25_and_75_percent_of_depth(blocks):
    for best in range(blocks + 1):
        row = choose_row(
            [float(row == best) for row in range(blocks + 1)],
            [0.01] * (blocks + 1),
            rows=blocks + 1,
        )

        assert blocks * 0.25 <= row <= blocks * 0.75
        if blocks * 0.25 <= best <= blocks * 0.75:
            assert row == best


@pytest.mark.parametrize(("rows", "row"), [(31, 15), (27, 13), (5, 2), (2, 1)])
def test_without_a_separation_the_middle_row_is_chosen(rows, row):
    assert choose_row(None, None, rows) == row


def test_a_model_of_one_block_has_one_row_to_choose():
    assert choose_row([0.9, 0.5], [0.1, 0.1], rows=2) == 1


def test_a_quality_of_a_file_that_is_as_it_should_be_has_no_fault():
    assert (
        quality_fault(
            FINE
            | {
                "auroc_rows": [0.5, None],
                "doubts": ["x"],
                "verdict": "good",
                "anything": {"else": 1},
            }
        )
        == ""
    )


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        ({"auroc": "0.9"}, "its quality's auroc is not a number"),
        ({"contrast": float("nan")}, "its quality's contrast is not a number"),
        ({"d": True}, "its quality's d is not a number"),
        ({"magnitude": 10**400}, "its quality's magnitude is not a number"),
        ({"auroc_rows": [0.5, "x"]}, "its quality's auroc_rows is not a list of numbers"),
        ({"d_rows": 0.5}, "its quality's d_rows is not a list of numbers"),
        ({"doubts": "length"}, "its quality's doubts is not a list of texts"),
        ({"verdict": 3}, "its quality's verdict is not a text"),
        ({"words_do_as_well": 1}, "its quality's words_do_as_well is not true or false"),
    ],
)
def test_a_quality_of_a_file_that_no_view_could_show_is_named(told, fault):
    assert quality_fault(FINE | told) == fault
