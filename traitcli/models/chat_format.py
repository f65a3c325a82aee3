"""Finds out by trying what a chat template does with the texts that it gets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from traitcli.errors import ModelError, suggest

Message = dict[str, str]

_SYSTEM, _USER, _ANSWER, _LATER = (
    # Long, because a template may cut.
    f"MARK-{word} {'and so on ' * 40}MARK-end"
    for word in ("system", "user", "answer", "later")
)
_DELICATE = 'Mark <b> & "Ä" é 😀'
"""Characters that a template may escape, drop or change."""


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How messages are written with a model's chat template.

    options       arguments of the template, such as enable_thinking
    as_parts      content goes in as a list of parts, because a plain string gets lost
    shows_system  whether a system message and the question after it are both shown
    shows_answers whether earlier answers of the model are shown
    alters        whether texts arrive changed
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    as_parts: bool = False
    shows_system: bool = False
    shows_answers: bool = True
    alters: bool = False

    def apply(self, tokenizer: Any, messages: Sequence[Message], **more: Any) -> str:
        """The text that the template makes of messages; raises whatever the template raises."""
        chat: Sequence[Mapping[str, Any]] = messages
        if self.as_parts:
            chat = [
                {**message, "content": [{"type": "text", "text": message["content"]}]}
                for message in messages
            ]
        text: str = tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True, **{**more, **self.options}
        )
        return text


def find_chat_format(tokenizer: Any, name: str, options: Mapping[str, Any]) -> ChatFormat:
    """Render marked messages, and see which of their texts arrive.

    Content is a plain string if the user's text then arrives, else a list of parts. Raises
    ModelError if the user's text arrives in neither form, or if there is no template to choose.
    """
    if not tokenizer.chat_template:
        return ChatFormat(options, shows_answers=True)
    _check_default(tokenizer, name)

    user = {"role": "user", "content": _USER}
    problem = f"the chat template of {name} drops the user's text"
    reason = "a text that was tried is not in the prompt that it writes"
    for as_parts in (False, True):
        chat = ChatFormat(options, as_parts)
        try:
            text = chat.apply(tokenizer, [user])
        # A template is a program: it may raise anything.
        except Exception as error:  # noqa: BLE001 - the reason is kept, and shown below
            if not as_parts:
                problem = f"the chat template of {name} fails"
                reason = f"it raises {type(error).__name__}: {error}"
            continue
        # A template that knows no parts may write the list as Python shows it.
        if _USER in text and "'type'" not in text:
            return _complete(tokenizer, chat)
        if not as_parts and _USER.lower() in text.lower():
            problem = f"the chat template of {name} changes the user's text"
            reason = "it writes capital letters small, or small ones large"
    raise ModelError(
        problem,
        cause=reason,
        fix="correct chat_template.jinja in the model's folder, or use another model",
    )


def _check_default(tokenizer: Any, name: str) -> None:
    templates = tokenizer.chat_template
    if isinstance(templates, Mapping) and "default" not in templates:
        raise ModelError(
            f"{name} has several chat templates and none is the default",
            cause=f"their names are {', '.join(sorted(templates))}",
            fix="save one of them as chat_template.jinja in the model's folder",
        )


def _complete(tokenizer: Any, chat: ChatFormat) -> ChatFormat:
    """Add what the template does with system messages, answers and delicate characters."""
    user = {"role": "user", "content": _USER}
    answer = {"role": "assistant", "content": _ANSWER}
    later = {"role": "user", "content": _LATER}

    def arrives(messages: Sequence[Message], *marks: str) -> bool:
        try:
            text = chat.apply(tokenizer, messages)
        except Exception:  # noqa: BLE001 - then they do not arrive
            return False
        return all(mark in text for mark in marks)

    shows_system = arrives([{"role": "system", "content": _SYSTEM}, user], _SYSTEM, _USER)
    return replace(
        chat,
        shows_system=shows_system,
        shows_answers=arrives([user, answer, later], _USER, _ANSWER, _LATER),
        alters=not arrives([{"role": "user", "content": _DELICATE}], _DELICATE),
    )


def unknown_options(tokenizer: Any, options: Mapping[str, Any]) -> list[str]:
    """A sentence for each option that the chat template does not read."""
    templates = tokenizer.chat_template or ""
    text = " ".join(templates.values()) if isinstance(templates, Mapping) else str(templates)
    words = set(re.findall(r"[A-Za-z_]{3,}", text))
    found = []
    for name in options:
        if name not in words:
            hint = suggest(name, sorted(words))
            found.append(f"the chat template does not read {name}" + (f"; {hint}" if hint else ""))
    return found


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """What a user of a chat template should know.

    content       string, or parts
    system        whether a system message is shown
    answers       whether earlier answers are shown
    alters        whether texts arrive changed
    thinking      "always" if it opens a thinking part itself, "optional" if it reads
                  enable_thinking, else ""
    added         the text that it adds by itself, such as a default system message
    """

    content: str
    system: bool
    answers: bool
    alters: bool
    thinking: str
    added: str


def template_facts(tokenizer: Any, chat: ChatFormat, opens: Callable[[str], bool]) -> TemplateFacts:
    """The facts about a template; `opens` tells whether a prompt ends inside a thinking part."""
    text = chat.apply(tokenizer, [{"role": "user", "content": _USER}])
    thinking = "optional" if not unknown_options(tokenizer, {"enable_thinking": 0}) else ""
    if opens(text):
        thinking = "always"
    special = sorted(map(re.escape, tokenizer.all_special_tokens), key=len, reverse=True)
    added = re.sub("|".join([_USER, *special]), " ", text)
    return TemplateFacts(
        content="parts" if chat.as_parts else "string",
        system=chat.shows_system,
        answers=chat.shows_answers,
        alters=chat.alters,
        thinking=thinking,
        added=" ".join(added.split()),
    )
