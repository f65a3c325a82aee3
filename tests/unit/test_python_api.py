"""The Python API on a tiny model: what each object does, beyond the examples in its docstring."""

from __future__ import annotations

import asyncio
import io
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from rich.text import Text
from transformers import AutoModelForCausalLM, AutoTokenizer

import traitcli as tc
from tests.unit.formal_texts import NEGATIVE, POSITIVE
from traitcli.events import TokenScored
from traitcli.generation.projections import make_probes
from traitcli.monitoring.monitor import monitor
from traitcli.monitoring.watch import Watch
from traitcli.vectors.methods import project

TAGS = {
    *("style", "div", "span", "i", "b", "u", "small", "ul", "li", "svg", "path"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
"""Elements of an answer in a notebook: none of them does or loads anything."""


@pytest.fixture
def user_model(model_folders):
    """A model and its tokenizer as a user loads them, ready to be trained."""
    folder = model_folders["llama"]
    return AutoModelForCausalLM.from_pretrained(folder).train(), AutoTokenizer.from_pretrained(
        folder
    )


def traces(hf_model):
    """Everything that using a model could leave behind."""
    return {
        "training": [module.training for module in hf_model.modules()],
        "gradients": [parameter.requires_grad for parameter in hf_model.parameters()],
        "weights": [parameter.detach().clone() for parameter in hf_model.parameters()],
        "attention": hf_model.config._attn_implementation,
        "hooks": [
            (*module._forward_hooks, *module._forward_pre_hooks) for module in hf_model.modules()
        ],
        "forwards": ["forward" in module.__dict__ for module in hf_model.modules()],
        "buffers": [id(buffer) for buffer in hf_model.buffers()],
        "names": [sorted(vars(module)) for module in hf_model.modules()],
    }


# Training


def test_a_vector_is_the_difference_of_the_mean_states_of_the_examples(model, formal):
    def mean_states(texts):
        found = []
        for text in texts:
            ids = torch.tensor([model.loaded.tokenizer(text)["input_ids"]])
            with torch.no_grad():
                states = model.loaded.model(ids, output_hidden_states=True).hidden_states
            # The token that starts every text is its prompt.
            found.append(torch.stack(states)[:, 0, 1:].mean(1))
        return torch.stack(found).mean(0)

    expected = mean_states(POSITIVE) - mean_states(NEGATIVE)

    np.testing.assert_allclose(formal.directions["response_avg"], expected, atol=1e-4)
    assert formal.quality.auroc is not None
    assert formal.provenance["examples"] == {"positive": 4, "negative": 4}
    assert formal.provenance["model_identity"]["fingerprint"] == model.loaded.fingerprint


def test_a_chat_of_one_question_is_read_like_a_pair(model):
    def chats(answers):
        return [
            [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
            for q, a in zip(("Hi?", "Bye?"), answers, strict=True)
        ]

    def pairs(answers):
        return list(zip(("Hi?", "Bye?"), answers, strict=True))

    one = model.train("polite", chats(POSITIVE[:2]), chats(NEGATIVE[:2]))
    other = model.train("polite", pairs(POSITIVE[:2]), pairs(NEGATIVE[:2]))

    np.testing.assert_array_equal(one.directions["response_avg"], other.directions["response_avg"])


def test_a_system_message_of_a_chat_is_read(model):
    def chats(answers, *before):
        return [
            [*before, {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": answer}]
            for answer in answers
        ]

    system = {"role": "system", "content": "Be formal."}
    plain = model.train("polite", chats(POSITIVE), chats(NEGATIVE))
    other = model.train("polite", chats(POSITIVE, system), chats(NEGATIVE))

    assert not np.allclose(plain.directions["response_avg"], other.directions["response_avg"])


def test_texts_of_unequal_number_are_not_pairs(model):
    vector = model.train("formal", POSITIVE, NEGATIVE[:3])

    assert vector.quality.positive_kept == 4
    assert vector.quality.negative_kept == 3


@pytest.mark.parametrize(
    ("positive", "negative", "cause"),
    [
        ("text", ["a"], "positive is one text"),
        (["a", "b"], ["a", " "], "negative[1] is empty"),
        (["a", ("q", "r")], ["a"], "positive[1] is a pair, the first example is a text"),
        (["a"], [3], "negative[0] is int, the first example is a text"),
        ([("q", "r")], [("q", " ")], "negative[0] has an empty response"),
        (
            [[{"role": "user", "content": "q"}]],
            [[{"role": "user", "content": "q"}]],
            "the last message of positive[0] is of role 'user'",
        ),
        (["a\ud800"], ["b"], "positive[0]: contains half a character (a lone surrogate)"),
        (["a"], [], "a vector is a difference of positive and negative responses"),
    ],
)
def test_examples_that_cannot_be_used_are_refused(model, positive, negative, cause):
    with pytest.raises(tc.TraitError) as raised:
        model.train("x", positive, negative)

    assert raised.value.cause == cause


@pytest.mark.parametrize("name", ["", "a b", "a=1", "a@3", "../a", "a/b", "a<b", ".."])
def test_a_name_that_the_command_line_could_not_take_is_refused(model, name):
    with pytest.raises(tc.TraitError, match="cannot name a trait"):
        model.train(name, POSITIVE, NEGATIVE)


# Watching and steering


def test_generate_gives_what_the_monitor_gives(model, formal):
    answer = model.generate("Why?", watch=formal, max_new_tokens=5, seed=3, temperature=0.5)

    config = model.config.monitor.model_copy(
        update={
            "seed": 3,
            "sampling": model.config.monitor.sampling.model_copy(
                update={"max_new_tokens": 5, "temperature": 0.5}
            ),
        }
    )
    probes = make_probes([formal], model.loaded, "response_avg")
    expected = monitor(model.loaded, Watch(probes, config), "Why?")
    assert (answer.tokens, answer.raw) == (expected.tokens, expected.raw)
    assert (answer.text, answer.seed) == (expected.response, 3)


def test_steering_applies_inside_with_only_and_adds_up(model, formal):
    plain = model.generate("Why?", max_new_tokens=4, temperature=0)

    with model.steer({formal: 2.0}):
        once = model.generate("Why?", max_new_tokens=4, temperature=0)
        with model.steer({formal: "2@3"}):
            twice = model.generate("Why?", max_new_tokens=4, temperature=0)
    after = model.generate("Why?", max_new_tokens=4, temperature=0)

    assert [one.layer for one in twice.steering] == [formal.layer, 3]
    assert [one.coefficient for one in once.steering] == [2.0]
    assert after.tokens == plain.tokens
    assert after.steering == ()


def test_a_steered_answer_is_that_of_a_naive_hook(model, formal):
    loaded, layer = model.loaded, formal.layer
    direction = torch.from_numpy(formal.directions["response_avg"][layer])
    prompt = [{"role": "user", "content": "Why?"}]
    ids = loaded.tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
    with model.steer({formal: 3.0}), pytest.warns(tc.TraitWarning, match="the dose of formal"):
        steered = model.generate("Why?", max_new_tokens=6, temperature=0)

    def add(module, args, output):
        output[:, -1] += 3.0 * direction
        return output

    hook = loaded.model.model.layers[layer - 1].register_forward_hook(add)
    try:
        with torch.no_grad():
            made = loaded.model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=6,
                do_sample=False,
            )
    finally:
        hook.remove()

    text = loaded.tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True)
    assert steered.text == text


def test_steering_acts_on_what_was_watched_before_it_after_that_of_the_watch(model, formal):
    watch = model.watch(formal, layer=2)
    own = replace(watch, steering=model.steer({formal: "1@1"}).added)

    async def later():
        return await model.agenerate("Why?", watch, max_new_tokens=2)

    with model.steer({formal: 2.0}):
        answers = [model.generate("Why?", watch, max_new_tokens=2), asyncio.run(later())]
        streamed = model.stream("Why?", watch, max_new_tokens=2)
        both = model.generate("Why?", own, max_new_tokens=2)
    assert [token.index for token in streamed] == [0, 1]
    after = model.generate("Why?", watch, max_new_tokens=2)

    for answer in (*answers, streamed.answer):
        assert [one.coefficient for one in answer.steering] == [2.0]
    assert [one.coefficient for one in both.steering] == [1.0, 2.0]
    assert after.steering == ()


def test_what_watches_inside_of_steer_keeps_no_steering(model, formal):
    with model.steer({formal: 2.0}):
        watch = model.watch(formal)

    assert model.generate("Why?", watch, max_new_tokens=2).steering == ()


def test_a_steering_context_can_be_used_again_and_inside_itself(model, formal):
    steered = model.steer({formal: 2.0})
    for _ in range(2):
        with steered, steered:
            twice = model.generate("Why?", max_new_tokens=2)
        after = model.generate("Why?", max_new_tokens=2)

        assert [one.coefficient for one in twice.steering] == [2.0, 2.0]
        assert after.steering == ()


@pytest.mark.parametrize("call", ["score", "train", "extract"])
def test_what_only_reads_is_refused_while_the_model_is_steered(model, formal, call):
    calls = {
        "score": lambda: model.score([("Hi", "Ho")], formal),
        "train": lambda: model.train("other", POSITIVE, NEGATIVE),
        "extract": lambda: model.extract("evil"),
    }
    with model.steer({formal: 1.0}), pytest.raises(tc.TraitError, match="cannot be steered"):
        calls[call]()


def test_two_vectors_of_one_name_are_refused(model, formal):
    with pytest.raises(tc.TraitError, match="two vectors are called formal"):
        model.watch([formal, formal.at(layer=2)])


def test_a_chat_is_answered_with_its_system_message_and_history(model):
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "Why?"},
    ]

    answer = model.generate(chat, max_new_tokens=2)

    assert [*answer.history, {"role": "user", "content": answer.prompt}] == chat
    with pytest.raises(tc.TraitError, match="no message to answer"):
        model.generate(chat[:-1])


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"temperature": -1}, "temperature: expected a number of at least 0"),
        ({"max_new_tokens": 0}, "max_new_tokens: expected a number of at le"),
        ({"tokens": 3}, "options are max_new_tokens, temperature"),
    ],
)
def test_an_option_that_is_not_valid_is_refused(model, options, cause):
    with pytest.raises(tc.TraitError) as raised:
        model.generate("Hi", **options)

    assert raised.value.cause.startswith(cause[:40])


