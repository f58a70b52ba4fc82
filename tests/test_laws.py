"""Laws that counts keep whatever the sizes: drawn by hypothesis, over every layer, option and direction."""

import dataclasses
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from costmodel import crossover, evaluate
from costmodel.errors import CostmodelError, SizeError
from costmodel.evaluate import bind
from costmodel.layers import get
from costmodel.symbols import symbol

sys.path.insert(0, str(Path(__file__).parent / "layers"))
from cases import cases

LAYERS = sorted({layer for layer, _ in cases()}, key=lambda layer: (layer.label, layer.dtype))
ADDITIVE = (
    "matrix_flops",
    "vector_flops",
    "special_flops",
    "hbm_bytes",
    "l2_bytes",
    "launches",
    "pram_depth",
)
#: Counts that never fall when a size grows.
GROWING = (*ADDITIVE, "compulsory_bytes", "footprint_bytes", "kept_bytes", "depth", "parameters")


def _trained(layer):
    """Return whether a layer has a backward pass: one that generates or decodes step by step has none."""
    try:
        return dataclasses.replace(layer, direction="fwd+bwd") is not None
    except CostmodelError:
        return False


TRAINED = [layer for layer in LAYERS if _trained(layer)]
law = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
layers = st.sampled_from(LAYERS)


@st.composite
def sizes_of(draw, layer):
    """Draw sizes that go together: heads shared evenly, a sequence's own keys among its keys."""
    whole = st.integers(1, 70)
    drawn = {name: draw(whole) for name in layer.sizes()} | {
        "sram": draw(st.integers(8, 4096)),
        "onchip": draw(whole),
    }
    if "kv_heads" in drawn:
        drawn["heads"] = drawn["kv_heads"] * draw(st.integers(1, 4))
    if {"seq", "seq_kv"} <= drawn.keys() and not getattr(layer, "cross", False):
        drawn["seq_kv"] = drawn["seq"] + draw(st.integers(0, 50))
    return together(layer, drawn)


def together(layer, sizes):
    """Return the sizes, if the layer takes them together; otherwise others are drawn."""
    try:
        bind(layer, sizes)
    except SizeError:
        reject()
    return sizes


@law
@given(layers, st.data())
def test_traffic_is_at_least_compulsory(layer, data):
    """hbm_bytes ≥ compulsory_bytes: the promise of the lower bound depends on it."""
    counts = evaluate(layer, **data.draw(sizes_of(layer)))
    assert counts["hbm_bytes"] >= counts["compulsory_bytes"] * (1 - 1e-12)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.label)
def test_traffic_is_at_least_compulsory_at_sizes_of_one_and_two(layer):
    """There no second read and no second block hides a missing term."""
    # Channels are shared evenly between groups, and experts' width between devices.
    smallest = max(getattr(layer, "groups", 1), getattr(layer, "cut", 1))
    for size in {smallest, max(smallest, 2)}:
        sizes = dict.fromkeys(layer.sizes(), size) | {"sram": 8, "onchip": 1}
        # A convolution has groups of channels, or groups of several channels, only if it is grouped so.
        sizes |= {"none": {"batch": 1}, "depthwise": {"k": 1}}.get(getattr(layer, "grouping", ""), {})
        counts = evaluate(layer, **sizes)
        assert counts["hbm_bytes"] >= counts["compulsory_bytes"]


@law
@given(layers, st.data())
def test_counts_grow_with_batch_length_width_and_heads(layer, data):
    sizes = data.draw(sizes_of(layer))
    name = data.draw(
        st.sampled_from([s for s in ("batch", "seq", "hidden", "heads", "m", "n", "params") if s in sizes])
    )
    factor = sizes.get("kv_heads", 1) if name == "heads" else 1
    more = sizes | {name: sizes[name] + factor * data.draw(st.integers(1, 30))}
    if "seq_kv" in sizes and name == "seq":
        more["seq_kv"] = sizes["seq_kv"] + more["seq"] - sizes["seq"]
    small, large = evaluate(layer, **sizes), evaluate(layer, **together(layer, more))
    for count in GROWING:
        assert small[count] <= large[count] * (1 + 1e-12), (count, name)


#: Layers that make or transform their filters once for all sequences.
FILTERED = ("long-convolution", "hyena")


