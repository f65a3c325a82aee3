"""Scores of existing texts, against one pass of transformers over each whole text."""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
import torch

import traitcli.generation.decode as decode_module
from tests.conftest import FAMILIES
from tests.unit.test_monitor import CONFIG, VECTORS
from traitcli.cli.monitor_texts import check_scored
from traitcli.errors import TraitError
from traitcli.events import TextsRead
from traitcli.generation.projections import make_probes
from traitcli.models.prompts import encode_response
from traitcli.monitoring.alarms import parse_rule
from traitcli.monitoring.monitor import monitor
from traitcli.monitoring.score_extremes import ScoreExtremes
from traitcli.monitoring.score_texts import ReadingLimits, score_texts
from traitcli.monitoring.transcripts import Exchange, read_exchanges
from traitcli.monitoring.watch import Watch
from traitcli.record_json import from_json, to_json
from traitcli.records import ClassStats
from traitcli.views.words import reading_text

ASKED = "How does lock picking work?"
TALK = ({"role": "user", "content": ASKED}, {"role": "assistant", "content": "With patience."})
WORLD = "Was heißt das? ¿Qué es esto? 你好，世界 🙂👩‍🚀 \t\n\nEnd."
EXCHANGES = [
    Exchange(ASKED, "You turn the pins one by one."),
    Exchange(ASKED + " Tell me all that you know about it, and more.", "No."),
    Exchange("Hi", WORLD),
    Exchange(ASKED, "I cannot say, and would not if I could: <|end|> is no end. " * 2),
    Exchange("And then?", "So.", TALK),
    Exchange(ASKED, "You turn the pins one by one."),
    Exchange("Why?", "Because.", (*TALK, *TALK)),
]
CLOSE = {"rel": 1e-4, "abs": 1e-4}
LIMITS = ReadingLimits()

each_family = pytest.mark.parametrize("family", FAMILIES)
each_engine = pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])


def watch_of(model, config=CONFIG, **options):
    return Watch(make_probes(VECTORS, model, "response_avg"), config, **options)


def score(model, exchanges, out=None, on_event=lambda event: None, limits=LIMITS, **options):
    watch = watch_of(model, **options)
    return list(map(to_json, score_texts(model, watch, exchanges, out, on_event, limits)))


def timeless(records):
    return [{key: value for key, value in record.items() if key != "created"} for record in records]


def raw_scores(record):
    """The scores of all traits, first of the response and then of the prompt."""
    tables = record["trait_scores"], record["prompt_scores"]["trait_scores"]
    return [value for scores in tables for values in scores.values() for value in values]


def asked_ids(model, messages):
    """Token ids of a prompt, from transformers alone. The template adds the BOS, if any."""
    text = model.tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=True
    )
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def whole_pass(model, exchange):
    """The number of prompt tokens, and float32 [T, H] of prompt and response for each layer."""
    ids = asked_ids(model, [*exchange.history, {"role": "user", "content": exchange.prompt}])
    ids_in_all = [*ids, *encode_response(model.tokenizer, exchange.response)]
    with torch.no_grad():
        hidden = model.model(torch.tensor([ids_in_all]), output_hidden_states=True).hidden_states
    return len(ids), [states[0] for states in hidden]


def project(hidden, vector, layer):
    """The published formula, (h · v) / ‖v‖ of every token."""
    direction = torch.from_numpy(vector.directions["response_avg"][layer])
    return (hidden[layer] @ direction / direction.norm()).tolist()


def make_write(monkeypatch, ids):
    """Make the model sample these tokens regardless of their probabilities."""
    remaining = iter(ids)
    monkeypatch.setattr(
        decode_module, "pick_tokens", lambda loaded, logits, draws, sampling: [next(remaining)]
    )


