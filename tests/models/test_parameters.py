"""Numbers of parameters, caches and states of models, as published and from first principles."""

import csv
import re
from pathlib import Path

import pytest

from costmodel import evaluate
from costmodel.errors import CostmodelError
from costmodel.models import available, from_config, load
from costmodel.models.config import CATALOGUE, _yaml
from costmodel.symbols import symbol

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
UNITS = {"M": 10**6, "B": 10**9, "T": 10**12}


def at(expression, **sizes):
    """Return an expression's value."""
    return expression.subs({symbol(name): size for name, size in sizes.items()})


def table(name):
    with (GOLDEN / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", [name for name in available() if load(name).published is not None])
def test_parameters_equal_the_published_number(name):
    """Exactly where a card gives all digits, otherwise to the digits that are printed."""
    model = load(name)
    if isinstance(model.published, int):
        assert model.parameters == model.published
        return
    digits, unit = re.fullmatch(r"([\d.]+)([MBT])", model.published).groups()
    places = len(digits.partition(".")[2])
    assert round(model.parameters / UNITS[unit], places) == float(digits)


@pytest.mark.parametrize("row", table("transformer_table3.csv"), ids=lambda row: row["row"])
def test_parameters_equal_the_transformer_papers_table_3(row):
    sizes = {key: int(row[key]) for key in ("num_layers", "d_model", "d_ff", "num_heads", "d_kv")}
    config = {"model_type": "transformer", "vocab_size": int(row["vocab_size"]), **sizes}
    model = from_config({**config, "other_embedding_rows": 4096})
    assert round(model.parameters / 1e6) == int(row["parameters_millions"])


def test_parameters_of_gnmt_are_about_what_shazeer_et_al_count():
    """278M in all, and 214M multiplications per position (arXiv 1701.06538, Table 4)."""
    model = load("gnmt")
    assert model.parameters == pytest.approx(278e6, rel=0.015)
    assert model.parameters - 2 * 32000 * 1024 == pytest.approx(214e6, rel=0.015)


@pytest.mark.parametrize(
    ("text", "millions"),
    [
        ({"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}, 3209),
        (
            {
                "hidden_size": 3840,
                "intermediate_size": 15360,
                "num_hidden_layers": 48,
                "num_attention_heads": 16,
                "num_key_value_heads": 8,
            },
            10759,
        ),
        (
            {
                "hidden_size": 5376,
                "intermediate_size": 21504,
                "num_hidden_layers": 62,
                "num_attention_heads": 32,
                "num_key_value_heads": 16,
                "head_dim": 128,
            },
            25600,
        ),
    ],
)
def test_gemma_3_gets_the_fields_that_its_configurations_leave_out(text, millions):
    """Their text_config omits the defaults of Hugging Face's class.

    Expected: non-embedding parameters of arXiv 2503.19786, Table 1.
    """
    inner = {**text, "model_type": "gemma3_text", "sliding_window": 1024}
    model = from_config({"model_type": "gemma3", "text_config": inner})
    assert round((model.parameters - model.fields.vocab * model.fields.d_model) / 1e6) == millions


@pytest.mark.parametrize(
    ("name", "whole"),
    [("gemma-3-4b", 4300079472), ("gemma-3-12b", 12187325040), ("gemma-3-27b", 27432406640)],
)
def test_gemma_3_is_its_checkpoint_without_the_vision_tower(name, whole):
    """The model cards give the parameters of the safetensors: language model, SigLIP and the projection.

    SigLIP (arXiv 2303.15343, So400m/14 at 896 pixels): 27 layers of width 1152 with an inner width of 4304,
    64 x 64 patches. The projection (arXiv 2503.19786, section 2) is one matrix behind a norm of that width.
    """
    width, inner, patch, patches = 1152, 4304, 14, 64 * 64
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    vision = 27 * layer + 3 * patch * patch * width + width + patches * width + 2 * width
    model = load(name)
    assert model.parameters == whole - vision - width - width * model.fields.d_model


SMALL = {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4}
GATED = {**SMALL, "intermediate_size": 96, "num_key_value_heads": 2}
LATENT = {
    **SMALL, "intermediate_size": 96, "kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4, "v_head_dim": 8, "n_routed_experts": 4, "n_shared_experts": 1,
    "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1,
}  # fmt: skip
SHARED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
NEXT = {
    **GATED, **SHARED, "shared_expert_intermediate_size": 32, "head_dim": 16, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
}  # fmt: skip
NEXT_DENSE = {key: value for key, value in NEXT.items() if "expert" not in key}
NEXT_SPARSE = {key: value for key, value in NEXT.items() if key != "intermediate_size"}
LLAMA_4 = {
    **SMALL, "intermediate_size": 32, "intermediate_size_mlp": 96, "num_key_value_heads": 2, "head_dim": 16,
    "num_local_experts": 4,
}  # fmt: skip
T5 = {"vocab_size": 1000, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 3, "num_heads": 4}
MAMBA = {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 3, "state_size": 8}

#: Configurations with rare keys or without common ones, and the parameters of Hugging Face's code for them
#: (transformers 5.23, on meta; DeepSeek-V3 with its router's offsets).
SELDOM = [
    ("mistral", {**SMALL, "intermediate_size": 96, "num_attention_heads": 16}, 313152),
    ("qwen3", GATED, 830784),
    ("gemma", GATED, 1355072),
    ("gemma2", GATED, 1355840),
    ("gemma3_text", GATED, 1358912),
    ("gpt_oss", {**GATED, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2}, 653808),
    ("mixtral", GATED, 1090368),
    ("qwen2_moe", {**GATED, **SHARED, "shared_expert_intermediate_size": 48, "qkv_bias": False}, 407232),
    ("qwen3_next", {**NEXT, "attention_bias": True}, 418904),
    ("qwen3_5", NEXT_DENSE, 343000),
    ("qwen3_5_text", {**NEXT_DENSE, "attention_bias": True, "tie_word_embeddings": True}, 279256),
    ("qwen3_5_moe", NEXT_SPARSE, 418648),
    ("deepseek_v2", {**LATENT, "attention_bias": True}, 345272),
    ("deepseek_v3", {**LATENT, "attention_bias": True}, 345292),
    ("llama4_text", {**LLAMA_4, "moe_layers": [1, 3]}, 338240),
    ("llama4_text", {**LLAMA_4, "moe_layers": []}, 313152),
    ("llama4_text", {**LLAMA_4, "attention_bias": True}, 389568),
    ("mt5", T5, 323392),
    ("umt5", T5, 323904),
    ("mamba", {**MAMBA, "expand": 3}, 197312),
    ("mamba", {**MAMBA, "time_step_rank": "auto"}, 152960),
]


#: OPT in the shape of facebook/galactica-125m, which has no biases and norms without weights.
GALACTICA = {
    "vocab_size": 50000, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "ffn_dim": 3072, "max_position_embeddings": 2048, "word_embed_proj_dim": 768,
}  # fmt: skip


def test_opt_without_biases_or_norm_weights_has_fewer_parameters():
    def parameters(**said):
        return from_config({"model_type": "opt", **GALACTICA, **said}).parameters

    products = 12 * (4 * 768**2 + 2 * 768 * 3072) + (50000 + 2050) * 768
    assert parameters(enable_bias=False, layer_norm_elementwise_affine=False) == products
    assert parameters(enable_bias=False) == products + 25 * 2 * 768
    assert parameters(enable_bias=False, _remove_final_layer_norm=True) == products + 24 * 2 * 768


def test_biases_of_an_xlstm_are_counted():
    """Hugging Face's modeling_xlstm.py, per layer: biases of the products and of the norms.

    The gates always have biases, the logits never.
    """
    small = {"vocab_size": 100, "hidden_size": 128, "num_hidden_layers": 3, "num_heads": 4}
    plain, biased = (from_config({"model_type": "xlstm", **small, "use_bias": b}) for b in (False, True))
    keys, values, width = 64, 128, plain.fields.d_ff
    of_layer = (2 * keys + 2 * values + 128) + values + (2 * width + 128) + 2 * 128
    assert biased.parameters - plain.parameters == 3 * of_layer
    assert from_config({"model_type": "xlstm", **small}).parameters == plain.parameters


#: config.json of state-spaces/mamba-130m.
OF_MAMBA_SSM = {
    "d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {}, "rms_norm": True,
    "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8,
}  # fmt: skip


def test_mamba_ssms_own_configuration_gives_the_parameters_of_its_checkpoint():
    def parameters(**said):
        return from_config({**OF_MAMBA_SSM, **said}, model_type="mamba").parameters

    assert parameters() == load("mamba-130m").parameters == 129_135_360
    assert parameters(pad_vocab_size_multiple=None) == 129_135_360  # the default of its class
    assert parameters(pad_vocab_size_multiple=1) == 129_135_360 - 3 * 768
    assert parameters(rms_norm=False) == 129_135_360 + 25 * 768
    # A_log has a row of states for each of 2 · 768 channels; the product that makes B and C has two more.
    assert parameters(ssm_cfg={"d_state": 32}) == 129_135_360 + 24 * 1536 * (16 + 2 * 16)
    assert parameters(ssm_cfg={"d_conv": 3}) == 129_135_360 - 24 * 1536
    hugging_face = from_config({"model_type": "mamba", **MAMBA, "vocab_size": 1001}).parameters
    assert hugging_face - from_config({"model_type": "mamba", **MAMBA}).parameters == 64


def test_mamba_ssms_own_configuration_of_mamba_2_is_read():
    """config.json of state-spaces/mamba2-2.7b, which leaves the heads to mamba_ssm/modules/mamba2.py."""
    own = {**OF_MAMBA_SSM, "d_model": 2560, "n_layer": 64, "pad_vocab_size_multiple": 16}

    def parameters(**said):
        return from_config({**own, "ssm_cfg": {"layer": "Mamba2", **said}}, model_type="mamba2").parameters

    assert parameters() == load("mamba2-2.7b").parameters
    # B and C of each group: rows of the product, channels of the convolution and their offsets.
    assert parameters(ngroups=2) - parameters() == 64 * 2 * 128 * (2560 + 4 + 1)
    with pytest.raises(CostmodelError, match=r"mamba2: wanted Mamba2 in every layer .*, got layer Mamba1"):
        from_config(own, model_type="mamba2")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"num_heads": 4, "head_dim": 16, "n_groups": 2},
            "mamba2: 4 heads of Mamba-2 with 16 channels should make up 128 channels",
        ),
        (
            {"num_heads": 4, "head_dim": 32, "n_groups": 3},
            "mamba2: 3 groups should divide 4 heads of Mamba-2",
        ),
    ],
)
def test_heads_of_mamba_2_that_do_not_fit_are_refused(said, message):
    with pytest.raises(CostmodelError, match=message):
        from_config({"model_type": "mamba2", **MAMBA, **said})


