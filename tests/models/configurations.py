"""Small configurations of architectures, with Hugging Face's keys."""

SMALL = {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
GATED = {**SMALL, "intermediate_size": 96, "num_key_value_heads": 2}
#: Tokens of padding that the small vocabulary has, where a class's default has a larger one.
PADDED = {**GATED, "pad_token_id": 0}
MIXED = {"num_local_experts": 4, "num_experts_per_tok": 2}
ROUTED = {
    **GATED, "head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}  # fmt: skip
SHARED = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 48,
}  # fmt: skip
#: Experts in every other layer, as in Maverick.
LLAMA_4 = {
    **GATED, **MIXED, "intermediate_size_mlp": 80, "head_dim": 16, "interleave_moe_layer_step": 2,
}  # fmt: skip
ERNIE = {
    **GATED, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32, "moe_num_shared_experts": 2,
    "moe_layer_start_index": 1,
}  # fmt: skip

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
COHERE = {**GATED, "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "sliding_window": 12}
LAGUNA = {**GATED, **SHARED, "head_dim": 32, "sliding_window": 12}

#: By the type and, behind a slash, what is set besides.
LLAMA_LIKE = {
    "olmo": GATED,
    "olmo2": GATED,
    "olmo2/biases": {**GATED, "attention_bias": True},
    "olmo3": GATED,
    "smollm3": PADDED,
    "smollm3/biases": {**PADDED, "attention_bias": True, "mlp_bias": True},
    "granite": {**GATED, "attention_bias": True, "mlp_bias": True},
    "granitemoe": {**GATED, **MIXED},
    "seed_oss": {**GATED, "head_dim": 32},
    "seed_oss/output": {**GATED, "head_dim": 32, "attention_out_bias": True},
    "glm": {**PADDED, "head_dim": 16},
    "glm4": {**PADDED, "head_dim": 16},
    "starcoder2": GATED,
    "starcoder2/plain": {**GATED, "use_bias": False},
    "stablelm": GATED,
    "stablelm/norms": {**GATED, "use_qkv_bias": True, "qk_layernorm": True},
    "stablelm/parallel": {**GATED, "use_parallel_residual": True},
    "cohere": GATED,
    "cohere/norms": {**GATED, "use_qk_norm": True, "attention_bias": True},
    "cohere2": GATED,
    "arcee": GATED,
    "arcee/silu": {**GATED, "mlp_bias": True, "hidden_act": "silu"},
    "nemotron": {**GATED, "attention_bias": True, "mlp_bias": True},
    "apertus": PADDED,
    "exaone4": GATED,
    "olmoe": {**GATED, "num_experts": 4, "num_experts_per_tok": 2},
    "glm4_moe": ROUTED,
    "glm4_moe/norms": {**ROUTED, "use_qk_norm": True, "attention_bias": True, "n_shared_experts": 2},
    "ernie4_5": {**GATED, "head_dim": 16},
    "ernie4_5/biases": {**GATED, "head_dim": 16, "use_bias": True},
    "ernie4_5_moe": ERNIE,
    "ernie4_5_moe/alone": {**ERNIE, "moe_num_shared_experts": 0, "moe_layer_end_index": 1},
    "minimax_m2": {**GATED, **MIXED, "head_dim": 16},
    "minimax_m2/rotary": {**GATED, **MIXED, "head_dim": 32, "rotary_dim": 8},
    "flint": {**GATED, **SHARED, "num_hidden_layers": 7, "head_dim": 32, "attention_bias": True},
    "hunyuan_v1_dense": {**GATED, "head_dim": 16, "num_experts": 1},
    "hunyuan_v1_moe": {**GATED, "head_dim": 16, "num_experts": 4, "moe_topk": [2, 2, 2]},
    "phimoe": {**GATED, **MIXED},
    "phimoe/biases": {**GATED, **MIXED, "attention_bias": True, "lm_head_bias": True},
    "ministral": {**GATED, "head_dim": 16, "sliding_window": 12},
    "ministral3": {**GATED, "head_dim": 32},
    "mimo_v2_flash": {**ROUTED, "head_dim": 24, "v_head_dim": 16, "num_hidden_layers": 7},
    "mimo_v2_flash/biases": {**ROUTED, "v_head_dim": 8, "attention_bias": True, "sliding_window_size": 12},
    "dots1": {**ROUTED, "n_shared_experts": 2, "max_window_layers": 2, "attention_bias": True},
    "solar_open": {**ROUTED, "first_k_dense_replace": 0, "attention_bias": True},
    "exaone_moe": {**GATED, **EXPERTS, "num_shared_experts": 2},
    "exaone_moe/listed": {**GATED, **EXPERTS, "mlp_layer_types": ["sparse", "dense", "sparse"]},
    "afmoe": {**GATED, **EXPERTS, "head_dim": 32, "num_shared_experts": 1},
    "afmoe/biases": {**GATED, **EXPERTS, "num_dense_layers": 2, "attention_bias": True},
    "hy_v3": {**GATED, **EXPERTS, "head_dim": 32, "attention_bias": True},
    "cohere2_moe": {**COHERE, "num_shared_experts": 2},
    "cohere2_moe/prefix": {
        **COHERE, "first_k_dense_replace": 1, "prefix_dense_intermediate_size": 80, "rms_norm_eps": 1e-6,
        "attention_bias": True,
    },
    "granite_swa": {**GATED, "attention_bias": True, "mlp_bias": True},
    "granite_swa/unrotated": {**GATED, "layer_rope_theta": [0, 10000.0, 10000.0]},
    "granitemoe_swa": {**GATED, **MIXED, "shared_intermediate_size": 48},
    "granitemoeshared": {**GATED, **MIXED, "shared_intermediate_size": 48},
    "granitemoeshared/alone": {**GATED, **MIXED},
    "laguna": LAGUNA,
    "laguna/heads": {
        **LAGUNA, "num_attention_heads_per_layer": [4, 8, 8], "gating": "per-element", "attention_bias": True,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    },
    "mellum": {**GATED, **EXPERTS, "head_dim": 32, "mlp_layer_types": ["dense", "sparse", "sparse"]},
    "jais2": GATED,
    "jais2/plain": {**GATED, "attention_bias": False, "mlp_bias": False},
    "internlm3": {**GATED, "head_dim": 32},
    "internlm3/biases": {**GATED, "head_dim": 32, "attention_bias": True, "mlp_bias": True},
    "helium": {**GATED, "head_dim": 16, "attention_bias": True},
    "vaultgemma": {**GATED, "head_dim": 32, "attention_bias": True},
    "nanochat": {**GATED, "attention_bias": True},
    "persimmon": {**SMALL, "intermediate_size": 96},
    "persimmon/unnormed": {**SMALL, "intermediate_size": 96, "qk_layernorm": False},
}  # fmt: skip

#: Of 7 layers the 6th and, whatever the pattern, the last are global.
GEMMA_4 = {
    **GATED, "num_hidden_layers": 7, "head_dim": 16, "global_head_dim": 32, "sliding_window": 12,
    "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 600,
}  # fmt: skip
WIDENING = {
    "gemma4_text": GEMMA_4,
    "gemma4_text/small": {**GEMMA_4, "num_kv_shared_layers": 1, "use_double_wide_mlp": True},
    "gemma4_text/large": {
        **GEMMA_4, "hidden_size_per_layer_input": 0, "num_key_value_heads": 4, "attention_k_eq_v": True,
        "num_global_key_value_heads": 2, "attention_bias": True,
    },
    "gemma4_text/experts": {
        **GEMMA_4, "hidden_size_per_layer_input": 0, "enable_moe_block": True, "num_experts": 4,
        "top_k_experts": 2, "moe_intermediate_size": 32,
    },
    "gemma3n_text": {
        **GATED, "num_hidden_layers": 6, "head_dim": 16, "sliding_window": 12, "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 600, "laurel_rank": 12,
    },
    "gemma3n_text/shared": {
        **GATED, "num_hidden_layers": 6, "head_dim": 16, "num_kv_shared_layers": 1, "altup_num_inputs": 3,
        "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 600, "attention_bias": True,
    },
    "gemma4_unified_text": {
        **GATED, "num_hidden_layers": 6, "num_key_value_heads": 4, "head_dim": 16, "global_head_dim": 32,
        "attention_k_eq_v": True, "num_global_key_value_heads": 2,
    },
}  # fmt: skip

GPT = {"vocab_size": 1000, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128}
NEOX = {**SMALL, "intermediate_size": 96}
MPT = {"vocab_size": 1000, "d_model": 64, "n_layers": 3, "n_heads": 4, "max_seq_len": 128}
CLASSIC = {
    "gpt_neox": NEOX,
    "gpt_neox/serial": {**NEOX, "use_parallel_residual": False, "attention_bias": False},
    "gptj": {**GPT, "rotary_dim": 8},
    "codegen": {**GPT, "rotary_dim": 8},
    "falcon": SMALL,
    "falcon/grouped": {**SMALL, "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon/one_norm": {**SMALL, "new_decoder_architecture": True, "num_ln_in_parallel_attn": 1},
    "falcon/alibi": {**SMALL, "alibi": True, "bias": True, "parallel_attn": False, "multi_query": False},
    "bloom": {"vocab_size": 1000, "hidden_size": 64, "n_layer": 3, "n_head": 4},
    "phi": NEOX,
    "phi/norms": {**NEOX, "num_key_value_heads": 2, "qk_layernorm": True, "hidden_act": "gelu"},
    "gpt_bigcode": GPT,
    "gpt_bigcode/heads": {**GPT, "multi_query": False, "n_inner": 96},
    "gpt_neo": {
        "vocab_size": 1000, "hidden_size": 64, "num_layers": 3, "num_heads": 4, "window_size": 12,
        "attention_types": [[["global", "local"], 1], [["local"], 1]], "max_position_embeddings": 128,
    },
    "mpt": MPT,
}  # fmt: skip
FAMILIES = {**LLAMA_LIKE, **WIDENING, **CLASSIC}


def figures(name):
    """Return the configuration of that name."""
    return {"model_type": name.partition("/")[0], **FAMILIES[name]}