def test_an_option_of_watch_is_refused_with_its_place(model):
    with pytest.raises(tc.TraitError) as raised:
        model.generate("Hi", stop_on="evil>1")

    assert raised.value.fix == "watch=model.watch([…], stop_on=…)"


# Streaming


def test_a_stream_gives_the_tokens_of_the_answer(model, formal):
    options = {"watch": formal, "max_new_tokens": 5, "seed": 1}
    expected = model.generate("Why?", **options)

    stream = model.stream("Why?", **options)
    tokens = list(stream)

    assert all(isinstance(token, TokenScored) for token in tokens)
    assert [token.raw["formal"] for token in tokens] == list(expected.raw["formal"])
    assert stream.answer.tokens == expected.tokens


def test_an_async_stream_leaves_the_event_loop_free(model, formal):
    async def read():
        ticks, stream = 0, model.stream("Why?", watch=formal, max_new_tokens=5, seed=1)

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        clock = asyncio.create_task(tick())
        tokens = [token async for token in stream]
        clock.cancel()
        return tokens, ticks, stream.answer

    tokens, ticks, answer = asyncio.run(read())

    assert [token.raw["formal"] for token in tokens] == list(answer.raw["formal"])
    assert ticks > len(tokens)


def test_async_answers_wait_for_each_other(model):
    async def ask():
        questions = ("Why?", "How?", "Who?")
        return await asyncio.gather(
            *(model.agenerate(question, max_new_tokens=3, seed=2) for question in questions)
        )

    found = asyncio.run(ask())

    expected = [model.generate(one.prompt, max_new_tokens=3, seed=2) for one in found]
    assert [one.tokens for one in found] == [one.tokens for one in expected]


