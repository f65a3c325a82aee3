"""Tokens with massive states: found, left out of means, marked in records, and never counted."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console

from tests.conftest import FAMILIES
from tests.unit.test_monitor import CONFIG, VECTORS
from traitcli.events import MonitorStarted, TokenScored
from traitcli.generation.mean_activations import MeanReader
from traitcli.generation.projections import make_probes
from traitcli.models.massive import _MOST_TOKENS, _TEXT, FACTOR, measure_massive
from traitcli.models.prompts import encode_response
from traitcli.models.read_texts import Text, read_texts
from traitcli.monitoring.alarms import parse_rule
from traitcli.monitoring.monitor import monitor
from traitcli.monitoring.replay import replay
from traitcli.monitoring.score_texts import score_texts
from traitcli.monitoring.transcripts import Exchange
from traitcli.monitoring.watch import Watch
from traitcli.record_json import from_json, to_json
from traitcli.views.monitor.view import MonitorView
from traitcli.views.plain import PlainMonitorView
from traitcli.views.report.contents import scores_of
from traitcli.views.words import MASSIVE_NOTE

SINK = 77
TEXTS = [
    Text((20, 21, SINK, 22), (30, SINK, 31, 32, SINK)),
    Text((20, 21, SINK, 23, 24), (40,)),
    Text((20, 21), (SINK, SINK)),
]

each_family = pytest.mark.parametrize("family", FAMILIES)
each_engine = pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])


@pytest.fixture
def planted(loaded):
    """family -> its tiny model, of which one token has an embedding 1,000 times as long."""
    changed = []

    def plant(family, packs=True, find_token=lambda model: SINK):
        model = loaded(family)
        weight = model.model.get_input_embeddings().weight
        token = find_token(model)
        changed.append((weight, token, weight[token].clone()))
        with torch.no_grad():
            weight[token] *= 1000
        return replace(model, packs=packs, massive_above=measure_massive(model))

    yield plant
    with torch.no_grad():
        for weight, token, before in changed:
            weight[token] = before


def plain_states(model, ids):
    """Each layer's hidden states [tokens, H] in one plain pass of transformers."""
    with torch.no_grad():
        output = model.model(torch.tensor([ids]), output_hidden_states=True)
    return [states[0].float() for states in output.hidden_states]


def naive_means(model, text, part):
    """float32 [L+1, H]: the means over ordinary tokens, one token after another."""
    means = []
    for layer, states in enumerate(plain_states(model, [*text.prompt, *text.response])):
        tokens = list(states[part])
        ordinary = [h for h in tokens if float(h.norm()) <= model.massive_above[layer]]
        means.append(sum(ordinary or tokens) / len(ordinary or tokens))
    return torch.stack(means)


