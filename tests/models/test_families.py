"""Traits of architectures: which layers rotate, what parallel halves keep, what devices exchange, uses."""

from dataclasses import replace

import pytest
import sympy as sp
from configurations import CLASSIC, FAMILIES, GATED, LLAMA_4, SMALL, figures
from latents import LATENTS
from recurrences import PURE, RECURRENT

from costmodel import evaluate, predict
from costmodel.errors import CostmodelError
from costmodel.models import from_config
from costmodel.models.generation import generation
from costmodel.parallel import Layered, Transformer, stack_of
from costmodel.symbols import symbol

H200 = "nvidia/h200-sxm"
SIZES = {"batch": 2, "seq": 48, "seq_kv": 48}


def sizes_of(model):
    return {name: SIZES[name] for name in model.required}


def of(kind, **said):
    return from_config({"model_type": kind, **(FAMILIES[kind] if kind in CLASSIC else GATED), **said})


def parts_of(model, name):
    return [part for part in model.parts if part.name == name]


@pytest.mark.parametrize(
    ("kind", "said"),
    [("falcon", {"alibi": True}), *((kind, {}) for kind in ("bloom", "mpt", "gpt_bigcode", "gpt_neo"))],
)
def test_models_with_alibi_or_learned_positions_rotate_nothing(kind, said):
    assert not parts_of(of(kind, **said).prefill(), "rotary")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_use_has_consistent_bounds(name):
    model = from_config(figures(name))
    for use in (model.training(), model.prefill(), model.decode()):
        found = predict(use, H200, **sizes_of(use), rung="bound")
        assert 0 < found.lower_s <= found.seconds * (1 + 1e-9), use.title
        assert found.counts["hbm_bytes"] >= found.counts["compulsory_bytes"] * (1 - 1e-9), use.title
    assert generation(model, H200, prompt=8, new=3).seconds > 0


#: Models with a single head of keys, which both of two devices have.
ONE_KEY = ("falcon", "gpt_bigcode")


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ONE_KEY])
def test_two_devices_do_half_of_the_matrix_flops_each(name):
    whole = from_config(figures(name))
    for one, share in zip(
        *([m.prefill(), m.decode()] for m in (whole, whole.tensor_parallel(2))), strict=True
    ):
        flops = [evaluate(model, **sizes_of(model))["matrix_flops"] for model in (one, share)]
        alike = sum(  # routers
            2 * sp.prod(dict(part.sizes)[n] for n in ("batch", "seq", "d_model", "experts")) * part.repeats
            for part in parts_of(one, "experts")
        )
        alike += sum(  # and other products that every device computes whole
            2 * sp.prod(dict(part.sizes).get(n, 1) for n in ("batch", "m", "n", "k")) * part.repeats
            for part in one.parts
            if part.layer.name == "matmul" and part in share.parts
        )
        undivided = float(sp.sympify(alike).subs({symbol(n): v for n, v in SIZES.items()}))
        assert 2 * (flops[1] - undivided) == pytest.approx(flops[0] - undivided)


