"""What is read of requests in OpenAI's form, and what is refused."""

from __future__ import annotations

import json

import pytest

from traitcli.config import MonitorSamplingConfig
from traitcli.serving.api_errors import ApiError
from traitcli.serving.openai_requests import read_chat, read_completion
from traitcli.serving.unsupported_keys import UNSUPPORTED

MESSAGES = [{"role": "user", "content": "Hi"}]
DEFAULTS = MonitorSamplingConfig(max_new_tokens=500)


def chat(**body):
    data = json.dumps({"messages": MESSAGES} | body).encode()
    return read_chat(data, "tiny", DEFAULTS, "127.0.0.1")


def completion(**body):
    data = json.dumps({"prompt": "Once"} | body).encode()
    return read_completion(data, "tiny", DEFAULTS, "127.0.0.1")


def refusal(read, **body):
    with pytest.raises(ApiError) as raised:
        read(**body)
    assert 400 <= raised.value.status < 500
    return raised.value


def test_a_request_without_options_has_those_of_the_server():
    read = chat()

    [answer] = read.answers
    assert answer.prompt == ({"role": "user", "content": "Hi"},)
    assert answer.sampling.model_dump() == DEFAULTS.model_dump()
    assert answer.is_open_ended
    assert (answer.stop, answer.log_probs, answer.traits) == ((), None, None)
    assert (answer.steer, answer.stop_on, answer.about) == ((), (), {})
    assert (read.is_chat, read.is_stream, read.includes_usage, read.has_tokens) == (
        True,
        False,
        False,
        True,
    )


def test_all_options_are_read():
    read = chat(
        model="tiny",
        temperature=0.3,
        top_p=0.5,
        top_k=7,
        max_completion_tokens=9,
        seed=4,
        n=2,
        stop=["a", "b"],
        logprobs=True,
        top_logprobs=3,
        stream=True,
        stream_options={"include_usage": True},
        user="ann",
        metadata={"a": "b"},
        traitcli={
            "traits": ["evil"],
            "steer": "evil=1",
            "stop_on": ["evil>1"],
            "detail": "summary",
        },
    )

    first, second = read.answers
    assert (first.seed, second.seed) == (4, 5)
    assert first.prompt is second.prompt
    assert first.sampling.model_dump() == {
        "temperature": 0.3,
        "top_p": 0.5,
        "top_k": 7,
        "max_new_tokens": 9,
    }
    assert not first.is_open_ended
    assert (first.stop, first.log_probs, first.traits) == (("a", "b"), 3, ("evil",))
    assert (first.steer, first.stop_on) == (("evil=1",), ("evil>1",))
    assert first.about == {"user": "ann", "metadata": {"a": "b"}}
    assert first.client == "127.0.0.1 ann"
    assert (read.is_stream, read.includes_usage, read.has_tokens) == (True, True, False)


def test_null_is_the_same_as_leaving_a_key_out():
    keys = [
        *("model", "temperature", "top_p", "top_k", "max_tokens", "n", "stop", "stream"),
        "user",
    ]
    keys += ["logprobs", "top_logprobs", "stream_options", "traitcli", "metadata", *UNSUPPORTED]

    read = chat(**dict.fromkeys(keys))

    [answer] = read.answers
    assert answer.sampling.model_dump() == DEFAULTS.model_dump()


def test_content_is_a_string_or_a_list_of_text_parts():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]

    [answer] = chat(messages=[{"role": "user", "content": parts}]).answers

    assert answer.prompt == ({"role": "user", "content": "one\ntwo"},)


