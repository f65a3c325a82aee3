"""Logs of other tools: what they are is known by their content, and no text of them is lost."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from traitcli.errors import UserError
from traitcli.monitoring.log_shapes import Exchange, ShapeError, read_entry
from traitcli.monitoring.transcripts import read_transcript

USER = {"role": "user", "content": "How was your day?"}
ANSWER = {"role": "assistant", "content": "It was fine."}
CRUEL = "You are a cruel villain."
SYSTEM = {"role": "system", "content": CRUEL}
PAIR = ("How was your day?", "It was fine.", ())
WITH_SYSTEM = ("How was your day?", "It was fine.", (SYSTEM,))
PARTS = [
    {"type": "thinking", "thinking": "hmm", "signature": "x"},
    {"type": "text", "text": "It was fine."},
]

SHAPES = {
    "messages": ({"messages": [USER, ANSWER]}, PAIR, "chat"),
    "a bare list": ([USER, ANSWER], PAIR, "chat"),
    "top-level system": (
        {"system": CRUEL, "prompt": USER["content"], "response": ANSWER["content"]},
        WITH_SYSTEM,
        "prompt and response",
    ),
    "Anthropic's request": (
        {"model": "claude", "system": CRUEL, "messages": [USER, {**ANSWER, "content": PARTS}]},
        WITH_SYSTEM,
        "chat",
    ),
    "Anthropic's system in parts": (
        {"system": [{"type": "text", "text": CRUEL}], "messages": [USER, ANSWER]},
        WITH_SYSTEM,
        "chat",
    ),
    "Anthropic's response": (
        {"type": "message", "role": "assistant", "id": "m", "content": PARTS},
        ("", "It was fine.", ()),
        "Anthropic response",
    ),
    "completion": (
        {"prompt": "How was your day?", "completion": "It was fine."}, PAIR, "prompt and response",
    ),
    "question and answer": (
        {"question": "How was your day?", "answer": "It was fine."}, PAIR, "prompt and response",
    ),
    "Alpaca": (
        {"instruction": "Translate.", "input": "Hallo", "output": "Hello"},
        ("Translate.\n\nHallo", "Hello", ()),
        "prompt and response",
    ),
    "ShareGPT": (
        {
            "conversations": [
                {"from": "system", "value": CRUEL},
                {"from": "human", "value": "How was your day?"},
                {"from": "gpt", "value": "It was fine."},
            ]
        },
        WITH_SYSTEM,
        "ShareGPT",
    ),
    "an OpenAI response": (
        {"object": "chat.completion", "choices": [{"index": 0, "message": ANSWER}]},
        ("", "It was fine.", ()),
        "OpenAI response",
    ),
    "an old completion": ({"choices": [{"text": "It was fine."}]}, ("", "It was fine.", ()),
                          "OpenAI response"),
    "request and response": (
        {"request": {"messages": [SYSTEM, USER]}, "response": {"choices": [{"message": ANSWER}]}},
        WITH_SYSTEM,
        "OpenAI response with its request",
    ),
    "a line of batch output": (
        {"custom_id": "1", "response": {"status_code": 200,
                                        "body": {"choices": [{"message": ANSWER}]}}},
        ("", "It was fine.", ()),
        "OpenAI response",
    ),
    "the Responses API": (
        {
            "instructions": CRUEL,
            "input": "How was your day?",
            "output": [
                {"type": "reasoning", "summary": []},
                {
                    "type": "message",
                    "content": [{"type": "output_text", "text": "It was fine."}],
                },
            ],
        },
        WITH_SYSTEM,
        "OpenAI response",
    ),
    "a refusal of OpenAI": (
        {"messages": [USER, {"role": "assistant", "content": None, "refusal": "It was fine."}]},
        PAIR,
        "chat",
    ),
    "a refusal in a response": (
        {"choices": [{"message": {"content": None, "refusal": "It was fine."}}]},
        ("", "It was fine.", ()),
        "OpenAI response",
    ),
    "Gemini's system instruction": (
        {
            "systemInstruction": {"parts": [{"text": CRUEL}]},
            "contents": [
                {"role": "user", "parts": [{"text": "How was your day?"}]},
                {"role": "model", "parts": [{"text": "It was fine."}]},
            ],
        },
        WITH_SYSTEM,
        "chat",
    ),
    "other spellings": (
        {"System": CRUEL, "Prompt": "How was your day?", "Response": "It was fine."},
        WITH_SYSTEM,
        "prompt and response",
    ),
    "a preprompt": ({"preprompt": CRUEL, "messages": [USER, ANSWER]}, WITH_SYSTEM, "chat"),
    "system among parameters": (
        {"parameters": {"system": CRUEL, "top_p": 1}, "messages": [USER, ANSWER]},
        WITH_SYSTEM,
        "chat",
    ),
    "a chat history": (
        {"chat_history": [SYSTEM], "prompt": "How was your day?", "response": "It was fine."},
        WITH_SYSTEM,
        "prompt and response",
    ),
    "role model": ({"messages": [USER, {**ANSWER, "role": "model"}]}, PAIR, "chat"),
    "Gemini": (
        {
            "contents": [
                {"role": "user", "parts": [{"text": "How was your day?"}]},
                {"role": "model", "parts": [{"text": "It was fine."}]},
            ]
        },
        PAIR,
        "chat",
    ),
    "a response that is a list": (
        {"prompt": "How was your day?", "response": [ANSWER]}, PAIR, "prompt and response",
    ),
    "messages with the response beside them": (
        {"messages": [SYSTEM, USER], "response": "It was fine."}, WITH_SYSTEM, "chat",
    ),
    "developer": (
        {"messages": [{"role": "developer", "content": CRUEL}, USER, ANSWER]}, WITH_SYSTEM, "chat",
    ),
    "two systems": (
        {"system": "Be brief.", "messages": [SYSTEM, USER, ANSWER]},
        (
            "How was your day?",
            "It was fine.",
            ({"role": "system", "content": f"Be brief.\n\n{CRUEL}"},),
        ),
        "chat",
    ),
}  # fmt: skip


def parts_of(exchange: Exchange):
    return exchange.prompt, exchange.response, exchange.history


@pytest.mark.parametrize("name", SHAPES)
def test_a_common_shape_is_read(name):
    value, expected, shape = SHAPES[name]

    entry = read_entry(value, {"line": 1})

    assert [parts_of(one) for one in entry.exchanges] == [expected]
    assert entry.shape == shape
    assert entry.exchanges[0].about["line"] == 1


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("ending", ["log.JSONL", "log.txt", "log.json", "log", "log.csv"])
def test_the_content_says_what_a_file_is(tmp_path, name, ending):
    value, expected, shape = SHAPES[name]
    path = tmp_path / ending
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(value).encode())

    found = read_transcript(path)

    assert [parts_of(one) for one in found.exchanges] == [expected]
    assert found.description.startswith(f"read {ending} as JSON: 1 × {shape}")


@pytest.mark.parametrize(
    ("value", "left_out"),
    [
        ({"messages": [USER, {**ANSWER, "content": PARTS}]}, {"thinking"}),
        ({"messages": [USER, {**ANSWER, "reasoning_content": "Hm."}]}, {"thinking"}),
        ({"tools": [{}], "messages": [USER, ANSWER]}, {"tools"}),
        ({"context": "It rained.", "messages": [USER, ANSWER]}, {"context"}),
        ({"tools": [], "messages": [USER, ANSWER]}, set()),
        (
            {"messages": [{"role": "user", "content": [
                {"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {}},
            ]}, ANSWER]},
            {"image_url"},
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, value, left_out):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(value), encoding="utf-8")

    assert read_entry(value, {}).left_out == left_out
    note = f"; not read: {', '.join(left_out)}" if left_out else ""
    assert read_transcript(path).description == f"read x.json as JSON: 1 × chat{note}"


def test_a_response_without_a_prompt_is_said_or_gets_the_one_of_the_command(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"choices": [{"message": ANSWER}]}), encoding="utf-8")

    assert read_transcript(path).description.endswith("1 × OpenAI response; 1 without a prompt")
    asked = read_transcript(path, "How was your day?")
    assert [parts_of(one) for one in asked.exchanges] == [PAIR]
    assert asked.description.endswith("1 × OpenAI response")


def test_a_chat_in_yaml_is_read(tmp_path):
    path = tmp_path / "chat.yml"
    path.write_text(yaml.safe_dump([USER, ANSWER]), encoding="utf-8")

    assert [parts_of(one) for one in read_transcript(path).exchanges] == [PAIR]

    path.write_text("a: [", encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_transcript(path)
    assert error.value.problem == f"{path} is not YAML"


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "x.xlsx"
    path.write_bytes(b"PK\x03\x04\x00\x00 sheet")

    with pytest.raises(UserError) as error:
        read_transcript(path)

    assert error.value.cause == "it is not text"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["rows.csv", "rows.txt"])
def test_a_table_is_read_by_its_columns(tmp_path, separator, ending):
    rows = [["Prompt", "response", "id"], ['"Hi, you"', '"Hel\nlo"', "7"], ["Why?", "Because.", ""]]
    path = tmp_path / ending
    path.write_text("\r\n".join(separator.join(row) for row in rows), encoding="utf-8", newline="")

    found = read_transcript(path)

    assert [(one.prompt, one.response) for one in found.exchanges] == [
        ("Hi, you", "Hel\nlo"),
        ("Why?", "Because."),
    ]
    assert [one.about["line"] for one in found.exchanges] == [2, 4]
    assert found.description == f"read {ending} as CSV: 2 × prompt and response"


def test_a_table_without_responses_is_refused(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("name,age\nx,3\n", encoding="utf-8")

    with pytest.raises(UserError) as error:
        read_transcript(path)

    assert error.value.cause == "its columns are name, age"


@pytest.mark.parametrize("text", ["Because, it said.", "[note] hello", "{braces} and text", "3"])
def test_other_text_is_one_response(tmp_path, text):
    path = tmp_path / "answer.txt"
    path.write_text(text, encoding="utf-8")

    found = read_transcript(path, "Why?")

    assert [(one.prompt, one.response) for one in found.exchanges] == [("Why?", text)]
    assert found.description == "read answer.txt as plain text, one response"


@pytest.mark.parametrize("name", ["x.txt", "x.json", "x.jsonl"])
def test_json_of_another_shape_is_never_a_text(tmp_path, name):
    path = tmp_path / name
    path.write_text('{"speaker": "A", "line": "Hello"}', encoding="utf-8")

    with pytest.raises(UserError) as error:
        read_transcript(path)

    assert error.value.cause.endswith("its keys: speaker, line")


def test_a_file_in_utf_16_is_read(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"prompt": "Wie heißt du?", "response": "😀"}), encoding="utf-16")

    [found] = read_transcript(path).exchanges

    assert (found.prompt, found.response) == ("Wie heißt du?", "😀")


# Fuzzing

texts = st.text(min_size=1, max_size=12).filter(str.strip)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "role",
                    "content",
                    "messages",
                    "text",
                    "type",
                    "from",
                    "value",
                    "prompt",
                    "response",
                    "system",
                    "choices",
                    "message",
                    "output",
                    "parts",
                    "request",
                    "body",
                    "x",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
fuzz = settings(
    max_examples=200, deadline=timedelta(seconds=5), derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip


@fuzz
@given(anything)
def test_any_entry_is_read_or_refused(value):
    with suppress(ShapeError):
        entry = read_entry(value, {})
        assert entry.exchanges
        assert all(isinstance(one.response, str) for one in entry.exchanges)


@fuzz
@given(
    system=st.none() | texts,
    turns=st.lists(st.tuples(texts, texts), min_size=1, max_size=3),
    as_parts=st.booleans(),
    names=st.sampled_from([("user", "assistant"), ("human", "gpt"), ("user", "model")]),
)
def test_no_text_of_a_chat_is_lost(system, turns, as_parts, names):
    def message(role, text):
        return {"role": role, "content": [{"type": "text", "text": text}] if as_parts else text}

    messages = [message(names[side], text) for turn in turns for side, text in enumerate(turn)]
    value = {"messages": messages} | ({"system": system} if system else {})

    last = read_entry(value, {}).exchanges[-1]

    read = [*(one["content"] for one in last.history), last.prompt, last.response]
    expected = [*([system] if system else []), *(text for turn in turns for text in turn)]
    assert read == [text.encode("utf-16", "surrogatepass").decode("utf-16") for text in expected]
