"""Tiny GGUF models, as llama.cpp would write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from tests.conftest import make_tokenizer

HIDDEN, INNER, BLOCKS, HEADS = 32, 64, 2, 4


def make_gguf(
    path: Path,
    architecture: str = "llama",
    keep: Callable[[str], bool] = lambda name: True,
    seed: int = 0,
    split_count: int = 0,
) -> Path:
    """Write a model of two blocks; `keep` says which of its tensors the file holds."""
    tokenizer = make_tokenizer(None, True)
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in bpe["merges"]]

    writer = GGUFWriter(path, architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    if split_count:
        writer.add_uint16("split.no", 0)
        writer.add_uint16("split.count", split_count)

    shapes = {"token_embd": (len(tokens), HIDDEN), "output": (len(tokens), HIDDEN)}
    shapes["output_norm"] = (HIDDEN,)
    for block in range(BLOCKS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"blk.{block}.{name}"] = (HIDDEN, HIDDEN)
        shapes[f"blk.{block}.ffn_gate"] = shapes[f"blk.{block}.ffn_up"] = (INNER, HIDDEN)
        shapes[f"blk.{block}.ffn_down"] = (HIDDEN, INNER)
        shapes[f"blk.{block}.attn_norm"] = shapes[f"blk.{block}.ffn_norm"] = (HIDDEN,)
    numbers = np.random.default_rng(seed)
    for name, shape in shapes.items():
        tensor = numbers.normal(0, 0.3, shape).astype(np.float32)
        if keep(name):
            writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
