"""The bytes that a token stands for: a token may be part of a character."""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"
"""How sentencepiece writes a space."""


class TokenBytes:
    """Token -> bytes, for tokenizers of the library `tokenizers`.

    Args:
        tokenizer: Of transformers. One that is not of that library gives whole characters only.

    Example:
        TokenBytes(tokenizer)(1234)
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        decoder = json.loads(backend.to_str()).get("decoder") if backend is not None else None
        self._is_byte_level = "ByteLevel" in json.dumps(decoder)
        self._added = {int(token): str(added) for token, added in _added(tokenizer)}

    def __call__(self, token: int) -> bytes:
        """The bytes of a token; () for one that the tokenizer does not know."""
        if token in self._added:
            return self._added[token].encode()
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:
            return b""
        if self._is_byte_level:
            return b"".join(self._bytes_of.get(letter, letter.encode()) for letter in piece)
        if found := _BYTE.fullmatch(piece):
            return bytes([int(found[1], 16)])
        return str(piece).replace(_SPACE, " ").encode()

    @cached_property
    def _bytes_of(self) -> dict[str, bytes]:
        """GPT-2's letters for bytes: those that can be printed stand for themselves."""
        printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
        letters = {byte: chr(byte) for byte in printed}
        others = [byte for byte in range(256) if byte not in letters]
        letters |= {byte: chr(256 + number) for number, byte in enumerate(others)}
        return {letter: bytes([byte]) for byte, letter in letters.items()}


def _added(tokenizer: Any) -> list[tuple[Any, Any]]:
    return list(getattr(tokenizer, "added_tokens_decoder", {}).items())
