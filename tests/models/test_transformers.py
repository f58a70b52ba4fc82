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
#: Architectures whose code elsewhere is that of another one here.
SAME = {"kimi_k2": "deepseek_v3"}


def build(figures, device):
    """Return the model of a configuration, with eager attention, whose products any counter counts."""
    figures = dict(figures)
    kind = figures.pop("model_type")
    kind = SAME.get(kind, kind)
    with warnings.catch_warnings(), torch.device(device):
        warnings.simplefilter("ignore")
        config = transformers.AutoConfig.for_model(kind, **figures)
        config._attn_implementation = "eager"
        config._experts_implementation = "eager"
        if kind in CLASSES:
            return getattr(transformers, CLASSES[kind])(config)
        return transformers.AutoModelForCausalLM.from_config(config)


def parameters_of(module):
    """Return a module's parameters as checkpoints have them.

    The router's offsets are a parameter in DeepSeek's code but a buffer in Hugging Face's, which also
    allocates products up for LongCat's experts that do nothing; no checkpoint has these.
    """
    offsets = sum(b.numel() for key, b in module.named_buffers() if key.endswith("correction_bias"))
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


SMALL = {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
GATED = {**SMALL, "intermediate_size": 96, "num_key_value_heads": 2}
LATENT = {
    "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "n_routed_experts": 4,
    "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1,
}  # fmt: skip
SPARSE = {
    **GATED, "num_key_value_heads": 4, **LATENT, "q_lora_rank": 24, "n_group": 1, "topk_group": 1,
    "index_topk": 16, "index_n_heads": 2, "index_head_dim": 12,
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
DELTA = {
    **GATED, "num_hidden_layers": 4, "head_dim": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 16, "linear_value_head_dim": 16,
}  # fmt: skip
SHARED = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 48,
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
    "qwen2_moe": {**GATED, **SHARED},
    "qwen3_next": {**DELTA, **SHARED},
    "qwen3_5_text": DELTA,
    "qwen3_5_moe_text": {**DELTA, **SHARED},
    "deepseek_v2": {**GATED, "num_key_value_heads": 4, **LATENT, "q_lora_rank": 24, "topk_method": "greedy"},
    "deepseek_v3": {
        **GATED,
        "num_key_value_heads": 4,
        **LATENT,
        "q_lora_rank": 24,
        "n_group": 1,
        "topk_group": 1,
    },
    "deepseek_v32": SPARSE,
    "deepseek_v4": COMPRESSED,
    "glm4_moe_lite": {**SPARSE, "first_k_dense_replace": 1},
    # With experts that do nothing, the FLOPs would depend on the tokens.
    "longcat_flash": {**SHORTCUT, "zero_expert_num": 0},
    "glm_moe_dsa": {**SPARSE, "indexer_types": ["full", "shared", "full"]},
    "mamba": {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 3, "state_size": 8},
    "opt": {**SMALL, "ffn_dim": 256, "max_position_embeddings": 128, "word_embed_proj_dim": 64},
    "bert": {**SMALL, "intermediate_size": 256, "max_position_embeddings": 128},
    "t5": {"vocab_size": 1000, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 3, "num_heads": 4},
    "rwkv": {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 3, "context_length": 128},
}


def beyond_a_delta_net(figures, batch, seq):
    """Return the FLOPs that torch counts in one delta net of Hugging Face's fallback, less the kernels' own.

    It repeats keys for every value head before KKᵀ and QKᵀ; it solves for W and U, of all tokens in chunks of
    64, by substitution, which torch does not count; and its convolution also computes three padded positions.
    """
    keys, values = figures["linear_num_key_heads"], figures["linear_num_value_heads"]
    width, pairs = figures["linear_key_head_dim"], seq * 64
    repeated, solved = 4 * batch * (values - keys) * width * pairs, 4 * batch * values * width * pairs
    padded = 2 * batch * (2 * keys + values) * width * 4 * 3
    return repeated - solved + padded


def beyond_sparse_attention(figures, batch, seq):
    """Return the FLOPs that torch counts in one layer's sparse attention, less the kernels' own.

    Hugging Face masks the scores of all pairs, of keys and values made for each head; kernels attend to the
    chosen positions alone, in the latent space. The products that go there and back take as much as those
    that make keys and values.
    """
    rank, rope = figures["kv_lora_rank"], figures["qk_rope_head_dim"]
    dense = seq * (figures["qk_nope_head_dim"] + rope + figures["v_head_dim"])
    sparse = figures["index_topk"] * (2 * rank + rope)
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


SPACED = "heavily_compressed_attention"


@pytest.mark.parametrize("kind", CONFIGS)
def test_parameters_of_a_small_model_equal_those_of_hugging_faces_module(kind):
    figures = {"model_type": kind, **CONFIGS[kind]}
    assert from_config(figures).parameters == parameters_of(build(figures, "meta"))


@pytest.mark.parametrize("kind", CONFIGS)
def test_flops_of_a_forward_pass_equal_torchs_count(kind):
    figures = {"model_type": kind, **CONFIGS[kind]}
    batch, seq = 2, 128 if "linear_num_key_heads" in figures else 40
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
    counted = counter.get_total_flops()
    if kind == "mamba":
        # Here C·h of the scan is not a matrix product, and the convolution skips the padding.
        counted -= 3 * 2 * batch * 128 * (seq * 8 + 3 * 4)
    elif "linear_num_key_heads" in figures:
        counted -= 3 * beyond_a_delta_net(figures, batch, seq)
    elif kind in ("deepseek_v32", "glm_moe_dsa"):
        counted -= 3 * beyond_sparse_attention(figures, batch, seq)
    elif kind == "deepseek_v4":
        counted -= beyond_compressed_attention(figures, batch, seq)
    assert evaluate(ours, batch=batch, **sizes)["matrix_flops"] == counted


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
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", SEEING)
def test_of_a_model_that_sees_the_language_model_is_counted(kind, tied):
    """From its configuration as saved, without what equals the defaults of the classes."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        config = transformers.AutoConfig.for_model(kind, text_config=SEEING[kind], tie_word_embeddings=tied)
        module = transformers.AutoModelForImageTextToText.from_config(config)
    saved = config.to_diff_dict()
    expected = parameters_of(module.model.language_model)
    expected += 0 if tied else module.lm_head.weight.numel()
    model = from_config(saved)
    assert model.parameters == expected < sum(p.numel() for p in module.parameters())
    assert "all beside text_config, such as a vision model" in model.left_out
    assert "of the language model" in model.parameters_text


CACHED = (
    "qwen3_5_text", "qwen3_5_moe_text", "deepseek_v32", "glm_moe_dsa", "longcat_flash", "deepseek_v4",
)  # fmt: skip
KEPT = ("keys", "values", "conv_states", "recurrent_states", "indexer_keys", "compressed_kv")


@pytest.mark.parametrize("kind", CACHED)
def test_a_cache_holds_what_hugging_faces_does_after_a_pass(kind):
    """Keys and values, or latents; a square state and a convolution's last inputs; keys of an index; entries.

    Hugging Face keeps as many inputs as the convolution has weights, although a step needs one less, and in
    DeepSeek-V4 the keys a second time, as values. Positions that wait for an entry are not compared.
    """
    figures, batch, seq = {"model_type": kind, **CONFIGS[kind]}, 2, 10
    with torch.no_grad():
        cache = build(figures, "cpu")(input_ids=torch.zeros(batch, seq, dtype=torch.long)).past_key_values
    held = spare = 0
    for layer in cache.layers:
        for name in KEPT:
            if (kind, name) != ("deepseek_v4", "values"):
                held += sum(4 * tensor.numel() for tensor in tensors_of(getattr(layer, name, None)))
        for tensor in tensors_of(getattr(layer, "conv_states", None)):
            spare += 4 * tensor.numel() // figures.get("linear_conv_kernel_dim", 4)
    sizes = {symbol("batch"): batch, symbol("seq_kv"): seq}
    assert from_config(figures).cache_bytes("fp32").subs(sizes) == held - spare


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
