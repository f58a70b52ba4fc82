"""Formats of 8 bits: products with weights have them, all else has 16 bits (arXiv 2209.05433, §3.1)."""

import pytest

from costmodel.models import load
from costmodel.symbols import symbols

B, N = symbols("batch seq")

PRODUCTS = {"query, key and value", "output projection", "feed-forward", "experts"}


@pytest.mark.parametrize("dtype", ["fp8", "int8", "fp4"])
@pytest.mark.parametrize("name", ["llama-2-7b", "gpt2", "mixtral-8x7b"])
def test_products_with_weights_have_the_format_and_all_else_16_bits(name, dtype):
    narrow = {part.name: part.layer.dtype for part in load(name).prefill(dtype).parts}
    assert {part for part, kind in narrow.items() if kind == dtype} == PRODUCTS & narrow.keys()
    assert set(narrow.values()) == {dtype, "bf16"}


def test_products_of_two_activations_keep_16_bits():
    """The absorbed products of latent attention, and its core."""
    formats = {part.name: part.layer.dtype for part in load("deepseek-v3").decode("fp8").parts}
    assert formats["query to latent (W_UK)"] == formats["attention"] == formats["logits"] == "bf16"
    assert formats["query up-projection"] == formats["experts"] == "fp8"


def test_flops_in_fp8_are_six_for_each_weight_of_the_layers_and_token():
    """Hoffmann et al., arXiv 2203.15556, appendix F, without embedding, logits and scores."""
    model = load("llama-2-7b")
    weights = model.parameters - 2 * 32_000 * 4_096 - (2 * 32 + 1) * 4_096
    narrow, wide = (
        {key: flops.subs({B: 2, N: 512}) for key, flops in model.training(dtype).cost.flops.items()}
        for dtype in ("fp8", "bf16")
    )
    assert narrow["matrix", "fp8"] == 6 * weights * 2 * 512
    assert narrow["matrix", "fp8"] + narrow["matrix", "bf16"] == wide["matrix", "bf16"]


@pytest.mark.parametrize(("cache", "share"), [(None, 1), ("fp8", 2)])
def test_a_cache_has_16_bits_unless_it_is_stored_in_8(cache, share):
    model = load("llama-2-7b")
    assert model.decode().state == share * model.storing(cache=cache).decode("fp8").state


@pytest.mark.parametrize("use", ["training", "prefill", "decode"])
def test_a_model_made_in_fp8_equals_one_turned_into_it(use):
    made, turned = (
        getattr(load("llama-2-7b"), use)("fp8"),
        getattr(load("llama-2-7b"), use)().in_dtype("fp8"),
    )
    assert (made.parts, made.updates, made.state) == (turned.parts, turned.updates, turned.state)
    assert made.in_dtype("bf16").parts == getattr(load("llama-2-7b"), use)().parts


def test_devices_exchange_results_in_16_bits():
    """FP8 products write 16 bits, which are summed over devices."""
    parts = load("llama-2-7b").tensor_parallel(2).decode("fp8").parts
    assert {part.layer.dtype for part in parts if part.name == "between devices"} == {"bf16"}