@law
@given(layers, st.data())
def test_arithmetic_is_linear_in_the_batch(layer, data):
    """Sequences (and products, tokens) are independent of one another."""
    sizes = data.draw(sizes_of(layer))
    if "batch" in sizes:
        several = [together(layer, sizes | {"batch": factor * sizes["batch"]}) for factor in (1, 3, 5)]
        counts = [evaluate(layer, **each) for each in several]
        for count in ("matrix_flops", "vector_flops", "special_flops"):
            one, three, five = (found[count] for found in counts)
            assert five - three == pytest.approx(three - one, rel=1e-9, abs=1e-9), count
            once = one - (three - one) / 2
            # Linformer's keys and values share a projection: its two gradients are added once for all.
            shared = layer.direction != "fwd" and getattr(layer, "sharing", "") == "keys-and-values"
            once_for_all = layer.name in FILTERED or (count == "vector_flops" and shared)
            if not once_for_all:
                assert once == pytest.approx(0, abs=1e-9 * (1 + one)), count
            else:
                assert 0 <= once <= one, count


@law
@given(st.sampled_from([layer for layer in LAYERS if "num_layers" in layer.sizes()]), st.data())
def test_each_further_layer_of_a_stack_adds_the_same(layer, data):
    """From the second layer on, whose input is as wide as its output."""
    sizes = data.draw(sizes_of(layer))
    # Layers of a wavefront share the chip: where a single one's weights fit, a second one's may not.
    if "onchip" in sizes:
        sizes |= {"onchip": 1}
    counts = [evaluate(layer, **sizes | {"num_layers": layers}) for layers in (1, 2, 4)]
    for count in (*ADDITIVE, "kept_bytes", "depth", "parameters"):
        one, two, four = (found[count] for found in counts)
        assert four - two == pytest.approx(2 * (two - one), rel=1e-9, abs=1e-6), count


#: Layers that compute nothing again backward, as others do scores, states or everything.
TWICE = (
    "dense-attention", "rnn", "lstm", "gru", "slstm", "min-gru", "min-lstm", "qrnn", "sru", "rg-lru",
    "matmul", "conv", "feed-forward", "swiglu", "moe", "expert-parallel", "linformer", "logits",
    "eager-transformer", "ring-self-attention",
)  # fmt: skip


@law
@given(
    st.sampled_from([x for x in TRAINED if x.name in TWICE and x.convention == "exact"]), st.data()
)  # fmt: skip
def test_backward_has_twice_the_matrix_flops(layer, data):
    """For every product the gradients of both operands, h0's product included."""
    sizes = data.draw(sizes_of(layer))
    there, back = (
        evaluate(dataclasses.replace(layer, direction=direction), **sizes)["matrix_flops"]
        for direction in ("fwd", "bwd")
    )
    assert back == pytest.approx(2 * there, rel=1e-12)


CHUNKED = ("retnet", "gla", "mlstm", "mamba-2", "compressive-memory")


@law
@given(st.sampled_from([layer for layer in LAYERS if layer.name in CHUNKED]), st.data())
def test_chunks_longer_than_the_sequence_change_no_count(layer, data):
    sizes = data.draw(sizes_of(layer))
    whole, longer = (evaluate(layer, **sizes | {"block": sizes["seq"] + more}) for more in (0, 17))
    for count in GROWING:
        assert whole[count] == longer[count], count


@law
@given(
    gated=st.booleans(), batch=st.integers(1, 9), seq=st.integers(1, 40), d=st.integers(1, 50),
    f=st.integers(1, 50), direction=st.sampled_from(["fwd", "bwd"]),
)  # fmt: skip
def test_mixture_of_one_expert_has_the_kernels_of_a_feed_forward_layer(gated, batch, seq, d, f, direction):
    """Beside them it has the routing and the weighted sum."""
    sizes = {"batch": batch, "seq": seq, "d_model": d, "d_ff": f}
    mixed = get("moe")(gated=gated, direction=direction, activation="silu").cost
    alone = get("swiglu" if gated else "feed-forward")(activation="silu", direction=direction).cost
    experts = [phase for phase in mixed.phases if phase.name.startswith("experts: ")]
    given = {symbol(name): size for name, size in {**sizes, "experts": 1, "top_k": 1}.items()}
    for mine, other in zip(experts, alone.phases, strict=True):
        assert mine.name == f"experts: {other.name}"
        for field in ("read", "write", "l2", "pram_depth"):
            assert getattr(mine, field).subs(given) == getattr(other, field).subs(given), field
        for engine in mine.flops | other.flops:
            assert mine.flops[engine].subs(given) == other.flops[engine].subs(given)