@pytest.mark.parametrize(
    "said",
    [
        {"ssm_cfg": {"layer": "Mamba2"}},
        {"d_intermediate": 1024},
        {"attn_layer_idx": [3]},
        {"ssm_cfg": "large"},
    ],
)
def test_mamba_ssm_configurations_with_other_layers_are_refused(said):
    with pytest.raises(
        CostmodelError, match=r"in every layer and nothing in between, got|should be a mapping"
    ):
        from_config({**OF_MAMBA_SSM, **said}, model_type="mamba")


@pytest.mark.parametrize(("kind", "figures", "count"), SELDOM)
def test_parameters_of_rare_configurations_equal_hugging_faces(kind, figures, count):
    assert from_config({"model_type": kind, **figures}).parameters == count


@pytest.mark.parametrize(
    ("said", "whole"),
    [
        ({}, 1),
        ({"no_rope_layers": [1, 0, 1, 0, 1, 0]}, 3),
        ({"no_rope_layers": []}, 1),
        ({"layer_types": ["full_attention"] * 5 + ["chunked_attention"]}, 5),
    ],
)
def test_llama_4_caches_whole_sequences_only_in_layers_listed_without_rotation(said, whole):
    """configuration_llama4.py: a layer that rotates positions attends to a chunk of 8,192 only."""
    cache = from_config({"model_type": "llama4_text", **LLAMA_4, **said}).cache_bytes("bf16")
    of_layer = 2 * 2 * 2 * 16
    assert at(cache, batch=1, seq_kv=10**6) == of_layer * (whole * 10**6 + (6 - whole) * 8192)


