"""Transcripts: every supported form, and the problems of entries in other forms."""

from __future__ import annotations

import json

import pytest

from traitcli.errors import UserError
from traitcli.monitoring.log_shapes import FORMS
from traitcli.monitoring.transcripts import Exchange, read_exchanges

GOOD = {"prompt": "Why?", "response": "Because."}


def message(role, content):
    return {"role": role, "content": content}


USER, ANSWER = message("user", "Why?"), message("assistant", "Because.")


@pytest.fixture
def read(tmp_path):
    """Writes lines of text or JSON and reads their exchanges."""

    def read(*lines, name="chat.jsonl", **options):
        path = tmp_path / name
        texts = [
            line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)
            for line in lines
        ]
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8", newline="")
        return read_exchanges(path, **options)

    return read


def at(line, turn=None, name="chat.jsonl"):
    return {"file": name, "line": line} | ({"turn": turn} if turn else {})


def problems(exchanges):
    return [one.problem for one in exchanges]


@pytest.mark.parametrize("name", ["chat.jsonl", "chat.ndjson"])
def test_each_line_is_a_prompt_and_its_response_and_extra_keys_are_ignored(read, name):
    found = read(GOOD, {"id": 3, "response": "So.", "prompt": "How?", "about": {}}, name=name)

    assert found == [
        Exchange("Why?", "Because.", about=at(1, name=name)),
        Exchange("How?", "So.", about=at(2, name=name) | {"id": 3}),
    ]


def test_each_answer_in_a_chat_has_all_earlier_messages_as_history(read):
    second, again = message("user", "And how?"), message("assistant", "So.")

    found = read({"messages": [message("system", "Be brief."), USER, ANSWER, second, again]})

    system = message("system", "Be brief.")
    assert found == [
        Exchange("Why?", "Because.", (system,), at(1, 1)),
        Exchange("And how?", "So.", (system, USER, ANSWER), at(1, 2)),
    ]


def test_an_unanswered_user_message_is_not_an_exchange(read):
    [found] = read({"messages": [USER, ANSWER, message("user", "And how?")]})

    assert found == Exchange("Why?", "Because.", (), at(1, 1))


def test_a_developer_message_is_a_system_message(read):
    [found] = read({"messages": [message("developer", "Be brief."), USER, ANSWER]})

    assert found.history == (message("system", "Be brief."),)


def test_the_text_parts_of_a_message_are_joined_and_others_left_out(read):
    parts = [
        {"type": "text", "text": "Wh"},
        {"type": "image_url", "image_url": {"url": "x"}},
        {"text": "y?"},
    ]

    [found] = read(
        {
            "messages": [
                message("user", parts),
                message("assistant", [{"type": "text", "text": "Because."}]),
            ]
        }
    )

    assert (found.prompt, found.response) == ("Why?", "Because.")


def test_a_message_that_only_calls_a_tool_is_history_but_not_an_answer(read):
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    result = {"role": "tool", "tool_call_id": "1", "content": "42"}

    [found] = read({"messages": [USER, call, result, ANSWER]})

    assert found == Exchange(
        "", "Because.", (USER, message("assistant", ""), message("tool", "42")), at(1, 1)
    )


def test_an_answer_without_a_message_before_it_has_an_empty_prompt(read):
    found = read({"messages": [ANSWER]}, {"messages": [message("system", "Be brief."), ANSWER]})

    assert found == [
        Exchange("", "Because.", (), at(1, 1)),
        Exchange("", "Because.", (message("system", "Be brief."),), at(2, 1)),
    ]


def test_the_second_of_two_answers_in_a_row_follows_the_first(read):
    found = read({"messages": [USER, ANSWER, message("assistant", "That is all.")]})

    assert found[1] == Exchange("", "That is all.", (USER, ANSWER), at(1, 2))


def test_a_prompt_may_be_a_list_of_messages(read):
    [found] = read(
        {
            "prompt": [message("system", "Be brief."), message("user", "Hi!"), ANSWER, USER],
            "response": "So.",
        }
    )

    assert found == Exchange(
        "Why?", "So.", (message("system", "Be brief."), message("user", "Hi!"), ANSWER), at(1)
    )


def test_a_monitoring_record_is_read_with_its_history(read):
    record = GOOD | {"tokens": ["Because", "."], "trait_scores": {"evil": [1, 2]}}

    [found] = read(record | {"history": [message("system", "Be brief."), USER, ANSWER]})

    assert found == Exchange(
        "Why?", "Because.", (message("system", "Be brief."), USER, ANSWER), at(1)
    )


def test_a_failed_monitoring_record_is_an_exchange_with_a_problem(read):
    found = read({"prompt": "Why?", "error": "too long", "about": {}}, GOOD)

    problem = "response missing, and there are no messages; its keys: prompt, error, about"
    assert problems(found) == [problem, ""]


def test_a_json_list_has_an_exchange_for_each_of_its_items(read):
    found = read([GOOD, {"messages": [USER, ANSWER]}], name="chat.json")

    assert found == [
        Exchange("Why?", "Because.", about=at(1, name="chat.json")),
        Exchange("Why?", "Because.", about=at(2, 1, name="chat.json")),
    ]


@pytest.mark.parametrize("value", [GOOD, [GOOD]], ids=["object", "list"])
def test_a_json_file_may_be_spread_over_lines(read, value):
    [found] = read(json.dumps(value, indent=2), name="chat.json")

    assert found == Exchange("Why?", "Because.", about=at(1, name="chat.json"))


