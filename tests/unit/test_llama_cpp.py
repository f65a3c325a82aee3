"""An exported control vector has the same effect in llama.cpp; needs llama-cpp-python."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter

from traitcli.models.steerer import ActivationSteerer
from traitcli.records import TraitVector
from traitcli.vectors.formats.export import export_vector

pytestmark = pytest.mark.skipif(
    find_spec("llama_cpp") is None,
    reason="llama-cpp-python is not installed: pip install llama-cpp-python compiles it",
)

IDS = [5, 90, 17, 250, 33, 8, 411, 60]
LLAMA = """
import ctypes, json, sys
import llama_cpp, numpy as np
folder, runs = sys.argv[1], json.loads(sys.argv[2])
added, ids = np.load(f"{folder}/added.npy"), json.load(open(f"{folder}/ids.json"))
exact = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
exact |= {"n_threads": 1, "n_threads_batch": 1}
llama = llama_cpp.Llama(f"{folder}/model.gguf", n_ctx=64, logits_all=True, verbose=False, **exact)
found = []
for run in runs:
    if run:
        data = added.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        width = added.shape[1]
        assert llama_cpp.llama_set_adapter_cvec(llama.ctx, data, added.size, width, *run) == 0
    llama.reset()
    llama.eval(ids)
    found.append(llama.scores[: len(ids)].copy())
np.save(f"{folder}/logits.npy", np.stack(found))
"""
"""Logits without a control vector, then with one for each range of blocks.

It runs in a subprocess, because llama.cpp may crash.
"""


def save_model(path, model):
    """The tiny Llama in float32, in the format of the llama.cpp converter, without a tokenizer."""
    config, weights = (
        model.config,
        {name: w.float().numpy() for name, w in model.state_dict().items()},
    )
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")

    def halves_interleaved(weight, heads):
        """Reorder weights for llama.cpp.

        llama.cpp rotates neighboring numbers of a head, transformers those half a head apart.
        """
        return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)

    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for block in range(config.num_hidden_layers):
        names |= {
            f"model.layers.{block}.{theirs}": f"blk.{block}.{ours}"
            for theirs, ours in parts.items()
        }
    for theirs, ours in names.items():
        weight = weights[f"{theirs}.weight"]
        if ours.endswith("attn_q"):
            weight = halves_interleaved(weight, config.num_attention_heads)
        if ours.endswith("attn_k"):
            weight = halves_interleaved(weight, config.num_key_value_heads)
        writer.add_tensor(f"{ours}.weight", np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load_control_vector(path, blocks, hidden):
    """A file as `common_control_vector_load` of llama.cpp reads it: blocks from 1, in order."""
    data = np.zeros((blocks - 1, hidden), np.float32)
    for tensor in GGUFReader(path).tensors:
        kind, _, block = tensor.name.partition(".")
        assert (kind, tensor.tensor_type.name, len(tensor.shape), int(block) > 0) == (
            "direction",
            "F32",
            1,
            True,
        )
        data[int(block) - 1] += tensor.data
    return data


def logits(model):
    with torch.inference_mode():
        return model(torch.tensor([IDS])).logits[0].numpy()


@pytest.fixture(scope="module")
def both(loaded, tmp_path_factory):
    """The logits of llama.cpp for each run, and the model and directions of transformers."""
    folder, model = tmp_path_factory.mktemp("llama"), loaded("llama").model
    matrix = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    vector = TraitVector("evil", "tiny", "mean_difference", 3, {"response_avg": matrix}, {})
    (path,) = export_vector(vector, "response_avg", "gguf", folder, model_hint="llama")
    save_model(folder / "model.gguf", model)
    np.save(folder / "added.npy", load_control_vector(path, blocks=4, hidden=32))
    (folder / "ids.json").write_text(json.dumps(IDS), encoding="utf-8")
    runs = [None, (1, 1), (2, 2), (3, 3), (1, 3)]
    subprocess.run(
        [sys.executable, "-c", LLAMA, str(folder), json.dumps(runs)], check=True, timeout=120
    )
    return dict(zip(runs, np.load(folder / "logits.npy"), strict=True)), model, matrix


def test_llama_cpp_and_transformers_agree_on_the_model(both):
    theirs, model, _ = both

    np.testing.assert_allclose(theirs[None], logits(model), atol=1e-3)


@pytest.mark.parametrize("layer", [2, 3])
def test_a_direction_acts_in_llama_cpp_like_steering_at_its_layer_only(both, layer):
    theirs, model, matrix = both
    plain, effect = logits(model), theirs[layer - 1, layer - 1] - theirs[None]

    def ours(block):
        with ActivationSteerer(model, matrix[layer], layer_idx=block, positions="all"):
            return logits(model) - plain

    assert np.corrcoef(ours(layer - 1).ravel(), effect.ravel())[0, 1] > 0.9999
    assert np.abs(ours(layer - 1) - effect).max() < 1e-3 * np.abs(effect).max()
    assert (
        max(np.corrcoef(ours(block).ravel(), effect.ravel())[0, 1] for block in (layer - 2, layer))
        < 0.9
    )


def test_llama_cpp_adds_nothing_at_the_last_block(both):
    theirs, _, _ = both

    np.testing.assert_array_equal(theirs[3, 3], theirs[None])


def test_without_a_range_of_layers_llama_cpp_adds_every_direction(both):
    theirs, model, matrix = both
    with (
        ActivationSteerer(model, matrix[2], layer_idx=1, positions="all"),
        ActivationSteerer(model, matrix[3], layer_idx=2, positions="all"),
    ):
        steered = logits(model)

    np.testing.assert_allclose(theirs[1, 3], steered, atol=1e-3)
