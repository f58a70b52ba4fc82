"""Models with narrow weights or caches: file sizes as published, tokens per second as measured."""

import pytest

import costmodel as cm
from costmodel.errors import CostmodelError, SizeError
from costmodel.model_memory import Memory
from costmodel.models import from_config, load

A100 = "nvidia/a100-sxm-80gb"


def held(model, weights, group=None):
    """Return the size of a model's weights [GB]."""
    found = load(model).storing(weights, group=group).prefill("fp16").held()
    return float(found.learned) / 1e9


@pytest.mark.parametrize(("name", "published"), [("llama-2-7b", 3.89), ("llama-2-70b", 36.61)])
def test_weights_occupy_as_much_as_awqs_published_files(name, published):
    """AWQ, 4 bits, groups of 128: the model cards of TheBloke/Llama-2-7B-AWQ and -70B-AWQ.

    The 4-bit zero of each group, which is not counted, adds 0.7 %.
    """
    model = load(name)
    outside = 2 * model.fields.vocab * model.fields.d_model
    zeros = (model.parameters - outside) / 128 / 2 / 1e9
    assert held(name, "int4") + zeros == pytest.approx(published, abs=0.006)


@pytest.mark.parametrize(
    ("weights", "group", "published"),
    # A 16-bit zero and a 16-bit scale per 32 numbers are as many bytes as a scale per 16.
    [(None, None, 104.9), ("int8", None, 155.58), ("int4", 16, 196.80)],
)
def test_tokens_per_second_are_those_of_gpt_fast(weights, group, published):
    """README of gpt-fast: Llama 2 7B, one sequence, A100-80GB limited to 330 W."""
    device = cm.hardware.load(A100).replace(power="330 W")
    model = load("llama-2-7b").storing(weights, group=group).decode("bf16")
    found = cm.predict(model, device, batch=1, seq_kv=200)
    assert 1 / found.seconds == pytest.approx(published, rel=0.15)
    assert 1 / found.lower_s > published


def test_storing_changes_the_products_of_layers_and_nothing_else():
    plain, stored = load("mixtral-8x7b").decode(), load("mixtral-8x7b").storing("int4").decode()
    changed = {p.name for p, q in zip(plain.parts, stored.parts, strict=True) if p.layer != q.layer}
    assert changed == {"query, key and value", "output projection", "experts"}
    assert plain.parameters() == stored.parameters()


def test_absorbed_products_of_latent_attention_keep_their_format():
    stored = load("deepseek-v3").storing("int8", cache="fp8").decode()
    formats = {part.name: part.layer.options.get("weights") for part in stored.parts}
    assert formats["query to latent (W_UK)"] is None
    assert formats["query up-projection"] == "int8"


def test_a_cache_of_latents_is_half_as_large_in_fp8():
    plain, stored = (load("deepseek-v3").storing(cache=cache) for cache in (None, "fp8"))
    assert 2 * stored.cache_bytes() == plain.cache_bytes()
    sizes = {"batch": 64, "seq_kv": 4096}
    reads = [cm.evaluate(model.decode(), **sizes)["hbm_bytes"] for model in (plain, stored)]
    assert reads[0] - reads[1] == 61 * 64 * 4096 * (512 + 64)


def test_prefill_leaves_a_cache_in_the_stored_format():
    plain, stored = (load("llama-2-7b").storing(cache=cache).prefill().held().left for cache in (None, "fp8"))
    assert plain == 2 * stored


def test_storing_in_the_format_of_computation_changes_nothing():
    model = load("llama-2-7b")
    assert model.storing("fp8").decode("fp8") == model.decode("fp8")
    assert model.storing("int8").training() == model.training()
    assert model.storing("int8").title == "llama-2-7b, weights in int8"


def test_two_devices_hold_half_of_the_stored_weights_each():
    whole, half = (load("llama-2-70b").tensor_parallel(n).storing("int4").decode() for n in (1, 2))
    bytes_ = [cm.predict(m, A100, rung="bound", batch=1, seq_kv=1024).footprint_bytes for m in (whole, half)]
    assert bytes_[1] == pytest.approx(bytes_[0] / 2, rel=0.02)


def test_a_model_too_large_in_16_bits_is_offered_in_8():
    memory = Memory(architecture=load("llama-2-70b"), device=cm.hardware.load(A100), dtype="bf16")
    said = memory.lacking("decode", batch=1, length=2048)
    assert said.endswith("--tensor 2 or --weights int8 would do")
    stored = Memory(architecture=load("llama-2-70b").storing("int8"), device=memory.device, dtype="bf16")
    assert stored.lacking("decode", batch=1, length=2048) is None


def test_a_model_too_large_in_8_bits_is_offered_in_4_or_on_more_devices():
    """Before, int8 was suggested for a model in fp8, which refuses it."""
    memory = Memory(
        architecture=load("llama-3.1-405b"), device=cm.hardware.load("nvidia/h200-sxm"), dtype="fp8"
    )
    assert memory.lacking("decode", batch=1, length=512).endswith("--tensor 4 would do")
    half = Memory(
        architecture=load("llama-2-70b").storing("int8"), device=cm.hardware.load("nvidia/l40s"), dtype="bf16"
    )
    assert "--weights int4" in half.lacking("decode", batch=1, length=512)


# -- checkpoints with a quantization_config ----------------------------------------------------


