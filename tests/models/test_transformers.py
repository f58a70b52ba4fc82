"""Hugging Face's code as reference: parameters of every catalogue entry, FLOPs of whole forward passes.

Models are built on the meta device: nothing is allocated or downloaded."""

import dataclasses
import warnings

import pytest

from costmodel import evaluate
from costmodel.models import available, from_config, load
from costmodel.models.config import CATALOGUE, _yaml
from costmodel.symbols import symbol

torch = pytest.importorskip("torch")
flop_counter = pytest.importorskip("torch.utils.flop_counter")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip(
        "transformers", reason="the authority on configurations is Hugging Face transformers"
    )

#: Architectures that Hugging Face does not have.
OWN = ("transformer", "gnmt")
#: Architectures that are not causal language models, and their classes.
CLASSES = {"bert": "BertForPreTraining", "t5": "T5ForConditionalGeneration"}


def build(figures, device):
    """Return the model of a configuration, with eager attention, whose products any counter counts."""
    figures = dict(figures)
    kind = figures.pop("model_type")
    with warnings.catch_warnings(), torch.device(device):
        warnings.simplefilter("ignore")
        config = transformers.AutoConfig.for_model(kind, **figures)
        config._attn_implementation = "eager"
        config._experts_implementation = "eager"
        if kind in CLASSES:
            return getattr(transformers, CLASSES[kind])(config)
        return transformers.AutoModelForCausalLM.from_config(config)


def figures_of(name):
    return {key: figure["value"] for key, figure in _yaml(CATALOGUE / f"{name}.yaml")["figures"].items()}


@pytest.mark.parametrize("name", available())
def test_parameters_equal_those_of_hugging_faces_module(name):
    figures = figures_of(name)
    if figures["model_type"] in OWN:
        pytest.skip("not one of Hugging Face's architectures")
    assert load(name).parameters == numbers(build(figures, "meta"))


def numbers(module):
    """Return the parameters of a module, and the offsets of its routers.

    These are a parameter in DeepSeek's code but a buffer in Hugging Face's; checkpoints have them.
    """
    offsets = sum(
        b.numel() for key, b in module.named_buffers() if key.endswith(("correction_bias", "expert_bias"))
    )
    return sum(p.numel() for p in module.parameters()) + offsets


