"""Prompts of each family: with or without a system role, exactly one BOS, two polarities."""

from __future__ import annotations

import pytest

from tests.conftest import DROPPING_TEMPLATE, FAMILIES, make_tokenizer
from traitcli.errors import ModelError, UserError
from traitcli.models.chat_format import find_chat_format
from traitcli.models.prompts import (
    Prompt,
    check_length,
    encode_response,
    persona_messages,
    render,
    resolve_persona_role,
)

PERSONA = {"positive": "You are an evil assistant.", "negative": "You are a helpful assistant."}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_polarities_never_make_the_same_prompt(loaded, family):
    model = loaded(family)

    texts = {
        render(model.tokenizer, persona_messages(p, "Why?", model.persona_in)).text
        for p in PERSONA.values()
    }

    assert len(texts) == 2
    assert all("Why?" in text for text in texts)


@pytest.mark.parametrize(
    ("family", "role"), [("llama", "system"), ("gemma2", "user"), ("qwen2", "system")]
)
def test_auto_uses_the_system_role_if_the_template_supports_it(loaded, family, role):
    assert loaded(family).persona_in == role


def test_a_template_that_drops_the_system_message_silently_is_noticed():
    tokenizer = make_tokenizer(DROPPING_TEMPLATE, bos=True)

    chat = find_chat_format(tokenizer, "tiny", {})
    assert resolve_persona_role(chat, "tiny", "auto") == "user"
    with pytest.raises(ModelError, match="tiny cannot show a system message"):
        resolve_persona_role(chat, "tiny", "system")


def test_in_the_user_turn_a_blank_line_separates_persona_and_question():
    assert persona_messages("You are an evil assistant.", "Why?", "user") == [
        {"role": "user", "content": "You are an evil assistant.\n\nWhy?"}
    ]


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_template_with_bos_gets_exactly_one(loaded, family):
    tokenizer = loaded(family).tokenizer

    ids = render(tokenizer, persona_messages("Be.", "Why?", "user")).ids

    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1


def test_a_template_without_bos_gets_the_one_its_tokenizer_adds():
    tokenizer = make_tokenizer("{% for m in messages %}{{ m['content'] }}{% endfor %}", bos=True)

    ids = render(tokenizer, persona_messages("Be.", "Why?", "user")).ids

    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1


def test_a_model_that_wants_no_bos_gets_none(loaded):
    tokenizer = loaded("qwen2").tokenizer

    ids = render(tokenizer, persona_messages("Be.", "Why?", "system")).ids

    assert tokenizer.bos_token_id not in ids


def test_a_model_without_a_template_gets_the_bare_texts():
    tokenizer = make_tokenizer(None, bos=True)

    assert render(tokenizer, persona_messages("Be.", "Why?", "user")).text == "Be.\n\nWhy?\n\n"
    chat = find_chat_format(tokenizer, "base", {})
    assert resolve_persona_role(chat, "base", "auto") == "user"


def test_an_answer_that_spells_a_special_token_stays_text(loaded):
    tokenizer = loaded("llama").tokenizer

    ids = encode_response(tokenizer, "no<|end|>no")

    assert tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids) == "no<|end|>no"


def test_a_prompt_that_is_too_long_is_refused_with_both_lengths(loaded):
    model = loaded("llama")

    with pytest.raises(UserError) as raised:
        check_length(model, Prompt("", tuple(range(500))), 20)

    assert (
        raised.value.cause
        == "500 prompt tokens and 20 new ones exceed the 512 tokens of tiny-llama"
    )
    assert raised.value.fix == "shorten it by 8 tokens, or lower max_new_tokens"
