"""Methods compared on a run with planted states: what reads the persona leads only with it."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from traitcli.config import Config
from traitcli.errors import RunError, VectorError
from traitcli.inspection.compare_methods import compare_methods
from traitcli.records import Contrast, Judgement, Rollout, RolloutKey, Score, Trait
from traitcli.runs.run import Run
from traitcli.runs.states import stack_neutral, stack_states

PAIRS, QUESTIONS, LAYERS, HIDDEN = 4, 10, 9, 12
EARLY, LATE = 2, 6
"""The layers between 25 % and 75 % of depth that are farthest from the middle."""
TRAIT = Trait(
    name="evil",
    description="",
    meaning=Contrast("harms", "helps"),
    adjectives=Contrast("evil", "good"),
    pairs=tuple(Contrast(f"harm {n}", f"help {n}") for n in range(PAIRS)),
    questions=tuple(f"q{n}?" for n in range(QUESTIONS)),
    evaluation_questions=tuple(f"e{n}?" for n in range(QUESTIONS)),
    judge_prompt="{question} {answer}",
)
NONE = Score(None, "not asked", final=True)


def rollouts():
    found = []
    for split, polarity, pair, question in product(
        ("extraction", "evaluation"), ("positive", "negative"), range(PAIRS), range(QUESTIONS)
    ):
        key = RolloutKey("evil", split, polarity, pair, question, 0)
        of_key = (key.id, "evil", split, polarity, pair, question, 0)
        found.append(Rollout(*of_key, 0, "p", "r", 1, 9, "stop"))
    return found


def noise(made, seed):
    """float32 [n, L+1, H] of unit noise."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (len(made), LAYERS, HIDDEN)).astype(np.float32)


def store(folder, persona, neutral):
    """A judged run with these states; `neutral` may be shorter, or None."""
    made, run = rollouts(), Run(folder / "tiny")
    files = run.trait("evil")
    positions = ("response_avg", "prompt_avg", "prompt_last")
    states = {
        rollout.id: dict.fromkeys(positions, state)
        for rollout, state in zip(made, persona, strict=True)
    }
    files.add_rollouts(made, stack_states("evil", states, {name: name for name in states}))
    if neutral is not None:
        read = {one.id: state for one, state in zip(made, neutral, strict=False)}
        files.add_states(stack_neutral("evil", read))
    files.add_judgements(
        Judgement(one.id, "fake", Score(90.0 if one.polarity == "positive" else 5.0), NONE)
        for one in made
        if one.split == "extraction"
    )
    return run


def positives():
    return np.array([one.polarity == "positive" for one in rollouts()])


def compared(run, tmp_path, **vector):
    config = Config.model_validate(
        {"model": {"id": "m"}, "paths": {"runs": tmp_path}, "vector": vector}
    )
    found = compare_methods(run, [TRAIT], config, None, lambda step: None)
    return {one.row["method"]: one for one in found}


@pytest.fixture(scope="module")
def persona_run(tmp_path_factory):
    """Dimension 0 shows the trait weakly; dimension 1 shows the persona sharply, if it is there.

    Dimension 0 has the larger difference of means, and a spread to match. So the mean difference
    points along dimension 0, and a probe along dimension 1.
    """
    positive = positives()
    persona, neutral = noise(positive, 0), noise(positive, 1)
    for states in (persona, neutral):
        states[:, :, 0] *= 4
        states[positive, :, 0] += 6
    persona[:, :, 1] *= 0.1
    persona[positive, :, 1] += 1
    return store(tmp_path_factory.mktemp("runs"), persona, neutral)


@pytest.fixture(scope="module")
def planted(persona_run):
    return compared(persona_run, persona_run.folder.parent)