def test_a_list_of_layers_must_have_one_entry_per_layer():
    model = from_config({"model_type": "llama4_text", **LLAMA_4, "no_rope_layers": [1, 0]})
    with pytest.raises(CostmodelError, match="no_rope_layers has 2 entries for 6 layers"):
        _ = model.parameters


@pytest.mark.parametrize("name", ["moe_intermediate_size", "num_experts_per_tok"])
def test_experts_of_width_zero_or_zero_per_token_are_refused(name):
    """Before, one was a division by zero, the other a mixture without the products of its experts."""
    figures = {**GATED, **SHARED, "shared_expert_intermediate_size": 32, name: 0}
    with pytest.raises(CostmodelError, match=r"experts per token of at least 1, got .* and . of 4"):
        _ = from_config({"model_type": "qwen2_moe", **figures}).parameters


def test_states_of_a_delta_rule_are_as_wide_as_keys_and_values():
    """Of six layers five have four value heads with keys of 16, one caches 2 × 16 keys."""
    model = from_config({"model_type": "qwen3_next", **NEXT, "linear_value_head_dim": 32})
    state, convolved = 4 * 4 * 16 * 32, 2 * 3 * (2 * 2 * 16 + 4 * 32)
    assert at(model.cache_bytes("bf16"), batch=1, seq_kv=10) == 5 * (state + convolved) + 10 * 2 * 2 * 16 * 2


