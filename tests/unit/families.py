"""Tiny random models of many families, made from transformers' configs."""

from __future__ import annotations

from typing import Any

EXPERTS = {
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_local_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "n_shared_experts": 1,
    "shared_expert_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "head_dim": 8,
}
LATENT = {
    **EXPERTS,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
GPT_J = {"n_embd": 32, "n_layer": 4, "n_head": 4, "rotary_dim": 4}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}
LONG_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}

PLAIN = """
apertus arcee aria_text biogpt bitnet cohere cohere2 cohere2_moe ctrl cwm doge ernie4_5 exaone4
flex_olmo fuyu gemma gemma2 gemma4_unified_text glm glm4 gpt-sw3 gpt2 gpt_bigcode gpt_neox
granite granite_swa granitemoe granitemoe_swa granitemoeshared hyperclovax internlm3 iquestcoder
jais2 jetmoe ministral3 mistral mixtral modernbert-decoder nanochat olmo olmo2 olmo3 olmoe opt
persimmon phi phi3 phimoe qwen2 qwen3 smollm3 starcoder2 vaultgemma
"""
PLAIN_PADDED = "bloom diffllama falcon gpt_neox_japanese mpt nemotron stablelm xglm"

PACKED: dict[str, dict[str, Any]] = {
    **{family: {} for family in PLAIN.split()},
    **dict.fromkeys(("qwen2_moe", "qwen3_moe", "glm4_moe", "ernie4_5_moe"), EXPERTS),
    **dict.fromkeys(("dots1", "exaone_moe"), EXPERTS),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "minicpm3"), LATENT),
    "gpt_oss": {**EXPERTS, "sliding_window": 8},
    "gemma3_text": {"head_dim": 8, "sliding_window": 8},
    "helium": {"head_dim": 8},
    "hunyuan_v1_dense": {"head_dim": 8},
    "llama": {"rope_parameters": LONG_ROPE},
    "seed_oss": {"head_dim": 8},
}
"""Families that are read packed, with what their configs need to be tiny."""

PADDED: dict[str, dict[str, Any]] = {
    **{family: {} for family in PLAIN_PADDED.split()},
    **dict.fromkeys(["gptj", "codegen"], GPT_J),
    "bamba": {**MAMBA, "attn_layer_indices": [1, 3]},
    "gpt_neo": {"num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {**MAMBA, "layer_types": ["mamba", "attention"] * 2},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "llama4_text": {},
    "olmo_hybrid": {},
    "qwen3_next": {
        **EXPERTS,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
}
"""Families whose packed states are wrong or cannot be had, and whose padded ones are right."""

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bert": ({}, "alone, after a cached prefix: "),
    "roberta": ({}, "alone, whole: "),
    "mamba": ({}, "hooks: the states of layer 0 differ from a plain pass"),
    "mamba2": (
        {"num_heads": 4, "head_dim": 16, "expand": 2, "state_size": 8, "n_groups": 1},
        "hooks: the states of layer 0 differ from a plain pass",
    ),
    "rwkv": ({}, "hooks: the states of layer 0 differ from a plain pass"),
    "recurrent_gemma": ({}, "alone, after a cached prefix: "),
    "jamba": ({"attn_layer_period": 2, "attn_layer_offset": 1}, "alone, after a cached prefix: "),
    "minimax": ({}, "alone, whole: ValueError: MiniMax uses cache of its own"),
    "xlstm": ({}, "alone, whole: "),
    "openai-gpt": ({}, "alone, after a cached prefix: "),
    "xlm": ({}, "hooks: "),
}
"""Families that are refused, with what their configs need and how the reason begins."""

EVERY_RUN = frozenset(
    [
        "gpt2",
        "opt",
        "llama",
        "gemma3_text",
        "deepseek_v3",
        "qwen3_moe",
        "gpt_oss",
        "cohere2",
        "phi",
        "bloom",
        "falcon",
        "gptj",
        "lfm2",
        "granitemoehybrid",
        "bert",
        "mamba2",
        "rwkv",
        "jamba",
    ]
)
"""Families that the default suite tests; `make test-families` tests them all."""
