"""What chat templates do with texts is found out by rendering marked messages."""

from __future__ import annotations

import pytest

from tests.conftest import (
    DROPPING_TEMPLATE,
    GEMMA_TEMPLATE,
    LLAMA_TEMPLATE,
    QWEN_TEMPLATE,
    make_model,
    make_tokenizer,
)
from traitcli.config import ModelConfig
from traitcli.errors import ModelError
from traitcli.events import Warned
from traitcli.models.chat_format import find_chat_format, template_facts, unknown_options
from traitcli.models.load import load_model
from traitcli.models.prompts import conversation, render
from traitcli.models.thinking import opens_thinking

PARTS = (
    "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
THINKS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}<|assistant|>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}"
)
OPENS = THINKS + "<think>\n"
LOSES_ALL = "{% for m in messages %}<|{{ m['role'] }}|>{% endfor %}<|assistant|>"
LOSES_ANSWERS = (
    "{% for m in messages if m['role'] != 'assistant' %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% endfor %}<|assistant|>"
)
LOWERS = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | lower }}{% endfor %}"
ESCAPES = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | e }}{% endfor %}"
CUTS = "{% for m in messages %}{{ m['content'][:80] }}{% endfor %}"
CRASHES = "{% for m in messages %}{{ 1 / 0 }}{% endfor %}"
USER = [{"role": "user", "content": "Why is 3 < 4?"}]


def format_of(template, **options):
    tokenizer = make_tokenizer(template, bos=False)
    return tokenizer, find_chat_format(tokenizer, "tiny", options)


@pytest.mark.parametrize("template", [LLAMA_TEMPLATE, QWEN_TEMPLATE, THINKS])
def test_texts_that_arrive_need_nothing(template):
    _, chat = format_of(template)

    assert (chat.as_parts, chat.shows_system, chat.shows_answers, chat.alters) == (
        False, True, True, False,
    )  # fmt: skip


def test_a_template_that_reads_parts_gets_parts():
    tokenizer, chat = format_of(PARTS)

    assert chat.as_parts
    text = render(tokenizer, [{"role": "system", "content": "Be brief."}, *USER], chat).text
    assert text == "system: Be brief.user: Why is 3 < 4?assistant:"


@pytest.mark.parametrize("template", [GEMMA_TEMPLATE, DROPPING_TEMPLATE])
def test_a_template_that_rejects_or_drops_system_messages_is_noticed(template):
    assert not format_of(template)[1].shows_system


@pytest.mark.parametrize(
    ("template", "problem", "cause"),
    [
        (LOSES_ALL, "drops the user's text", "a text that was tried is not in the prompt"),
        (CUTS, "drops the user's text", "a text that was tried is not in the prompt"),
        (LOWERS, "changes the user's text", "it writes capital letters small, or small ones"),
        (CRASHES, "fails", "it raises ZeroDivisionError: division by zero"),
        ("{% for m in messages", "fails", "it raises TemplateSyntaxError: "),
        ("{{ nothing.of.it }}", "fails", "it raises UndefinedError: "),
        ("{{ raise_exception('no chats here') }}", "fails", "it raises TemplateError: no chats"),
    ],
)
def test_a_template_that_does_not_write_the_users_text_is_refused(template, problem, cause):
    with pytest.raises(ModelError) as error:
        format_of(template)

    assert error.value.problem == f"the chat template of tiny {problem}"
    assert error.value.cause.startswith(cause)


def test_dropped_earlier_messages_are_noted_in_a_conversation(tmp_path):
    last = "{{ messages[-1]['content'] }}"
    folder = make_model(tmp_path / "m", "llama", last, False)
    loaded = load_model(ModelConfig(id=str(folder), device="cpu"))

    _, notes = conversation(loaded, None, [*USER, *USER])

    assert notes == ("m does not see earlier messages: its chat template drops them",)
    assert conversation(loaded, None, USER)[1] == ()


def test_a_template_that_changes_characters_is_noticed():
    assert format_of(ESCAPES)[1].alters


def test_dropped_answers_are_noted_in_a_conversation(tmp_path):
    folder = make_model(tmp_path / "m", "llama", LOSES_ANSWERS, False)
    loaded = load_model(ModelConfig(id=str(folder), device="cpu"))
    answer = {"role": "assistant", "content": "Because."}

    _, notes = conversation(loaded, None, [*USER, answer, *USER])

    assert notes == ("m does not see its earlier answers: its chat template drops them",)
    assert conversation(loaded, None, USER)[1] == ()


def test_several_templates_without_a_default_are_refused():
    tokenizer = make_tokenizer(None, bos=False)
    tokenizer.chat_template = {"tool_use": LLAMA_TEMPLATE, "rag": LLAMA_TEMPLATE}

    with pytest.raises(ModelError) as error:
        find_chat_format(tokenizer, "tiny", {})

    assert error.value.cause == "their names are rag, tool_use"
    tokenizer.chat_template = {"default": LLAMA_TEMPLATE, "rag": LOSES_ALL}
    assert find_chat_format(tokenizer, "tiny", {}).shows_system


def test_options_reach_the_template():
    tokenizer, chat = format_of(THINKS, enable_thinking=False)

    assert render(tokenizer, USER, chat).text.endswith("<think>\n\n</think>\n\n")
    assert render(tokenizer, USER, format_of(THINKS)[1]).text.endswith("<|assistant|>")


def test_options_of_the_config_reach_the_template_and_unknown_ones_warn(tmp_path):
    folder = make_model(tmp_path / "m", "llama", THINKS, False)
    events = []

    config = ModelConfig(
        id=str(folder),
        device="cpu",
        template_options={"enable_thinkin": 1, "enable_thinking": False},
    )
    loaded = load_model(config, events.append)

    assert render(loaded.tokenizer, USER, loaded.chat).text.endswith("</think>\n\n")
    assert [event.message for event in events if isinstance(event, Warned)] == [
        "the chat template does not read enable_thinkin; did you mean enable_thinking?"
    ]


def test_an_option_that_no_template_reads_is_named():
    assert unknown_options(make_tokenizer(None, bos=False), {"x": 1}) == [
        "the chat template does not read x"
    ]


def test_whatever_a_template_raises_later_is_an_error():
    alternating = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}"
    tokenizer, chat = format_of(alternating + "{% endif %}{{ messages[0]['content'] }}")

    with pytest.raises(ModelError) as error:
        render(tokenizer, [{"role": "assistant", "content": "x"}], chat)

    assert (error.value.problem, error.value.cause) == (
        "the chat template refuses these messages",
        "user first",
    )


@pytest.mark.parametrize(
    ("template", "thinking", "added"),
    [
        (QWEN_TEMPLATE, "", "<|system|>You are Qwen."),
        (THINKS, "optional", ""),
        (OPENS, "always", "<think>"),
    ],
)
def test_the_facts_about_a_template(template, thinking, added):
    tokenizer, chat = format_of(template)

    facts = template_facts(tokenizer, chat, opens_thinking)

    assert facts.thinking == thinking
    assert added in facts.added or added == facts.added
