"""Turns token ids into texts that join to the response, whole characters only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

INCOMPLETE = "\ufffd"
"""What a tokenizer writes for a part of a character."""


class Detokenizer:
    """Decodes a response one token at a time.

    A token that is part of a character gives "" until the character is complete. Each call decodes
    only the last few tokens, so a response takes linear time.

    Example:
        detokenizer = Detokenizer(tokenizer)
        texts = [detokenizer.feed(token) for token in ids]
        texts[-1] += detokenizer.flush()
    """

    def __init__(self, tokenizer: Any, *, specials: bool = False) -> None:
        """`specials`: show special tokens too, which are not part of an answer."""
        self._tokenizer = tokenizer
        self._specials = specials
        self._ids: list[int] = []
        # Tokens before `_pending_from` are shown. Those from `_context_from` on are decoded again
        # as context: a token's text, its leading space above all, depends on the one before it.
        self._context_from = 0
        self._pending_from = 0

    def feed(self, token: int) -> str:
        """The text that this token adds."""
        self._ids.append(token)
        text = self._new_text()
        if text.endswith(INCOMPLETE):
            return ""
        self._context_from, self._pending_from = self._pending_from, len(self._ids)
        return text

    def flush(self) -> str:
        """The text of tokens that wait for more; an incomplete character becomes U+FFFD."""
        text = self._new_text()
        self._context_from = self._pending_from = len(self._ids)
        return text

    def _new_text(self) -> str:
        context = self._decode(self._ids[self._context_from : self._pending_from])
        whole = self._decode(self._ids[self._context_from :])
        return whole[len(context) :]

    def _decode(self, ids: list[int]) -> str:
        if not ids:
            return ""
        # Cleaning up spaces would change text that was shown already.
        options = {"skip_special_tokens": not self._specials, "clean_up_tokenization_spaces": False}
        return str(self._tokenizer.decode(ids, **options))


def token_texts(tokenizer: Any, ids: Iterable[int], *, specials: bool = False) -> list[str]:
    """One text for each token; joined they are the response."""
    detokenizer = Detokenizer(tokenizer, specials=specials)
    texts = [detokenizer.feed(token) for token in ids]
    if texts:
        texts[-1] += detokenizer.flush()
    return texts
