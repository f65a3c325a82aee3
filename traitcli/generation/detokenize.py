"""Turns token ids into texts that join to the response, whole characters only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_INCOMPLETE = "\ufffd"


class Detokenizer:
    """Decodes a response one token at a time.

    A token that is part of a character gives "" until the character is whole. Looks back over the
    undecoded tail only, so it takes linear time.
    """

    def __init__(self, tokenizer: Any, *, specials: bool = False) -> None:
        """`specials`: show special tokens too, which are no part of an answer."""
        self._tokenizer = tokenizer
        self._specials = specials
        self._ids: list[int] = []
        self._shown_from = 0
        self._shown_to = 0

    def feed(self, token: int) -> str:
        """The text that this token adds."""
        self._ids.append(token)
        now = self._new_text()
        if now.endswith(_INCOMPLETE):
            return ""
        self._shown_from, self._shown_to = self._shown_to, len(self._ids)
        return now

    def flush(self) -> str:
        """What is left when no token follows: half a character comes out as U+FFFD."""
        left = self._new_text()
        self._shown_from = self._shown_to = len(self._ids)
        return left

    def _new_text(self) -> str:
        before = self._text(self._ids[self._shown_from : self._shown_to])
        return self._text(self._ids[self._shown_from :])[len(before) :]

    def _text(self, ids: list[int]) -> str:
        if not ids:
            return ""
        options = {"skip_special_tokens": not self._specials, "clean_up_tokenization_spaces": False}
        return str(self._tokenizer.decode(ids, **options))


def token_texts(tokenizer: Any, ids: Iterable[int], *, specials: bool = False) -> list[str]:
    """One text for each token; joined they are the response."""
    detokenizer = Detokenizer(tokenizer, specials=specials)
    texts = [detokenizer.feed(token) for token in ids]
    if texts:
        texts[-1] += detokenizer.flush()
    return texts