def test_active_parameters_of_mixtures_are_as_published():
    """Weights that one token meets: 12.9B in Mixtral, 37B in DeepSeek-V3, 32.6B in Kimi K2 (their papers).

    17B in Qwen3.5 397B by its card, whose digits allow for 17.5.
    """
    for name, active in (
        ("mixtral-8x7b", 12.9e9),
        ("deepseek-v3", 37e9),
        ("qwen3-30b-a3b", 3.3e9),
        ("kimi-k2", 32.6e9),
        ("qwen3.5-397b-a17b", 17e9),
    ):
        decode = load(name).decode()
        weights = at(decode.tensors().weights, batch=1, seq_kv=1) / 2
        embedded = load(name).fields.vocab * load(name).fields.d_model
        # The papers count the whole embedding table, although a token reads only one row.
        assert float(weights) + embedded == pytest.approx(active, rel=0.025)


def test_cache_bytes_per_token_are_as_published():
    """512 KiB (Llama-2-7B), 320 KiB (70B), 1,152 per layer (DeepSeek-V2, arXiv 2405.04434)."""
    for name, expected in (
        ("llama-2-7b", 512 * 1024),
        ("llama-2-70b", 320 * 1024),
        ("deepseek-v2", 60 * 1152),
    ):
        cache = load(name).cache_bytes("bf16")
        assert at(cache, batch=1, seq_kv=1) == expected


def test_deepseek_v4_costs_what_its_report_says_beside_v3_2():
    """At a million tokens, V4-Flash has 1/9.8 of V3.2's FLOPs for a token and 1/13.7 of its cache.

    The report counts its own formats, in which keys of the index have 4 bits in V4 and 8 in V3.2; here both
    have 16, so that the ratios are lower.
    """
    old, new = load("deepseek-v3.2"), load("deepseek-v4-flash")
    sizes = {"batch": 1, "seq_kv": 10**6}
    flops = [evaluate(model.decode(), **sizes)["matrix_flops"] for model in (old, new)]
    assert 0.8 * 9.8 < flops[0] / flops[1] < 9.8
    caches = [float(at(model.cache_bytes(), **sizes)) for model in (old, new)]
    assert 0.85 * 13.7 < caches[0] / caches[1] < 13.7
    # With the bytes of those formats: FP8 latents with their scales and a rotated part of 16 bits (656 in
    # V3.2, 584 in V4), and keys of the index with a scale (132, and 68 in 4 bits).
    sparse, heavy = (new.fields.ratios.count(ratio) for ratio in (4, 128))
    assert 61 * (656 + 132) / (sparse * (584 + 68) / 4 + heavy * 584 / 128) == pytest.approx(13.7, rel=0.01)


def test_recurrent_models_keep_a_state_of_fixed_size():
    """Per layer, Mamba keeps E·N_s numbers in fp32 and (k − 1)·E inputs, RWKV-4 5 d numbers."""
    c = load("mamba-2.8b").fields
    expected = c.layers * (4 * c.inner * c.state + 2 * (c.kernel - 1) * c.inner)
    assert at(load("mamba-2.8b").cache_bytes("bf16"), batch=1) == expected
    assert at(load("rwkv-4-169m").cache_bytes(), batch=1) == 12 * 4 * 5 * 768
    # Mamba-2: 128 heads of 64 × 128 states, and the convolution of x and of 8 groups' B and C.
    expected = 64 * (4 * 128 * 64 * 128 + 2 * 3 * (8192 + 2 * 8 * 128))
    assert at(load("codestral-mamba-7b").cache_bytes("bf16"), batch=1) == expected