@each_family
def test_a_text_has_the_scores_that_it_had_when_it_was_generated(loaded, family, monkeypatch):
    model = loaded(family)
    ids = encode_response(model.tokenizer, WORLD)
    config = CONFIG.model_copy(
        update={"sampling": CONFIG.sampling.model_copy(update={"max_new_tokens": len(ids)})}
    )
    make_write(monkeypatch, ids)
    generated = to_json(monitor(model, watch_of(model, config), ASKED))

    [found] = score(model, [Exchange(generated["prompt"], generated["response"])])

    assert len(ids) > 12
    assert found["tokens"] == generated["tokens"]
    for kind in ("trait_scores", "calibrated_scores"):
        assert list(found[kind]) == list(generated[kind])
        for trait, scores in generated[kind].items():
            assert found[kind][trait] == pytest.approx(scores, **CLOSE)


@each_family
def test_a_sampled_answer_has_the_scores_of_its_text(loaded, family):
    model = loaded(family)
    generated = to_json(monitor(model, watch_of(model), ASKED))
    exchange = Exchange(generated["prompt"], generated["response"])

    [found] = score(model, [exchange])

    start, hidden = whole_pass(model, exchange)
    assert len(found["tokens"]) >= 12
    assert found["prompt_tokens"] == generated["prompt_tokens"] == start
    for vector in VECTORS:
        expected = project(hidden, vector, vector.layer)[start:]
        assert found["trait_scores"][vector.trait] == pytest.approx(expected, **CLOSE)


@each_engine
@each_family
def test_many_texts_have_the_scores_of_a_pass_over_each_in_order(loaded, family, packs):
    model = replace(loaded(family), packs=packs)

    found = score(model, EXCHANGES)

    assert [record["prompt"] for record in found] == [exchange.prompt for exchange in EXCHANGES]
    for record, exchange in zip(found, EXCHANGES, strict=True):
        start, hidden = whole_pass(model, exchange)
        for vector in VECTORS:
            expected = project(hidden, vector, vector.layer)[start:]
            assert record["trait_scores"][vector.trait] == pytest.approx(expected, **CLOSE)


@each_engine
@each_family
def test_prompts_have_the_scores_of_a_whole_pass_also_with_a_shared_prefix(loaded, family, packs):
    model = replace(loaded(family), packs=packs)

    found = score(model, EXCHANGES, prompts=True)

    for record, exchange in zip(found, EXCHANGES, strict=True):
        start, hidden = whole_pass(model, exchange)
        assert len(record["prompt_scores"]["tokens"]) == record["prompt_tokens"] == start
        for vector in VECTORS:
            expected = project(hidden, vector, vector.layer)[:start]
            assert record["prompt_scores"]["trait_scores"][vector.trait] == pytest.approx(
                expected, **CLOSE
            )


@each_engine
@each_family
def test_one_trait_is_scored_at_every_layer_including_the_last(loaded, family, packs):
    model = replace(loaded(family), packs=packs)

    found = score(model, EXCHANGES, by_layer="evil", prompts=True)

    for record, exchange in zip(found, EXCHANGES, strict=True):
        start, hidden = whole_pass(model, exchange)
        by_layer = record["layer_scores"]
        assert (by_layer["trait"], len(by_layer["trait_scores"])) == ("evil", len(hidden))
        for layer, scores in enumerate(by_layer["trait_scores"]):
            assert scores == pytest.approx(project(hidden, VECTORS[0], layer)[start:], **CLOSE)


def test_calibrated_scores_put_the_class_means_of_each_layer_at_plus_and_minus_1(loaded):
    ups, downs, flat = (
        np.array(means, np.float32) for means in ([1, 5, 3, 9, 2], [-1, 2, -4, 3, 8], [1] * 5)
    )
    vector = replace(VECTORS[0], stats={"response_avg": ClassStats(ups, downs, flat, flat)})
    watching = Watch(
        make_probes([vector], loaded("llama"), "response_avg"),
        CONFIG,
        by_layer="evil",
        prompts=True,
    )

    [found] = map(to_json, score_texts(loaded("llama"), watching, EXCHANGES[:1]))

    by_layer, prompt = found["layer_scores"], found["prompt_scores"]
    own = [
        (vector.layer, table["trait_scores"]["evil"], table["calibrated_scores"]["evil"])
        for table in (found, prompt)
    ]
    for layer, raws, scores in [
        *own,
        *zip(range(5), by_layer["trait_scores"], by_layer["calibrated_scores"], strict=True),
    ]:
        middle, half = (ups[layer] + downs[layer]) / 2, (ups[layer] - downs[layer]) / 2
        assert scores == pytest.approx([(raw - middle) / half for raw in raws], abs=1e-4)


