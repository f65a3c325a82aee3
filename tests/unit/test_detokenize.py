"""Token texts join to the response, for byte-level and sentencepiece-like tokens."""

from __future__ import annotations

import pytest

from traitcli.generation.detokenize import Detokenizer, token_texts

TEXT = "I cannot – 你好, 世界 🙂🙂 naïve  two spaces\n\nand\ttabs"


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_texts_join_to_what_the_tokenizer_decodes(loaded, family):
    tokenizer = loaded(family).tokenizer
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]

    texts = token_texts(tokenizer, ids)

    assert len(texts) == len(ids)
    assert "".join(texts) == tokenizer.decode(ids) == TEXT


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_character_of_several_tokens_comes_whole_with_the_last_of_them(loaded, family):
    tokenizer = loaded(family).tokenizer
    ids = tokenizer("a🦜", add_special_tokens=False)["input_ids"]

    texts = token_texts(tokenizer, ids)

    assert len(ids) > 2
    assert texts[-1].endswith("🦜")
    assert "�" not in "".join(texts)


def test_an_incomplete_character_at_the_end_is_shown_as_incomplete(loaded):
    tokenizer = loaded("llama").tokenizer
    ids = tokenizer("a🦜", add_special_tokens=False)["input_ids"][:-1]

    texts = token_texts(tokenizer, ids)

    assert "".join(texts) == tokenizer.decode(ids)
    assert texts[-1].endswith("�")


def test_special_tokens_have_no_text(loaded):
    tokenizer = loaded("llama").tokenizer
    ids = tokenizer("yes<|end|> no", add_special_tokens=False)["input_ids"]

    texts = token_texts(tokenizer, ids)

    assert "".join(texts) == "yes no"


def test_decoding_reads_only_the_last_few_tokens(loaded):
    tokenizer = loaded("llama").tokenizer
    ids = tokenizer("word " * 200, add_special_tokens=False)["input_ids"]
    counting = _Counting(tokenizer)
    detokenizer = Detokenizer(counting)

    for token in ids:
        detokenizer.feed(token)

    assert counting.longest <= 4


class _Counting:
    def __init__(self, tokenizer) -> None:
        self._tokenizer, self.longest = tokenizer, 0

    def decode(self, ids, **options):
        self.longest = max(self.longest, len(ids))
        return self._tokenizer.decode(ids, **options)