# -- rotation ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "said", "layers", "width"),
    [
        ("llama", {}, 8, 16),
        ("smollm3", {}, 6, 16),
        ("smollm3", {"no_rope_layer_interval": 2}, 4, 16),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 1, 1, 1, 1, 0]}, 7, 16),
        ("cohere2", {"sliding_window": 8}, 6, 16),
        ("cohere2", {"layer_types": ["sliding_attention"] * 7 + ["full_attention"]}, 7, 16),
        ("exaone4", {"sliding_window": 8}, 6, 16),
        ("exaone4", {"sliding_window": None}, 8, 16),
        ("exaone4", {"sliding_window_pattern": "LLLG"}, 6, 16),
        ("glm", {"head_dim": 16}, 8, 8),
        ("glm4", {"head_dim": 16}, 8, 8),
        ("nemotron", {}, 8, 8),
        ("stablelm", {}, 8, 4),
        ("stablelm", {"partial_rotary_factor": 0.5}, 8, 8),
        ("stablelm", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, 8, 8),
        ("phi3", {"partial_rotary_factor": 0.75}, 8, 12),
        ("glm4_moe", {"head_dim": 16}, 8, 8),
        ("minimax_m2", {"head_dim": 16, "rotary_dim": 8}, 8, 8),
        ("mimo_v2_flash", {"head_dim": 16}, 8, 5),
        ("exaone_moe", {}, 6, 16),
        ("afmoe", {"head_dim": 16}, 6, 16),
        ("cohere2_moe", {"head_dim": 16}, 6, 16),
        ("cohere2_moe", {"head_dim": 16, "first_k_dense_replace": 1}, 1 + 6, 16),
        (
            "cohere2_moe",
            {"head_dim": 16, "first_k_dense_replace": 1, "prefix_dense_sliding_window_pattern": 2},
            1 + 6,
            16,
        ),
        ("granite_swa", {"layer_rope_theta": [0, 1, 1, 1, 0, 1, 1, 1]}, 6, 16),
        ("laguna", {"head_dim": 16}, 8, 8),
        ("laguna", {"head_dim": 16, "layer_types": ["sliding_attention"] * 8}, 8, 16),
        ("persimmon", {"num_key_value_heads": 4}, 8, 8),
        ("gpt_neox", {}, 8, 4),
        ("gpt_neox", {"rotary_pct": 1.0}, 8, 16),
        ("gptj", {"n_layer": 8}, 8, 8),
        ("phi", {}, 8, 8),
        ("falcon", {}, 8, 16),
    ],
)
def test_positions_are_rotated_where_and_as_wide_as_in_hugging_faces_code(kind, said, layers, width):
    """configuration_*.py and modeling_*.py of each; heads have 16 numbers."""
    found = parts_of(of(kind, **{"num_hidden_layers": 8, **said}).prefill(), "rotary")
    assert (sum(part.repeats for part in found), {dict(p.sizes)["head_dim"] for p in found}) == (
        layers,
        {width},
    )


@pytest.mark.parametrize(
    ("kind", "said", "windowed"),
    [
        ("olmo3", {}, 6),
        ("cohere2", {}, 6),
        ("starcoder2", {}, 0),
        ("starcoder2", {"sliding_window": 8}, 8),
        ("mimo_v2_flash", {}, 6),
        ("exaone_moe", {}, 6),
        ("dots1", {"max_window_layers": 5}, 3),
        ("afmoe", {"global_attn_every_n_layers": 2}, 4),
        ("cohere2_moe", {"first_k_dense_replace": 2}, 5),
        ("cohere2_moe", {"first_k_dense_replace": 2, "prefix_dense_sliding_window_pattern": 2}, 1 + 5),
        ("granite_swa", {}, 6),
        ("vaultgemma", {}, 4),
        ("smollm3", {"sliding_window": 8}, 0),
        ("smollm3", {"sliding_window": 8, "use_sliding_window": True}, 2),
    ],
)
def test_layers_have_a_window_where_hugging_faces_code_gives_them_one(kind, said, windowed):
    parts = of(kind, num_hidden_layers=8, **said).prefill().parts
    assert sum(p.repeats for p in parts if p.layer.name == "sliding-window") == windowed