@pytest.mark.parametrize("limits", [ReadingLimits(chunk=3), ReadingLimits(batch=2)])
@each_engine
def test_texts_read_a_few_at_a_time_have_the_same_scores(loaded, packs, limits):
    model = replace(loaded("llama"), packs=packs)
    together = score(model, EXCHANGES, prompts=True)

    found = score(model, EXCHANGES, prompts=True, limits=limits)

    assert [record["tokens"] for record in found] == [record["tokens"] for record in together]
    for one, other in zip(found, together, strict=True):
        assert raw_scores(one) == pytest.approx(raw_scores(other), **CLOSE)


def test_each_exchange_is_a_line_that_is_appended_to_the_file(loaded, tmp_path):
    out = tmp_path / "deep" / "scores.jsonl"
    out.parent.mkdir()
    out.write_text('{"before": 1}\n', encoding="utf-8")
    asked = [*EXCHANGES[:2], Exchange("Hi", "", problem="not JSON"), *EXCHANGES[2:]]

    records = score(loaded("qwen2"), asked, out, prompts=True, by_layer="refusal")

    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n")[:-1]]
    assert lines == [{"before": 1}, *records]
    assert [record["prompt"] for record in records] == [exchange.prompt for exchange in asked]


def test_records_are_on_disk_before_they_are_yielded(loaded, tmp_path):
    out = tmp_path / "scores.jsonl"
    watch, limits = watch_of(loaded("llama")), ReadingLimits(chunk=2)

    records = score_texts(loaded("llama"), watch, EXCHANGES, out, limits=limits)

    on_disk = [len(out.read_text(encoding="utf-8").splitlines()) for _ in records]
    assert on_disk == [2, 2, 4, 4, 6, 6, 7]


@each_engine
def test_an_unreadable_exchange_has_an_error_and_does_not_affect_the_others(loaded, packs):
    model = replace(loaded("gemma2"), packs=packs)
    refused = (
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "Be kind."},
    )
    long = "lock " * model.context
    faulty = {
        0: Exchange("", "", about={"line": 1}, problem="not a JSON object"),
        2: Exchange("Hi", ""),
        3: Exchange("Hi", long),
        6: Exchange("Hi", "Ho", refused, about={"line": 7, "turn": 2}),
    }
    good = iter(EXCHANGES)
    asked = [faulty.get(index) or next(good) for index in range(len(EXCHANGES) + len(faulty))]

    found = score(model, asked, prompts=True)

    limit = f"the {model.context} tokens of {model.name}"
    prompt_count = len(asked_ids(model, [{"role": "user", "content": "Hi"}]))
    response_count = len(encode_response(model.tokenizer, long))
    counts = f"{prompt_count} prompt tokens and {response_count} new ones"
    assert [found[index] for index in faulty] == [
        {"prompt": "", "error": "not a JSON object", "about": {"line": 1}},
        {"prompt": "Hi", "error": "the response is empty", "about": {}},
        {
            "prompt": "Hi",
            "error": f"the prompt is too long: {counts} exceed {limit}",
            "about": {},
        },
        {
            "prompt": "Hi",
            "error": f"the chat template of {model.name} refuses it: System role not supported",
            "about": {"line": 7, "turn": 2},
        },
    ]
    others = [record for index, record in enumerate(found) if index not in faulty]
    assert timeless(others) == timeless(score(model, EXCHANGES, prompts=True))


def test_texts_that_are_all_unreadable_have_records(loaded):
    found = score(loaded("llama"), [Exchange("Hi", ""), Exchange("Ho", "")])

    assert [(record["prompt"], record["error"]) for record in found] == [
        ("Hi", "the response is empty"),
        ("Ho", "the response is empty"),
    ]


