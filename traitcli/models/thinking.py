"""Recognizes the thinking part of an answer: what a reasoning model writes before it replies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<reasoning>", "</reasoning>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""How models open and close it: DeepSeek R1, Qwen 3 and SmolLM3; Magistral; Seed; Command A;
gpt-oss."""

_OPEN = re.compile("|".join(re.escape(mark) for mark, _ in MARKS), re.IGNORECASE)
_CLOSE = re.compile("|".join(re.escape(mark) for _, mark in MARKS), re.IGNORECASE)


def opens_thinking(prompt: str) -> bool:
    """Whether a prompt ends inside a thinking part, because its chat template opens one."""
    opened = [match.end() for match in _OPEN.finditer(prompt)]
    closed = [match.end() for match in _CLOSE.finditer(prompt)]
    return bool(opened) and (not closed or opened[-1] > closed[-1])


def thinking_end(response: str, *, opened: bool = False) -> int:
    """How many characters of a response are thinking, its closing mark included.

    The opening mark may be missing: the chat template wrote it, or it was lost. A thinking part
    that is never closed is the whole response.

    Args:
        response: the text that the model wrote.
        opened: whether the prompt before it ends inside a thinking part.
    """
    closed = [match.end() for match in _CLOSE.finditer(response)]
    begins_open = opened or bool(_OPEN.match(response.lstrip()))
    if not closed:
        return len(response) if begins_open else 0
    return closed[-1]


def thinking_tokens(tokens: Sequence[str], *, opened: bool = False) -> int:
    """How many of the first tokens are thinking; the tokens joined are the response."""
    end = thinking_end("".join(tokens), opened=opened)
    ends = accumulate(map(len, tokens))
    # A token that begins inside the part belongs to it.
    return sum(stop - len(token) < end for token, stop in zip(tokens, ends, strict=True))


def thinking_after(tokenizer: Any, prompt: Sequence[int], tokens: Sequence[str]) -> int:
    """How many of the first tokens of a response to a prompt (token ids) are thinking."""
    return thinking_tokens(tokens, opened=opens_thinking(tokenizer.decode(prompt)))
