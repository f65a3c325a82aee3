"""Walks the answers of a scale token by token: how probable is it that a reply states each of them?

Most open models write 85 as '8', '5', so the first token alone is not the answer. An answer of a
scale is a number or a word. For an answer a, P(a) is the probability that the reply, after blanks
that the model is likely to begin with, begins with a, and, where a longer answer of the scale
begins with a (8 and 85; 10 and 100), that no further digit or letter follows it. Numbers are
written without leading zeros; '150' in one token is no answer on 0–100, and not 15 either.

This holds for any tokenizer: a node of the walk is what has been written so far, and tokens that
are digits lead from one node to the next, several at a time if they come so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from traitcli.judging.scales import Scale

LEAST = 1e-5
"""What is less likely to have been written than this is not followed."""
LEAST_BLANK = 0.01
"""The same for blanks before the answer."""
MAX_BLANKS = 2
"""Tokens of blanks before the answer, at most."""

Path = tuple[int, tuple[int, ...]]
"""Which reply, and the tokens written of it."""
Ask = Callable[[Sequence[Path]], Sequence[Sequence[float]]]
"""For paths of one length, the probability of each of `AnswerTokens.tokens` as the next token: [paths, K]."""

_ANSWERS: Mapping[Scale, Sequence[str]] = {
    "0_100": [str(number) for number in range(101)],
    "0_10": [str(number) for number in range(10)],
    "binary": ["YES", "NO"],
}
_NO_ANSWERS: Mapping[Scale, Sequence[str]] = {"0_10": ["10"]}
"""Likely to be said off the scale, and not to be taken for their beginning: 10 for the highest, say."""
_NUMBER = re.compile(r"(\s*)([0-9]+)(.*)", re.DOTALL)
_WORD = re.compile(r"(\s*)([A-Za-z]+)(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Piece:
    """A token that an answer can be written with.

    index  its place in `AnswerTokens.tokens`
    text   its digits, or its letters as capitals
    ends   whether it goes on with something else, so that nothing can be added to `text`
    """

    index: int
    text: str
    ends: bool


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """The tokens that matter on a scale.

    tokens      K token ids, the ones to ask probabilities of
    answers     what a reply can state
    unfinished  what an answer can begin with without being the whole of it
    opening     pieces that can stand first
    more        pieces that can be added to what is written
    goes_on     places of all tokens that begin with a digit (a letter), on the scale or off it
    blanks      places of the tokens that are nothing but blanks
    """

    tokens: tuple[int, ...]
    answers: frozenset[str]
    unfinished: frozenset[str]
    opening: tuple[Piece, ...]
    more: tuple[Piece, ...]
    goes_on: tuple[int, ...]
    blanks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Node:
    """Tokens written of a reply, their digits or letters without blanks, and how probable they are."""

    reply: int
    tokens: tuple[int, ...]
    text: str
    p: float


def walk(
    replies: int, lexicon: AnswerTokens, ask: Ask, least: float = LEAST
) -> list[dict[str, float]]:
    """For each reply the probability of every answer that it may state, in one `ask` for each level.

    Paths less likely than `least` are left out. Where they and the answers missed with them have
    probability m, at most `least` times their number, an expected value over the mass M that was
    found is off by less than 100·m / M points: with twenty such paths, 0.02 points at M = 1 and
    0.08 at M = 0.25, the least that gives a score.
    """
    found: list[dict[str, float]] = [{} for _ in range(replies)]
    nodes = [_Node(reply, (), "", 1.0) for reply in range(replies)]
    while nodes:
        rows = ask([(node.reply, node.tokens) for node in nodes])
        nodes = [
            follower
            for node, row in zip(nodes, rows, strict=True)
            for follower in _step(node, row, lexicon, found[node.reply], least)
        ]
    return found


def _step(
    node: _Node, row: Sequence[float], lexicon: AnswerTokens, found: dict[str, float], least: float
) -> Iterator[_Node]:
    """Add to `found` what the next token settles, and yield what it leaves open."""
    if node.text in lexicon.answers:
        goes_on = math.fsum(row[index] for index in lexicon.goes_on)
        found[node.text] = found.get(node.text, 0.0) + node.p * max(0.0, 1 - goes_on)
    for piece in lexicon.more if node.text else lexicon.opening:
        text, p = node.text + piece.text, node.p * row[piece.index]
        if text in lexicon.unfinished and not piece.ends:
            if p >= least:
                yield _Node(node.reply, (*node.tokens, lexicon.tokens[piece.index]), text, p)
        elif text in lexicon.answers:
            found[text] = found.get(text, 0.0) + p
    if not node.text and len(node.tokens) < MAX_BLANKS:
        for index in lexicon.blanks:
            if (p := node.p * row[index]) >= LEAST_BLANK:
                yield _Node(node.reply, (*node.tokens, lexicon.tokens[index]), "", p)


def build_answer_tokens(scale: Scale, texts: Sequence[str]) -> AnswerTokens:
    """The tokens that matter on a scale, where token i writes `texts[i]` in the middle of a text."""
    pattern = _WORD if scale == "binary" else _NUMBER
    answers = frozenset(_ANSWERS[scale])
    longer = [*answers, *_NO_ANSWERS.get(scale, ())]
    unfinished = frozenset(text[:end] for text in longer for end in range(1, len(text)))
    parts = answers | unfinished
    checked = bool(answers & unfinished)
    tokens: list[int] = []
    opening, more, goes_on, blanks = [], [], [], []
    for token, text in enumerate(texts):
        found = pattern.match(text)
        if not found:
            if text.isspace():
                blanks.append(len(tokens))
                tokens.append(token)
            continue
        piece = Piece(len(tokens), found[2].upper(), bool(found[3]))
        opens = piece.text in parts
        adds = not found[1] and any(start + piece.text in parts for start in unfinished)
        follows = checked and not found[1]
        if opens or adds or follows:
            tokens.append(token)
            opening += [piece] * opens
            more += [piece] * adds
            goes_on += [piece.index] * follows
    return AnswerTokens(
        tuple(tokens),
        answers,
        unfinished,
        tuple(opening),
        tuple(more),
        tuple(goes_on),
        tuple(blanks),
    )


def token_texts(tokenizer: Any) -> list[str]:
    """What each token writes in the middle of a text; '' for special ones.

    In the middle, because decoders leave out a blank at the beginning ('▁85') and put bytes
    together ('<0x38>').
    """
    anchor: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    decoded: list[str] = tokenizer.batch_decode(
        [anchor, *([*anchor, token] for token in range(len(tokenizer)))],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    before, *after = decoded
    return [text.removeprefix(before) for text in after]