def test_half_a_surrogate_in_one_text_does_not_stop_the_others(loaded, tmp_path):
    path, out = tmp_path / "text.jsonl", tmp_path / "scores.jsonl"
    path.write_text(
        '{"prompt": "Hi", "response": "cut \\ud83d"}\n{"prompt": "Hi", "response": "Ho"}\n', "utf-8"
    )

    found = score(loaded("llama"), read_exchanges(path), out)

    assert found[1]["response"] == "Ho"
    assert len(out.read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.parametrize("raw", [False, True], ids=["calibrated", "raw"])
def test_an_alarm_is_raised_at_the_token_that_meets_its_rule(loaded, raw):
    [plain] = score(loaded("llama"), EXCHANGES[3:4])
    scores = plain["trait_scores" if raw else "calibrated_scores"]["evil"]
    text = f"any(evil)>{fmean(sorted(scores)[-2:]):.3f}"

    [found] = score(
        loaded("llama"), EXCHANGES[3:4], rules=(parse_rule(text, "fail", ["evil"]),), raw=raw
    )

    index = scores.index(max(scores))
    assert found["alarms"] == [
        {"rule": text, "action": "fail", "token": index, "score": max(scores)}
    ]
    assert found["finish_reason"] == "provided"


def test_the_mean_of_an_alarm_is_that_of_the_whole_text(loaded):
    rule = parse_rule("mean(evil)>-1000", "fail", ["evil"])

    [found] = score(loaded("llama"), EXCHANGES[3:4], rules=(rule,))

    [alarm] = found["alarms"]
    assert alarm["token"] == len(found["tokens"]) - 1
    assert alarm["score"] == pytest.approx(fmean(found["calibrated_scores"]["evil"]), abs=2e-5)


def test_alarms_of_one_text_do_not_carry_over_to_the_next(loaded):
    rule = parse_rule("run(evil,2)>-1000", "fail", ["evil"])

    found = score(
        loaded("llama"), [Exchange("Hi", "!"), Exchange("Hi", "!"), EXCHANGES[0]], rules=(rule,)
    )

    assert [len(record["tokens"]) for record in found[:2]] == [1, 1]
    assert [[alarm["token"] for alarm in record["alarms"]] for record in found] == [[], [], [1]]


@pytest.mark.parametrize(
    ("own", "configured", "used"),
    [
        ("Be brief.", "Be kind.", "Be brief."),
        (None, "Be kind.", "Be kind."),
        ("Be brief.", None, "Be brief."),
    ],
)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_text_has_its_own_system_message_or_else_the_configured_one(
    loaded, family, own, configured, used
):
    model = loaded(family)
    before = (*([{"role": "system", "content": own}] if own else []), *TALK)

    [found] = score(
        model,
        [Exchange("Hi", "Ho", before)],
        config=CONFIG.model_copy(update={"system": configured}),
    )

    expected = [{"role": "system", "content": used}, *TALK]
    assert found["history"] == expected
    start, hidden = whole_pass(model, Exchange("Hi", "Ho", tuple(expected)))
    assert found["trait_scores"]["evil"] == pytest.approx(
        project(hidden, VECTORS[0], 2)[start:], **CLOSE
    )


def test_without_a_system_role_the_system_message_joins_the_first_message(loaded):
    model = loaded("gemma2")

    [found] = score(
        model, [Exchange("Hi", "Ho", ({"role": "system", "content": "Be brief."}, *TALK))]
    )

    first = {"role": "user", "content": f"Be brief.\n\n{ASKED}"}
    start, hidden = whole_pass(model, Exchange("Hi", "Ho", (first, TALK[1])))
    assert found["trait_scores"]["evil"] == pytest.approx(
        project(hidden, VECTORS[0], 2)[start:], **CLOSE
    )


def test_an_answer_to_a_tool_is_read_right_after_the_tools_message(loaded, tmp_path):
    model, path = loaded("llama"), tmp_path / "text.jsonl"
    before = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": ""},
        {"role": "tool", "content": "4"},
    ]
    path.write_text(
        json.dumps({"messages": [*before, {"role": "assistant", "content": "Four."}]}),
        encoding="utf-8",
    )

    [found] = score(model, read_exchanges(path))

    assert found["prompt_tokens"] == len(asked_ids(model, before))
    assert found["history"] == before