def test_a_model_that_is_writing_refuses_and_is_free_once_the_stream_is_closed(model, tmp_path):
    out = tmp_path / "kept.json"
    with model.stream("Why?", max_new_tokens=5, out=out) as stream:
        next(stream)
        with pytest.raises(tc.TraitError, match="writing another answer"):
            model.generate("How?", max_new_tokens=1)
        with pytest.raises(tc.TraitError, match="not complete"):
            stream.answer  # noqa: B018

    assert model.generate("How?", max_new_tokens=1).tokens
    kept = json.loads(out.read_text(encoding="utf-8"))
    assert (len(kept["tokens"]), kept["finish_reason"]) == (1, "interrupted")


# Scoring and frames


def test_scores_are_those_of_a_naive_pass(model, formal):
    [answer] = model.score([("Why?", "Because I say so.")], formal, layer=2)

    prompt = [{"role": "user", "content": "Why?"}]
    tokenizer = model.loaded.tokenizer
    before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
    after = tokenizer("Because I say so.", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        states = model.loaded.model(
            torch.tensor([before + after]), output_hidden_states=True
        ).hidden_states
    own = torch.stack(states)[:, 0, len(before) :].transpose(0, 1).numpy()
    expected = project(own, formal.directions["response_avg"])[:, 2]
    np.testing.assert_allclose(answer.raw["formal"], expected, atol=1e-3)


def test_every_form_of_a_transcript_is_scored(model, formal, tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text('{"prompt": "Hi", "response": "Ho"}\n', encoding="utf-8")
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    forms = [("Hi", "Ho"), chat, {"prompt": "Hi", "response": "Ho"}, {"messages": chat}]

    found = [*model.score(forms, formal), *model.score(file, formal)]

    assert len(found) == 5
    for answer in found:
        np.testing.assert_allclose(answer.raw["formal"], found[0].raw["formal"], atol=1e-4)


def test_a_response_that_cannot_be_read_has_an_error_and_no_rows(model, formal):
    answers = model.score([("Hi", ""), ("Hi", "Ho"), 7], formal)

    assert [answer.error for answer in answers] == [
        "the response is empty",
        "",
        "7 is none of (prompt, response), a chat, {'prompt': …, 'response': …}",
    ]
    assert set(tc.to_frame(answers).answer) == {1}


def test_a_frame_has_one_row_for_each_token_and_trait(model, formal):
    polite = formal.renamed("polite").at(layer=1)
    answer = model.generate("Why?", watch=[formal, polite], max_new_tokens=3)

    frame = answer.to_frame()

    assert len(frame) == 2 * len(answer.tokens)
    by_trait = frame.groupby("trait")
    assert by_trait.layer.first().to_dict() == {"formal": formal.layer, "polite": 1}
    assert "".join(by_trait.get_group("formal").text) == answer.text
    assert by_trait.raw.mean()["polite"] == pytest.approx(np.mean(answer.raw["polite"]))


def test_frames_without_scores_have_all_columns(model):
    answer = model.generate("Why?", max_new_tokens=2)

    assert list(answer.to_frame().columns) == list(tc.to_frame([]).columns[1:])
    assert isinstance(tc.to_frame([answer]), pd.DataFrame)


# How an answer is shown


def test_the_html_of_an_answer_escapes_everything(model, formal):
    text = "<script>alert(1)</script> & \"quoted' <img src=x onerror=y>"
    [answer] = model.score([("Hi", text)], formal)
    row = answer.raw["formal"]
    named = replace(answer, raw={text: row}, calibrated={text: row}, layers={text: 1})
    bare = replace(answer, tokens=(), raw={}, calibrated={})
    failed = replace(bare, response="", error=text)

    for shown in (answer, named, bare, failed):
        tags = re.findall(r"<(/?\w+)", shown._repr_html_())
        assert {tag.strip("/") for tag in tags} <= TAGS
        assert "' <" not in shown._repr_html_()


def test_an_answer_prints_its_text_and_the_mean_of_each_trait(model, formal):
    answer = model.generate("Why?", watch=formal, max_new_tokens=4)

    shown = str(answer)

    assert f"formal   {answer.scores['formal']:+.2f}".replace("-", "−") in shown
    assert "\x1b" not in shown
    assert repr(answer).startswith("<Answer ")


def test_ipython_shows_the_text_of_an_answer_and_one_line_of_each_in_a_list(model, formal):
    from IPython.lib.pretty import pretty

    answer = model.generate("Why?", watch=formal, max_new_tokens=4)

    assert pretty(answer) == str(answer)
    assert pretty([answer]) == f"[{answer!r}]"


def test_an_answer_has_colors_where_rich_prints_it(model, formal):
    answer = model.generate("Why?", watch=formal, max_new_tokens=8, seed=2)
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=200)

    console.print(answer)

    printed = console.file.getvalue()
    plain = Text.from_ansi(printed).plain
    assert printed.count("\x1b[") > 2
    assert plain.startswith(Text.from_ansi(answer.text.splitlines()[0]).plain[:10])
    assert "⟨" not in plain


def test_an_answer_has_no_control_characters_on_a_terminal(model, formal):
    [answer] = model.score([("Hi", "Red \x1b[31malert\x07")], formal)

    assert "\x1b" not in str(answer)


# Vectors


def test_arithmetic_is_that_of_the_arrays(formal):
    other = formal.renamed("other")

    combined = 0.5 * formal - other * 2

    expected = -1.5 * formal.directions["response_avg"]
    np.testing.assert_allclose(combined.directions["response_avg"], expected, rtol=1e-5)
    assert combined.trait == "0.5*formal-2*other"
    assert (combined.stats, combined.quality.auroc) == ({}, None)


def test_a_multiple_keeps_the_scale_and_a_negative_one_turns_it(model, formal):
    answer = model.generate("Why?", watch=[formal], max_new_tokens=3, seed=1)
    doubled = model.generate("Why?", watch=[2 * formal], max_new_tokens=3, seed=1)
    turned = model.generate("Why?", watch=[-formal], max_new_tokens=3, seed=1)

    scores = np.array(answer.calibrated["formal"])
    np.testing.assert_allclose(doubled.calibrated["2*formal"], scores, atol=1e-4)
    np.testing.assert_allclose(turned.calibrated["-1*formal"], -scores, atol=1e-4)


def test_vectors_of_two_models_cannot_be_added(formal):
    identity = {"fingerprint": "0123456789ab", "id": "other"}
    other = replace(formal, provenance={"model_identity": identity})

    with pytest.raises(tc.TraitError, match="vectors of different models"):
        formal + other


def test_a_layer_that_does_not_exist_is_refused(formal):
    with pytest.raises(tc.TraitError, match="has no layer 5"):
        formal.at(layer=5)


@pytest.mark.parametrize("name", ["formal.safetensors", "formal.pt", "formal.gguf"])
def test_a_saved_vector_is_read_back(formal, tmp_path, name):
    formal.save(tmp_path / name)

    read = tc.read(tmp_path / name)

    held = range(2, 4) if name.endswith("gguf") else range(5)
    for layer in held:
        np.testing.assert_array_equal(
            read.directions["response_avg"][layer], formal.directions["response_avg"][layer]
        )


def test_a_vector_is_not_saved_under_an_unknown_ending(formal):
    with pytest.raises(tc.TraitError) as raised:
        formal.save("formal.csv")

    assert raised.value.fix == "formal.safetensors keeps everything about it"


def test_a_saved_vector_is_found_by_name_as_on_the_command_line(model, formal, tmp_path):
    folder = tmp_path / "vectors" / model.name
    folder.mkdir(parents=True)
    formal.save(folder / "formal.safetensors")

    assert tc.vector("formal", model).trait == "formal"
    assert list(model.vectors()) == ["formal"]
    with pytest.raises(tc.TraitError, match="no vector of formel"):
        tc.vector("formel", model)


# Models of the user


def test_a_wrapped_model_gives_the_same_scores(model, formal, user_model):
    wrapped = tc.wrap(*user_model)

    found = wrapped.generate("Why?", watch=formal, max_new_tokens=4, seed=1)

    expected = model.generate("Why?", watch=formal, max_new_tokens=4, seed=1)
    assert found.tokens == expected.tokens
    np.testing.assert_allclose(found.raw["formal"], expected.raw["formal"], atol=1e-3)


def test_a_wrapped_model_is_left_as_it_was(user_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hf_model, tokenizer = user_model
    before = traces(hf_model)
    vocabulary, padding = len(tokenizer), tokenizer.pad_token

    wrapped = tc.wrap(hf_model, tokenizer)
    vector = wrapped.train("formal", POSITIVE, NEGATIVE)
    with wrapped.steer({vector: 1.0}):
        wrapped.generate("Why?", watch=vector, max_new_tokens=2)
    wrapped.score([("Hi", "Ho")], vector)
    wrapped.extract("evil", 1, "likelihood", "own", SETTINGS)
    stream = wrapped.stream("Why?", max_new_tokens=5)
    next(stream)
    assert not hf_model.training
    stream.close()

    after = traces(hf_model)
    weights = zip(before.pop("weights"), after.pop("weights"), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)
    assert after == before
    assert (len(tokenizer), tokenizer.pad_token) == (vocabulary, padding)


def test_a_wrapped_model_can_still_be_trained(user_model):
    hf_model, tokenizer = user_model
    wrapped = tc.wrap(hf_model, tokenizer)
    wrapped.generate("Why?", max_new_tokens=2)

    ids = torch.tensor([tokenizer("Some words to learn.")["input_ids"]])
    hf_model(ids, labels=ids).loss.backward()

    assert all(parameter.grad is not None for parameter in hf_model.parameters())


def test_something_else_than_a_language_model_is_refused(user_model):
    with pytest.raises(tc.TraitError, match="cannot wrap a Linear"):
        tc.wrap(torch.nn.Linear(2, 2), user_model[1])


# Runs


SETTINGS = {"extract.evaluation_questions": 1, "extract.sampling.max_new_tokens": 3}


def test_extract_continues_the_run_of_the_command(model, capsys):
    first = model.extract("evil", questions=1, judge="fake", run="mine", settings=SETTINGS)
    stored = tc.Run("mine").rollouts()
    again = model.extract("evil", questions=1, judge="fake", run="mine", settings=SETTINGS)

    assert stored.equals(tc.Run("mine").rollouts())
    np.testing.assert_array_equal(
        first.directions["response_avg"], again.directions["response_avg"]
    )
    assert "nothing left to do" in capsys.readouterr().err
    commands = (tc.Run("mine").folder / "commands.jsonl").read_text(encoding="utf-8")
    assert commands.count('"started"') == 1


def test_extract_asks_other_questions(model):
    model.extract("evil", ["Is it late?"], "fake", "own", SETTINGS)

    asked = tc.Run("own").rollouts().query("split == 'extraction'")
    assert asked.prompt.str.contains("Is it late?").all()


def test_a_failed_extraction_raises(model):
    settings = {**SETTINGS, "filter.min_auroc": 0, "filter.threshold": 100}
    with pytest.raises(tc.TraitError, match="too few rollouts of evil pass"):
        model.extract("evil", 1, "fake", "strict", settings)


def test_a_run_gives_frames_and_arrays_in_one_order(model):
    model.extract("evil", 1, "fake", "mine", SETTINGS)
    run = tc.Run("mine")

    rollouts, judgements = run.rollouts("evil"), run.judgements("evil")
    states = run.activations("evil")

    assert run.traits == ["evil"]
    assert set(judgements.rollout) <= set(rollouts.id)
    assert states.shape == (len(rollouts), 5, 32)
    kept = (rollouts.split == "extraction") & (rollouts.response_tokens > 0)
    positive = (rollouts.polarity == "positive") & kept
    negative = (rollouts.polarity == "negative") & kept
    vector = run.vectors()["evil"]
    if vector.quality.positive_kept == positive.sum():
        expected = states[positive].mean(0) - states[negative].mean(0)
        np.testing.assert_allclose(vector.directions["response_avg"], expected, atol=1e-3)


def test_a_run_that_does_not_exist_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(tc.TraitError, match="no run demo"):
        tc.Run("demo")


def test_brakes_act_where_nothing_is_watched(model, formal):
    with model.steer({formal: "<=-1"}):
        braked = model.generate("How are you?", max_new_tokens=6, temperature=0)
        watched = model.generate("How are you?", watch=formal, max_new_tokens=6, temperature=0)

    assert braked.text == watched.text
    assert braked.braked == watched.braked
    assert braked.raw == {}
