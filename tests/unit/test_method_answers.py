"""Labelled answers by method: planted scores, and one pass of a tiny model over the texts."""

from __future__ import annotations

import random

import numpy as np
import pytest

from traitcli.config import ModelConfig, MonitorConfig
from traitcli.errors import VectorError
from traitcli.events import TextsRead
from traitcli.generation.projections import Probe
from traitcli.inspection.labelled_scores import read_answers
from traitcli.inspection.method_answers import AnswersByMethod, answer_figures, read_by_method
from traitcli.models.load import load_model
from traitcli.monitoring.labelled_answers import LabelledAnswer
from traitcli.monitoring.transcripts import Exchange
from traitcli.records import TraitVector

MEAN = "mean_difference"


def planted(gaps, count=300, prompts=None, seed=0):
    """Answers of 20 tokens; each method scores those with the trait higher by its gap."""
    rng = np.random.default_rng(seed)
    answers, scores = [], []
    for index in range(count):
        positive = index % 2 == 0
        exchange = Exchange(f"prompt {index % (prompts or count)}", "")
        answers.append(LabelledAnswer(exchange, positive, None, None))
        # The level is the answer's, so all methods share it.
        level = rng.normal()
        scores.append(
            {
                method: tuple(level + gap * positive + rng.normal(0, 0.1, 20))
                for method, gap in gaps.items()
            }
        )
    return AnswersByMethod(tuple(answers), tuple(scores))


def test_a_planted_difference_between_methods_is_found_by_both_ways_to_sum_up():
    found = answer_figures(planted({MEAN: 1.0, "logistic": 2.0}), "x.jsonl", MEAN)

    for key in ("rolling", "mean"):
        # Φ(2 / √2) = .921 against Φ(1 / √2) = .760.
        own, mean = found["logistic"], found[MEAN]
        assert own[f"{key}_auroc_low"] < 0.921 < own[f"{key}_auroc_high"]
        assert mean[f"{key}_auroc_low"] < 0.760 < mean[f"{key}_auroc_high"]
        lead = own[f"{key}_auroc"] - mean[f"{key}_auroc"]
        assert own[f"{key}_ahead"] == pytest.approx(lead)
        assert 0 < own[f"{key}_ahead_low"] < lead < own[f"{key}_ahead_high"]
        assert mean[f"{key}_ahead"] is None


def test_the_lead_is_paired_so_its_interval_is_narrower_than_that_of_either_method():
    found = answer_figures(planted({MEAN: 1.0, "logistic": 1.0}), "x.jsonl", MEAN)["logistic"]

    widths = {
        key: found[f"rolling_{key}_high"] - found[f"rolling_{key}_low"]
        for key in ("auroc", "ahead")
    }
    assert found["rolling_ahead_low"] < 0 < found["rolling_ahead_high"]
    assert widths["ahead"] < widths["auroc"] / 2


def test_intervals_are_clustered_by_prompt():
    gaps = {MEAN: 1.0}
    # Six prompts, whose answers are as good as one answer each: the level is that of the prompt.
    read = planted(gaps, count=6)
    often = AnswersByMethod(read.answers * 50, read.scores * 50)

    few, many = (answer_figures(one, "x.jsonl", MEAN)[MEAN] for one in (read, often))

    assert (many["answers"], many["answers_positive"], many["answers_prompts"]) == (300, 150, 6)
    assert many["answers_from"] == "x.jsonl"
    for key in ("rolling_auroc", "rolling_auroc_low", "rolling_auroc_high"):
        assert many[key] == pytest.approx(few[key])


# With a tiny model


@pytest.fixture(scope="module")
def loaded(model_folders):
    return load_model(ModelConfig(id=str(model_folders["llama"]), device="cpu"))


def vectors_of(loaded, **layers):
    """A random direction for each method, at its layer alone."""
    rng = np.random.default_rng(0)
    found = {}
    for method, layer in layers.items():
        directions = np.zeros((loaded.layer_count, loaded.hidden_size), np.float32)
        directions[layer] = rng.normal(size=loaded.hidden_size)
        found[method] = TraitVector("evil", "tiny", method, layer, {"response_avg": directions}, {})
    return found


def answers_of(count=8):
    rng = random.Random(0)
    words = ("pin", "turns", "lock", "rain", "house", "while", "every")
    return [
        LabelledAnswer(
            Exchange(f"Why {index}?", " ".join(rng.choices(words, k=9))), index % 2 == 0, None, None
        )
        for index in range(count)
    ]


def test_one_pass_gives_each_method_the_scores_of_a_pass_of_its_own(loaded):
    vectors, answers, events = vectors_of(loaded, first=1, second=2, third=2), answers_of(), []

    read = read_by_method(loaded, vectors, "response_avg", answers, MonitorConfig(), events.append)

    progress = [event for event in events if isinstance(event, TextsRead)]
    assert [event.done for event in progress] == list(range(len(answers) + 1))
    assert {event.total for event in progress} == {len(answers)}
    assert read.answers == tuple(answers)
    for method, vector in vectors.items():
        probe = Probe(vector, "response_avg", vector.layer)
        alone = read_answers(loaded, probe, answers, MonitorConfig(), lambda event: None)
        assert [scores[method] for scores in read.scores] == [
            pytest.approx(one.scores, abs=1e-4) for one in alone.answers
        ]


def test_an_answer_that_cannot_be_read_is_left_out_for_every_method_and_counted(loaded):
    empty = LabelledAnswer(Exchange("Why?", ""), True, None, None)
    vectors, answers = vectors_of(loaded, first=1, second=2), [*answers_of(), empty]

    read = read_by_method(
        loaded, vectors, "response_avg", answers, MonitorConfig(), lambda event: None
    )

    assert len(read.answers) == len(read.scores) == len(answers) - 1
    assert read.failures == ("the response is empty",)


def test_directions_of_another_shape_are_refused(loaded):
    directions = np.ones((loaded.layer_count + 1, loaded.hidden_size), np.float32)
    vectors = {MEAN: TraitVector("evil", "tiny", MEAN, 1, {"response_avg": directions}, {})}

    with pytest.raises(VectorError, match="the vector of evil does not fit"):
        read_by_method(
            loaded, vectors, "response_avg", answers_of(), MonitorConfig(), lambda event: None
        )