@pytest.mark.parametrize(
    ("kind", "said", "message"),
    [
        ("stablelm", {"partial_rotary_factor": 1.5}, "wanted a share of a head's width of 0 to 1, got 1.5"),
        ("arcee", {"hidden_act": "relu3"}, r"unknown activation 'relu3'; did you mean 'relu'"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers has 2 entries for 3 layers; wanted one each"),
        ("exaone4", {"sliding_window_pattern": "LLG"}, "sliding_window_pattern should be a whole number"),
        ("ernie4_5_moe", {"use_bias": True}, "ernie4_5_moe: wanted experts without biases"),
        ("mpt", {"attn_config": {"qk_ln": True}}, "configuration of mpt: qk_ln should be False, got True"),
        ("mpt", {"attn_config": {"alibi": False}}, "configuration of mpt: alibi should be True, got False"),
        ("mpt", {"no_bias": False}, "configuration of mpt: no_bias should be True, got False"),
        ("hy_v3", {"mlp_bias": True}, "hy_v3: wanted experts without biases"),
        (
            "laguna",
            {"num_attention_heads_per_layer": [4, 4, 8]},
            r"num_attention_heads_per_layer: wanted 4 of all layers without a window .* got \[4, 4, 8\]",
        ),
        ("step3p5", {"moe_layers_enum": "2,x"}, "moe_layers_enum: wanted numbers of layers, got '2,x'"),
        ("gpt_neo", {"attention_types": [["global", 3]]}, "unknown entry 'g' of attention_types"),
        ("gpt_neo", {"attention_types": [3]}, r"attention_types: wanted lists of types .* got \[3\]"),
        ("gpt_neo", {"attention_types": [[["local"], 4]]}, "attention_types has 4 entries for 3 layers"),
        ("gemma4_text", {"head_dim": 16, "use_bidirectional_attention": "all"}, "wanted vision or null"),
        ("gemma3n_text", {}, "before those that share, got 15 of 3"),
        ("gemma3n_text", {"num_kv_shared_layers": 0, "intermediate_size": [96, 96, 48]}, r"\[96, 96, 48\]"),
        ("gemma4_text", {"head_dim": 16, "num_kv_shared_layers": 2}, "before those that share, got 2 of 3"),
        (
            "gemma4_text",
            {"head_dim": 16, "per_layer_config": {"1": {"head_dim": 32}}},
            r"per_layer_config: wanted head_dim, num_key_value_heads of layers \[2\], got head_dim of \[1\]",
        ),
        ("hunyuan_v1_moe", {"moe_topk": [1, 2, 1], "num_experts": 4}, r"got \[1, 2, 1\]"),
    ],
)
def test_values_that_change_the_computation_and_are_unknown_are_refused(kind, said, message):
    with pytest.raises(CostmodelError, match=message) as caught:
        _ = of(kind, **said).parameters
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "said", "function"),
    [
        ("llama", {}, "silu"),
        ("llama", {"hidden_act": "gelu"}, "gelu"),
        ("gemma2", {}, "gelu-tanh"),
        ("arcee", {}, "relu2"),
        ("arcee", {"hidden_act": "silu"}, "silu"),
        ("apertus", {}, "xielu"),
        ("granitemoe", {"hidden_act": "gelu_pytorch_tanh"}, "gelu-tanh"),
        ("gpt_bigcode", {"activation_function": "gelu"}, "gelu"),
        ("falcon", {"activation": "relu"}, "relu"),
    ],
)
def test_the_activation_is_the_one_that_a_configuration_states(kind, said, function):
    parts = of(kind, **said).prefill().parts
    assert {p.layer.options["activation"] for p in parts if "activation" in p.layer.options} == {function}


#: Architectures with figures of their own.
T5 = {"vocab_size": 1000, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 3, "num_heads": 4}
BERT = {**SMALL, "max_position_embeddings": 128}
OTHERS = {**RECURRENT, **LATENTS, "llama4_text": LLAMA_4, "bert": BERT}


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        *((kind, "hidden_act") for kind in (*LATENTS, "llama4_text")),
        *((kind, "hidden_act") for kind in ("bamba", "jamba", "granitemoehybrid", "falcon_h1", "zamba2")),
        *((kind, "hidden_act") for kind in ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "olmo_hybrid")),
        *((kind, "hidden_act") for kind in ("kimi_linear", "bailing_hybrid", "minimax", "qwen4_exp_text")),
        *((kind, "hidden_act") for kind in ("zamba", "zaya")),
        ("bert", "hidden_act"),
        ("recurrent_gemma", "hidden_activation"),
        ("nemotron_h", "mlp_hidden_act"),
    ],
)
def test_the_activation_of_others_is_the_one_that_a_configuration_states(kind, key):
    figures = {"model_type": kind, **OTHERS[kind]}
    parts = from_config({**figures, key: "relu"}).prefill().parts
    assert {p.layer.options["activation"] for p in parts if "activation" in p.layer.options} == {"relu"}
    with pytest.raises(CostmodelError, match="unknown activation 'mish'"):
        _ = from_config({**figures, key: "mish"}).parameters


@pytest.mark.parametrize(("said", "function"), [({}, "gelu"), ({"hidden_act": "gelu_new"}, "gelu-tanh")])
def test_berts_layers_and_its_word_transform_have_the_activation_stated(said, function):
    """Both read the same key; the pooler's tanh is fixed (transformers, modeling_bert.py)."""
    model = from_config({"model_type": "bert", **BERT, **said}).training()
    transform, pooler = (parts_of(model, f"{name}'s activation")[0] for name in ("word transform", "pooler"))
    inner = parts_of(model, "feed-forward")[0]
    assert inner.layer.options["activation"] == transform.layer.options["op"] == function
    assert pooler.layer.options["op"] == "tanh"