@law
@given(layers, st.data())
def test_a_larger_batch_never_lengthens_depth(layer, data):
    sizes = data.draw(sizes_of(layer))
    if "batch" in sizes and getattr(layer, "grouping", "") != "none":  # whose batch, its groups, is 1
        counts = evaluate(layer, **sizes | {"batch": [1, 10, 1000]})
        assert len(set(counts["depth"])) == len(set(counts["path"])) == 1


@law
@given(st.sampled_from(TRAINED), st.data())
def test_training_is_the_sum_of_forward_and_backward(layer, data):
    sizes = data.draw(sizes_of(layer))
    there, back, both = (
        evaluate(dataclasses.replace(layer, direction=direction), **sizes)
        for direction in ("fwd", "bwd", "fwd+bwd")
    )
    for count in (*ADDITIVE, "depth"):
        assert both[count] == pytest.approx(there[count] + back[count], rel=1e-12)
    assert both["compulsory_bytes"] <= there["compulsory_bytes"] + back["compulsory_bytes"], (
        "operands are shared"
    )


@law
@given(st.sampled_from([layer for layer in TRAINED if "bwd_data" in layer.directions]), st.data())
def test_backward_is_the_sum_of_bwd_data_and_bwd_weights(layer, data):
    sizes = data.draw(sizes_of(layer))
    of_data, of_weights, both = (
        evaluate(dataclasses.replace(layer, direction=direction), **sizes)
        for direction in ("bwd_data", "bwd_weights", "bwd")
    )
    for count in ADDITIVE:
        assert both[count] == pytest.approx(of_data[count] + of_weights[count], rel=1e-12)
    assert both["depth"] == of_data["depth"]
    assert of_weights["depth"] == 1


@law
@given(
    n=st.integers(1, 5000), d=st.integers(1, 300), causal=st.booleans(),
    direction=st.sampled_from(["fwd", "bwd", "fwd+bwd"]), dtype=st.sampled_from(["fp32", "bf16", "fp8"]),
)  # fmt: skip
def test_fused_attention_never_moves_more_than_dense(n, d, causal, direction, dtype):
    """4Nd + N ≤ 4Nd + 4N² (statistics in fp32): FlashAttention-2's order, with K and V read from a cache.

    Backward may move O and dO once more for the row sums, and three statistics a row.
    """
    options = {"causal": causal, "direction": direction, "dtype": dtype}
    sizes = {"batch": 1, "heads": 1, "seq": n, "head_dim": d}
    fused = evaluate(get("tiled-attention")(tile=(128, 128), **options), **sizes)["hbm_bytes"]
    dense = evaluate(get("dense-attention")(**options), **sizes)["hbm_bytes"]
    extra = 0 if direction == "fwd" else n * (2 * d * get("dense-attention")(dtype=dtype).bytes + 3 * 4)
    assert fused <= dense + extra


@settings(max_examples=15, deadline=None)
@given(n=st.integers(64, 20000), capacity=st.integers(2**10, 2**18), probe=st.integers(1, 512))
def test_fa1_is_below_dense_exactly_where_crossover_says(n, capacity, probe):
    """FlashAttention-1 saves traffic only below a head width that grows with the memory M."""
    tiled, dense = get("tiled-attention")(dtype="fp32", schedule="fa1"), get("dense-attention")(dtype="fp32")
    sizes = {"batch": 1, "heads": 1, "seq": n, "sram": 4 * capacity}
    found = crossover(tiled, dense, over="head_dim", of="hbm_bytes", limit=512, **sizes)
    which = sum(size <= probe for size in found.sizes)
    less = (
        evaluate(tiled, head_dim=probe, **sizes)["hbm_bytes"]
        < evaluate(dense, head_dim=probe, **sizes)["hbm_bytes"]
    )
    if len(found.sizes) <= 1:
        assert less == (found.cheaper[which] == tiled.name)
