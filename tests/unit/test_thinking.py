"""The thinking part of an answer: found, shown, and left out of means and alarms if asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from traitcli.config import ModelConfig, MonitorConfig, MonitorSamplingConfig, SamplingConfig
from traitcli.generation.decode import generate
from traitcli.generation.external_engine import Callbacks, write_then_read
from traitcli.generation.projections import Probe
from traitcli.generation.request import Request
from traitcli.generation.skip_thinking import OwnWriter, count_thinking, skip_thinking
from traitcli.models.batch_size import BatchSize
from traitcli.models.load import load_model
from traitcli.models.prompts import encode_response
from traitcli.models.thinking import opens_thinking, thinking_end, thinking_tokens
from traitcli.monitoring.alarms import parse_rule
from traitcli.monitoring.score_texts import score_texts
from traitcli.monitoring.transcripts import Exchange
from traitcli.monitoring.watch import Watch
from traitcli.record_json import from_json, to_json
from traitcli.records import ClassStats, TraitVector


@pytest.mark.parametrize(
    ("response", "opened", "answer"),
    [
        ("<think>hm</think>\nYes.", False, "\nYes."),
        ("hm\n</think>\n\nYes.", False, "\n\nYes."),
        ("hm</think>Yes.", True, "Yes."),
        ("\n<THINK>hm</think>Yes.", False, "Yes."),
        ("[THINK]hm[/THINK]Yes.", False, "Yes."),
        ("<seed:think>hm</seed:think>Yes.", False, "Yes."),
        ("<think>hm, and hm", False, ""),
        ("hm, and hm", True, ""),
        ("Yes, I <think> so.", False, "Yes, I <think> so."),
        ("Yes.", False, "Yes."),
        ("<think>a</think>b<think>c</think>d", False, "d"),
        ("", False, ""),
    ],
)
def test_the_thinking_part_ends_with_its_last_closing_mark(response, opened, answer):
    assert response[thinking_end(response, opened=opened) :] == answer


@pytest.mark.parametrize(
    ("prompt", "opens"),
    [("x<think>\n", True), ("x<think>\n\n</think>\n", False), ("x", False), ("[THINK]", True)],
)
def test_a_prompt_may_end_inside_a_thinking_part(prompt, opens):
    assert opens_thinking(prompt) is opens


def test_a_token_that_begins_inside_belongs_to_the_part():
    tokens = ["<th", "ink>a", "</thi", "nk>\n", "Yes", "."]

    assert thinking_tokens(tokens) == 4
    assert "".join(tokens[4:]) == "Yes."


def vector():
    numbers = np.random.default_rng(1).normal(0, 1, (5, 32)).astype(np.float32)
    stats = ClassStats(*(np.full(5, value, np.float32) for value in (1, -1, 1, 1)))
    return TraitVector(
        trait="evil", model="m", method="mean_difference", layer=2,
        directions={"response_avg": numbers}, stats={"response_avg": stats},
    )  # fmt: skip


def scored(loaded, response, *, skip, rules=()):
    config = MonitorConfig(sampling=MonitorSamplingConfig(), skip_thinking=skip)
    watch = Watch({"evil": Probe(vector(), "response_avg", 2)}, config, rules=rules, raw=True)
    [record] = score_texts(loaded, watch, [Exchange("Why?", response)])
    return record


def test_scores_of_the_thinking_part_are_recorded_and_not_counted(loaded):
    model, response = loaded("llama"), "<think>I think so.</think>Yes, it is."
    low = parse_rule("mean(evil)>-1000", "fail", ["evil"])

    whole = scored(model, response, skip=False, rules=[low])
    skipped = scored(model, response, skip=True, rules=[low])

    row = whole.raw["evil"]
    assert skipped.raw["evil"] == row
    thinking = skipped.thinking
    assert "".join(skipped.tokens[thinking:]) == "Yes, it is."
    assert list(skipped.counted("evil")) == list(range(thinking, len(row)))
    assert list(whole.counted("evil")) == list(range(len(row)))
    means = [record.crossings[0].score for record in (whole, skipped)]
    np.testing.assert_allclose(means, [np.mean(row), np.mean(row[thinking:])], atol=1e-4)
    assert to_json(from_json(to_json(skipped))) == to_json(skipped)


def test_an_answer_without_thinking_has_no_new_keys(loaded):
    record = to_json(scored(loaded("llama"), "Yes.", skip=True))

    assert "thinking_tokens" not in record
    assert "skips_thinking" not in record


@pytest.mark.parametrize("packs", [True, False])
def test_the_mean_of_an_answer_leaves_its_thinking_out(model_folders, packs):
    loaded = load_model(ModelConfig(id=str(model_folders["llama"]), device="cpu"))
    loaded = replace(loaded, packs=packs, stop_ids=frozenset())
    requests = [Request((5, 6, 7, 8), 1), Request((9, 10, 11), 2)]
    sampling = SamplingConfig(max_new_tokens=12)
    plain = dict(generate(loaded, requests, sampling, BatchSize(4)))
    # A mark that the first answer has, as a thinking model would write it.
    ids = list(plain[0].ids)
    ids[4:4] = encode_response(loaded.tokenizer, "</think>")
    made = [(0, replace_ids(plain[0], ids)), (1, plain[1])]

    found = dict(skip_thinking(loaded, requests, made, BatchSize(4)))

    thinking = count_thinking(loaded, requests[0], ids)
    assert 4 < thinking < len(ids)
    with torch.no_grad():
        whole = torch.tensor([[*requests[0].ids, *ids]])
        states = loaded.model(whole, output_hidden_states=True).hidden_states
    expected = torch.stack(states)[:, 0, len(requests[0].ids) + thinking :].mean(1)
    torch.testing.assert_close(found[0].activations["response_avg"], expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(found[0].activations["prompt_avg"], plain[0].activations["prompt_avg"])
    assert found[0].thinking == thinking
    assert found[1] is plain[1]


def replace_ids(generation, ids):
    return replace(generation, ids=tuple(ids))


def test_an_answer_that_is_only_thinking_has_no_activations(loaded):
    model = replace(loaded("llama"), stop_ids=frozenset())
    prompt = tuple(encode_response(model.tokenizer, "Why? <think>"))
    sampling = SamplingConfig(max_new_tokens=5)

    [(index, made)] = write_then_read(
        model,
        OwnWriter(model, BatchSize(2)),
        [Request(prompt, 1)],
        sampling,
        Callbacks(lambda: BatchSize(2)),
        skip_thinking,
    )

    assert (index, made.activations, made.thinking) == (0, None, 5)
    assert len(made.ids) == 5