@pytest.mark.parametrize(
    ("kind", "said", "layer", "function"),
    [
        ("t5", {}, "feed-forward", "relu"),
        ("t5", {"feed_forward_proj": "gelu_new"}, "feed-forward", "gelu-tanh"),
        ("t5", {"feed_forward_proj": "gated-gelu"}, "swiglu", "gelu-tanh"),
        ("t5", {"feed_forward_proj": "gated-silu"}, "swiglu", "silu"),
        ("mt5", {}, "swiglu", "gelu-tanh"),
        ("umt5", {}, "swiglu", "gelu-tanh"),
    ],
)
def test_t5s_inner_layers_have_the_form_stated(kind, said, layer, function):
    """The words gated-gelu mean GELU's approximation by tanh (transformers, configuration_t5.py)."""
    for use in ("training", "decode"):
        model = getattr(from_config({"model_type": kind, **T5, **said}), use)()
        inner = [part.layer for part in model.parts if "activation" in part.layer.options]
        assert {(one.name, one.options["activation"]) for one in inner} == {(layer, function)}


def test_t5_refuses_a_form_that_is_unknown():
    config = {"model_type": "t5", **T5, "feed_forward_proj": "gated-mish"}
    with pytest.raises(CostmodelError, match="unknown activation 'mish'"):
        _ = from_config(config).parameters


@pytest.mark.parametrize(("said", "function"), [({}, "gelu-tanh"), ({"hidden_activation": "relu"}, "relu")])
def test_recurrences_of_recurrent_gemma_are_gated_with_the_activation(said, function):
    """Recurrent and feed-forward layers read the same key (transformers, modeling_recurrent_gemma.py)."""
    figures = {"model_type": "recurrent_gemma", **RECURRENT["recurrent_gemma"], **said}
    for use in ("training", "prefill", "decode"):
        gates = parts_of(getattr(from_config(figures), use)(), "output gate")
        assert {gate.layer.options["op"] for gate in gates} == {f"{function}-and-mul"}


#: Functions of output and receptance gates in modeling_*.py of transformers.
GATES = {
    "qwen3_next": {"sigmoid", "silu"},  # of attention, of delta nets
    "qwen3_5_text": {"sigmoid", "silu"},
    "olmo_hybrid": {"silu"},
    "mamba2": {"silu"},
    "rwkv": {"sigmoid"},
    "xlstm": {"sigmoid"},
}


XLSTM = {**PURE, "num_heads": 4}


@pytest.mark.parametrize(("kind", "functions"), GATES.items())
def test_gates_are_of_the_function_that_a_models_code_calls(kind, functions):
    config = {"model_type": kind, **(RECURRENT | {"rwkv": PURE, "xlstm": XLSTM})[kind]}
    for use in ("training", "decode"):
        parts = getattr(from_config(config), use)().parts
        gates = {
            part.layer.options["op"] for part in parts if part.name in ("output gate", "receptance gate")
        }
        assert gates == {f"{function}-and-mul" for function in functions}


def test_gradients_of_sigmoid_gates_have_their_own_arithmetic():
    """As counted by hand: σ 2 and exp, g·b, s·(1 − s) 2, their product; g·s. SiLU's takes two more."""
    model = from_config({"model_type": "rwkv", **PURE}).training("fp32", optimizer=None)
    gate = parts_of(model, "receptance gate")[0].layer
    counts = evaluate(replace(gate, direction="bwd"), m=3, n=5)
    assert (counts["vector_flops"], counts["special_flops"]) == (7 * 15, 15)


def test_rwkvs_channel_mixing_squares_its_relu():
    """max(x, 0) and its square, an operation each (Peng et al., arXiv 2305.13048, eq. 14)."""
    part = parts_of(from_config({"model_type": "rwkv", **PURE}).prefill(), "squared relu")[0]
    assert evaluate(part.layer, m=3, n=5)["vector_flops"] == 2 * 15


@pytest.mark.parametrize("kind", ["lfm2", "lfm2_moe", "lfm3"])
def test_lfm_has_silu_whatever_a_configuration_states(kind):
    """Its code calls SiLU by name and reads no key (transformers, modeling_lfm2.py)."""
    parts = from_config({"model_type": kind, **RECURRENT[kind], "hidden_act": "gelu"}).prefill().parts
    assert {p.layer.options["activation"] for p in parts if "activation" in p.layer.options} == {"silu"}