@pytest.mark.parametrize(
    ("told", "weights", "bits"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4", 4 + 16 / 128),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "int4", 4 + 16 / 32),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8", 8 + 16 / 4096),
        # Dettmers et al., arXiv 2305.14314, §3: 0.5 bits per parameter for scales, 0.127 if quantised too.
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "fp4", 4 + 0.5),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True},
            "fp4",
            4 + 0.127,
        ),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8", 8 + 16 / 4096),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", 8),
        # FP4 has scales of one byte in every notation: per 16 numbers, 4.5 bits in all.
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float", "group_size": 16}}},
            },
            "fp4",
            4 + 8 / 16,
        ),
        # OCP Microscaling Formats v1.0, §5: 8 bits of scale per 32 numbers.
        ({"quant_method": "mxfp4"}, "fp4", 4.25),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "fp4", 4.5),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
            },
            "fp8",
            8,
        ),
    ],
)
def test_quantization_config_sets_the_format_and_bits_of_weights(llama, told, weights, bits):
    sizes = {"hidden_size": 4096, "num_attention_heads": 32, "intermediate_size": 4096}
    model = from_config({**llama, **sizes, "quantization_config": told})
    assert model.weights == weights
    (product,) = (part.layer for part in model.decode().parts if part.name == "output projection")
    assert 8 * float(product.held(4096, 1)) / 4096 == pytest.approx(bits, rel=1e-3)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"quant_method": "hqq"}, "wanted a quant_method that is known (gptq, awq,"),
        ({}, "wanted a quant_method that is known"),
        ("4 bits", "wanted a quant_method that is known"),
        ({"quant_method": "awq", "bits": 3}, "wanted weights of 4 or 8 bits, got 3"),
        ({"quant_method": "awq", "bits": [4]}, "wanted weights of 4 or 8 bits, got [4]"),
        ({"quant_method": "awq", "bits": 4, "group_size": "128"}, "wanted a group_size like 128, got '128'"),
        ({"quant_method": "fp8", "kv_cache_scheme": "fp8"}, "wanted a kv_cache_scheme of fields, got 'fp8'"),
        ({"quant_method": "fp8", "kv_cache_scheme": {"num_bits": 2}}, "wanted a cache of 4 or 8 bits, got 2"),
        ({"quant_method": "compressed-tensors"}, "wanted config_groups"),
        ({"quant_method": "modelopt", "quant_algo": "INT4"}, "wanted quant_algo FP8 or NVFP4, got INT4"),
    ],
)
def test_unknown_quantization_configs_are_refused(llama, told, said):
    with pytest.raises(CostmodelError) as caught:
        from_config({**llama, "quantization_config": told})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_quantization_config_sets_the_format_of_the_cache(llama):
    told = {
        "quant_method": "modelopt",
        "quant_algo": "FP8",
        "kv_cache_scheme": {"num_bits": 8, "type": "float"},
    }
    model = from_config({**llama, "quantization_config": told})
    assert (model.weights, model.cache) == ("fp8", "fp8")


def test_an_encoder_is_stored_narrow_while_its_decoder_runs():
    """T5's encoder and its key and value projections stay in memory during decoding."""
    model = load("t5-11b").storing("int4")
    assert model.decode().held().learned == model.prefill().held().learned


def test_in_dtype_does_not_change_the_format_of_the_cache():
    stored = load("llama-2-7b").storing(cache="int4").decode("fp16")
    wanted = load("llama-2-7b").storing(cache="int4").decode("fp8").state
    assert stored.in_dtype("fp8").state == wanted


@pytest.mark.parametrize(("name", "use"), [("mamba-2.8b", "decode"), ("bert-base", "prefill")])
def test_a_cache_format_for_a_model_without_a_cache_is_refused(name, use):
    with pytest.raises(CostmodelError, match=f"cache of {name} {use}: it keeps no keys and values"):
        getattr(load(name).storing(cache="fp8"), use)()


def test_impossible_storage_formats_are_refused():
    model = load("llama-2-7b")
    with pytest.raises(CostmodelError, match="unknown dtype 'int5'"):
        model.storing("int5")
    with pytest.raises(CostmodelError, match="give the weights' format too, such as int4"):
        model.storing(group=32)
    with pytest.raises(CostmodelError, match="narrower than bf16, got fp32"):
        model.storing("fp32").decode()
    with pytest.raises(CostmodelError, match="of llama-2-7b training with weights=int4"):
        model.training().storing(weights="int4")


@pytest.mark.parametrize("group", [0, -128])
def test_a_group_of_no_weights_is_refused(group):
    with pytest.raises(SizeError, match=f"group: wanted at least 1 weight per scale, got {group}"):
        load("llama-2-7b").storing("int4", group=group)


def test_a_model_shows_itself_in_one_line():
    model = load("llama-2-7b").storing("int4").decode("fp16")
    assert repr(model) == f"<llama-2-7b decode[fp16], weights in int4: {len(model.parts)} parts>"


def test_a_format_of_computing_stands_beside_the_use_and_not_beside_that_of_storing():
    stored = load("llama-2-7b").storing("int4", cache="fp8")
    assert stored.decode().label == "llama-2-7b decode[bf16], weights in int4, cache in fp8"
    assert stored.decode().name == "llama-2-7b decode, weights in int4, cache in fp8"
    again = load("llama-2-7b").decode().storing(weights="int4").storing(cache="fp8")
    assert again.label == stored.decode().label
