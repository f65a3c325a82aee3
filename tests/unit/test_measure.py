"""The measurements and the verdict of a vector, on rollouts with a planted direction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.planted import draw, fewer_shuffles, plant, plant_length, plant_phrases
from traitcli.config import Config
from traitcli.pipeline.build_vector import build_trait
from traitcli.pipeline.ledgers import RunLedgers
from traitcli.records import POSITIONS, Rollout
from traitcli.runs.run import Run
from traitcli.runs.states import stack_states
from traitcli.traits.definitions import find_traits, load_trait
from traitcli.vectors.files import read_vector
from traitcli.vectors.measure import Evidence, Neutral, measure_vector
from traitcli.vectors.methods import METHODS, mean_difference
from traitcli.vectors.verdict import with_verdict

LAYERS = 9

few = pytest.mark.usefixtures(fewer_shuffles.__name__)


def measured(build, test, method=mean_difference, layer="auto"):
    """Measure a vector and add the verdict, without a judge."""
    evidence = Evidence(
        build, np.ones(len(build.positive), bool), test, method, build.direction(method)
    )
    return with_verdict(measure_vector(evidence, layer))


def both(seed, change=lambda rollouts: rollouts):
    """Rollouts to build from and rollouts of other questions, changed in the same way."""
    return change(draw(2 * seed, layers=LAYERS)), change(draw(2 * seed + 1, layers=LAYERS))


def planted_late(rollouts):
    for layer in range(3, LAYERS):
        plant(rollouts, layer, strength=3.0)
    return rollouts


def planted_everywhere(rollouts):
    for layer in range(LAYERS):
        plant(rollouts, layer, strength=3.0)
    return rollouts


@pytest.mark.parametrize("seed", range(10))
def test_a_planted_direction_is_found(seed):
    found = measured(*both(seed, planted_late))

    assert found.verdict == "reads its instruction"
    assert found.verdict_reason.startswith("no neutral readings: ")
    assert found.layer in (3, 4, 5, 6)
    assert found.null_p < 0.02
    assert (found.length_does_as_well, found.embedding_layer_does_as_well) == (False, False)


def with_neutral(seed, neutral):
    """A direction planted in states behind personas, and other states of the same rollouts."""
    build, test = both(seed, planted_everywhere)
    readings = Neutral(*both(seed + 100, neutral))
    evidence = Evidence(
        build,
        np.ones(len(build.positive), bool),
        test,
        mean_difference,
        build.direction(mean_difference),
        readings,
    )
    return with_verdict(measure_vector(evidence, "auto"))


@few
def test_data_that_differ_only_in_the_prompt_never_reach_the_second_rung():
    """At most five of a hundred seeds may, by chance."""
    verdicts = [with_neutral(seed, lambda rollouts: rollouts).verdict for seed in range(100)]

    assert verdicts.count("reads its instruction") >= 95
    assert set(verdicts) <= {"reads its instruction", "reads its own texts"}


@few
def test_a_true_direction_is_recognised_beside_an_unrelated_effect_of_the_prompt():
    """The prompt shifts all states behind a persona along a direction of its own."""
    shift = np.random.default_rng(7).standard_normal(16).astype(np.float32)

    def shifted(seed, neutral):
        build, test = both(seed, planted_late)
        for rollouts in (build, test):
            width = rollouts.activations.shape[2]
            side = np.where(rollouts.positive, 1, -1)[:, None, None]
            rollouts.activations[...] += side * 2 * np.resize(shift, width)
        readings = Neutral(*both(seed, planted_late))
        made = build.direction(mean_difference)
        return with_verdict(
            measure_vector(
                Evidence(
                    build, np.ones(len(build.positive), bool), test, mean_difference, made, readings
                ),
                "auto",
            )
        )

    verdicts = [shifted(seed, None).verdict for seed in range(20)]

    assert verdicts.count("reads its own texts") >= 19


@pytest.mark.parametrize("seed", range(10))
def test_a_vector_that_reads_its_instruction_separates_no_neutral_readings(seed):
    found = with_neutral(seed, lambda rollouts: rollouts)

    assert found.auroc > 0.9
    assert abs(found.neutral_auroc - 0.5) < 0.2


@pytest.mark.parametrize("seed", range(10))
def test_a_vector_that_needs_no_instruction_separates_neutral_readings_as_well(seed):
    found = with_neutral(seed, planted_late)

    assert found.neutral_auroc > 0.9
    assert found.neutral_auroc == found.neutral_auroc_by_layer[found.layer]


def test_the_layer_is_chosen_on_neutral_readings():
    def planted_at_six(rollouts):
        plant(rollouts, 6, strength=3.0)
        return rollouts

    assert with_neutral(0, planted_at_six).layer == 6


@pytest.mark.parametrize("seed", range(10))
def test_pure_noise_is_not_shown(seed):
    found = measured(*both(seed))

    assert found.verdict == "not shown"
    assert "may be chance" in found.verdict_reason


@pytest.mark.parametrize("seed", range(10))
def test_a_length_confound_is_called_length(seed):
    build, test = (plant_length(rollouts, seed) for rollouts in both(seed))

    found = measured(build, test)

    assert found.auroc > 0.85
    assert found.doubts[0].startswith("may be length: the length of the answer separates")


@few
def test_a_length_confound_keeps_neutral_readings_from_the_second_rung():
    def lengths(seed):
        build, test = (plant_length(rollouts, seed) for rollouts in both(seed))
        made = build.direction(mean_difference)
        evidence = Evidence(
            build,
            np.ones(len(build.positive), bool),
            test,
            mean_difference,
            made,
            Neutral(build, test),
        )
        return with_verdict(measure_vector(evidence, "auto"))

    reasons = [lengths(seed).verdict_reason for seed in range(20)]

    assert sum(reason.startswith("may be length: ") for reason in reasons) >= 17


def test_a_perfect_vector_does_not_lead_a_perfect_embedding_layer():
    def planted_strongly(rollouts):
        for layer in range(LAYERS):
            plant(rollouts, layer, strength=100.0)
        return rollouts

    found = with_neutral(0, planted_strongly)

    assert found.neutral_auroc == found.neutral_auroc_by_layer[0] == 1
    assert found.neutral_embedding_lead == 0
    assert found.verdict == "reads its instruction"
    assert found.verdict_reason.startswith("may be lexical: ")


@few
def test_a_vector_that_the_embedding_layer_matches_is_called_lexical():
    """Most of twenty seeds: chance sometimes exceeds two standard errors."""
    doubts = [measured(*both(seed, planted_everywhere)).doubts for seed in range(20)]

    lexical = [one for one in doubts if one and one[0].startswith("may be lexical: the embedding")]
    assert len(lexical) >= 17


@pytest.mark.parametrize("seed", range(3))
def test_a_vector_is_not_shown_if_each_pair_separates_only_itself(seed):
    found = measured(*both(seed, plant_phrases))

    assert found.verdict == "not shown"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_finds_a_strong_direction(name):
    build, test = both(1, lambda rollouts: planted_late(planted_late(rollouts)))

    found = measured(build, test, METHODS[name])

    assert found.auroc > 0.9


def test_a_configured_layer_is_measured_unchanged():
    found = measured(*both(1, planted_late), layer=1)

    assert (found.layer, found.layer_choice) == (1, "set")
    assert found.auroc == found.auroc_by_layer[1] < 0.65


def test_without_a_test_set_separation_is_not_measured():
    build, _ = both(1, planted_late)

    found = measured(build, None)

    assert (found.auroc, found.d, found.null_p, found.evaluation_rollouts) == (
        None,
        None,
        None,
        0,
    )
    assert (found.verdict, found.verdict_reason) == (
        "not shown",
        "not measured: there are no held-out rollouts",
    )


def test_single_numbers_are_those_at_the_chosen_layer():
    found = measured(*both(2, planted_late))

    layer = found.layer
    assert found.auroc == found.auroc_by_layer[layer]
    assert found.d == found.d_by_layer[layer]
    assert found.massive_share == found.massive_share_by_layer[layer]
    assert found.auroc_low < found.auroc <= found.auroc_high
    assert np.mean(found.auroc_by_pair) == pytest.approx(found.auroc, abs=1e-4)


def test_a_pair_with_no_kept_rollouts_is_tested_too():
    build, test = both(1, planted_late)

    found = measured(build.select(build.pair != 2), test)

    assert len(found.auroc_by_pair) == 5
    assert found.evaluation_rollouts == len(test.pair)
    assert found.length_auroc is not None


def test_norms_are_those_of_the_direction_and_of_the_activations():
    build, test = both(3, planted_late)

    found = measured(build, test)

    direction = build.direction(mean_difference)
    around = [
        np.linalg.norm(build.activations[build.positive == side], axis=2).mean(0)
        for side in (True, False)
    ]
    assert found.magnitude_by_layer == pytest.approx(np.linalg.norm(direction, axis=1), abs=1e-3)
    assert found.activation_norm_by_layer == pytest.approx(np.mean(around, axis=0), abs=1e-3)
    assert found.relative_magnitude == pytest.approx(found.magnitude / np.mean(around), abs=1e-3)


@pytest.mark.parametrize("evaluation_layer", [3, 5])
def test_the_evaluation_rollouts_do_not_influence_the_layer(tmp_path, evaluation_layer):
    extraction = plant(plant(draw(1, 6, layers=9), layer=4), layer=evaluation_layer, strength=1.0)
    evaluation = plant(draw(2, 6, layers=9), layer=evaluation_layer)
    config = Config.model_validate(
        {
            "model": {"id": "org/tiny"},
            "paths": {"runs": tmp_path / "runs", "vectors": tmp_path / "vectors"},
        }
    )
    run = Run(tmp_path / "runs" / "mine")
    store(run, extraction, "extraction")
    store(run, evaluation, "evaluation")
    evil = load_trait(find_traits(Path("no-such-folder"))["evil"])

    vector = read_vector(build_trait(evil, config, RunLedgers(run), "nobody", lambda event: None))

    assert vector.layer == 4
    assert vector.quality.auroc < 0.7 < vector.quality.auroc_by_layer[evaluation_layer]


def store(run, labelled, split):
    """Store activations with labels as the rollouts of a run, equal at every position."""
    rollouts = []
    for index, (positive, pair, question, length) in enumerate(
        zip(labelled.positive, labelled.pair, labelled.question, labelled.length, strict=True)
    ):
        polarity = "positive" if positive else "negative"
        name = f"{split}-{index}"
        rollouts.append(
            Rollout(
                name,
                "evil",
                split,
                polarity,
                int(pair),
                int(question),
                0,
                0,
                "p",
                "r",
                1,
                int(length),
                "stop",
            ),
        )
    activations = {
        rollout.id: dict.fromkeys(POSITIONS, labelled.activations[index])
        for index, rollout in enumerate(rollouts)
    }
    run.trait("evil").add_rollouts(
        rollouts, stack_states("evil", activations, {name: name for name in activations})
    )