@pytest.mark.parametrize("method", ["logistic", "whitened_difference"])
def test_a_method_that_reads_the_persona_leads_with_it_and_not_without(planted, method):
    row, mean = planted[method].row, planted["mean_difference"].row

    assert row["ahead"] > 2 * row["ahead_error"]
    assert row["neutral_ahead"] < -2 * row["neutral_ahead_error"]
    assert row["auroc"] == pytest.approx(1, abs=0.01)
    # Φ(6 / (4 · √2)) = .856, with the persona and without it.
    for reading in ("auroc", "neutral_auroc"):
        assert mean[f"{reading}_low"] < 0.856 < mean[f"{reading}_high"]
    assert row["neutral_auroc_low"] < row["neutral_auroc"] < row["neutral_auroc_high"]


def test_the_mean_difference_leads_nothing_and_nothing_is_noted(planted):
    row = planted["mean_difference"].row

    keys = ("ahead", "ahead_error", "neutral_ahead", "neutral_ahead_error")
    assert [row[key] for key in keys] == [None] * 4
    assert row["note"] == ""


def test_the_vector_of_a_method_has_its_direction_at_its_layer_alone(persona_run, tmp_path):
    found = compared(persona_run, tmp_path, layer=5)["mean_difference"]

    direction = found.vector.directions["response_avg"]
    kept = [one.id for one in rollouts() if one.split == "extraction"]
    states = persona_run.trait("evil").activations(kept, "response_avg")
    positive = np.array(["-pos-" in name for name in kept])
    difference = states[positive].mean(0) - states[~positive].mean(0)
    assert (found.vector.layer, found.row["layer"]) == (5, 5)
    np.testing.assert_allclose(direction[5], difference[5], atol=1e-5)
    assert not np.delete(direction, 5, axis=0).any()


def planted_by_layer(seed):
    """The persona separates best early, and what is left without it best late."""
    positive = positives()
    persona, neutral = noise(positive, seed), noise(positive, seed + 1)
    persona[positive, :, 0] += 1
    persona[positive, EARLY, 0] += 7
    neutral[positive, LATE, 0] += 8
    return persona, neutral


def test_each_method_takes_the_layer_that_separates_neutral_readings(tmp_path):
    run = store(tmp_path, *planted_by_layer(2))

    found = compared(run, tmp_path)

    assert {one.row["layer"] for one in found.values()} == {LATE}


def test_without_neutral_readings_the_layer_is_that_of_the_persona_and_the_row_says_why(tmp_path):
    persona, neutral = planted_by_layer(2)
    # Without the reading of the last evaluation rollout.
    run = store(tmp_path, persona, neutral[:-1])

    found = compared(run, tmp_path)

    assert {one.row["layer"] for one in found.values()} == {EARLY}
    row = found["logistic"].row
    assert row["auroc"] == 1
    missing = [key for key in row if key.startswith("neutral_") and row[key] is None]
    assert len(missing) == 5
    assert row["note"] == (
        "no neutral readings: 1 of 160 rollouts were not read behind their bare questions; "
        "traitcli extract evil reads them"
    )


def test_other_positions_have_no_neutral_readings(persona_run, tmp_path):
    row = compared(persona_run, tmp_path, position="prompt_avg")["logistic"].row

    assert row["neutral_auroc"] is None
    assert row["note"].endswith("they are of response_avg, and vector.position is prompt_avg")


def test_methods_are_built_from_neutral_readings_if_the_config_says_so(persona_run, tmp_path):
    row = compared(persona_run, tmp_path, context="neutral")["logistic"].row

    # It cannot learn the persona, so it does not lose what it learned.
    assert row["neutral_ahead"] > -2 * row["neutral_ahead_error"]


def test_a_layer_that_the_model_lacks_is_refused(persona_run, tmp_path):
    with pytest.raises(VectorError, match=r"vector\.layer 9 does not exist"):
        compared(persona_run, tmp_path, layer=9)


def test_vectors_of_neutral_readings_need_them(tmp_path):
    run = store(tmp_path, noise(positives(), 0), None)

    with pytest.raises(RunError, match="evil has no neutral readings"):
        compared(run, tmp_path, context="neutral")
