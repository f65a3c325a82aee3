"""Expand a tree of tokens to find how probable it is that a reply states each answer of a scale.

Most open models write 85 as the tokens '8', '5', so the first token alone is not the answer.

    (start) ─┬─ '8' ─┬─ '5'             85
             │       └─ no digit         8
             ├─ '1' ─── '0' ─┬─ '0'    100
             │               └─ no digit 10
             └─ whitespace ─┬─ '8' …     the same once more

An answer a is a number or a word, and P(a) is the probability that the reply begins with a. Likely
whitespace before it is skipped. If a longer answer begins with a (8 and 85; 10 and 100), P(a) is
the probability that no further digit or letter follows. Numbers have no leading zeros. The single
token '150' is not an answer on 0–100, and it does not count as 15 either.

The expansion works with any tokenizer: a token may hold several digits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from traitcli.judging.scales import Scale

MIN_PROBABILITY = 1e-5
"""Paths less probable than this are not expanded."""
MIN_WHITESPACE_PROBABILITY = 0.01
"""The same for whitespace before the answer, after which the whole tree is expanded again."""
MAX_WHITESPACE = 2
"""The most whitespace tokens before the answer."""

Path = tuple[int, tuple[int, ...]]
"""The index of a reply, and the token ids written of it."""
NextTokens = Callable[[Sequence[Path]], Sequence[Sequence[float]]]
"""Paths of one length -> probability of each of `AnswerTokens.ids` as next token: [paths, K]."""

_ANSWERS: Mapping[Scale, Sequence[str]] = {
    "0_100": list(map(str, range(101))),
    "0_10": list(map(str, range(10))),
    "binary": ["YES", "NO"],
}
# Models asked for 0 to 9 may still write 10 for the highest value. It must not count as 1.
_OFF_SCALE: Mapping[Scale, Sequence[str]] = {"0_10": ["10"]}
_NUMBER = re.compile(r"(\s*)([0-9]+)(.*)", re.DOTALL)
_WORD = re.compile(r"(\s*)([A-Za-z]+)(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Token:
    """A token that is part of an answer.

    index        its index in `AnswerTokens.ids`
    text         its digits, or its letters in upper case
    ends_answer  it goes on with something else, so no digit or letter can follow
    """

    index: int
    text: str
    ends_answer: bool


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """The tokens that matter on a scale.

    ids         K token ids, those whose probabilities are needed
    answers     what a reply can state
    unfinished  texts that an answer can begin with and that are not all of it
    first       tokens that an answer can begin with
    next        tokens that can follow the beginning of an answer
    continuing  indices of all tokens that begin with a digit (a letter), on the scale or not
    whitespace  indices of the tokens that are only whitespace
    """

    ids: tuple[int, ...]
    answers: frozenset[str]
    unfinished: frozenset[str]
    first: tuple[Token, ...]
    next: tuple[Token, ...]
    continuing: tuple[int, ...]
    whitespace: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Node:
    """The beginning of a reply: its tokens, their digits or letters, and their probability."""

    reply: int
    ids: tuple[int, ...]
    text: str
    probability: float


def expand_digit_tree(
    replies: int,
    tokens: AnswerTokens,
    next_tokens: NextTokens,
    min_probability: float = MIN_PROBABILITY,
) -> list[dict[str, float]]:
    """Return answer -> probability for each reply.

    `next_tokens` is called once for each level of the tree, with the paths of all replies.

    Paths less probable than `min_probability` are left out. If they and the answers missed with
    them have probability m, at most `min_probability` times their number, then an expected value
    over the found mass M is off by less than 100·m / M points: with twenty such paths, 0.02 points
    at M = 1 and 0.08 at M = 0.25, the least that gives a score.
    """
    found: list[dict[str, float]] = [{} for _ in range(replies)]
    nodes = [_Node(reply, (), "", 1.0) for reply in range(replies)]
    while nodes:
        probabilities = next_tokens([(node.reply, node.ids) for node in nodes])
        children: list[_Node] = []
        for node, following in zip(nodes, probabilities, strict=True):
            children += _expand(node, following, tokens, found[node.reply], min_probability)
        nodes = children
    return found


def _expand(
    node: _Node,
    following: Sequence[float],
    tokens: AnswerTokens,
    found: dict[str, float],
    min_probability: float,
) -> Iterator[_Node]:
    """Add the answers that end here to `found`, and yield the nodes that are still open.

    `following` [K] are the probabilities of the next token.
    """
    if node.text in tokens.answers:
        continues = math.fsum(following[index] for index in tokens.continuing)
        # Rounding can bring the sum above 1.
        ends = node.probability * max(0.0, 1 - continues)
        found[node.text] = found.get(node.text, 0.0) + ends

    for token in tokens.next if node.text else tokens.first:
        text = node.text + token.text
        probability = node.probability * following[token.index]
        if text in tokens.unfinished and not token.ends_answer:
            if probability >= min_probability:
                ids = (*node.ids, tokens.ids[token.index])
                yield _Node(node.reply, ids, text, probability)
        elif text in tokens.answers:
            found[text] = found.get(text, 0.0) + probability

    if not node.text and len(node.ids) < MAX_WHITESPACE:
        for index in tokens.whitespace:
            probability = node.probability * following[index]
            if probability >= MIN_WHITESPACE_PROBABILITY:
                yield _Node(node.reply, (*node.ids, tokens.ids[index]), "", probability)


def build_answer_tokens(scale: Scale, texts: Sequence[str]) -> AnswerTokens:
    """Find the tokens that matter on a scale.

    `texts[i]` is what token i writes in the middle of a text; see `vocabulary_texts`.
    """
    answers = frozenset(_ANSWERS[scale])
    texts_on_the_way = [*answers, *_OFF_SCALE.get(scale, ())]
    unfinished = frozenset(text[:end] for text in texts_on_the_way for end in range(1, len(text)))
    parts = answers | unfinished
    # Only if an answer is the beginning of another one does it matter what follows it.
    is_ambiguous = bool(answers & unfinished)

    pattern = _WORD if scale == "binary" else _NUMBER
    ids: list[int] = []
    first, following, continuing, whitespace = [], [], [], []
    for token_id, text in enumerate(texts):
        index = len(ids)
        match = pattern.match(text)
        if match is None:
            if text.isspace():
                whitespace.append(index)
                ids.append(token_id)
            continue

        space, content, rest = match.groups()
        token = Token(index, content.upper(), ends_answer=bool(rest))
        can_begin = token.text in parts
        can_follow = not space and any(start + token.text in parts for start in unfinished)
        can_continue = is_ambiguous and not space
        if can_begin or can_follow or can_continue:
            ids.append(token_id)
        if can_begin:
            first.append(token)
        if can_follow:
            following.append(token)
        if can_continue:
            continuing.append(index)

    return AnswerTokens(
        ids=tuple(ids),
        answers=answers,
        unfinished=unfinished,
        first=tuple(first),
        next=tuple(following),
        continuing=tuple(continuing),
        whitespace=tuple(whitespace),
    )


def vocabulary_texts(tokenizer: Any) -> list[str]:
    """Return what each token writes in the middle of a text; '' for special tokens."""
    # Decoded alone, a token can lose its leading space ('▁85'), and a byte token ('<0x38>') can
    # fail to become a digit. Behind another token neither happens.
    anchor: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    sequences = [anchor, *([*anchor, token_id] for token_id in range(len(tokenizer)))]
    decoded: list[str] = tokenizer.batch_decode(
        sequences, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    before, *after = decoded
    return [text.removeprefix(before) for text in after]
