"""The memory of whole models, against the papers' formulas."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from costmodel import evaluate, hardware
from costmodel.model_memory import KINDS, Memory
from costmodel.models import load
from costmodel.symbols import Largest, symbol

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
def test_kept_activations_follow_korthikantis_formulas(recompute, attention, of_layer):
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
    """arXiv 2205.05198: 2sbh a layer, and all that one layer keeps while it is computed again."""
    found = memory("gpt2", "dense")
    c, s, b = found.architecture.fields, 1024, 4
    one = 32 * s * b * c.d_model + 2 * c.heads * s**2 * b
    ends = 4 * s * b * c.d_model + 4 * s * b * c.vocab
    kinds = found.kinds("training", batch=b, lengths=s, recompute="full")
    assert kinds["activations"][0] == pytest.approx(c.layers * 2 * s * b * c.d_model + one + ends, rel=1e-12)


def test_selective_recomputation_saves_nothing_with_tiled_attention():
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
def test_kv_cache_has_two_bytes_for_each_key_and_value(name, layers, kv_heads, head_dim):
    """By hand: of each layer and position (Mistral's window is not yet full)."""
    for use in ("prefill", "decode"):
        kinds = memory(name).kinds(use, batch=3, lengths=[100.0, 1000.0])
        wanted = 2 * 2 * layers * kv_heads * head_dim * 3 * np.array([100.0, 1000.0])
        np.testing.assert_allclose(kinds["cache"], wanted)


@pytest.mark.parametrize("name", ["llama-3-8b", "mixtral-8x7b", "deepseek-v2-lite", "mamba-2.8b"])
def test_a_parameter_takes_2_bytes_2_of_gradient_and_12_of_optimiser(name):
    """AdamW keeps a master weight and two moments of four bytes each."""
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
def test_every_kind_of_memory_is_there_and_none_shrinks_with_length(name, use):
    kinds = memory(name).kinds(use, batch=2, lengths=[64.0, 128.0, 4096.0])
    assert tuple(kinds) == KINDS
    for held in kinds.values():
        assert np.all(held >= 0)
        assert np.all(np.diff(held) >= 0)


def test_working_memory_of_prefill_is_the_feed_forward_layers():
    """SwiGLU holds three rows of d_ff beside its input and its output."""
    found = memory("llama-2-7b")
    c = found.architecture.fields
    working = found.kinds("prefill", batch=1, lengths=2048)["working"][0]
    assert working == pytest.approx(2 * 2048 * (3 * c.d_ff + 2 * c.d_model), rel=1e-12)


@pytest.mark.parametrize("use", ["training", "prefill", "decode"])
def test_working_memory_is_that_of_the_part_that_needs_most(use):
    """Numbers decide which part that is: comparing symbols in SymPy took longer than all else."""
    assert getattr(load("t5-small"), use)("bf16").held().working.has(Largest)


# -- what there is room for --------------------------------------------------------------------


@pytest.mark.parametrize("use", ["prefill", "decode"])
def test_longest_sequence_is_the_last_that_fits(use):
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


def test_longest_is_zero_if_nothing_fits_and_none_if_anything_fits():
    assert memory("llama-2-7b").longest("training", batch=1) == 0  # 16 bytes a weight are 108 GB
    assert memory("llama-2-7b").largest("training", length=1) == 0
    assert memory("mamba-2.8b").longest("decode", batch=1) is None  # its state has one size
    assert memory("llama-2-7b").longest("decode", batch=1) is not None


def test_largest_batch_is_the_last_that_fits():
    found = memory("gpt2")
    largest = found.largest("training", length=1024)
    assert largest is not None
    assert found.total("training", batch=largest, length=1024) <= found.room
    assert found.total("training", batch=largest + 1, length=1024) > found.room


def test_only_stacks_of_equal_layers_can_be_recomputed():
    for name in ("llama-2-7b", "mixtral-8x7b", "t5-base", "mamba-130m", "deepseek-v2-lite"):
        assert memory(name).recomputations == ("none", "selective", "full")
    assert memory("gnmt").recomputations == ("none",)


@pytest.mark.parametrize("attention", ["dense", "tiled"])
@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputation_saves_what_the_formula_says(recompute, attention):
    """GPT-2's parts: 34sbh + 5as²b a layer become 34sbh or 2sbh, less dropout's (arXiv 2205.05198, §5)."""
    found = memory("gpt2", attention)
    c, s, b = found.architecture.fields, 1024, 4
    model = found.architecture.training(attention=attention, recompute=recompute)
    kept = evaluate(model, batch=b, seq=s)["kept_bytes"]
    row, square = 2 * s * b * c.d_model, 2 * c.heads * s**2 * b
    stored = 4 * s * b * c.heads if attention == "tiled" else square
    layer = row if recompute == "full" else 16 * row + (stored if attention == "tiled" else 0)
    everything = evaluate(found.architecture.training(attention=attention), batch=b, seq=s)["kept_bytes"]
    assert everything - kept == pytest.approx(c.layers * (16 * row + stored - layer), rel=1e-12)


@pytest.mark.parametrize("name", ["mixtral-8x7b", "t5-small", "mamba-130m", "deepseek-v2-lite", "gpt2"])
def test_full_recomputation_is_one_more_forward_pass_of_the_layers(name):
    """The further FLOPs are those of all of forward but logits and embedding."""
    architecture = load(name)
    sizes = {"batch": 2, "seq": 256, "seq_kv": 256}
    plain, again = (architecture.training(recompute=r, optimizer=None) for r in ("none", "full"))
    forward = dataclasses.replace(plain, direction="fwd")
    given = {size: sizes[size] for size in plain.required}
    flops = [evaluate(m, **given)["matrix_flops"] for m in (plain, again, forward)]
    c = architecture.fields
    logits = 2 * 2 * 256 * c.d_model * c.vocab
    assert flops[1] - flops[0] == pytest.approx(flops[2] - logits, rel=1e-12)
    kept = [evaluate(m, **given)["kept_bytes"] for m in (plain, again)]
    assert kept[1] < 0.7 * kept[0]


# -- what a use leaves in memory --------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama-3-8b", "deepseek-v2-lite", "mamba-2.8b", "t5-base", "rwkv-4-169m"])
def test_prefill_leaves_the_cache_that_decoding_reads(name):
    """At the same length, and the states that decoding updates."""
    architecture = load(name)
    sizes = {"batch": 3, "seq": 640, "seq_kv": 640}

    def evaluated(expression):
        return float(expression.subs({symbol(size): value for size, value in sizes.items()}))

    left = evaluated(architecture.prefill().tensors().left)
    assert left == evaluated(architecture.cache_bytes()) > 0


def test_prefill_of_an_encoder_and_decoder_leaves_both_lengths():
    """T5: keys and values of 64 · 12 numbers in 12 layers, of 7 decoded positions and 500 encoded ones."""
    model = load("t5-base").prefill()
    left = model.tensors().left.subs({symbol("batch"): 1, symbol("seq"): 7, symbol("seq_kv"): 500})
    assert left == 2 * 2 * 12 * 768 * (7 + 500)


def test_an_encoder_stays_in_memory_when_its_decoder_runs():
    for name in ("t5-base", "transformer-big", "gnmt"):
        architecture = load(name)
        tensors = architecture.decode("fp16").tensors()
        weights = float((tensors.weights + tensors.offsets + tensors.unread).subs(symbol("batch"), 1))
        assert weights == pytest.approx(2 * architecture.parameters, rel=1e-12)


def test_footprint_of_prefill_is_weights_cache_and_the_busiest_part():
    """By hand for Llama-2-7B: 2 bytes a weight, 2·2·L·d a token, and SwiGLU's rows."""
    architecture, n = load("llama-2-7b"), 2048
    c = architecture.fields
    found = evaluate(architecture.prefill(), batch=1, seq=n)["footprint_bytes"]
    ends = 8 * n + 2 * c.vocab
    by_hand = (
        2 * architecture.parameters + 4 * c.layers * c.d_model * n + 2 * n * (3 * c.d_ff + 2 * c.d_model)
    )
    assert found == pytest.approx(by_hand + ends, rel=1e-12)


# -- what does not fit -------------------------------------------------------------------------


def test_lacking_is_none_for_what_fits():
    assert memory("llama-2-7b").lacking("prefill", batch=1, length=2048) is None


@pytest.mark.parametrize(
    ("name", "use", "batch", "length", "remedy"),
    [
        ("gpt2", "training", 24, 8192, "--recompute full would do"),
        ("llama-2-7b", "decode", 2000, 4096, r"batch=\d+ would do"),
        ("llama-2-70b", "prefill", 1, 128, "; --tensor 2 or --weights int8 would do"),
        ("llama-3.1-405b", "prefill", 1, 128, "; --tensor 16 would do"),  # 812 GB in 73.6 each: 12 and up
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(name, use, batch, length, remedy):
    found = memory(name)
    said = found.lacking(use, batch=batch, length=length)
    assert said is not None
    total = found.total(use, batch=batch, length=length)
    assert said.startswith(f"{(total - found.room) / 1e9:.1f} GB more than the 73.6 GB available; ")
    assert re.search(remedy, said)


def test_remedy_that_is_named_makes_it_fit():
    found = memory("gpt2")
    assert found.total("training", batch=24, length=8192, recompute="full") <= found.room
    said = memory("llama-2-7b").lacking("decode", batch=2000, length=4096)
    batch = int(re.search(r"batch=(\d+)", said)[1])
    assert memory("llama-2-7b").total("decode", batch=batch, length=4096) <= found.room
    assert memory("llama-2-7b").total("decode", batch=batch + 1, length=4096) > found.room
    h200 = dataclasses.replace(memory("llama-2-70b"), device=hardware.load("nvidia/h200-sxm"))
    assert "--dtype fp8 would do" in h200.lacking("prefill", batch=1, length=8192)
