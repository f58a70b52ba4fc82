"""Small configurations of architectures, with Hugging Face's keys."""

SMALL = {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
GATED = {**SMALL, "intermediate_size": 96, "num_key_value_heads": 2}
#: Tokens of padding that the small vocabulary has, where a class's default has a larger one.
PADDED = {**GATED, "pad_token_id": 0}
MIXED = {"num_local_experts": 4, "num_experts_per_tok": 2}

#: By the type and, behind a slash, what is set besides.
LLAMA_LIKE = {
    "olmo2": GATED,
    "olmo2/biases": {**GATED, "attention_bias": True},
    "olmo3": GATED,
    "smollm3": PADDED,
    "smollm3/biases": {**PADDED, "attention_bias": True, "mlp_bias": True},
    "granite": {**GATED, "attention_bias": True, "mlp_bias": True},
    "granitemoe": {**GATED, **MIXED},
    "seed_oss": {**GATED, "head_dim": 32},
    "seed_oss/output": {**GATED, "head_dim": 32, "attention_out_bias": True},
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
    "apertus": PADDED,
    "exaone4": GATED,
}


def figures(name):
    """Return the configuration of that name."""
    return {"model_type": name.partition("/")[0], **LLAMA_LIKE[name]}