@pytest.mark.parametrize("prompt", ["", "Write an essay."])
@pytest.mark.parametrize("name", ["essay.txt", "essay", "essay.md"])
def test_any_other_file_is_one_answer_to_the_prompt(read, name, prompt):
    [found] = read("Trees are", "", '{"prompt": "tall"}', name=name, prompt=prompt)

    assert found == Exchange(prompt, 'Trees are\n\n{"prompt": "tall"}\n', about={"file": name})


def test_blank_lines_are_skipped_but_counted(read):
    found = read("", GOOD, "  \t", "", GOOD, "")

    assert [one.about["line"] for one in found] == [2, 5]


def test_lines_may_end_as_on_windows(read):
    found = read(json.dumps(GOOD) + "\r", "\r", json.dumps(GOOD) + "\r")

    assert [(one.response, one.about["line"]) for one in found] == [
        ("Because.", 1),
        ("Because.", 3),
    ]


def test_a_last_line_without_an_end_is_read(tmp_path):
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps(GOOD), encoding="utf-8")

    assert problems(read_exchanges(path)) == [""]


@pytest.mark.parametrize("name", ["chat.jsonl", "chat.json"])
def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())

    [found] = read_exchanges(path)

    assert found.response == "Because."


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])
def test_a_line_separator_within_a_text_does_not_split_the_line(read, mark):
    found = read({"prompt": "Why?", "response": f"Be{mark}cause."}, GOOD)

    assert [one.response for one in found] == [f"Be{mark}cause.", "Because."]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"prompt": "Why?"', "not JSON: expecting ',' delimiter at column 18"),
        ("Because.", "not JSON: expecting value at column 1"),
        (["Why?", "Because."], "not a JSON object"),
        ("null", "not a JSON object"),
        ({}, "prompt and response missing, and there are no messages; its keys: none"),
        ({"prompt": "Why?"}, "response missing, and there are no messages; its keys: prompt"),
        ({"response": "Because."}, "prompt missing, and there are no messages; its keys: response"),
        ({"prompt": 3, "response": "Because."}, "content must be a string or a list of text parts"),
        (
            {"prompt": "Why?", "response": ["Because."]},
            "content must be a string or a list of text parts",
        ),
        ({"messages": "Why?"}, "messages must be a list"),
        ({"messages": {"role": "user"}}, "messages must be a list"),
        ({"messages": ["Why?"]}, "a message has no role"),
        ({"messages": [{"content": "Why?"}, ANSWER]}, "a message has no role"),
        ({"messages": [{"role": 1, "content": "Why?"}, ANSWER]}, "a message has no role"),
        (
            {"messages": [message("user", 3), ANSWER]},
            "content must be a string or a list of text parts",
        ),
        ({"messages": []}, "no assistant message with text"),
        ({"messages": [USER]}, "no assistant message with text"),
        ({"messages": [USER, message("assistant", "")]}, "no assistant message with text"),
        (
            {"prompt": [], "response": "Because."},
            "the prompt does not end with a user message",
        ),
        (
            {"prompt": [USER, ANSWER], "response": "So."},
            "the prompt does not end with a user message",
        ),
        (GOOD | {"history": "none"}, "messages must be a list"),
    ],
)
def test_a_line_of_another_form_is_an_exchange_with_a_problem(read, line, problem):
    found = read(GOOD, line, GOOD)

    assert found[1] == Exchange("", "", about=at(2), problem=problem)
    assert [one.about["line"] for one in found] == [1, 2, 3]
    assert problems(found)[::2] == ["", ""]


def test_a_line_that_is_nested_too_deeply_has_a_problem(read):
    found = read(GOOD, "[" * 100_000, GOOD)

    assert [bool(problem) for problem in problems(found)] == [False, True, False]


def test_a_chat_with_one_unreadable_message_is_one_problem(read):
    found = read({"messages": [USER, ANSWER, message("user", 3), ANSWER]}, GOOD)

    assert [(one.problem, one.about["line"]) for one in found if one.problem] == [
        ("content must be a string or a list of text parts", 1)
    ]
    assert found[-1] == Exchange("Why?", "Because.", about=at(2))


def test_an_empty_answer_is_an_exchange(read):
    found = read(GOOD | {"response": ""}, GOOD | {"response": None}, GOOD)

    assert [one.response for one in found] == ["", "", "Because."]


@pytest.mark.parametrize(
    ("name", "text", "cause"),
    [
        ("chat.jsonl", "", "it is empty"),
        ("chat.jsonl", "\n \n", "it is empty"),
        ("chat.txt", "", "it is empty"),
        ("chat.json", "[]", "it is empty"),
        ("chat.json", "", "it is empty"),
        ("chat.jsonl", "3\n{}\n", "line 1: not a JSON object"),
        ("chat.jsonl", '{"prompt": "Why?", "response": ""}\n', "it is empty"),
    ],
)
def test_a_file_with_nothing_to_read_is_refused(tmp_path, name, text, cause):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")

    with pytest.raises(UserError) as error:
        read_exchanges(path)

    assert str(error.value) == f"error: nothing to read in {path}\ncause: {cause}\nfix:   {FORMS}"


def test_a_missing_file_is_refused(tmp_path):
    path = tmp_path / "chat.jsonl"

    with pytest.raises(UserError) as error:
        read_exchanges(path)

    cause = "the file does not exist"
    assert str(error.value) == f"error: cannot read {path}\ncause: {cause}\nfix:   check the path"


def test_a_file_in_another_encoding_is_refused(tmp_path):
    path, data = tmp_path / "chat.txt", "Was heißt das?".encode("latin-1")
    path.write_bytes(data)

    with pytest.raises(UserError) as error:
        read_exchanges(path)

    assert str(error.value) == (
        f"error: cannot read {path}\n"
        "cause: it is not text in UTF-8\n"
        "fix:   name a text file in UTF-8"
    )