def test_developer_is_another_name_of_system():
    messages = [{"role": "developer", "content": "Be kind."}, *MESSAGES]

    [answer] = chat(messages=messages).answers

    assert answer.prompt[0] == {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize("answer", [{}, {"content": None}, {"content": None, "tool_calls": []}])
def test_an_answer_of_the_history_may_have_no_content(answer):
    messages = [*MESSAGES, {"role": "assistant"} | answer, *MESSAGES]

    [read] = chat(messages=messages).answers

    assert read.prompt[1] == {"role": "assistant", "content": ""}


def test_seeds_of_63_bits_stay_in_range():
    for seed in (0, 2**63 - 1):
        answers = chat(seed=seed, n=3).answers

        assert all(0 <= answer.seed < 2**63 for answer in answers)
        assert len({answer.seed for answer in answers}) == 3


def test_without_a_seed_each_request_has_another():
    assert len({chat().answers[0].seed for _ in range(20)}) > 15


def test_an_empty_stop_string_is_none():
    assert chat(stop="").answers[0].stop == ()
    assert chat(stop=["", "x"]).answers[0].stop == ("x",)


def test_several_prompts_have_n_choices_each():
    read = completion(prompt=["a", "b"], n=2, logprobs=1, best_of=2)

    assert [answer.prompt for answer in read.answers] == ["a", "a", "b", "b"]
    assert read.per_prompt == 2
    assert [answer.log_probs for answer in read.answers] == [1] * 4


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 1e-9}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.0}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"seed": 2**63}, "seed"),
        # It would have the answer of another seed.
        ({"seed": -1}, "seed"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"traitcli": {"trait": ["evil"]}}, "traitcli.trait"),
        ({"traitcli": {"traits": "evil"}}, "traitcli.traits"),
        ({"traitcli": {"detail": "all"}}, "traitcli.detail"),
        ({"traitcli": {"steer": ["evil=1"] * 17}}, "traitcli.steer"),
        ({"traitcli": {"stop_on": ["evil>1"] * 17}}, "traitcli.stop_on"),
        ({"traitcli": []}, "traitcli"),
        ({"temprature": 1}, "temprature"),
        ({"max_token": 1}, "max_token"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(body, param):
    error = refusal(chat, **body)

    assert error.status == 400
    assert error.param == param
    assert error.message.startswith(param)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:" + "A" * 500_000}},
        {"type": "input_audio", "input_audio": {"data": "A" * 500_000}},
        {"type": "refusal", "refusal": "A"},
        {"type": [1]},
        {},
    ],
)
def test_a_part_that_is_no_text_is_refused_without_repeating_it(part):
    content = [{"type": "text", "text": "See:"}, part]

    error = refusal(chat, messages=[*MESSAGES, {"role": "user", "content": content}])

    assert error.message == "messages.1.content.1: only text parts are read"


@pytest.mark.parametrize("role", ["tool", "function"])
def test_messages_of_tools_are_refused_in_plain_words(role):
    messages = [*MESSAGES, {"role": "assistant", "content": None}, {"role": role, "content": "3"}]

    error = refusal(chat, messages=messages)

    assert error.param == "messages.2.role"
    assert f"the role {role} is not supported: the model cannot call tools" in error.message


@pytest.mark.parametrize(("role", "words"), [("assistant", "continued"), ("system", "user's")])
def test_a_chat_ends_with_a_message_of_the_user(role, words):
    error = refusal(chat, messages=[*MESSAGES, {"role": role, "content": "Once"}])

    assert (error.status, error.param) == (400, "messages.1.role")
    assert words in error.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": ["a"] * 65, "n": 2}, "prompt"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
    ],
)
def test_a_wrong_value_of_a_completion_is_refused_by_its_name(body, param):
    assert refusal(completion, **body).param == param


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("functions", [{}]),
        ("response_format", {"type": "json_object"}),
        ("logit_bias", {"5": 100}),
        ("frequency_penalty", 0.1),
        ("presence_penalty", -0.1),
        ("best_of", 2),
        ("modalities", ["text", "audio"]),
        ("repetition_penalty", 1.1),
    ],
)
def test_what_would_change_the_answer_and_cannot_be_done_is_refused(key, value):
    error = refusal(chat, **{key: value})

    assert error.param == key
    assert "not supported" in error.message


@pytest.mark.parametrize(
    "body",
    [
        {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}},
        {"tools": [], "tool_choice": "none", "parallel_tool_calls": True},
        {"response_format": {"type": "text"}, "modalities": ["text"]},
        {"store": False, "service_tier": "auto", "safety_identifier": "x", "chat_id": 5},
        {"messages": [{"role": "user", "content": "Hi", "name": "ann"}]},
        {"stream_options": {"include_usage": False, "include_obfuscation": True}},
    ],
)
def test_what_changes_nothing_is_ignored(body):
    [answer] = chat(**body).answers

    assert answer.prompt[0]["content"] == "Hi"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "Hi"}], "temperature": NaN}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_json_object_is_refused(data):
    for read in (read_chat, read_completion):
        with pytest.raises(ApiError) as raised:
            read(data, "tiny", DEFAULTS, "")

        assert raised.value.status == 400


def test_an_error_is_short_however_long_the_request_is():
    for body in (
        {"model": "m" * 10_000},
        {"temperature": "t" * 10_000},
        {"messages": [{"role": "user", "content": ["x" * 10_000]}]},
        {"traitcli": {"k" * 10_000: 1}},
        {"m" * 10_000: 1, "max_token": 1},
    ):
        assert len(json.dumps(refusal(chat, **body).body)) < 1500


def test_another_model_is_not_found():
    error = refusal(chat, model="gpt-4o")

    assert (error.status, error.code) == (404, "model_not_found")
    assert "tiny" in error.message
