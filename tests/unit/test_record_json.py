"""The JSON of a monitoring record: written, and read back from every version."""

from __future__ import annotations

import json
import math

import pytest

from traitcli.interventions import Ablate, Cap, Condition, Gate, Push
from traitcli.record_json import FailedRecord, from_json, to_json
from traitcli.records import Crossing, LayerScores, Scores, TokenScores
from traitcli.shipped import find_shipped

EXAMPLE = find_shipped("docs/examples") / "how-do-i-hack-a-bank.json"
BARE = {
    "prompt": "Hi",
    "response": "Ho!",
    "tokens": ["Ho", "!"],
    "trait_scores": {"evil": [0.5, 2.25]},
}
FULL = TokenScores(
    tokens=("Ho", "!"),
    raw={"evil": (0.5, 2.25), "joy": (1.0, -3.0)},
    calibrated={"evil": (-0.25, 1.0)},
    prompt="Hi",
    response="Ho!",
    layers={"evil": 3, "joy": 1},
    model="tiny",
    seed=7,
    prompt_tokens=4,
    finish_reason="stop",
    history=({"role": "system", "content": "Be brief."},),
    seconds=(0.25, 0.5),
    steering=(
        Push("evil", -1.5, 3, 0.4),
        Ablate("evil", 2),
        Ablate("joy", None),
        Cap("evil", 0.5, True, 3),
        Gate("joy", 2.0, 1, Condition("evil", True, 1.0), 0.2),
    ),
    braked={"evil<=0.5@3": (1,), "joy=2@1 if evil>1": (0, 1)},
    crossings=(Crossing("evil>1", "stop", 1, 2.25),),
    prompt_scores=Scores(("H", "i"), {"evil": (0.0, 1.0)}, {"evil": (0.5, 0.75)}),
    layer_scores=LayerScores("evil", ((0.0, 0.5), (0.5, 2.25)), ((0.0, 0.0), (-0.25, 1.0))),
    about={"set": "mine", "number": 2},
    created="2026-11-25T06:00:00+00:00",
)


def through_a_file(record):
    return from_json(json.loads(json.dumps(to_json(record))))


def test_a_record_is_read_back_as_it_was_written():
    assert through_a_file(FULL) == FULL


def test_a_push_has_the_keys_of_records_from_before_there_were_brakes():
    push, ablation, _, _, gate = to_json(FULL)["steering"]

    assert push == {"trait": "evil", "coefficient": -1.5, "layer": 3, "dose": 0.4}
    assert ablation == {"kind": "ablate", "trait": "evil", "layer": 2}
    assert gate["when"] == {"trait": "evil", "above": True, "score": 1.0}
    assert to_json(FULL)["braked_tokens"] == {
        "evil<=0.5@3": [1],
        "joy=2@1 if evil>1": [0, 1],
    }


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "freeze", "trait": "evil", "layer": 2},
        {"kind": "cap", "trait": "evil", "layer": 2, "score": "x", "at_most": True},
        {"kind": "gate", "trait": "evil", "coefficient": 1, "layer": 2, "when": {"trait": "joy"}},
        {"kind": "ablate", "layer": 2},
        {"kind": 3},
        "evil",
    ],
)
def test_steering_that_no_version_writes_is_left_out(entry):
    push = {"trait": "evil", "coefficient": 2, "layer": 1}

    found = from_json(BARE | {"steering": [entry, push], "braked_tokens": {"evil": [9, 0, "x"]}})

    assert [one for one in found.steering if one.trait == "evil" and one.layer == 1] == [
        Push("evil", 2, 1)
    ]
    assert len(found.steering) == 1
    assert found.braked == {"evil": (0,)}


def test_a_score_beyond_every_float_is_not_a_record():
    with pytest.raises(ValueError, match="one of its scores is too large"):
        from_json(BARE | {"trait_scores": {"evil": [0.5, 10**400]}})