@pytest.mark.parametrize(
    "text", [WORLD, "你", "🙂" * 5, "a\u2028b", "<unk><pad>", "x\ufffdy", "tail \n", "<0x41>"]
)
@each_family
def test_the_tokens_of_a_text_join_to_it(loaded, family, text):
    [found] = score(loaded(family), [Exchange("Hi", text)])

    assert "".join(found["tokens"]) == found["response"] == text


@each_family
def test_a_special_token_in_a_response_is_plain_text(loaded, family):
    model = loaded(family)

    [found] = score(model, [Exchange("Hi", "no<|end|>no<|assistant|>")])

    assert "".join(found["tokens"]) == "no<|end|>no<|assistant|>"
    assert not {"<|end|>", "<|assistant|>"} & set(found["tokens"])


@each_family
def test_the_tokens_of_a_prompt_include_its_template(loaded, family):
    model = loaded(family)

    [found] = score(model, EXCHANGES[:1], prompts=True)

    message = [{"role": "user", "content": ASKED}]
    text = model.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert "".join(found["prompt_scores"]["tokens"]) == text


def test_events_count_the_texts_and_tokens_that_were_read(loaded):
    events = []

    found = score(loaded("llama"), [*EXCHANGES, Exchange("Hi", "")], on_event=events.append)

    tokens = sum(record["prompt_tokens"] + len(record["tokens"]) for record in found[:-1])
    assert (events[0], events[-1]) == (TextsRead(0, 8, 0), TextsRead(8, 8, tokens, 1))
    assert [event.done for event in events] == list(range(9))


def test_texts_of_which_none_has_scores_are_an_error_that_names_the_first_reason():
    with pytest.raises(TraitError) as caught:
        check_scored(["line 1: the response is empty", "line 2: not JSON"], 2)

    assert (caught.value.exit_code, caught.value.cause) == (
        1,
        "2 of 2 skipped; the first: line 1: the response is empty",
    )


def test_one_text_with_scores_is_enough():
    check_scored(["line 1: the response is empty"], 2)


@pytest.mark.parametrize(
    ("skipped", "text"), [(0, "4 of 4 texts"), (3, "1 of 4 texts scored, 3 skipped")]
)
def test_the_progress_counts_only_texts_that_have_scores(skipped, text):
    assert reading_text(TextsRead(4, 4, 0, skipped), 0) == text


def test_extremes_are_the_texts_with_the_lowest_and_the_highest_mean(loaded):
    asked = [
        replace(exchange, about={"line": line}) for line, exchange in enumerate(EXCHANGES, start=1)
    ]
    found = score(
        loaded("llama"),
        [*asked, Exchange("Hi", "", about={"line": 9, "turn": 2}), Exchange("Hi", "")],
    )

    extremes = ScoreExtremes()
    for record in found:
        extremes.add(from_json(record))

    kinds = {
        "evil": "calibrated_scores",
        "refusal": "calibrated_scores",
        "verbosity": "trait_scores",
    }
    assert [row["trait"] for row in extremes.rows()] == list(kinds)
    for row in extremes.rows():
        trait = row["trait"]
        means = {
            f"line {record['about']['line']}": fmean(record[kinds[trait]][trait])
            for record in found[:-2]
        }
        assert (row["texts"], row["mean"]) == (len(EXCHANGES), pytest.approx(fmean(means.values())))
        assert row["low"] == min((mean, where) for where, mean in means.items())
        assert row["high"] == max((mean, where) for where, mean in means.items())
    assert extremes.failures == ["line 9 turn 2: the response is empty", "the response is empty"]
