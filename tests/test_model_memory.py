"""The memory of whole models, against the papers' formulas."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel import hardware
from costmodel.model_memory import KINDS, Memory
from costmodel.models import load

A100 = hardware.load("nvidia/a100-sxm-80gb")
UNKEPT = {"gradients", "optimiser", "activations"}


def memory(name: str, attention: str = "tiled") -> Memory:
    return Memory(architecture=load(name), device=A100, attention=attention)


@pytest.mark.parametrize(
    ("recompute", "attention", "of_layer"),
    [
        ("none", "dense", lambda s, b, h, a: 32 * s * b * h + 2 * a * s**2 * b),
        ("selective", "dense", lambda s, b, h, a: 32 * s * b * h),
    ],
)
def test_activations_are_korthikantis(recompute, attention, of_layer):
    """arXiv 2205.05198, eq. 1 and §5: sbh(34 + 5as/h) a layer, selective 34 sbh; here without dropout.

    Dropout's three masks, 2sbh and as²b, and the dropped probabilities, 2as²b, are left out. Beyond the
    layers (§4.3): the last norm's and the logits' inputs 4sbh, the scores in fp32 4sbv.
    """
    found = memory("gpt2", attention)
    c, s, b = found.architecture.fields, 1024, 4
    ends = 4 * s * b * c.d_model + 4 * s * b * c.vocab
    wanted = c.layers * of_layer(s, b, c.d_model, c.heads) + ends
    kinds = found.kinds("training", batch=b, lengths=s, recompute=recompute)
    assert kinds["activations"][0] == pytest.approx(wanted, rel=1e-12)


def test_full_recomputation_keeps_each_layers_input():
    """Ibid.: 2sbh a layer, and one layer's own while that is computed again."""
    found = memory("gpt2", "dense")
    c, s, b = found.architecture.fields, 1024, 4
    one = 32 * s * b * c.d_model + 2 * c.heads * s**2 * b
    ends = 4 * s * b * c.d_model + 4 * s * b * c.vocab
    kinds = found.kinds("training", batch=b, lengths=s, recompute="full")
    assert kinds["activations"][0] == pytest.approx(c.layers * 2 * s * b * c.d_model + one + ends, rel=1e-12)


def test_tiled_attention_has_nothing_for_selective_recomputation():
    kinds = [
        memory("llama-2-7b").kinds("training", batch=1, lengths=4096, recompute=recompute)
        for recompute in ("none", "selective")
    ]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize(
    ("name", "layers", "kv_heads", "head_dim"),
    [
        ("llama-2-7b", 32, 32, 128),
        ("llama-3-8b", 32, 8, 128),
        ("mistral-7b", 32, 8, 128),
        ("gpt2", 12, 12, 64),
    ],
)
def test_cache_of_keys_and_values(name, layers, kv_heads, head_dim):
    """Two bytes for each key and value of each layer and position (Mistral's window is not yet full)."""
    for use in ("prefill", "decode"):
        kinds = memory(name).kinds(use, batch=3, lengths=[100.0, 1000.0])
        wanted = 2 * 2 * layers * kv_heads * head_dim * 3 * np.array([100.0, 1000.0])
        np.testing.assert_allclose(kinds["cache"], wanted)


@pytest.mark.parametrize("name", ["llama-3-8b", "mixtral-8x7b", "deepseek-v2-lite", "mamba-2.8b"])
def test_weights_gradients_and_optimiser(name):
    """Two bytes a weight and gradient; AdamW's master weight and moments are three times four."""
    found = memory(name)
    p = found.architecture.parameters
    kinds = found.kinds("training", batch=1, lengths=512)
    assert kinds["weights"][0] == pytest.approx(2 * p, rel=1e-3)
    assert kinds["gradients"][0] == pytest.approx(2 * p, rel=1e-3)
    assert kinds["optimiser"][0] == pytest.approx(12 * p, rel=1e-3)
    for use in ("prefill", "decode"):
        kinds = found.kinds(use, batch=1, lengths=512)
        assert kinds["weights"][0] == pytest.approx(2 * p, rel=1e-3)
        assert all(kinds[kind][0] == 0 for kind in UNKEPT)


@pytest.mark.parametrize("use", ["training", "prefill", "decode"])
@pytest.mark.parametrize("name", ["gemma-2-2b", "t5-base", "rwkv-4-169m", "mixtral-8x7b"])
def test_every_kind_is_there_and_none_shrinks(name, use):
    kinds = memory(name).kinds(use, batch=2, lengths=[64.0, 128.0, 4096.0])
    assert tuple(kinds) == KINDS
    for held in kinds.values():
        assert np.all(held >= 0)
        assert np.all(np.diff(held) >= 0)


def test_working_memory_of_prefill_is_the_feed_forward_layers():
    """SwiGLU has three rows of d_ff in hand, beside its input and its output."""
    found = memory("llama-2-7b")
    c = found.architecture.fields
    working = found.kinds("prefill", batch=1, lengths=2048)["working"][0]
    assert working == pytest.approx(2 * 2048 * (3 * c.d_ff + 2 * c.d_model), rel=1e-12)


# -- what there is room for --------------------------------------------------------------------


@pytest.mark.parametrize("use", ["prefill", "decode"])
def test_the_longest_is_the_last_that_fits(use):
    found = memory("llama-3-8b")
    longest = found.longest(use, batch=4)
    assert longest is not None
    assert found.total(use, batch=4, length=longest) <= 0.92 * A100.hbm_capacity
    assert found.total(use, batch=4, length=longest + 1) > 0.92 * A100.hbm_capacity


def test_longest_decoding_by_hand():
    """(0.92 · 80 GB − 2 bytes a weight) / 128 KiB a token."""
    found = memory("llama-3-8b")
    assert found.longest("decode", batch=1) == pytest.approx(
        (0.92 * 80e9 - 2 * 8030261248) / 131072, rel=1e-3
    )


def test_nothing_fits_and_anything_fits():
    assert memory("llama-2-7b").longest("training", batch=1) == 0  # 16 bytes a weight are 108 GB
    assert memory("llama-2-7b").largest("training", length=1) == 0
    assert memory("mamba-2.8b").longest("decode", batch=1) is None  # its state has one size
    assert memory("llama-2-7b").longest("decode", batch=1) is not None


def test_the_largest_batch_is_the_last_that_fits():
    found = memory("gpt2")
    largest = found.largest("training", length=1024)
    assert largest is not None
    assert found.total("training", batch=largest, length=1024) <= found.room
    assert found.total("training", batch=largest + 1, length=1024) > found.room


def test_only_equal_layers_have_a_way_to_recompute():
    assert memory("llama-2-7b").recomputations == ("none", "selective", "full")
    assert memory("mixtral-8x7b").recomputations == ("none",)
    assert memory("t5-base").recomputations == ("none",)
