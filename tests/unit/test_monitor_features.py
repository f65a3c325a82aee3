"""Monitoring with steering, alarms, interrupts and history, against passes of transformers."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from statistics import fmean, median

import numpy as np
import pytest
import torch

from tests.unit.test_monitor import CONFIG, LAYER_COUNT, VECTORS
from tests.unit.test_score_texts import (
    ASKED,
    CLOSE,
    TALK,
    asked_ids,
    each_engine,
    each_family,
    make_write,
    project,
)
from tests.unit.test_steerer import last_position_hook
from traitcli.errors import VectorError
from traitcli.events import (
    AlarmRaised,
    MonitorFinished,
    MonitorStarted,
    PromptScored,
    TokenScored,
    Warned,
)
from traitcli.generation.detokenize import token_texts
from traitcli.generation.projections import make_probes
from traitcli.models.hooks import find_blocks
from traitcli.monitoring.alarms import parse_rule
from traitcli.monitoring.monitor import monitor
from traitcli.monitoring.record_files import read_records
from traitcli.monitoring.watch import Watch
from traitcli.record_json import to_json
from traitcli.records import Crossing, TraitVector
from traitcli.steering.interventions import prepare_interventions
from traitcli.steering.parse import parse_intervention

VECTOR = {vector.trait: vector for vector in VECTORS}
GREEDY = CONFIG.model_copy(
    update={"sampling": CONFIG.sampling.model_copy(update={"temperature": 0})}
)
LENGTH = CONFIG.sampling.max_new_tokens
STEERING = ("evil=2.5@2", "refusal=-1.5@3", "verbosity=1@2")


def steer(model, *texts):
    return prepare_interventions(
        [parse_intervention(text, VECTOR) for text in texts], VECTOR, model, "response_avg"
    )


def rules(*texts, action="fail"):
    return tuple(parse_rule(text, action, VECTOR) for text in texts)


def watch(model, out=None, on_event=lambda event: None, config=CONFIG, **options):
    return monitor(
        model,
        Watch(make_probes(VECTORS, model, "response_avg"), config, **options),
        ASKED,
        out,
        on_event,
    )


def events_of(kind, model, **options):
    events = []
    watch(model, on_event=events.append, **options)
    return [event for event in events if isinstance(event, kind)]


def without_times(record):
    """Everything in a record except the times."""
    return {
        key: value for key, value in to_json(record).items() if key not in {"created", "seconds"}
    }


def conversation(*before, prompt=ASKED):
    return [*before, {"role": "user", "content": prompt}]


def whole_pass(model, ids):
    """layer -> float32 [T, H]"""
    with torch.no_grad():
        return [
            states[0]
            for states in model.model(
                torch.tensor([list(ids)]), output_hidden_states=True
            ).hidden_states
        ]


@torch.no_grad()
def write_plainly(model, ids, interventions=()):
    """Greedy tokens under plain hooks, and layer -> float32 [n, H], one token per pass."""
    tokens, states, options = [], [], {"use_cache": True, "output_hidden_states": True}
    with ExitStack() as hooks:
        for push in (parse_intervention(text, VECTOR) for text in interventions):
            direction = torch.from_numpy(VECTOR[push.trait].directions["response_avg"][push.layer])
            block = find_blocks(model.model)[push.layer - 1]
            hooks.enter_context(last_position_hook(block, push.coefficient * direction))
        passed = model.model(torch.tensor([ids]), **options)
        while (
            len(tokens) < LENGTH
            and (token := int(passed.logits[0, -1].argmax())) not in model.stop_ids
        ):
            passed = model.model(
                torch.tensor([[token]]), past_key_values=passed.past_key_values, **options
            )
            tokens.append(token)
            states.append([layer_states[0, -1] for layer_states in passed.hidden_states])
    return tokens, [torch.stack(of_layer) for of_layer in zip(*states, strict=True)]


@each_engine
@each_family
def test_a_steered_answer_and_its_scores_are_those_of_plain_hooks(loaded, family, packs):
    model = replace(loaded(family), packs=packs)
    ids = asked_ids(model, conversation())
    tokens, hidden = write_plainly(model, ids, STEERING)

    found = watch(model, config=GREEDY, steering=steer(model, *STEERING), by_layer="evil")

    assert tokens != write_plainly(model, ids)[0]
    assert list(found.tokens) == token_texts(model.tokenizer, tokens)
    for vector in VECTORS:
        assert found.raw[vector.trait] == pytest.approx(
            project(hidden, vector, vector.layer), **CLOSE
        )
    for layer, scores in enumerate(found.layer_scores.raw):
        assert scores == pytest.approx(project(hidden, VECTOR["evil"], layer), **CLOSE)


@each_engine
@each_family
def test_only_the_last_token_of_a_prompt_is_steered(loaded, family, packs):
    model = replace(loaded(family), packs=packs)
    plain = project(whole_pass(model, asked_ids(model, conversation())), VECTOR["evil"], 2)

    found = watch(model, steering=steer(model, "evil=3@2"), prompts=True).prompt_scores.raw["evil"]

    push = 3 * np.linalg.norm(VECTOR["evil"].directions["response_avg"][2])
    assert found == pytest.approx([*plain[:-1], plain[-1] + push], **CLOSE)


@pytest.mark.parametrize("layer", [1, 2, 4])
@each_family
def test_a_dose_is_relative_to_the_median_norm_of_the_prompts_states(loaded, family, layer):
    model = loaded(family)
    asked = next(
        text
        for text in (ASKED, f"{ASKED}?", f"{ASKED}??")
        if len(asked_ids(model, conversation(prompt=text))) % 2
    )
    probes, events = make_probes(VECTORS, model, "response_avg"), []
    watching = Watch(probes, CONFIG, steer(model, f"evil=-0.5@{layer}", "refusal=2@3"))

    record = monitor(model, watching, asked, on_event=events.append)

    hidden = whole_pass(model, asked_ids(model, conversation(prompt=asked)))
    for push in record.steering:
        length = np.linalg.norm(VECTOR[push.trait].directions["response_avg"][push.layer])
        usual = median(hidden[push.layer].norm(dim=1).tolist())
        assert push.dose == pytest.approx(abs(push.coefficient) * length / usual, rel=1e-5)
    assert [one["dose"] for one in to_json(record)["steering"]] == [
        round(push.dose, 4) for push in record.steering
    ]
    assert events[0].steering == record.steering


@each_family
def test_a_coefficient_of_0_gives_the_unsteered_answer_and_scores(loaded, family):
    model = loaded(family)
    plain = watch(model, prompts=True)

    found = watch(model, prompts=True, steering=steer(model, "evil=0", "refusal=0@4"))

    assert [push.dose for push in found.steering] == [0, 0]
    assert (found.tokens, found.raw, found.prompt_scores) == (
        plain.tokens,
        plain.raw,
        plain.prompt_scores,
    )


def test_steering_changes_the_answer_but_not_the_model(loaded):
    model = loaded("llama")
    plain = watch(model)

    steered = watch(model, steering=steer(model, "evil=3"))

    assert steered.tokens != plain.tokens
    assert without_times(watch(model)) == without_times(plain)


@pytest.mark.parametrize("layer", [0, LAYER_COUNT, 99])
def test_a_layer_that_is_not_the_output_of_a_block_cannot_be_steered(loaded, layer):
    with pytest.raises(VectorError) as error:
        steer(loaded("llama"), f"evil=1@{layer}")

    assert error.value.problem == f"cannot steer evil at layer {layer}"
    assert error.value.cause == (
        "tiny-llama can be steered at layers 1 to 4, the outputs of its blocks"
    )
    assert error.value.fix == f"leave @{layer} out to use the vector's own layer, 2"


def test_a_vector_of_another_width_is_refused_before_generation(loaded):
    wide = TraitVector(
        "evil",
        "other",
        "mean_difference",
        2,
        {"response_avg": np.ones((5, 7), dtype=np.float32)},
        {},
    )

    with pytest.raises(VectorError):
        prepare_interventions(
            [parse_intervention("evil=1", {"evil": wide})],
            {"evil": wide},
            loaded("llama"),
            "response_avg",
        )


def test_only_a_dose_above_1_is_warned_of(loaded):
    model = loaded("llama")
    [one] = watch(model, steering=steer(model, "evil=1")).steering
    large, small = f"{2.5 / one.dose:.4f}", f"{0.9 / one.dose:.4f}"

    warned = events_of(
        Warned, model, steering=steer(model, f"evil={large}", "refusal=0.01", f"evil=-{small}")
    )

    note = "the dose of evil is 2.5: answers become incoherent above 1; 0.3 to 0.5 is safe"
    assert warned == [Warned("", note)]


def test_steering_at_the_last_layer_is_warned_of(loaded):
    warned = events_of(Warned, loaded("llama"), steering=steer(loaded("llama"), "evil=0.001@4"))

    note = (
        "layer 4 of a vector is measured after the final norm, but steering adds it before the norm"
    )
    assert warned == [Warned("", note)]


@each_engine
@each_family
def test_prompt_scores_come_before_the_answer_and_match_transformers(loaded, family, packs):
    model, events = replace(loaded(family), packs=packs), []
    hidden = whole_pass(model, asked_ids(model, conversation()))

    found = watch(model, on_event=events.append, prompts=True).prompt_scores

    [event] = [event for event in events if isinstance(event, PromptScored)]
    assert [type(one) for one in events[1:3]] == [PromptScored, TokenScored]
    assert (event.tokens, event.raw, event.calibrated) == (
        found.tokens,
        found.raw,
        found.calibrated,
    )
    for vector in VECTORS:
        expected = project(hidden, vector, vector.layer)
        assert found.raw[vector.trait] == pytest.approx(expected, **CLOSE)
        if vector.stats:
            assert found.calibrated[vector.trait] == pytest.approx(
                [(raw - 1) / 2 for raw in expected], **CLOSE
            )


@each_engine
@each_family
def test_scores_at_every_layer_match_transformers_states(loaded, family, packs):
    model, events = replace(loaded(family), packs=packs), []
    tokens, hidden = write_plainly(model, asked_ids(model, conversation()))

    found = watch(model, on_event=events.append, config=GREEDY, by_layer="refusal").layer_scores

    assert (found.trait, len(found.raw), len(tokens) > 4) == ("refusal", LAYER_COUNT, True)
    for layer, scores in enumerate(found.raw):
        assert scores == pytest.approx(project(hidden, VECTOR["refusal"], layer), **CLOSE)
    scored = [event for event in events if isinstance(event, TokenScored)]
    assert [event.by_layer for event in scored] == list(zip(*found.calibrated, strict=True))


def test_layer_scores_of_a_vector_without_class_means_are_raw(loaded):
    events = []

    found = watch(loaded("llama"), on_event=events.append, by_layer="verbosity").layer_scores

    assert found.calibrated == ()
    scored = [event for event in events if isinstance(event, TokenScored)]
    assert [event.by_layer for event in scored] == list(zip(*found.raw, strict=True))


@each_engine
@pytest.mark.parametrize(
    ("rule", "count"), [("run(evil,5)>-1000", 5), ("any(evil)>-1000", 1), ("mean(evil)>-1000", 8)]
)
def test_a_stop_rule_ends_the_answer_at_the_token_that_meets_it(loaded, rule, count, packs):
    model, events = replace(loaded("llama"), packs=packs), []
    plain = watch(model)

    found = watch(model, on_event=events.append, rules=rules(rule, action="stop"))

    assert found.finish_reason == "alarm"
    assert (found.tokens, found.raw["evil"]) == (plain.tokens[:count], plain.raw["evil"][:count])
    score = (fmean if rule.startswith("mean") else min)(found.calibrated["evil"])
    assert found.crossings == (Crossing(rule, "stop", count - 1, pytest.approx(score)),)
    assert [type(event) for event in events[-3:]] == [TokenScored, AlarmRaised, MonitorFinished]
    assert (events[-1].finish_reason, events[-1].tokens, events[-1].record) == (
        "alarm",
        count,
        found,
    )


@pytest.mark.parametrize("steering", [(), ("evil=2",)], ids=["plain", "steered"])
@each_engine
@each_family
def test_a_model_works_as_before_after_an_alarm_stopped_it(loaded, family, packs, steering):
    model = replace(loaded(family), packs=packs)
    fresh, states = watch(model), whole_pass(model, asked_ids(model, conversation()))

    watch(model, rules=rules("run(evil,3)>-1000", action="stop"), steering=steer(model, *steering))

    assert without_times(watch(model)) == without_times(fresh)
    assert all(map(torch.equal, whole_pass(model, asked_ids(model, conversation())), states))


def test_a_fail_rule_does_not_stop_the_answer(loaded):
    plain = watch(loaded("llama"))

    found = watch(
        loaded("llama"), rules=rules("run(evil,3)>-1000", "mean(evil)>-1000", "evil>1000")
    )

    scores = found.calibrated["evil"]
    assert (found.tokens, found.finish_reason) == (plain.tokens, "length")
    assert found.crossings == (
        Crossing("run(evil,3)>-1000", "fail", 2, min(scores[:3])),
        Crossing("mean(evil)>-1000", "fail", LENGTH - 1, pytest.approx(fmean(scores))),
    )


@pytest.mark.parametrize("raw", [False, True], ids=["calibrated", "raw"])
def test_the_first_alarm_of_a_trait_is_marked_at_its_calibrated_score(loaded, raw):
    model, events = loaded("llama"), []
    probe = make_probes(VECTORS, model, "response_avg")["evil"]
    bound = 2.5

    watch(model, on_event=events.append, raw=raw, rules=rules(f"evil>{bound}", "mean(evil)>9"))

    [marks] = [event.marks for event in events if isinstance(event, MonitorStarted)]
    stats, layer = probe.vector.stats["response_avg"], probe.layer
    middle = (stats.positive_mean[layer] + stats.negative_mean[layer]) / 2
    half = (stats.positive_mean[layer] - stats.negative_mean[layer]) / 2
    assert marks == {"evil": pytest.approx((bound - middle) / half if raw else bound)}


def test_rules_use_projections_with_raw(loaded):
    model = loaded("llama")

    found = [watch(model, raw=raw, rules=rules("any(evil)>-1000")) for raw in (False, True)]

    assert [record.crossings[0].score for record in found] == [
        found[0].calibrated["evil"][0],
        found[0].raw["evil"][0],
    ]


@pytest.mark.parametrize(
    ("error", "steering"),
    [(KeyboardInterrupt, ()), (SystemExit, ("evil=2",))],
    ids=["Ctrl-C", "ended while it was steered"],
)
@each_engine
@each_family
def test_a_model_works_as_before_after_an_interrupt(
    loaded, tmp_path, family, packs, steering, error
):
    model, out = replace(loaded(family), packs=packs), tmp_path / "record.json"
    fresh = watch(model)

    def interrupt(event):
        if isinstance(event, TokenScored) and event.index == 3:
            raise error

    with pytest.raises(error):
        watch(model, out, interrupt, steering=steer(model, *steering))

    [kept] = read_records(out)
    assert (kept.finish_reason, len(kept.tokens), len(kept.seconds)) == ("interrupted", 4, 4)
    assert without_times(watch(model)) == without_times(fresh)


def test_an_interrupt_before_the_first_token_stores_a_record_without_tokens(loaded, tmp_path):
    out = tmp_path / "record.json"

    def interrupt(event):
        if isinstance(event, PromptScored):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(
            loaded("llama"),
            out,
            interrupt,
            prompts=True,
            by_layer="evil",
            rules=rules("mean(evil)>-1000"),
        )

    [kept] = read_records(out)
    assert (kept.response, kept.tokens, kept.crossings) == ("", (), ())
    assert kept.finish_reason == "interrupted"
    assert len(kept.prompt_scores.tokens) == kept.prompt_tokens


def test_the_mean_of_an_interrupted_answer_covers_all_its_tokens(loaded, tmp_path):
    events = []

    def interrupt(event):
        events.append(event)
        if isinstance(event, TokenScored) and event.index == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(loaded("llama"), on_event=interrupt, rules=rules("mean(evil)>-1000"))

    record = events[-1].record
    mean = pytest.approx(fmean(record.calibrated["evil"]))
    assert record.crossings == (Crossing("mean(evil)>-1000", "fail", 9, mean),)


def test_the_prompt_of_an_empty_answer_is_scored(loaded, monkeypatch):
    model = loaded("llama")
    make_write(monkeypatch, [model.tokenizer.eos_token_id])

    found = watch(
        model, prompts=True, by_layer="evil", rules=rules("mean(evil)>-1000", "evil>-1000")
    )

    assert (found.response, found.tokens, found.raw["evil"], found.finish_reason) == (
        "",
        (),
        (),
        "stop",
    )
    assert found.layer_scores.raw == ((),) * LAYER_COUNT
    assert len(found.prompt_scores.raw["evil"]) == found.prompt_tokens
    assert found.crossings == ()


@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_history_and_the_system_message_are_in_the_prompt(loaded, family, system):
    model = loaded(family)
    config = CONFIG.model_copy(update={"system": system})

    found = watch(model, config=config, history=TALK, prompts=True)

    before = [*([{"role": "system", "content": system}] if system else []), *TALK]
    messages = conversation(*before)
    text = model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert "".join(found.prompt_scores.tokens) == text
    assert (
        found.prompt_tokens
        == len(asked_ids(model, messages))
        > watch(model, config=config).prompt_tokens
    )
    assert to_json(found)["history"] == before
    assert events_of(MonitorStarted, model, config=config, history=TALK)[0].notes == ()


@pytest.mark.parametrize("history", [(), TALK], ids=["first", "later"])
def test_without_a_system_role_the_system_message_joins_the_first_with_a_note(loaded, history):
    model, config = loaded("gemma2"), CONFIG.model_copy(update={"system": "Be brief."})

    found = watch(model, config=config, history=history, prompts=True)

    first, *rest = conversation(*history)
    messages = [first | {"content": f"Be brief.\n\n{first['content']}"}, *rest]
    text = model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert "".join(found.prompt_scores.tokens) == text
    assert found.prompt == ASKED
    assert to_json(found)["history"] == [{"role": "system", "content": "Be brief."}, *history]
    [started] = events_of(MonitorStarted, model, config=config, history=history)
    assert started.notes == (
        "tiny-gemma2 has no system role: the system message is in the first user message",
    )


def test_special_tokens_in_earlier_answers_do_not_end_a_turn(loaded):
    spelt = (TALK[0], {"role": "assistant", "content": "With<|end|><|user|>patience."})

    found = watch(loaded("llama"), history=spelt, prompts=True).prompt_scores

    plain = watch(loaded("llama"), history=TALK, prompts=True).prompt_scores
    for token in ("<|end|>", "<|user|>", "<|assistant|>"):
        assert found.tokens.count(token) == plain.tokens.count(token) > 0


def test_a_jsonl_file_is_appended_to_for_each_answer(loaded, tmp_path):
    model, out = loaded("llama"), tmp_path / "deep" / "records.jsonl"

    made = [watch(model, out, history=history) for history in ((), TALK)]

    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n")[:-1]]
    assert lines == [to_json(record) for record in made]
