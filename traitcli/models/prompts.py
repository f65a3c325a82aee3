"""Turns messages into the exact tokens a model expects, with the persona where it takes effect."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from traitcli.errors import ModelError, UserError

if TYPE_CHECKING:
    from traitcli.models.loaded import LoadedModel

PersonaRole = Literal["auto", "system", "user"]
Message = dict[str, str]
_INERT = str.maketrans({"<": "‹", ">": "›", "[": "⟦", "]": "⟧"})


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt: the text with its template, and its token ids with exactly one BOS."""

    text: str
    ids: tuple[int, ...]


def persona_messages(
    persona: str, question: str, place: Literal["system", "user"]
) -> list[Message]:
    """The two messages of a rollout's prompt, or the one for models without a system role."""
    if place == "user":
        return [{"role": "user", "content": f"{persona}\n\n{question}"}]
    return [{"role": "system", "content": persona}, {"role": "user", "content": question}]


def resolve_persona_role(
    tokenizer: Any, name: str, place: PersonaRole
) -> Literal["system", "user"]:
    """'auto' -> system when the chat template shows a system message beside the question, else user.

    A template that raises on a system role (Gemma) or drops it in silence would otherwise make
    both polarities the same prompt. Raises ModelError when 'system' is asked for and cannot work.
    """
    if place == "user":
        return "user"
    shown = shows_system(tokenizer)
    if place == "system" and not shown:
        raise ModelError(
            f"{name} shows no system message",
            cause="its chat template refuses or drops the system role: both personas would be the same prompt",
            fix="set model.persona_in to user or auto",
        )
    return "system" if shown else "user"


def conversation(
    loaded: LoadedModel, system: str | None, messages: Sequence[Message]
) -> tuple[list[Message], tuple[str, ...]]:
    """Messages behind a system message, which goes into the first one where the chat template has no place for it.

    Returns them with what a reader should know. What a model has written holds no special tokens.
    """
    made = [
        message | {"content": without_specials(loaded.tokenizer, message["content"])}
        if message["role"] == "assistant"
        else dict(message)
        for message in messages
    ]
    if not system:
        return made, ()
    if shows_system(loaded.tokenizer):
        return [{"role": "system", "content": system}, *made], ()
    made[0]["content"] = f"{system}\n\n{made[0]['content']}"
    return made, (f"{loaded.name} has no system message: it stands before the first one",)


def render(tokenizer: Any, messages: list[Message], *, thinking: bool = True) -> Prompt:
    """Apply the chat template and tokenise; a model without a template gets the bare texts.

    Not `thinking` asks the template for an answer at once, which those of reasoning models understand
    and others ignore.
    """
    if tokenizer.chat_template:
        wishes = {} if thinking else {"enable_thinking": False}
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **wishes
        )
    else:
        text = "\n\n".join(message["content"] for message in messages) + "\n\n"
    return raw_prompt(tokenizer, text)


def raw_prompt(tokenizer: Any, text: str) -> Prompt:
    """Tokenise a prompt that has its template already, or wants none."""
    return Prompt(text, tuple(_with_one_bos(tokenizer, text)))


def encode_response(tokenizer: Any, text: str) -> list[int]:
    """Token ids of an answer; text that looks like a special token stays text."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def without_specials(tokenizer: Any, text: str) -> str:
    """The text with special tokens made look-alikes: a chat template's tokens are only its own."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    if not special:
        return text
    longest_first = "|".join(map(re.escape, sorted(special, key=len, reverse=True)))
    return re.sub(longest_first, lambda token: _look_alike(token[0]), text)


def check_length(loaded: LoadedModel, prompt: Prompt, new_tokens: int) -> None:
    """Raise UserError when a prompt and its answer do not fit the model's context."""
    have = len(prompt.ids)
    if have + new_tokens > loaded.context:
        raise UserError(
            "the prompt is too long",
            cause=f"{have} prompt tokens and {new_tokens} new ones, where {loaded.name} holds {loaded.context}",
            fix=f"shorten it by {have + new_tokens - loaded.context} tokens, or lower max_new_tokens",
        )


def _look_alike(token: str) -> str:
    changed = token.translate(_INERT)
    return changed if changed != token else f"{token[0]} {token[1:]}"


def shows_system(tokenizer: Any) -> bool:
    """Whether the chat template shows a system message beside a question."""
    from jinja2.exceptions import TemplateError

    if not tokenizer.chat_template:
        return False
    try:
        text = render(tokenizer, persona_messages("PERSONA-MARK", "QUESTION-MARK", "system")).text
    except TemplateError:
        return False
    return "PERSONA-MARK" in text and "QUESTION-MARK" in text


def _with_one_bos(tokenizer: Any, text: str) -> list[int]:
    """Templates usually hold BOS, so it is added only where the tokenizer would and the text has none."""
    bos = tokenizer.bos_token_id
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    default: list[int] = tokenizer("a")["input_ids"]
    if bos is None:
        return ids
    if default[:1] == [bos] and ids[:1] != [bos]:
        return [bos, *ids]
    while len(ids) > 1 and ids[0] == ids[1] == bos:
        ids = ids[1:]
    return ids
