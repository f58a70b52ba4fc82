"""Hugging Face's code as reference: parameters of every catalogue entry, FLOPs of whole forward passes.

Models are built on the meta device: nothing is allocated or downloaded."""

import dataclasses
import warnings

import latents
import pytest
import recurrences
from configurations import FAMILIES, GATED, LLAMA_4, SHARED, SMALL
from latents import CACHED, HEADED, KEPT, LATENTS, SHORTCUT
from recurrences import LENGTHS, RECURRENT

from costmodel import evaluate
from costmodel.models import available, from_config, load
from costmodel.models._fields import ACTIVATIONS
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
#: Architectures that `AutoModelForCausalLM` does not know, and their classes.
CLASSES = {
    "bert": "BertForPreTraining",
    "t5": "T5ForConditionalGeneration",
    "mistral4": "Mistral4ForCausalLM",
}
#: A small vision model.
EYE = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
#: Language models that only a model that sees has, that model's type, and its vision model.
INSIDE = {
    "mistral_large4_text": ("mistral_large4", {"model_type": "pixtral", **EYE}),
    "muse_spark_text": ("muse_spark", EYE),
}
#: Architectures whose code elsewhere is that of another one here.
SAME = {"kimi_k2": "deepseek_v3"}


#: Language models that transformers has only without logits, or inside a model that sees.
HEADLESS = ("glm5_next_text",)


class Headed(torch.nn.Module):
    """A language model with logits."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config
        self.lm_head = torch.nn.Linear(self.config.hidden_size, self.config.vocab_size, bias=False)

    def forward(self, **inputs):
        found = self.model(**inputs)
        return {**found, "logits": self.lm_head(found.last_hidden_state)}


def build(figures, device):
    """Return the model of a configuration, with eager attention, whose products any counter counts."""
    figures = dict(figures)
    kind = figures.pop("model_type")
    kind = SAME.get(kind, kind)
    with warnings.catch_warnings(), torch.device(device):
        warnings.simplefilter("ignore")
        if kind in INSIDE:
            return inside(kind, figures)
        config = transformers.AutoConfig.for_model(kind, **figures)
        config._attn_implementation = "eager"
        config._experts_implementation = "eager"
        if kind in HEADLESS:
            return Headed(transformers.AutoModel.from_config(config))
        if kind in CLASSES:
            return getattr(transformers, CLASSES[kind])(config)
        return transformers.AutoModelForCausalLM.from_config(config)


def inside(kind, figures):
    """Return the model of a configuration that only a model that sees has, which is made without sight."""
    whole, eye = INSIDE[kind]
    beside = {"vision_config": eye, "audio_config": {"out_hidden_size": figures["hidden_size"]}}
    config = transformers.AutoConfig.for_model(whole, text_config=figures, **beside)
    config._attn_implementation = config.text_config._attn_implementation = "eager"
    config._experts_implementation = config.text_config._experts_implementation = "eager"
    module = transformers.AutoModelForImageTextToText.from_config(config)
    for name in [name for name, _ in module.model.named_children() if name != "language_model"]:
        delattr(module.model, name)
    return module


def parameters_of(module):
    """Return a module's parameters as checkpoints have them.

    The router's offsets are a parameter in DeepSeek's code but a buffer in Hugging Face's, which also
    allocates products up for LongCat's experts that do nothing; no checkpoint has these.
    """
    named = ("correction_bias", "expert_bias", "balancing_biases")
    offsets = sum(b.numel() for key, b in module.named_buffers() if key.endswith(named))
    idle = sum(
        m.zero_expert_num * m.gate_up_proj[0].numel()
        for m in module.modules()
        if hasattr(m, "zero_expert_num")
    )
    return sum(p.numel() for p in module.parameters()) + offsets - idle


def figures_of(name):
    return {key: figure["value"] for key, figure in _yaml(CATALOGUE / f"{name}.yaml")["figures"].items()}


@pytest.mark.parametrize("name", available())
def test_parameters_equal_those_of_hugging_faces_module(name):
    figures = figures_of(name)
    if figures["model_type"] in OWN:
        pytest.skip("not one of Hugging Face's architectures")
    assert load(name).parameters == parameters_of(build(figures, "meta"))


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
    "qwen2_moe": {**GATED, **SHARED},
    "opt": {**SMALL, "ffn_dim": 256, "max_position_embeddings": 128, "word_embed_proj_dim": 64},
    "bert": {**SMALL, "intermediate_size": 256, "max_position_embeddings": 128},
    "t5": {"vocab_size": 1000, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 3, "num_heads": 4},
    "rwkv": {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 3, "context_length": 128},
    **FAMILIES,
    **RECURRENT,
    **LATENTS,
    **HEADED,
    "llama4_text": LLAMA_4,
}
#: Models that keep other things than keys and values of each layer, or whose code does: Falcon's caches the
#: keys of a group once for each of its queries.
OTHER_CACHES = ("bert", "t5", "rwkv", "falcon/grouped", *RECURRENT, *LATENTS)
#: FLOPs of a forward pass that torch counts and that the kernels do not have, of `batch` and `seq`.
FALLBACKS = {
    **recurrences.FALLBACKS,
    **latents.FALLBACKS,
    # In the only layer with experts all 4 compute every token, with 0 for input where they were not chosen.
    "llama4_text": lambda b, n: 2 * (2 * b * n * 3 * 64 * 96),
}


def figures_for(name):
    return {"model_type": name.partition("/")[0], **CONFIGS[name]}


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_of_small_configurations_equal_those_of_hugging_faces_module(name):
    figures = figures_for(name)
    assert from_config(figures).parameters == parameters_of(build(figures, "meta"))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in OTHER_CACHES])
def test_the_cache_has_the_size_of_hugging_faces(name):
    """After a pass over 8 tokens, fewer than any window has; layers that read another's cache have none."""
    figures, batch, seq = figures_for(name), 2, 8
    module = build(figures, "cpu").eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        cache = module(input_ids=torch.ones(batch, seq, dtype=torch.long), use_cache=True).past_key_values
    kept = (tensor for layer in cache.layers for tensor in (layer.keys, layer.values))
    numbers = sum(tensor.numel() for tensor in kept if tensor is not None)
    ours = from_config(figures).cache_bytes("fp32")
    assert ours.subs({symbol("batch"): batch, symbol("seq_kv"): seq}) == 4 * numbers