# -- heads of keys and values ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "said", "heads"),
    [
        ("falcon", {}, 1),
        ("falcon", {"num_kv_heads": 4}, 1),  # as in Falcon-7B's configuration, whose code ignores it
        ("falcon", {"multi_query": False}, 4),
        ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}, 2),
        ("gpt_bigcode", {}, 1),
        ("gpt_bigcode", {"multi_query": False}, 4),
        ("phi", {"num_key_value_heads": 2}, 2),
        ("bloom", {}, 4),
        ("gpt2", {**CLASSIC["gpt_bigcode"]}, 4),
    ],
)
def test_a_token_caches_a_key_and_a_value_for_each_of_these_heads(kind, said, heads):
    """In 3 layers, of 16 numbers in 2 bytes each."""
    cache = of(kind, **said).cache_bytes("bf16")
    assert cache.subs({symbol("batch"): 1, symbol("seq_kv"): 1}) == 3 * 2 * heads * 16 * 2


# -- mixtures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "said", "dense"),
    [
        ("glm4_moe", {}, 1),
        ("glm4_moe", {"first_k_dense_replace": 3}, 3),
        ("ernie4_5_moe", {}, 1),
        ("ernie4_5_moe", {"moe_layer_start_index": 2, "moe_layer_end_index": 5}, 4),
        ("ernie4_5_moe", {"moe_layer_end_index": -1, "moe_layer_interval": 2}, 4),
        ("hunyuan_v1_moe", {}, 0),
        ("exaone_moe", {"first_k_dense_replace": 3}, 3),
        ("afmoe", {"num_dense_layers": 2}, 2),
        ("hy_v3", {"mlp_layer_types": ["dense", "sparse"] * 4}, 4),
        ("hunyuan_v1_dense", {"num_experts": 4, "moe_topk": 2}, 8),
    ],
)
def test_layers_without_experts_are_those_of_hugging_faces_code(kind, said, dense):
    parts = of(kind, **{"num_hidden_layers": 8, **said}).prefill().parts
    assert sum(p.repeats for p in parts if p.layer.name == "swiglu") == dense


# -- what halves share -------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "tables"), [("stablelm", 2), ("gpt_neox", 1)])
def test_parallel_halves_keep_their_input_once(kind, tables):
    """Else a second half has an input of its own, and its norm, which with one norm for both is the first's.

    Each is a table of d_model numbers per token, in each of 3 layers.
    """
    kept = [
        evaluate(of(kind, use_parallel_residual=p).training("bf16", optimizer=None), batch=2, seq=48)
        for p in (False, True)
    ]
    assert kept[0]["kept_bytes"] - kept[1]["kept_bytes"] == 3 * tables * (2 * 48) * 2 * 64


def test_a_layer_that_reads_anothers_keys_caches_and_keeps_none():
    """A global one of 2 heads of 32 numbers; the inputs of both norms are not kept either."""
    alone, reading = (
        from_config({**figures("gemma4_text"), "num_kv_shared_layers": layers}) for layers in (0, 1)
    )
    table = 2 * 32 * 2
    one = {symbol("batch"): 1, symbol("seq_kv"): 1}
    assert alone.cache_bytes().subs(one) - reading.cache_bytes().subs(one) == 2 * table
    steps = [evaluate(model.training(optimizer=None), batch=1, seq=1) for model in (alone, reading)]
    assert steps[0]["kept_bytes"] - steps[1]["kept_bytes"] == 4 * table
    assert predict(reading.decode(), H200, batch=1, seq_kv=48).seconds > 0


def all_reduces(model):
    found = parts_of(model, "between devices")
    sums = [(dict(p.sizes)["n"], p.repeats) for p in found if p.layer.collective == "all-reduce"]
    return {width: sum(times for n, times in sums if n == width) for width, _ in sums}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("llama", {64: 2 * 3 + 1}),
        ("cohere", {64: 3 + 1}),  # both halves are summed together
        ("gpt_neox", {64: 3 + 1}),
        ("olmo2", {64: 2 * 3 + 1, 1: 2 * 3}),  # a sum of squares for each of Q's and K's norms
    ],
)
def test_devices_that_share_a_layer_sum_what_each_has_a_part_of(kind, expected):
    assert all_reduces(of(kind).tensor_parallel(2).decode()) == expected


@pytest.mark.parametrize(
    ("kind", "stack"),
    [
        ("llama", Transformer),
        ("granite", Transformer),
        ("arcee", Layered),
        ("starcoder2", Layered),
        ("cohere", Layered),
        ("olmo2", Layered),
        ("stablelm", Layered),
        ("gpt_neox", Layered),
        ("gpt_bigcode", Transformer),
    ],
)
def test_only_plain_layers_are_planned_as_megatrons(kind, stack):
    assert type(stack_of(of(kind))) is stack
