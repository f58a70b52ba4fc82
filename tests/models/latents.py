"""Small models that keep latents, or attend to chosen positions; what transformers computes more for them.

Its eager code masks what kernels leave out.
"""

from configurations import GATED, SMALL

LATENT_ALONE = {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4}
LATENT = {
    **LATENT_ALONE, "v_head_dim": 8, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "first_k_dense_replace": 1,
}  # fmt: skip
SPARSE = {
    **GATED, "num_key_value_heads": 4, **LATENT, "q_lora_rank": 24, "n_group": 1, "topk_group": 1,
    "index_topk": 16, "index_n_heads": 2, "index_head_dim": 12,
}  # fmt: skip
#: The second layer rotates no positions.
MIXED = {
    **{key: value for key, value in SPARSE.items() if key != "q_lora_rank"},
    "indexer_types": ["full", "full", "shared"], "no_rope_layers": [1, 0, 1],
}  # fmt: skip
#: The third layer has a window, and latents and heads of its own.
NEAR = {
    **SPARSE, "sliding_window": 64, "pad_token_id": 0, "shared_experts_intermediate_size": 48,
    "swa_num_attention_heads": 2, "swa_num_key_value_heads": 2, "swa_q_lora_rank": 20,
    "swa_kv_lora_rank": 24, "swa_head_dim": 16, "swa_qk_nope_head_dim": 12, "swa_v_head_dim": 6,
}  # fmt: skip
SHORTCUT = {
    "vocab_size": 1000, "hidden_size": 64, "num_layers": 3, "num_attention_heads": 4, "ffn_hidden_size": 96,
    "kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
    "n_routed_experts": 4, "moe_topk": 3, "expert_ffn_hidden_size": 32, "head_dim": 4,
}  # fmt: skip
COMPRESSED = {
    **SMALL, "head_dim": 16, "q_lora_rank": 24, "moe_intermediate_size": 32, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "sliding_window": 16, "o_groups": 2, "o_lora_rank": 8, "index_n_heads": 2,
    "index_head_dim": 12, "index_topk": 6, "hc_mult": 3,
    "layer_types": ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"],
    "mlp_layer_types": ["hash_moe", "moe", "moe"],
    "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 9},
}  # fmt: skip
LATENTS = {
    "deepseek_v2": {**GATED, "num_key_value_heads": 4, **LATENT, "q_lora_rank": 24, "topk_method": "greedy"},
    "deepseek_v3": {
        **GATED, "num_key_value_heads": 4, **LATENT, "q_lora_rank": 24, "n_group": 1, "topk_group": 1,
    },
    "deepseek_v32": SPARSE,
    "deepseek_v4": COMPRESSED,
    "glm4_moe_lite": {**SPARSE, "first_k_dense_replace": 1},
    "mistral4": {**GATED, "num_key_value_heads": 4, **LATENT, "q_lora_rank": 24},
    "axk1": {**GATED, "num_key_value_heads": 4, **LATENT, "q_lora_rank": 24, "n_group": 2, "topk_group": 1},
    "minicpm3": {**GATED, "num_key_value_heads": 4, **LATENT_ALONE, "q_lora_rank": 24, "mlp_bias": True},
    "youtu": {**GATED, "num_key_value_heads": 4, **LATENT_ALONE, "v_head_dim": 8, "q_lora_rank": None},
    # With experts that do nothing, the FLOPs would depend on the tokens.
    "longcat_flash": {**SHORTCUT, "zero_expert_num": 0},
    "dots3_note_text": NEAR,
    "glm_moe_dsa": {**SPARSE, "indexer_types": ["full", "shared", "full"]},
    "mistral_large4_text": MIXED,
    "axk2": {**SPARSE, "gated_norm_rank": 6},
    "hy_v4": {**SPARSE, "hc_mult": 3, "pad_token_id": 0},
}  # fmt: skip
#: Models of the same years with keys and values of each head.
HEADED = {
    "muse_spark_text": {
        **GATED, "head_dim": 8, "moe_intermediate_size": 32, "num_local_experts": 4, "num_experts_per_tok": 2,
        "moe_hidden_size": 48, "mlp_layer_types": ["sparse", "dense", "sparse"],
    },
    "kolibri1": {
        **SMALL, "num_key_value_heads": 2, "num_hidden_layers": 6, "head_dim": 16, "sliding_window": 4096,
        "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2,
        "shared_expert_intermediate_size": 32,
    },
}  # fmt: skip
#: Those of which transformers caches what a sequence keeps, and the fields of a layer that hold it; of the
#: others it caches keys and values made for each head.
CACHED = (
    "deepseek_v32",
    "glm_moe_dsa",
    "mistral_large4_text",
    "axk2",
    "hy_v4",
    "dots3_note_text",
    "longcat_flash",
    "deepseek_v4",
)
KEPT = ("keys", "values", "indexer_keys", "compressed_kv")
SPACED = "heavily_compressed_attention"


def beyond_sparse_attention(figures, batch, seq, *, rotated=True):
    """Return the FLOPs that torch counts in one layer's sparse attention, less the kernels' own.

    Hugging Face masks the scores of all pairs, of keys and values made for each head; kernels attend to the
    chosen positions alone, in the latent space. The products that go there and back take as much as those
    that make keys and values. Without rotation a key has nothing beside the latent.
    """
    rank, rope = figures["kv_lora_rank"], figures["qk_rope_head_dim"]
    dense = seq * (figures["qk_nope_head_dim"] + rope + figures["v_head_dim"])
    sparse = figures["index_topk"] * (2 * rank + (rope if rotated else 0))
    return 2 * batch * figures["num_attention_heads"] * seq * (dense - sparse)


def beyond_compressed_attention(figures, batch, seq):
    """Return the FLOPs that torch counts in DeepSeek-V4's attention, less the kernels' own.

    Hugging Face masks the scores of all positions and entries, and sums the indexer's scores over heads
    without a product, which torch's convention has in DeepSeek-V3.2.
    """
    extra = 0
    for kind, chosen in (("compressed_sparse_attention", figures["index_topk"]), (SPACED, seq)):
        rate = figures["compress_rates"][kind]
        seen = sum(min(t, figures["sliding_window"]) + min(t // rate, chosen) for t in range(1, seq + 1))
        masked = seq * (seq + seq // rate) - seen
        extra += 2 * batch * figures["num_attention_heads"] * masked * 2 * figures["head_dim"]
    return extra - 2 * batch * figures["index_n_heads"] * seq * (seq // 4)


#: FLOPs of a forward pass that torch counts and that the kernels do not have, of `batch` and `seq`.
FALLBACKS = {
    "deepseek_v32": lambda b, n: 3 * beyond_sparse_attention(SPARSE, b, n),
    "glm_moe_dsa": lambda b, n: 3 * beyond_sparse_attention(SPARSE, b, n),
    "axk2": lambda b, n: 3 * beyond_sparse_attention(SPARSE, b, n),
    "dots3_note_text": lambda b, n: 2 * beyond_sparse_attention(NEAR, b, n),
    "hy_v4": lambda b, n: 3 * beyond_sparse_attention(SPARSE, b, n),
    "mistral_large4_text": lambda b, n: sum(
        beyond_sparse_attention(MIXED, b, n, rotated=rotated) for rotated in (True, False, True)
    ),
    "deepseek_v4": lambda b, n: beyond_compressed_attention(COMPRESSED, b, n),
}