SMALL = {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
GATED = {**SMALL, "intermediate_size": 96, "num_key_value_heads": 2}
LATENT = {
    "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "n_routed_experts": 4,
    "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1,
}  # fmt: skip
DUAL = {
    "mamba_n_heads": 8, "mamba_d_state": 16, "mamba_n_groups": 2, "mamba_chunk_size": 20,
}  # fmt: skip
CONFIGS = {
    "llama": {**GATED},
    "mistral": {**GATED, "sliding_window": None},
    "qwen2": {**GATED},
    "qwen3": {**GATED, "head_dim": 32},
    "gemma": {**GATED, "head_dim": 32},
    "gemma2": {**GATED, "head_dim": 32, "sliding_window": 4096},
    "gpt2": {"vocab_size": 1000, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128},
    "mixtral": {**GATED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "phi3": {**GATED, "pad_token_id": 0},
    "gpt_oss": {**GATED, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {**GATED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "qwen2_moe": {
        **GATED,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 48,
    },
    "deepseek_v2": {**GATED, "num_key_value_heads": 4, **LATENT, "q_lora_rank": 24, "topk_method": "greedy"},
    "deepseek_v3": {
        **GATED,
        "num_key_value_heads": 4,
        **LATENT,
        "q_lora_rank": 24,
        "n_group": 1,
        "topk_group": 1,
    },
    "mamba": {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 3, "state_size": 8},
    "opt": {**SMALL, "ffn_dim": 256, "max_position_embeddings": 128, "word_embed_proj_dim": 64},
    "bert": {**SMALL, "intermediate_size": 256, "max_position_embeddings": 128},
    "t5": {"vocab_size": 1000, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 3, "num_heads": 4},
    "rwkv": {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 3, "context_length": 128},
    "falcon_mamba": {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 3, "state_size": 8},
    "mamba2": {
        "vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 3, "state_size": 16, "num_heads": 8,
        "head_dim": 16, "n_groups": 2, "chunk_size": 20,
    },
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
    "falcon_h1": {
        **GATED, **DUAL, "mamba_d_ssm": 96, "mamba_rms_norm": True, "projectors_bias": True, "mlp_bias": True,
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
    "nemotron_h": {
        **GATED, "head_dim": 24, "hybrid_override_pattern": "M-M*EM-", "mamba_num_heads": 6,
        "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 2, "chunk_size": 20, "mlp_bias": True,
        "use_bias": True, "n_routed_experts": 4, "moe_intermediate_size": 40,
        "moe_shared_expert_intermediate_size": 56,
    },
}  # fmt: skip


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


#: FLOPs of a forward pass that torch counts and that the kernels do not have, of `batch` and `seq`.
FALLBACKS = {
    "mamba": lambda b, n: 3 * scanned(b, n, 128, 8),
    "falcon_mamba": lambda b, n: 3 * scanned(b, n, 128, 8),
    "mamba2": lambda b, n: 3 * chunked(b, n, 8, 16, 16, 2, 20),
    "recurrent_gemma": lambda b, n: 4 * convolved(b, 64, 4),
    "jamba": lambda b, n: 4 * scanned(b, n, 128, 8),
    "bamba": lambda b, n: 3 * chunked(b, n, 8, 16, 16, 2, 20),
    "granitemoehybrid": lambda b, n: 2 * chunked(b, n, 8, 16, 16, 2, 20),
    "falcon_h1": lambda b, n: 3 * chunked(b, n, 8, 12, 16, 2, 20),
    "zamba2": lambda b, n: 5 * chunked(b, n, 8, 16, 16, 2, 20),
    "lfm2": lambda b, n: 3 * convolved(b, 64, 3),
    "lfm2_moe": lambda b, n: 2 * convolved(b, 64, 3),
    "nemotron_h": lambda b, n: 3 * chunked(b, n, 6, 16, 16, 2, 20),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_parameters_of_a_small_model_equal_those_of_its_module(kind):
    figures = {"model_type": kind, **CONFIGS[kind]}
    module = build(figures, "meta")
    assert from_config(figures).parameters == numbers(module)


#: Models with recurrent layers.
CACHED = (
    "mamba", "falcon_mamba", "mamba2", "recurrent_gemma", "jamba", "bamba", "granitemoehybrid", "nemotron_h",
    "falcon_h1", "lfm2", "lfm2_moe",
    "zamba2",
)  # fmt: skip


@pytest.mark.parametrize("kind", CACHED)
def test_state_and_cache_of_a_sequence_equal_those_of_transformers_cache(kind):
    """After a pass over whole sequences; it keeps one position more of a convolution than the next needs.

    RecurrentGemma's layers keep their states themselves, and only the positions that are needed.
    """
    figures = {"model_type": kind, **CONFIGS[kind]}
    batch, seq = 2, 40
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        tokens = torch.zeros(batch, seq, dtype=torch.long)
        module = build(figures, "cpu").eval()
        kept = transformers.DynamicCache(config=module.config)
        name = "cache_params" if kind in ("mamba", "falcon_mamba", "mamba2") else "past_key_values"
        module(input_ids=tokens, use_cache=True, **{name: kept})
    own = ("recurrent_states", "conv1d_state")
    found = sum(vars(m)[name].numel() for m in module.modules() for name in own if name in vars(m))
    for layer in kept.layers:
        for states in (getattr(layer, "conv_states", {}), getattr(layer, "recurrent_states", {})):
            for state in states.values():
                found += 0 if state is None else state.numel()
        for state in getattr(layer, "conv_states", {}).values():
            found -= 0 if state is None else state[..., 0].numel()
        for table in (getattr(layer, "keys", None), getattr(layer, "values", None)):
            found += 0 if table is None else table.numel()
    cache = from_config(figures).cache_bytes("fp32")
    sizes = {"batch": batch, "seq_kv": seq}
    assert 4 * found == cache.subs({symbol(name): size for name, size in sizes.items()})


@pytest.mark.parametrize("kind", CONFIGS)
def test_flops_of_a_forward_pass_equal_torchs_count(kind):
    figures = {"model_type": kind, **CONFIGS[kind]}
    batch, seq = 2, 40
    module = build(figures, "cpu").eval()
    tokens = torch.zeros(batch, seq, dtype=torch.long)
    inputs = {"input_ids": tokens}
    if kind == "t5":
        inputs["decoder_input_ids"] = tokens[:, :24]
    counter = flop_counter.FlopCounterMode(display=False)
    with warnings.catch_warnings(), torch.no_grad(), counter:
        warnings.simplefilter("ignore")
        module(**inputs, use_cache=False) if kind != "bert" else module(**inputs)
    model = from_config(figures).training("fp32", optimizer=None)
    ours = dataclasses.replace(model, direction="fwd", convention="torch")
    sizes = {"seq": 24, "seq_kv": seq} if kind == "t5" else {"seq": seq}
    more = FALLBACKS[kind](batch, seq) if kind in FALLBACKS else 0
    assert evaluate(ours, batch=batch, **sizes)["matrix_flops"] == counter.get_total_flops() - more