#: Per token: layers with attention × 2 tables × key heads × their width × 2 bytes. Per sequence, of the other
#: layers' state: channels × states in fp32, and the positions of a convolution before the last (three, or two
#: in LFM2). Falcon-H1 has both in each layer, and Zamba2 in each with a shared block.
HYBRIDS = {
    "jamba-1.5-mini": (4 * 2 * 8 * 128 * 2, 28 * (4 * 8192 * 16 + 2 * 3 * 8192)),
    "bamba-9b": (3 * 2 * 8 * 128 * 2, 29 * (4 * 8192 * 128 + 2 * 3 * (8192 + 2 * 128))),
    "granite-4.0-h-tiny": (4 * 2 * 4 * 128 * 2, 36 * (4 * 3072 * 128 + 2 * 3 * (3072 + 2 * 128))),
    "falcon-h1-7b": (44 * 2 * 2 * 128 * 2, 44 * (4 * 3072 * 256 + 2 * 3 * (3072 + 2 * 256))),
    "lfm2-8b-a1b": (6 * 2 * 8 * 64 * 2, 18 * 2 * 2 * 2048),
    "zamba2-7b": (13 * 2 * 7168 * 2, 81 * (4 * 7168 * 64 + 2 * 3 * (7168 + 4 * 64))),
    "kimi-linear-48b-a3b": (7 * (512 + 64) * 2, 20 * (4 * 4096 * 128 + 2 * 3 * 3 * 4096)),  # latents
    "nemotron-3-nano-30b-a3b": (6 * 2 * 2 * 128 * 2, 23 * (4 * 4096 * 128 + 2 * 3 * (4096 + 16 * 128))),
}


@pytest.mark.parametrize("name", HYBRIDS)
def test_hybrids_keep_a_cache_and_a_state(name):
    of_token, of_sequence = HYBRIDS[name]
    cache = load(name).cache_bytes("bf16")
    assert at(cache, batch=3, seq_kv=1000) == 3 * (1000 * of_token + of_sequence)


DUAL = {"mamba_n_heads": 8, "mamba_d_state": 16}


#: Qwen4-Exp's indexer, which its configurations need.
CHOOSING = {
    "indexer_n_heads": 2, "indexer_head_dim": 16, "indexer_budget": 32, "indexer_compress_ratio": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "said", "message"),
    [
        ("bamba", {"attn_layer_indices": [6]}, "attn_layer_indices should be of layers 0 to 5, got 6"),
        ("bamba", {"mamba_n_heads": 7}, "7 heads of Mamba-2 should divide its 128 channels"),
        ("bamba", {"mamba_d_head": 8}, "8 heads of Mamba-2 with 8 channels should make up 128"),
        ("granitemoehybrid", {"layer_types": ["mamba"]}, "layer_types has 1 entries for 6 layers"),
        ("granitemoehybrid", {"layer_types": ["attend"] * 6}, "entry 'attend' of layer_types"),
        ("granitemoehybrid", {"position_embedding_type": "alibi"}, "position_embedding_type 'alibi'"),
        ("falcon_h1", {"mamba_d_ssm": 100}, "8 heads of Mamba-2 should divide its 100 channels"),
        ("lfm2", {"layer_types": ["mamba"] * 6}, "entry 'mamba' of layer_types"),
        ("nemotron_h", {}, "wanted layers_block_type or hybrid_override_pattern, got neither"),
        ("nemotron_h", {"hybrid_override_pattern": "MX"}, "entry 'X' of hybrid_override_pattern"),
        ("nemotron_h", {"layers_block_type": ["conv"]}, "entry 'conv' of layers_block_type"),
        ("nemotron_h", {"hybrid_override_pattern": "ME", "moe_latent_size": 32}, "moe_latent_size 32 is not"),
        (
            "nemotron_h",
            {"hybrid_override_pattern": "M-", "mlp_hidden_act": "mish"},
            "unknown activation 'mish'",
        ),
        ("kimi_linear", {"layer_types": ["mamba"] * 6}, "entry 'mamba' of layer_types"),
        ("kimi_linear", {"mla_use_nope": False}, "mla_use_nope should be True, got False"),
        (
            "kimi_linear",
            {"linear_attn_config": {"full_attn_layers": [3], "kda_layers": [1, 2, 4, 5]}},
            r"should have each of the layers 1 to 6 once, got \[3\] and \[1, 2, 4, 5\]",
        ),
        ("kimi_linear", {"linear_attn_config": {"num_heads": 0}}, "num_heads should be a whole number"),
        ("bailing_hybrid", {"layer_types": ["mamba"] * 3}, "entry 'mamba' of layer_types"),
        ("minimax", {"layer_types": ["conv"] * 3}, "entry 'conv' of layer_types"),
        ("lfm2", {"layer_types": ["sliding_attention"] * 3}, "entry 'sliding_attention' of layer_types"),
        ("zamba", {"n_mamba_heads": 3}, "3 heads of Mamba should divide its 128 channels"),
        ("glm5_next", {"qk_rope_head_dim": 64}, "qk_rope_head_dim should be .*, got 64"),
        ("glm5_next", {"index_topk": 40}, "index_topk: wanted a multiple of index_kpool 16, got 40"),
        (
            "glm5_next_text",
            {"index_kpool_always_select_tail": False},
            "index_kpool_always_select_tail should be True, got False",
        ),
        ("zaya", {"num_experts_per_tok": 2}, "num_experts_per_tok should be a whole number .*, got 2"),
        ("zaya", {"layer_types": ["hybrid_sliding"] * 6}, "sliding_window: wanted positions"),
        ("qwen4_exp", {}, "lacks indexer_n_heads, indexer_head_dim, indexer_budget, indexer_compress_ratio"),
        ("qwen4_exp", {**CHOOSING, "indexer_budget": 33}, "multiple of indexer_compress_ratio 8, got 33"),
        ("qwen4_exp", {**CHOOSING, "ple_layer_ids": [1, 4]}, r"wanted layers with a delta net, .* \[4\]"),
        (
            "qwen4_exp",
            {**CHOOSING, "ple_layer_ids": [1], "ple_embed_dim": 40},
            "ple_embed_dim: wanted a multiple of 16, got 40",
        ),
    ],
)
def test_impossible_configurations_of_hybrids_are_refused(kind, said, message):
    with pytest.raises(CostmodelError, match=message):
        _ = from_config({"model_type": kind, **GATED, **DUAL, **said}).parameters