@pytest.mark.parametrize("kind", RECURRENT)
def test_state_and_cache_of_a_sequence_equal_those_of_hugging_faces_cache(kind):
    """After a pass over whole sequences; it keeps one position more of a convolution than the next needs.

    RecurrentGemma's layers keep their states themselves, and only the positions that are needed. MiniMax has
    a cache of its own.
    """
    figures, batch, seq = figures_for(kind), 2, 40
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        module = build(figures, "cpu").eval()
        made = None if kind.startswith("minimax") else transformers.DynamicCache(config=module.config)
        name = "cache_params" if kind in ("mamba", "falcon_mamba", "mamba2") else "past_key_values"
        tokens = torch.zeros(batch, seq, dtype=torch.long)
        out = module(input_ids=tokens, use_cache=True, **{name: made})
    kept = out[name] if made is None else made
    own = ("recurrent_states", "conv1d_state")
    tensors = [vars(m)[name] for m in module.modules() for name in own if name in vars(m)]
    tensors += [state for state in getattr(kept, "linear_cache", []) if len(state)]
    for layer in kept.layers:
        tensors += [getattr(layer, name, None) for name in ("keys", "values")]
        tensors += getattr(layer, "recurrent_states", {}).values()
        convolved = getattr(layer, "conv_states", {}).values()
        tensors += [state[..., 1:] for state in convolved if state is not None]
    ours = from_config(figures).cache_bytes("fp32")
    numbers = sum(tensor.numel() for tensor in tensors if tensor is not None)
    numbers += recurrences.OTHERWISE.get(kind, lambda batch, seq: 0)(batch, seq)
    assert ours.subs({symbol("batch"): batch, symbol("seq_kv"): seq}) == 4 * numbers


