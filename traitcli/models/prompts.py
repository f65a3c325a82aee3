"""Turns messages into the exact tokens a model expects, with the persona where it takes effect."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from traitcli.errors import ModelError, UserError
from traitcli.models.chat_format import ChatFormat, Message, unknown_options

if TYPE_CHECKING:
    from traitcli.models.loaded import LoadedModel

PersonaRole = Literal["auto", "system", "user"]

LOOK_ALIKES = str.maketrans({"<": "‹", ">": "›", "[": "⟦", "]": "⟧"})
"""For text that must not be read as markup: a model still sees what it says."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt: the text with its template, and its token ids with exactly one BOS."""

    text: str
    ids: tuple[int, ...]


def persona_messages(persona: str, question: str, role: Literal["system", "user"]) -> list[Message]:
    """The messages of a rollout's prompt: two, or one if the persona goes into the user turn."""
    if role == "user":
        return [{"role": "user", "content": f"{persona}\n\n{question}"}]
    return [{"role": "system", "content": persona}, {"role": "user", "content": question}]


def resolve_persona_role(
    chat: ChatFormat, name: str, role: PersonaRole
) -> Literal["system", "user"]:
    """Where the persona goes; 'auto' is system if the chat template shows a system message.

    Some templates reject a system message (Gemma), others drop it without an error. The prompts of
    both polarities would then be equal. Raises ModelError if 'system' is asked for and cannot work.
    """
    if role == "user":
        return "user"
    if role == "system" and not chat.shows_system:
        raise ModelError(
            f"{name} cannot show a system message",
            cause=(
                "its chat template rejects or drops the system role: "
                "both personas would give the same prompt"
            ),
            fix="set model.persona_in to user or auto",
        )
    return "system" if chat.shows_system else "user"


def chat_notes(loaded: LoadedModel) -> list[str]:
    """What a user should know of the chat template before the model is used."""
    notes = unknown_options(loaded.tokenizer, loaded.chat.options)
    if loaded.chat.alters:
        notes.append(f"the chat template of {loaded.name} changes some characters of the texts")
    return notes


def conversation(
    loaded: LoadedModel, system: str | None, messages: Sequence[Message]
) -> tuple[list[Message], tuple[str, ...]]:
    """Put a system message before others; without a system role it goes into the first of them.

    Returns the messages, and notes for the user. Special tokens in assistant messages become
    ordinary text.
    """
    result = []
    for message in messages:
        changed = dict(message)
        if message["role"] == "assistant":
            changed["content"] = without_specials(loaded.tokenizer, message["content"])
        result.append(changed)

    notes: tuple[str, ...] = ()
    answers = any(message["role"] == "assistant" for message in result)
    if len(result) > 1 and loaded.tokenizer.chat_template and not loaded.chat.shows_answers:
        earlier = "its earlier answers" if answers else "earlier messages"
        notes = (f"{loaded.name} does not see {earlier}: its chat template drops them",)
    if not system:
        return result, notes
    if loaded.chat.shows_system:
        return [{"role": "system", "content": system}, *result], notes
    # As `persona_messages` does it, so that a system message works like a persona.
    result[0]["content"] = f"{system}\n\n{result[0]['content']}"
    note = f"{loaded.name} has no system role: the system message is in the first user message"
    return result, (*notes, note)


def render(
    tokenizer: Any,
    messages: list[Message],
    chat: ChatFormat | None = None,
    *,
    thinking: bool = True,
) -> Prompt:
    """Apply the chat template and tokenize; a model without a template gets the plain texts.

    Without `thinking`, the template is asked for an answer at once. Templates of reasoning models
    understand this, others ignore it. Raises ModelError with what the template raises.
    """
    # A base model has no template: it continues a plain text.
    if not tokenizer.chat_template:
        return raw_prompt(
            tokenizer, "\n\n".join(message["content"] for message in messages) + "\n\n"
        )
    options = {} if thinking else {"enable_thinking": False}
    try:
        text = (chat or ChatFormat()).apply(tokenizer, messages, **options)
    # A template is a program: it may raise anything.
    except Exception as error:
        raise ModelError(
            "the chat template refuses these messages",
            cause=str(error) or type(error).__name__,
            fix="change their roles or their order; many templates want user and assistant in turn",
        ) from error
    return raw_prompt(tokenizer, text)


def raw_prompt(tokenizer: Any, text: str) -> Prompt:
    """Tokenize a prompt that has its template already, or needs none."""
    return Prompt(text, tuple(_with_one_bos(tokenizer, text)))


def encode_response(tokenizer: Any, text: str) -> list[int]:
    """Token ids of an answer; text that looks like a special token stays text."""
    # Without its own BOS, because the prompt before it has one already.
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True)
    return list(encoded["input_ids"])


def without_specials(tokenizer: Any, text: str) -> str:
    """Replace special tokens in a text by look-alikes.

    Only the chat template may write special tokens: others could end a message early.
    """
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    if not special:
        return text
    # Longest first, because one special token may begin with another.
    longest_first = sorted(special, key=len, reverse=True)
    pattern = "|".join(map(re.escape, longest_first))
    return re.sub(pattern, lambda match: _look_alike(match[0]), text)


def check_length(loaded: LoadedModel, prompt: Prompt, new_tokens: int) -> None:
    """Raise UserError if a prompt and `new_tokens` do not fit in the model's context."""
    prompt_tokens = len(prompt.ids)
    excess = prompt_tokens + new_tokens - loaded.context
    if excess > 0:
        raise UserError(
            "the prompt is too long",
            cause=(
                f"{prompt_tokens} prompt tokens and {new_tokens} new ones "
                f"exceed the {loaded.context} tokens of {loaded.name}"
            ),
            fix=f"shorten it by {excess} tokens, or lower max_new_tokens",
        )


def _look_alike(token: str) -> str:
    changed = token.translate(LOOK_ALIKES)
    return changed if changed != token else f"{token[0]} {token[1:]}"


def _with_one_bos(tokenizer: Any, text: str) -> list[int]:
    """Token ids with one BOS if the tokenizer uses one.

    Most templates contain BOS, and a tokenizer that adds its own would double it.
    """
    bos = tokenizer.bos_token_id
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    # What this tokenizer adds to a text by itself: some have a BOS token and do not use it.
    default: list[int] = tokenizer("a")["input_ids"]
    if bos is None:
        return ids
    if default[:1] == [bos] and ids[:1] != [bos]:
        return [bos, *ids]
    while len(ids) > 1 and ids[0] == ids[1] == bos:
        ids = ids[1:]
    return ids