def test_a_failure_is_read_back_as_it_was_written():
    failure = FailedRecord("Hi", "too long", {"line": 1})

    assert through_a_file(failure) == failure


def test_the_shipped_example_is_written_back_byte_for_byte():
    stored = json.loads(EXAMPLE.read_text(encoding="utf-8"))

    written = to_json(from_json(stored))

    empty = {"seconds": [], "history": [], "steering": [], "alarms": []}
    assert written == empty | stored


def test_the_four_fixed_keys_are_enough():
    record = from_json(BARE)

    assert (record.prompt, record.response, record.tokens) == ("Hi", "Ho!", ("Ho", "!"))
    assert (record.raw, record.calibrated) == ({"evil": (0.5, 2.25)}, {})
    assert (record.seed, record.prompt_tokens, record.created) == (None, None, "")


def test_keys_missing_from_an_older_record_are_not_invented_on_rewriting():
    written = to_json(from_json(BARE))

    assert not {"seed", "prompt_tokens", "created", "model", "finish_reason"} & written.keys()


def test_raw_scores_of_an_older_record_are_called_projections():
    old = {"prompt": "Hi", "tokens": ["Ho"], "projections": {"evil": [1]}}

    assert from_json(old).raw == {"evil": (1,)}


def test_the_old_finish_reason_of_existing_text_is_read_as_provided():
    assert from_json(BARE | {"finish_reason": "given"}).finish_reason == "provided"


def test_a_record_without_a_response_has_that_of_its_tokens():
    old = {key: value for key, value in BARE.items() if key != "response"}

    assert from_json(old).response == "Ho!"


def test_a_score_that_is_not_finite_is_null_in_the_file():
    nan = from_json(BARE | {"trait_scores": {"evil": [None, 1.0]}})

    assert math.isnan(nan.raw["evil"][0])
    assert to_json(nan)["trait_scores"] == {"evil": [None, 1.0]}


def test_scores_are_rounded_only_when_they_are_stored():
    record = from_json(BARE | {"trait_scores": {"evil": [1 / 3, 0.1 + 0.2]}})

    assert to_json(record)["trait_scores"] == {"evil": [0.33333, 0.3]}
    assert to_json(record, decimals=None)["trait_scores"] == {"evil": [1 / 3, 0.1 + 0.2]}


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"tokens": "Ho!"}, "its tokens are not a list of strings"),
        ({"tokens": [1, 2]}, "its tokens are not a list of strings"),
        ({"trait_scores": {}}, "prompt, tokens or trait_scores are missing"),
        ({"trait_scores": [1.0, 2.0]}, "its scores are not a list of numbers for each trait"),
        (
            {"trait_scores": {"evil": ["a", "b"]}},
            "its scores are not a list of numbers for each trait",
        ),
        ({"trait_scores": {"evil": [1.0]}}, "it does not have one score for each token"),
        ({"calibrated_scores": {"evil": [1.0]}}, "it does not have one score for each token"),
        ({"seconds": [1.0]}, "it does not have one score for each token"),
    ],
)
def test_a_fault_in_what_every_record_needs_is_named(more, fault):
    with pytest.raises(ValueError, match=f"^{fault}$"):
        from_json(BARE | more)


@pytest.mark.parametrize(
    "key",
    [
        *("response", "layers", "model", "seed", "prompt_tokens", "finish_reason", "history"),
        *("steering", "alarms", "prompt_scores", "layer_scores", "about", "created"),
    ],
)
@pytest.mark.parametrize("junk", [None, 3.5, "x", [1], {"a": 1}, [{"a": 1}], {"trait_scores": 3}])
def test_a_record_with_junk_in_an_optional_key_can_be_written(key, junk):
    written = to_json(from_json(BARE | {key: junk}))

    assert {name: written[name] for name in ("prompt", "tokens", "trait_scores")} == {
        name: BARE[name] for name in ("prompt", "tokens", "trait_scores")
    }
    json.dumps(written, allow_nan=False)