def rotated(model):
    """Return the widths of rotated heads."""
    return {dict(part.sizes)["head_dim"] for part in model.prefill().parts if part.name == "rotary"}


@pytest.mark.parametrize("name", [*FAMILIES, *RECURRENT, *LATENTS, *HEADED])
def test_saved_configurations_mean_the_same_model(name):
    """Hugging Face leaves out what equals a default, and moves what concerns rotation to a mapping."""
    figures = figures_for(name)
    saved = build(figures, "meta").config.to_diff_dict()
    assert from_config(saved).parameters == from_config(figures).parameters
    assert rotated(from_config(saved)) == rotated(from_config(figures))


@pytest.mark.parametrize("kind", [*RECURRENT, *LATENTS, "llama4_text"])
def test_the_default_activation_of_others_is_that_of_hugging_faces_class(kind):
    figures = figures_for(kind)
    config = build(figures, "meta").config
    keys = ("hidden_activation", "mlp_hidden_act", "hidden_act")
    stated = next((getattr(config, key) for key in keys if hasattr(config, key)), "silu")
    parts = from_config(figures).prefill().parts
    assert {p.layer.options["activation"] for p in parts if "activation" in p.layer.options} <= {
        ACTIVATIONS[stated]
    }


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


def test_experts_that_do_nothing_have_scores_and_offsets_but_no_weights():
    figures = {"model_type": "longcat_flash", **SHORTCUT, "zero_expert_num": 2}
    model = from_config(figures)
    assert model.parameters == parameters_of(build(figures, "meta"))
    # Of 3 choices among 6, a third falls on those 2.
    plain = from_config({**figures, "zero_expert_num": 0, "moe_topk": 2})
    more, fewer = (evaluate(m.prefill("fp32"), batch=1, seq=7)["matrix_flops"] for m in (model, plain))
    assert more - fewer == 3 * 2 * 7 * 64 * 2


