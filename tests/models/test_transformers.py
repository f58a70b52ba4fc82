"""Hugging Face's code as reference: parameters of every catalogue entry, FLOPs of whole forward passes.

Models are built on the meta device: nothing is allocated or downloaded."""

import dataclasses
import warnings

import pytest
from configurations import FAMILIES, GATED, SMALL
from recurrences import FALLBACKS, LENGTHS, RECURRENT

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
    assert load(name).parameters == parameters_of(build(figures, "meta"))


LATENT = {
    "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "n_routed_experts": 4,
    "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1,
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
    "opt": {**SMALL, "ffn_dim": 256, "max_position_embeddings": 128, "word_embed_proj_dim": 64},
    "bert": {**SMALL, "intermediate_size": 256, "max_position_embeddings": 128},
    "t5": {"vocab_size": 1000, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 3, "num_heads": 4},
    "rwkv": {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 3, "context_length": 128},
    **FAMILIES,
    **RECURRENT,
}
#: Models that keep other things than keys and values of each layer, or whose code does: Falcon's caches the
#: keys of a group once for each of its queries.
OTHER_CACHES = ("deepseek_v2", "deepseek_v3", "bert", "t5", "rwkv", "falcon/grouped", *RECURRENT)


def figures_for(name):
    return {"model_type": name.partition("/")[0], **CONFIGS[name]}


def parameters_of(module):
    """Return the number of parameters of a module, with its router's offsets.

    These are a parameter in DeepSeek's code but a buffer in Hugging Face's; checkpoints have them.
    """
    named = ("correction_bias", "expert_bias")
    offsets = sum(b.numel() for key, b in module.named_buffers() if key.endswith(named))
    return offsets + sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_of_small_configurations_equal_those_of_hugging_faces_module(name):
    figures = figures_for(name)
    assert from_config(figures).parameters == parameters_of(build(figures, "meta"))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in OTHER_CACHES])
def test_the_cache_has_the_size_of_hugging_faces(name):
    """After a pass over 8 tokens, fewer than any window has."""
    figures, batch, seq = figures_for(name), 2, 8
    module = build(figures, "cpu").eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        cache = module(input_ids=torch.ones(batch, seq, dtype=torch.long), use_cache=True).past_key_values
    numbers = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    ours = from_config(figures).cache_bytes("fp32")
    assert ours.subs({symbol("batch"): batch, symbol("seq_kv"): seq}) == 4 * numbers


@pytest.mark.parametrize("kind", RECURRENT)
def test_state_and_cache_of_a_sequence_equal_those_of_hugging_faces_cache(kind):
    """After a pass over whole sequences; it keeps one position more of a convolution than the next needs.

    RecurrentGemma's layers keep their states themselves, and only the positions that are needed.
    """
    figures, batch, seq = figures_for(kind), 2, 40
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        module = build(figures, "cpu").eval()
        kept = transformers.DynamicCache(config=module.config)
        name = "cache_params" if kind in ("mamba", "falcon_mamba", "mamba2") else "past_key_values"
        module(input_ids=torch.zeros(batch, seq, dtype=torch.long), use_cache=True, **{name: kept})
    own = ("recurrent_states", "conv1d_state")
    tensors = [vars(m)[name] for m in module.modules() for name in own if name in vars(m)]
    for layer in kept.layers:
        tensors += [getattr(layer, name, None) for name in ("keys", "values")]
        tensors += getattr(layer, "recurrent_states", {}).values()
        convolved = getattr(layer, "conv_states", {}).values()
        tensors += [state[..., 1:] for state in convolved if state is not None]
    ours = from_config(figures).cache_bytes("fp32")
    numbers = sum(tensor.numel() for tensor in tensors if tensor is not None)
    assert ours.subs({symbol("batch"): batch, symbol("seq_kv"): seq}) == 4 * numbers


def rotated(model):
    """Return the widths of rotated heads."""
    return {dict(part.sizes)["head_dim"] for part in model.prefill().parts if part.name == "rotary"}


@pytest.mark.parametrize("name", [*FAMILIES, *RECURRENT])
def test_saved_configurations_mean_the_same_model(name):
    """Hugging Face leaves out what equals a default, and moves what concerns rotation to a mapping."""
    figures = figures_for(name)
    saved = build(figures, "meta").config.to_diff_dict()
    assert from_config(saved).parameters == from_config(figures).parameters
    assert rotated(from_config(saved)) == rotated(from_config(figures))


@pytest.mark.parametrize("name", CONFIGS)
def test_flops_of_a_forward_pass_equal_torchs_count(name):
    figures, kind = figures_for(name), name.partition("/")[0]
    batch, seq = 2, LENGTHS.get(name, 40)
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
    more = FALLBACKS[name](batch, seq) if name in FALLBACKS else 0
    assert evaluate(ours, batch=batch, **sizes)["matrix_flops"] == counter.get_total_flops() - more