@each_family
def test_the_bound_is_a_multiple_of_the_median_length_at_each_layer(loaded, family):
    model = loaded(family)
    ids = model.tokenizer(_TEXT, add_special_tokens=False)["input_ids"][:_MOST_TOKENS]
    expected = [
        FACTOR * sorted(float(h.norm()) for h in states)[(len(states) - 1) // 2]
        for states in plain_states(model, ids)
    ]

    assert model.massive_above == pytest.approx(expected, rel=1e-4)


@each_engine
@each_family
def test_means_leave_out_massive_tokens_at_the_layers_where_they_are(planted, family, packs):
    model = planted(family, packs)
    reader = MeanReader(model)

    list(read_texts(model, TEXTS, 2, reader))

    for index, text in enumerate(TEXTS):
        parts = {
            "prompt_avg": slice(0, len(text.prompt)),
            "response_avg": slice(len(text.prompt), None),
        }
        for position, part in parts.items():
            expected, found = naive_means(model, text, part), reader.finished[index][position]
            error = (found - expected).norm(dim=1) / expected.norm(dim=1)
            assert float(error.max()) < 1e-3
    # The planted token is massive at all layers but perhaps the last, so it changes the mean.
    plain = plain_states(model, [*TEXTS[0].prompt, *TEXTS[0].response])[0][4:].mean(0)
    assert plain.norm() > 10 * reader.finished[0]["response_avg"][0].norm()


def test_the_last_prompt_token_is_kept_as_it_is(planted):
    model = planted("llama")
    reader = MeanReader(model)
    text = Text((20, 21, SINK), (30, 31))

    list(read_texts(model, [text], 1, reader))

    expected = plain_states(model, text.prompt)[2][-1]
    torch.testing.assert_close(reader.finished[0]["prompt_last"][2], expected, rtol=1e-3, atol=1e-3)


ANSWER = Exchange("Hi", "You turn the pins one by one.")


def third_token(model):
    return encode_response(model.tokenizer, ANSWER.response)[2]


def places_of(model):
    """Where the third token of ANSWER stands in it."""
    ids = encode_response(model.tokenizer, ANSWER.response)
    return [index for index, token in enumerate(ids) if token == ids[2]]


def watch_of(model, **options):
    return Watch(make_probes(VECTORS, model, "response_avg"), CONFIG, **options)


@each_engine
@each_family
def test_a_record_names_massive_tokens_and_keeps_finite_scores(planted, family, packs):
    model = planted(family, packs, third_token)

    [record] = map(to_json, score_texts(model, watch_of(model), [ANSWER]))

    expected = places_of(model)
    assert record["massive_tokens"] == dict.fromkeys(record["trait_scores"], expected)
    assert all(np.isfinite(scores).all() for scores in record["trait_scores"].values())


def test_alarms_do_not_count_massive_tokens(planted):
    model = planted("llama", find_token=third_token)
    [record] = map(to_json, score_texts(model, watch_of(model, raw=True), [ANSWER]))
    trait, scores = next(iter(record["trait_scores"].items()))
    places = places_of(model)
    bound = max(abs(score) for index, score in enumerate(scores) if index not in places) + 0.01
    assert abs(scores[places[0]]) > bound
    side, sign = (">", "") if scores[places[0]] > 0 else ("<", "-")
    rule = parse_rule(f"any({trait}){side}{sign}{bound:.4f}", "fail", [trait])
    deaf = replace(model, massive_above=())

    marked, unmarked = (
        to_json(next(score_texts(each, watch_of(each, raw=True, rules=(rule,)), [ANSWER])))
        for each in (model, deaf)
    )

    assert marked["alarms"] == []
    assert unmarked["alarms"]


RECORD = {
    "prompt": "p",
    "response": "abc",
    "tokens": ["a", "b", "c"],
    "trait_scores": {"evil": [1.0, 90.0, 2.0], "calm": [3.0, 4.0, 5.0]},
    "calibrated_scores": {"evil": [0.5, 60.0, 1.0]},
    "massive_tokens": {"evil": [1]},
}


def test_marks_survive_a_round_trip_and_old_records_have_none():
    old = {key: value for key, value in RECORD.items() if key != "massive_tokens"}

    assert to_json(from_json(RECORD))["massive_tokens"] == {"evil": [1]}
    assert from_json(old).massive == {}
    assert "massive_tokens" not in to_json(from_json(old))


def test_indices_that_no_token_has_are_not_read():
    assert from_json({**RECORD, "massive_tokens": {"evil": [1, 9, -1, "2"]}}).massive == {
        "evil": (1,)
    }


def test_sums_of_a_record_skip_massive_tokens_unless_all_are():
    assert list(from_json(RECORD).counted("evil")) == [0, 2]
    assert list(from_json(RECORD).counted("calm")) == [0, 1, 2]
    every = {**RECORD, "massive_tokens": {"evil": [0, 1, 2]}}
    assert list(from_json(every).counted("evil")) == [0, 1, 2]


def test_a_report_has_no_score_for_a_massive_token():
    scores = scores_of(RECORD)

    assert scores["raw"] == {"evil": [1.0, None, 2.0], "calm": [3.0, 4.0, 5.0]}
    assert scores["calibrated"] == {"evil": [0.5, None, 1.0]}


def test_plain_lines_mark_massive_tokens_and_explain_them_once():
    data, notes = StringIO(), StringIO()
    view = PlainMonitorView(data, notes)

    for _ in range(2):
        replay(from_json(RECORD), view.show, sleep=lambda seconds: None)

    assert data.getvalue().splitlines()[1] == '1\t"b"\tmassive:evil=60.0000\traw:calm=4.0000'
    assert notes.getvalue().count(MASSIVE_NOTE) == 1


def test_the_live_view_does_not_count_a_massive_token():
    screen = StringIO()
    view = MonitorView(Console(file=screen, width=100, force_terminal=False))
    events = []
    replay(from_json(RECORD), events.append, sleep=lambda seconds: None)
    for event in events:
        if isinstance(event, MonitorStarted | TokenScored):
            view.show(event)

    assert view._tracks["evil"].scores.mean == 0.75
    view.close()
    assert "many times longer than usual" in " ".join(screen.getvalue().split())


def test_the_events_of_an_answer_mark_the_tokens_that_its_record_names(planted):
    model = planted("llama")
    model = replace(model, massive_above=tuple(bound / 4 for bound in model.massive_above))
    events = []

    record = monitor(model, watch_of(model), "How does lock picking work?", None, events.append)
    assert record.massive
    seen = [event.index for event in events if isinstance(event, TokenScored) and event.massive]
    assert seen == sorted({index for found in record.massive.values() for index in found})
