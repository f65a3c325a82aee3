"""Monitoring against a teacher-forced pass over the same text."""

from __future__ import annotations

import json
from itertools import count

import numpy as np
import pytest
import torch

from tests.conftest import FAMILIES
from traitcli.config import MonitorConfig, MonitorSamplingConfig
from traitcli.errors import VectorError
from traitcli.events import MonitorFinished, MonitorStarted, TokenScored
from traitcli.generation.decode import Generation, generate
from traitcli.generation.projections import make_probes
from traitcli.generation.request import Request
from traitcli.models.batch_size import BatchSize
from traitcli.models.prompts import render
from traitcli.monitoring.monitor import monitor
from traitcli.monitoring.record_files import record_path
from traitcli.monitoring.watch import Watch
from traitcli.record_json import to_json
from traitcli.records import ClassStats, TraitVector

LAYER_COUNT, WIDTH = 5, 32
PROMPT = "How does lock picking work?"
CONFIG = MonitorConfig(
    sampling=MonitorSamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=16), seed=23
)


def make_vector(trait: str, layer: int, calibrated: bool = True) -> TraitVector:
    direction = (
        np.random.default_rng(len(trait)).normal(size=(LAYER_COUNT, WIDTH)).astype(np.float32)
    )
    flat = np.ones(LAYER_COUNT, dtype=np.float32)
    stats = {"response_avg": ClassStats(flat * 3, flat * -1, flat, flat)} if calibrated else {}
    return TraitVector(trait, "tiny", "mean_difference", layer, {"response_avg": direction}, stats)


VECTORS = [
    make_vector("evil", 2),
    make_vector("refusal", 2),
    make_vector("verbosity", 3, calibrated=False),
]


def watch(loaded, out, probes=None, config=CONFIG, on_event=None):
    probes = probes or make_probes(VECTORS, loaded, "response_avg")
    return monitor(loaded, Watch(probes, config), PROMPT, out, on_event or (lambda event: None))


def one(loaded, request: Request) -> Generation:
    [(_, generation)] = generate(loaded, [request], CONFIG.sampling, BatchSize(1))
    return generation


def prompt_ids(loaded) -> tuple[int, ...]:
    return render(loaded.tokenizer, [{"role": "user", "content": PROMPT}]).ids


@pytest.mark.parametrize("family", FAMILIES)
def test_raw_scores_equal_a_teacher_forced_pass(loaded, family, tmp_path):
    model = loaded(family)
    ids = prompt_ids(model)
    generated = one(model, Request(ids, CONFIG.seed)).ids

    scores = watch(model, tmp_path / "record.json")

    with torch.no_grad():
        hidden = model.model(
            torch.tensor([[*ids, *generated]]), output_hidden_states=True
        ).hidden_states
    assert len(scores.tokens) == len(generated)
    for vector in VECTORS:
        direction = torch.from_numpy(vector.directions["response_avg"][vector.layer])
        expected = hidden[vector.layer][0, len(ids) :] @ direction / direction.norm()
        assert scores.raw[vector.trait] == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-4)


def test_the_mean_score_is_the_projection_of_the_mean_activation(loaded, tmp_path):
    model = loaded("llama")
    rollout = one(model, Request(prompt_ids(model), CONFIG.seed))

    scores = watch(model, tmp_path / "record.json")

    direction = VECTORS[0].directions["response_avg"][2]
    expected = (
        rollout.activations["response_avg"][2].numpy() @ direction / np.linalg.norm(direction)
    )
    assert np.mean(scores.raw["evil"]) == pytest.approx(expected, rel=1e-4)


def test_calibrated_scores_put_the_class_means_at_plus_and_minus_one(loaded, tmp_path):
    scores = watch(loaded("llama"), tmp_path / "record.json")

    assert set(scores.calibrated) == {"evil", "refusal"}
    assert scores.calibrated["evil"] == pytest.approx([(raw - 1) / 2 for raw in scores.raw["evil"]])


def test_the_record_has_the_fixed_keys_and_its_tokens_join(loaded, tmp_path):
    out = tmp_path / "deep" / "record.json"

    scores = watch(loaded("qwen2"), out)

    record = json.loads(out.read_text(encoding="utf-8"))
    assert list(record)[:4] == ["prompt", "response", "tokens", "trait_scores"]
    assert "".join(record["tokens"]) == record["response"] == scores.response
    assert {len(values) for values in record["trait_scores"].values()} == {len(record["tokens"])}
    assert record["layers"] == {"evil": 2, "refusal": 2, "verbosity": 3}
    assert record["prompt"] == PROMPT