def test_the_published_configuration_of_kimi_linear_means_what_hugging_faces_does():
    """It counts layers from 1, and has the sizes of delta attention in a mapping of their own."""
    sizes = {**GATED, "kv_lora_rank": 16, "num_experts": 4}
    mapping = {"full_attn_layers": [3, 5], "kda_layers": [1, 2, 4, 6], "num_heads": 3, "head_dim": 20}
    types = ["full_attention" if i in (3, 5) else "linear_attention" for i in range(1, 7)]
    own = {"layer_types": types, "linear_num_heads": 3, "linear_head_dim": 20}
    published, saved = (
        from_config({"model_type": "kimi_linear", **sizes, **said})
        for said in ({"linear_attn_config": {**mapping, "short_conv_kernel_size": 4}}, own)
    )
    assert published.decode("bf16").parts == saved.decode("bf16").parts
    assert {part.name: part.repeats for part in saved.decode().parts}["delta rule"] == 4


@pytest.mark.parametrize("tokens", [100, 2048, 10**6])
def test_recurrent_gemma_keeps_a_state_and_a_window(tokens):
    """Of 26 layers every third attends, to 2,048 positions with one key and value head of 256.

    The others keep 2,560 numbers in fp32, and three positions of the convolution.
    """
    cache = at(load("recurrentgemma-2b").cache_bytes("bf16"), batch=3, seq_kv=tokens)
    assert cache == 3 * (18 * (4 + 2 * 3) * 2560 + 8 * 2 * 2 * 256 * min(tokens, 2048))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"block_types": ["recurrent", "attend"]}, "entry 'attend' of block_types"),
        ({"block_types": []}, "block_types should have an entry at least"),
        ({"intermediate_size": 97}, "intermediate_size 97 should be even"),
        ({"lru_width": 66}, "width 66 is not a multiple of heads 4"),
    ],
)
def test_impossible_configurations_of_recurrent_gemma_are_refused(said, message):
    with pytest.raises(CostmodelError, match=message):
        _ = from_config({"model_type": "recurrent_gemma", **GATED, **said}).parameters


def test_a_window_bounds_the_cache():
    cache = load("mistral-7b").cache_bytes()
    short, window, long = (at(cache, batch=1, seq_kv=n) for n in (2048, 4096, 8192))
    assert window == 2 * short
    assert long == window


@pytest.mark.parametrize("name", available())
def test_every_catalogue_entry_lists_the_sources_of_its_figures(name):
    entry = _yaml(CATALOGUE / f"{name}.yaml")
    assert entry["name"] == name
    used = {figure["source"] for figure in entry["figures"].values()}
    assert used <= set(entry["sources"])
    assert load(name).origin
