"""Small models with recurrent layers, and what transformers computes more for them on a CPU."""

from configurations import GATED, SHARED
from latents import SPARSE, beyond_sparse_attention

PURE = {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 3}
DELTA = {
    **GATED, "num_hidden_layers": 4, "head_dim": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 16, "linear_value_head_dim": 16,
}  # fmt: skip
DUAL = {
    "mamba_n_heads": 8, "mamba_d_state": 16, "mamba_n_groups": 2, "mamba_chunk_size": 20,
}  # fmt: skip

QWEN_4 = {
    **DELTA, **SHARED, "hc_count": 3, "hc_lowrank": 10, "indexer_n_heads": 3, "indexer_kv_heads": 1,
    "indexer_head_dim": 32, "indexer_budget": 32, "indexer_compress_ratio": 8, "ple_layer_ids": [3, 1],
    "ple_embed_dim": 32, "heads_per_ngram": 2, "ngram_vocab_size_base": 100, "eos_token_id": 0,
    "make_ngram_vocab_size_divisible_by": 16,
}  # fmt: skip

RECURRENT = {
    "mamba": {**PURE, "state_size": 8},
    "falcon_mamba": {**PURE, "state_size": 8},
    "mamba2": {**PURE, "state_size": 16, "num_heads": 8, "head_dim": 16, "n_groups": 2, "chunk_size": 20},
    "recurrent_gemma": {
        **GATED, "num_hidden_layers": 5, "num_key_value_heads": 1, "lru_width": 64,
        "attention_window_size": 64,
    },
    "jamba": {
        **GATED, "num_hidden_layers": 6, "num_experts": 4, "attn_layer_period": 3, "attn_layer_offset": 1,
        "mamba_d_state": 8, "mamba_dt_rank": 5,
    },
    "bamba": {
        **GATED, **DUAL, "num_hidden_layers": 4, "attn_layer_indices": [1], "mlp_bias": True,
        "attention_bias": True,
    },
    "granitemoehybrid": {
        **GATED, **DUAL, "num_hidden_layers": 4, "num_local_experts": 4, "shared_intermediate_size": 48,
        "layer_types": ["mamba", "attention", "linear_attention", "full_attention"],
        "position_embedding_type": "rope",
    },
    "nemotron_h": {
        **GATED, "head_dim": 24, "hybrid_override_pattern": "M-M*EM-", "mamba_num_heads": 6,
        "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 2, "chunk_size": 20, "mlp_bias": True,
        "use_bias": True, "n_routed_experts": 4, "moe_intermediate_size": 40,
        "moe_shared_expert_intermediate_size": 56,
    },
    "falcon_h1": {
        **GATED, **DUAL, "mamba_d_ssm": 96, "mamba_rms_norm": True, "projectors_bias": True, "mlp_bias": True,
    },
    "zamba": {
        **GATED, "num_hidden_layers": 9, "num_key_value_heads": 2, "mamba_d_state": 8, "mamba_dt_rank": 5,
        "attn_layer_period": 3, "attn_layer_offset": 1, "n_mamba_heads": 4, "mamba_proj_bias": True,
    },
    "zamba2": {
        **GATED, "num_hidden_layers": 5, "num_key_value_heads": 4, "n_mamba_heads": 8, "mamba_d_state": 16,
        "mamba_ngroups": 2, "chunk_size": 20, "num_mem_blocks": 2, "use_shared_attention_adapter": True,
        "adapter_rank": 6, "use_mem_rope": True, "add_bias_linear": True,
        "layers_block_type": ["mamba", "hybrid", "hybrid", "linear_attention", "hybrid"],
    },
    "lfm2": {
        **GATED, "num_hidden_layers": 4, "full_attn_idxs": [1], "block_multiple_of": 32, "conv_bias": True,
    },
    "lfm2_moe": {
        **GATED, "num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        "num_dense_layers": 1, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    },
    "lfm3": {
        **GATED, "num_hidden_layers": 6, "head_dim": 32, "conv_bias": True, "attention_bias": True,
        "sliding_window": 64, "pad_token_id": 0,
    },
    "lfm3/plain": {
        **GATED, "head_dim": 16, "layer_types": ["conv", "full_attention", "sliding_attention"],
        "use_sandwich_norm": False, "use_attention_gate": False, "sliding_window": 64, "conv_L_cache": 3,
        "tie_word_embeddings": False, "pad_token_id": 0,
    },
    "minimax": {
        **GATED, "num_hidden_layers": 4, "head_dim": 20, "block_size": 20, "num_local_experts": 4,
        "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    },
    "minimax/alternating": {**GATED, "num_local_experts": 4, "block_size": 16},
    "qwen3_next": {**DELTA, **SHARED},
    "qwen3_5_text": DELTA,
    "qwen3_5_moe_text": {**DELTA, **SHARED},
    "kimi_linear": {
        **GATED, "num_hidden_layers": 6, "num_key_value_heads": 4, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4, "v_head_dim": 8, "num_experts": 4, "num_experts_per_token": 2,
        "moe_intermediate_size": 32, "num_shared_experts": 2, "linear_num_heads": 3, "linear_head_dim": 20,
        "pad_token_id": 0,
    },
    "bailing_hybrid": {
        **GATED, "num_hidden_layers": 6, "num_key_value_heads": 4, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4, "v_head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
        "topk_group": 1, "moe_intermediate_size": 32, "n_shared_experts": 2, "head_dim": 20,
        "layer_group_size": 3, "attention_bias": True, "pad_token_id": 0, "eos_token_id": 0,
    },
    "zaya": {
        **GATED, "head_dim": 32, "num_experts": 4, "moe_intermediate_size": 32, "router_hidden_size": 24,
        "cca_time0": 3, "cca_time1": 2, "attention_bias": True, "lm_head_bias": True, "sliding_window": 64,
        "layer_types": ["hybrid", "hybrid_sliding", "hybrid"],
    },
    "qwen4_exp_text": QWEN_4,
    "qwen4_exp_text/plain": {**QWEN_4, "ple_layer_ids": None, "attention_bias": True},
    "glm5_next_text": {
        **SPARSE, "num_hidden_layers": 8, "qk_rope_head_dim": 0, "index_topk": 32, "index_kpool": 8,
        "linear_num_heads": 3, "linear_head_dim": 20, "hc_mult": 3, "n_shared_experts": 2,
        "layer_types": ["linear_attention"] * 4 + ["indexed_attention"] * 3 + ["linear_attention"],
        "indexer_types": ["full"] * 4 + ["full", "full", "shared", "full"], "pad_token_id": 0,
    },
    "olmo_hybrid": {
        **GATED, "num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 12, "linear_value_head_dim": 16, "pad_token_id": 0,
    },
}  # fmt: skip
#: Positions of a sequence that a fallback's chunks divide; 40 for the others.
LENGTHS = dict.fromkeys(
    (
        *("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "olmo_hybrid"),
        *("qwen4_exp_text", "qwen4_exp_text/plain"),
        *("kimi_linear", "bailing_hybrid", "glm5_next_text"),
    ),
    128,
)


def convolved(batch, channels, kernel):
    """Return what torch counts more for a short convolution: it also computes the padding's positions."""
    return 2 * batch * channels * kernel * (kernel - 1)


def scanned(batch, seq, inner, state):
    """Return what torch counts more for Mamba: C·h as matrix products, which kernels compute as vectors."""
    return 2 * batch * seq * inner * state + convolved(batch, inner, 4)


def chunked(batch, seq, heads, width, state, groups, chunk):
    """Return what torch counts more for Mamba-2, whose kernels it lacks.

    Scores for each head, not each group, and a product that passes on the chunks' states, first and last.
    """
    scores = 2 * batch * seq * chunk * state * (heads - groups)
    passed = 2 * batch * heads * width * state * (seq // chunk + 1) ** 2
    return scores + passed + convolved(batch, heads * width + 2 * groups * state, 4)


def by_delta_rules(batch, seq, keys, values, width, value_width):
    """Return what torch counts more, or less, for a gated delta net, in chunks of 64.

    It repeats keys for each value head before KKᵀ and QKᵀ. W and U come from a triangular system, whose
    solution torch does not count.
    """
    repeated = 4 * batch * seq * 64 * width * (values - keys)
    solved = 2 * batch * seq * 64 * values * (width + value_width)
    return repeated - solved + convolved(batch, 2 * keys * width + values * value_width, 4)


def by_decays_of_channels(batch, seq, heads, width):
    """Return what torch counts more, or less, for Kimi's delta attention, in chunks of 64.

    Weighted by the decays, KKᵀ and QKᵀ are sums there and no products.
    """
    return convolved(batch, 3 * heads * width, 4) - 4 * batch * seq * 64 * width * heads


def beyond_chosen_blocks(batch, seq):
    """Return what torch counts more, or less, for a layer of Qwen4-Exp's sparse attention.

    It masks the scores of all pairs but those of 32 positions and 7 of an incomplete block. Its indexer
    scores visible blocks alone, one query at a time, and sums over heads without a product.
    """
    dense = 2 * batch * 4 * seq * (seq - 39) * 2 * 32
    visible = sum(t // 8 for t in range(1, seq + 1))
    return dense - 2 * batch * 3 * (32 * (seq * (seq // 8) - visible) + seq * (seq // 8))


#: FLOPs of a forward pass that torch counts and that the kernels do not have, of `batch` and `seq`.
FALLBACKS = {
    "mamba": lambda b, n: 3 * scanned(b, n, 128, 8),
    "falcon_mamba": lambda b, n: 3 * scanned(b, n, 128, 8),
    "mamba2": lambda b, n: 3 * chunked(b, n, 8, 16, 16, 2, 20),
    "recurrent_gemma": lambda b, n: 4 * convolved(b, 64, 4),
    "jamba": lambda b, n: 4 * scanned(b, n, 128, 8),
    "bamba": lambda b, n: 3 * chunked(b, n, 8, 16, 16, 2, 20),
    "granitemoehybrid": lambda b, n: 2 * chunked(b, n, 8, 16, 16, 2, 20),
    "nemotron_h": lambda b, n: 3 * chunked(b, n, 6, 16, 16, 2, 20),
    "falcon_h1": lambda b, n: 3 * chunked(b, n, 8, 12, 16, 2, 20),
    "zamba": lambda b, n: 9 * scanned(b, n, 128, 8),
    "zamba2": lambda b, n: 5 * chunked(b, n, 8, 16, 16, 2, 20),
    "lfm2": lambda b, n: 3 * convolved(b, 64, 3),
    "lfm2_moe": lambda b, n: 2 * convolved(b, 64, 3),
    "lfm3": lambda b, n: 4 * convolved(b, 64, 7),
    "lfm3/plain": lambda b, n: convolved(b, 64, 3),
    **dict.fromkeys(
        ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"),
        lambda b, n: 3 * by_delta_rules(b, n, 2, 4, 16, 16),
    ),
    "kimi_linear": lambda b, n: 5 * by_decays_of_channels(b, n, 3, 20),
    "bailing_hybrid": lambda b, n: 4 * by_decays_of_channels(b, n, 4, 20),
    # Padding, and the values that a token before the first would have.
    "zaya": lambda b, n: 3 * (2 * b * 192 * 3 + 2 * b * 64 * 32),
    **dict.fromkeys(
        ("qwen4_exp_text", "qwen4_exp_text/plain"),
        lambda b, n: 3 * by_delta_rules(b, n, 2, 4, 16, 16) + beyond_chosen_blocks(b, n),
    ),
    "glm5_next_text": lambda b, n: (
        5 * by_decays_of_channels(b, n, 3, 20)
        + 3 * beyond_sparse_attention({**RECURRENT["glm5_next_text"], "index_topk": 32 + 7}, b, n)
    ),
    "olmo_hybrid": lambda b, n: 3 * by_delta_rules(b, n, 2, 4, 12, 16),
}

#: Numbers that a sequence keeps and that transformers keeps elsewhere or in another form, of `batch` and
#: `seq`: keys of indexes, of which transformers keeps those of single positions. Of Qwen4-Exp's n-grams it
#: keeps 2 tokens, and all of the positions that the convolution needs, and the test leaves out one of each;
#: so it does of ZAYA's convolutions.
OTHERWISE = {
    "zaya": lambda b, n: 3 * b * 192,
    "glm5_next_text": lambda b, n: 2 * b * (n // 8) * 12,
    "qwen4_exp_text": lambda b, n: b * (n // 8) * 32 + 2 * b * (3 * 64 - 1),
    "qwen4_exp_text/plain": lambda b, n: b * (n // 8) * 32,
}