def test_each_token_has_an_event_with_its_scores(loaded, tmp_path):
    events = []

    scores = watch(loaded("llama"), tmp_path / "record.json", on_event=events.append)

    assert isinstance(events[0], MonitorStarted)
    assert isinstance(events[-1], MonitorFinished)
    tokens = [event for event in events if isinstance(event, TokenScored)]
    assert [event.raw["evil"] for event in tokens] == list(scores.raw["evil"])
    assert [event.index for event in tokens] == list(range(len(scores.tokens)))


def test_an_interrupted_generation_stores_what_it_has(loaded, tmp_path):
    out = tmp_path / "record.json"

    def interrupt(event) -> None:
        if isinstance(event, TokenScored) and event.index == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(loaded("llama"), out, on_event=interrupt)

    record = json.loads(out.read_text(encoding="utf-8"))
    assert len(record["tokens"]) == len(record["trait_scores"]["evil"]) == 5
    assert record["finish_reason"] == "interrupted"


class InterruptedWatch(Watch):
    """Ctrl-C while the scores of the fifth token are computed."""

    calls = count(1)

    def tabulate(self, tokens, projections):
        if next(self.calls) == 5:
            raise KeyboardInterrupt
        return Watch.tabulate(self, tokens, projections)


def test_a_token_interrupted_before_it_is_shown_is_not_in_the_record(loaded, tmp_path):
    model, events, out = loaded("llama"), [], tmp_path / "record.json"
    watched = InterruptedWatch(make_probes(VECTORS, model, "response_avg"), CONFIG)

    with pytest.raises(KeyboardInterrupt):
        monitor(model, watched, PROMPT, out, events.append)

    shown = [event.text for event in events if isinstance(event, TokenScored)]
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["tokens"] == shown
    assert {len(scores) for scores in record["trait_scores"].values()} == {len(shown)} == {4}


def test_only_the_same_seed_gives_the_same_answer(loaded, tmp_path):
    model = loaded("llama")
    first = watch(model, tmp_path / "a.json")

    again = watch(model, tmp_path / "b.json")
    other = watch(model, tmp_path / "c.json", config=CONFIG.model_copy(update={"seed": 99}))

    assert (again.tokens, again.raw) == (first.tokens, first.raw)
    assert other.tokens != first.tokens


def test_reading_the_layer_after_the_final_norm_is_noted(loaded, tmp_path):
    model = loaded("llama")
    events = []

    watch(
        model,
        tmp_path / "record.json",
        make_probes(VECTORS, model, "response_avg", layer=4),
        on_event=events.append,
    )

    assert events[0].notes[0].startswith("layer 4 is read after the final norm")


def test_vectors_of_another_shape_are_refused(loaded):
    wide = TraitVector(
        "evil",
        "other",
        "mean_difference",
        2,
        {"response_avg": np.ones((9, 7), dtype=np.float32)},
        {},
    )

    with pytest.raises(VectorError) as raised:
        make_probes([wide], loaded("llama"), "response_avg")

    assert raised.value.cause == "its shape is [9, 7]; the model needs [5, 32]"


def test_a_layer_that_the_model_does_not_have_is_refused(loaded):
    with pytest.raises(VectorError, match="no layer 5"):
        make_probes(VECTORS, loaded("llama"), "response_avg", layer=5)


def test_a_record_has_a_safe_name_for_any_prompt(tmp_path):
    path = record_path(tmp_path, "../../etc/passwd\x1b[31m $(rm -rf) 你好 " + "x" * 300)

    assert path.parent == tmp_path / "monitor"
    assert path.name[22:].startswith("-etc-passwd-31m-rm-rf-x")
    assert len(path.name) < 75


def test_a_system_message_is_part_of_the_prompt(loaded, tmp_path):
    model = loaded("llama")

    plain = watch(model, tmp_path / "a.json")
    instructed = watch(
        model, tmp_path / "b.json", config=CONFIG.model_copy(update={"system": "Be brief."})
    )

    assert instructed.prompt_tokens > plain.prompt_tokens
    assert to_json(instructed)["prompt"] == PROMPT