#: Vision-language models: a few fields of the language model inside; the rest have the defaults of its class.
SEEING = {
    "qwen3_vl": {"num_hidden_layers": 3, "num_key_value_heads": 8},
    "qwen3_vl_moe": {"num_hidden_layers": 3, "head_dim": 64},
    "qwen3_5": {"num_hidden_layers": 5},
    "qwen3_5_moe": {"num_hidden_layers": 5, "num_experts": 16},
    "kimi_k25": {"num_hidden_layers": 5, "n_routed_experts": 16},
    "glm5_next": {"num_hidden_layers": 5, "n_routed_experts": 16},
    "qwen4_exp": {
        "num_hidden_layers": 5, "num_experts": 16, "indexer_n_heads": 4, "indexer_kv_heads": 1,
        "indexer_head_dim": 256, "indexer_budget": 64, "indexer_compress_ratio": 16,
    },
    "mistral_large4": {"num_hidden_layers": 5, "n_routed_experts": 16},
    "muse_spark": {"num_hidden_layers": 5, "num_local_experts": 16},
    "dots3_note": {"num_hidden_layers": 5, "n_routed_experts": 16},
    "step3p7": {
        "num_hidden_layers": 5, "n_routed_experts": 16, "sliding_window": 512,
        "layer_types": ["full_attention", *["sliding_attention"] * 3, "full_attention"],
        "num_sliding_attention_heads": 96,
    },
    "gemma4": {"num_hidden_layers": 7, "num_kv_shared_layers": 1},
    "gemma4_unified": {"num_hidden_layers": 7, "attention_k_eq_v": True, "num_global_key_value_heads": 2},
}  # fmt: skip


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", SEEING)
def test_of_a_model_that_sees_the_language_model_is_counted(kind, tied):
    """From its configuration as saved, without what equals the defaults of the classes."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        inside = {"text_config": SEEING[kind], "vision_config": {}}
        config = transformers.AutoConfig.for_model(kind, **inside, tie_word_embeddings=tied)
        module = transformers.AutoModelForImageTextToText.from_config(config)
    saved = config.to_diff_dict()
    expected = parameters_of(module.model.language_model)
    expected += 0 if tied else module.lm_head.weight.numel()
    model = from_config(saved)
    assert model.parameters == expected < sum(p.numel() for p in module.parameters())
    assert "all beside text_config, such as a vision model" in model.left_out
    assert "of the language model" in model.parameters_text


#: Step 3.7's keys in published configurations, with one module of multi-token prediction behind 4 layers.
STEP = {
    **GATED, "num_hidden_layers": 4, "head_dim": 16, "num_attention_groups": 2, "sliding_window": 12,
    "layer_types": ["full_attention", *["sliding_attention"] * 3, "full_attention"],
    "partial_rotary_factors": [0.5, 1.0, 1.0, 1.0, 0.5],
    "attention_other_setting": {"num_attention_heads": 8}, "moe_layers_enum": "2,3,4",
    "moe_num_experts": 4, "moe_top_k": 2, "moe_intermediate_size": 32,
    "share_expert_dims": 48, "num_nextn_predict_layers": 1,
}  # fmt: skip


def test_of_steps_published_keys_the_language_model_is_counted():
    """FLOPs and cache of a pass without pictures; `test_of_a_model_that_sees…` compares parameters."""
    seen = {"width": 64, "layers": 1, "heads": 2, "image_size": 28}
    text = {key: value for key, value in STEP.items() if key != "num_key_value_heads"}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        config = transformers.AutoConfig.for_model("step3p7", text_config=text, vision_config=seen)
        config._attn_implementation = config._experts_implementation = "eager"
        module = transformers.AutoModelForImageTextToText.from_config(config).eval()
        counter = flop_counter.FlopCounterMode(display=False)
        with counter:
            cache = module(input_ids=torch.zeros(2, 8, dtype=torch.long), use_cache=True).past_key_values
    model = from_config({"model_type": "step3p7", "text_config": text})
    ours = dataclasses.replace(model.training("fp32", optimizer=None), direction="fwd", convention="torch")
    assert evaluate(ours, batch=2, seq=8)["matrix_flops"] == counter.get_total_flops()
    sizes = {symbol("batch"): 2, symbol("seq_kv"): 8}
    numbers = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert model.cache_bytes("fp32").subs(sizes) == 4 * numbers
    assert model.parameters == parameters_of(module.model.language_model) + module.lm_head.weight.numel()
    assert rotated(model) == {8, 16}


@pytest.mark.parametrize("kind", CACHED)
def test_a_cache_of_latents_holds_what_hugging_faces_does_after_a_pass(kind):
    """Latents, keys of an index, entries.

    In DeepSeek-V4 Hugging Face keeps the keys a second time, as values. Positions that wait for an entry are
    not compared.
    """
    figures, batch, seq = figures_for(kind), 2, 10
    with torch.no_grad():
        cache = build(figures, "cpu")(input_ids=torch.zeros(batch, seq, dtype=torch.long)).past_key_values
    kept = [name for name in KEPT if (kind, name) != ("deepseek_v4", "values")]
    held = sum(
        4 * tensor.numel()
        for layer in cache.layers
        for name in kept
        for tensor in tensors_of(getattr(layer, name, None))
    )
    sizes = {symbol("batch"): batch, symbol("seq_kv"): seq}
    assert from_config(figures).cache_bytes("fp32").subs(sizes) == held


def tensors_of(held):
    """Return the tensors of an entry of a cache: one, several by their index, or none."""
    found = list(held.values()) if isinstance(held, dict) else [held]
    return [tensor for tensor in found if tensor is not None]


@pytest.mark.parametrize(
    "said", [{}, {"index_topk_freq": 3}, {"index_topk_freq": 2, "index_skip_topk_offset": 4}]
)
def test_the_layers_that_have_an_indexer_are_those_of_hugging_faces_configuration(said):
    config = transformers.AutoConfig.for_model("glm_moe_dsa", num_hidden_layers=9, **said)
    ours = from_config({"model_type": "glm_moe_dsa", "num_hidden_layers": 9, **said}).prefill().parts
    assert sum(int(p.repeats) for p in ours if p.name == "indexer") == config.indexer_types.count("full")
