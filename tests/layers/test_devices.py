"""Layers over several devices: published formulas, schedules run device by device, one device alone."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import sympy as sp
from authority.sequence_parallel import ring_messages, schedule

import costmodel as cm
from costmodel import hardware
from costmodel.errors import CostmodelError, SizeError, UnavailableError, UnknownNameError
from costmodel.layers import get
from costmodel.symbols import symbols

B, S, H, A, T, D = symbols("batch seq d_model heads devices head_dim")
SEQUENCE = ("ring-attention", "ring-self-attention", "ulysses", "dist-flash-attention")
SHAPE = {"batch": 1, "heads": 32, "seq": 65536, "head_dim": 128}


def even(expression):
    """Return an expression where everything divides evenly over several devices, and d_h = d/h."""
    expression = expression.subs(sp.Min(1, T - 1), 1)
    shared = expression.replace(lambda e: e.func.__name__ == "CeilDiv", lambda e: e.args[0] / e.args[1])
    kv, value, inner, layers = symbols("kv_heads value_dim d_ff num_layers")
    sizes = {kv: A, value: D, inner: 4 * H, layers: 1}
    return sp.expand(shared.subs(sizes).subs(D, H / A))


# -- Megatron: Korthikanti et al. 2022 ---------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, S * B * H * (10 + 24 / T + 5 * A * S / (H * T))),
        ({"sequence_parallel": True}, S * B * H / T * (34 + 5 * A * S / H)),
        ({"sequence_parallel": True, "recompute": "selective"}, 34 * S * B * H / T),
        ({"recompute": "selective"}, S * B * H * (10 + 24 / T)),
        ({"recompute": "full"}, 2 * S * B * H),
    ],
)
def test_activation_memory_equals_korthikantis_table_2(options, wanted):
    """arXiv 2205.05198, Table 2: bytes per layer in 16 bits, with dropout."""
    layer = get("megatron")(dtype="fp16", dropout=True, **options)
    assert sp.expand(even(layer.kept()) - wanted) == 0


def test_training_in_fp8_keeps_16_bits_around_its_products():
    """Attention's core and what is sent have 16 bits; products of weights, 6·12d² FLOP a token, have 8."""
    sizes = {"batch": 1, "seq": 512, "d_model": 256, "heads": 4, "devices": 2}
    mixed, narrow, wide = (
        get("megatron")(dtype=dtype, around=around, direction="fwd+bwd", sequence_parallel=True)
        for dtype, around in (("fp8", "bf16"), ("fp8", None), ("bf16", None))
    )
    counts = [cm.evaluate(layer, **sizes) for layer in (mixed, narrow, wide)]
    assert len({c["matrix_flops"] for c in counts}) == len({c["parameters"] for c in counts}) == 1
    sent = [c["link_bytes"] for c in counts]
    assert sent[0] == sent[2] == 2 * sent[1]
    numbers = {s: sizes.get(s.name, 1) for s in mixed.cost.flops["matrix", "fp8"].free_symbols}
    numbers |= dict(zip(symbols("d_ff head_dim value_dim kv_heads"), (1024, 64, 64, 4), strict=True))
    assert mixed.cost.flops["matrix", "fp8"].subs(numbers) == 6 * 12 * 256**2 * 512 // 2
    assert (
        mixed.cost.flops["matrix", "fp8"] + mixed.cost.flops["matrix", "bf16"]
        == (wide.cost.flops["matrix", "bf16"])
    )
    assert counts[1]["kept_bytes"] < counts[0]["kept_bytes"] < counts[2]["kept_bytes"]


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_around_in_the_layers_own_format_changes_nothing(recompute):
    sizes = {"batch": 1, "seq": 512, "d_model": 256, "heads": 4, "devices": 2}
    for attention in ("dense", "tiled"):
        options = {"dtype": "fp8", "attention": attention, "recompute": recompute, "direction": "fwd+bwd"}
        same, plain = (
            cm.evaluate(get("megatron")(**options, around=around), **sizes) for around in ("fp8", None)
        )
        assert dict(same) == dict(plain)


def test_activation_memory_on_one_device_equals_korthikantis_equation_1():
    """sbh(34 + 5as/h); for GPT-3, 5as/h = 80."""
    sizes = {"batch": 1, "seq": 2048, "d_model": 12288, "heads": 96}
    sbh = 2048 * 12288
    kept = cm.evaluate(get("megatron")(dropout=True), **sizes, devices=1)["kept_bytes"]
    assert kept == sbh * (34 + 80)
    flash = cm.evaluate(get("megatron")(dropout=True, attention="tiled"), **sizes, devices=1)["kept_bytes"]
    assert flash == sbh * 34 + 4 * 96 * 2048  # plus the fp32 log-sum-exp


def test_megatron_on_one_device_equals_a_transformer_block():
    sizes = {"batch": 2, "seq": 384, "d_model": 512, "heads": 8}
    each = itertools.product(("dense", "tiled"), ("fwd", "bwd", "fwd+bwd"), (False, True))
    for attention, direction, dropout in each:
        options = {"attention": attention, "causal": True, "direction": direction, "dropout": dropout}
        one = cm.evaluate(get("megatron")(**options), **sizes, devices=1, sram=65536)
        block = cm.evaluate(get("transformer-block")(**options), **sizes, sram=65536)
        for count in (*_COUNTS, "footprint_bytes", "parameters"):
            assert one[count] == block[count], (options, count)


_COUNTS = ("matrix_flops", "vector_flops", "special_flops", "hbm_bytes", "l2_bytes", "pram_depth")
_COUNTS += ("compulsory_bytes", "kept_bytes", "launches")


def test_sequence_parallelism_sends_as_much_as_tensor_parallelism_forward():
    """Korthikanti et al., §4.2.2: an all-gather and a reduce-scatter send as much as an all-reduce."""
    tokens = 2 * B * S * H
    for cut in (False, True):
        sent = even(get("megatron")(sequence_parallel=cut).cost.bytes["link"])
        assert sp.expand(sent - 4 * (T - 1) / T * tokens) == 0
    # Backward has the same collectives in reverse; cut positions add two gathers.
    plain, cut = (
        even(get("megatron")(direction="bwd", sequence_parallel=cut).cost.bytes["link"])
        for cut in (False, True)
    )
    assert sp.expand(cut - plain - 2 * (T - 1) / T * tokens) == 0


def test_impossible_recomputation_and_heads_are_refused():
    with pytest.raises(CostmodelError, match="dense"):
        get("megatron")(attention="tiled", recompute="selective")
    with pytest.raises(UnknownNameError, match="full"):
        get("megatron")(recompute="all")
    with pytest.raises(SizeError, match="kv_heads"):
        cm.evaluate(get("megatron")(), batch=1, seq=8, d_model=64, heads=8, kv_heads=3, devices=2)


# -- schedules ---------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", range(1, 34))
@pytest.mark.parametrize("balanced", [True, False])
def test_idle_share_of_dist_flash_attention_equals_its_run_schedule(balanced, devices):
    """arXiv 2310.03294, §3.2: 0 for odd p and 1/(2p) for even; unbalanced (p² − p)/(2p²)."""
    layer = get("dist-flash-attention")(balanced=balanced)
    rounds, idle = schedule(devices, balanced)
    share = ((2 * layer.rounds + 1 - T) / (2 * T)).subs(T, devices)
    assert share == sp.Rational(idle, devices**2)
    assert layer.rounds.subs(T, devices) == len(rounds)
    assert layer.helped.subs(T, devices) == sum(helped for _, helped in rounds)
    if balanced:
        wanted = sp.Rational(1, 2 * devices) if devices % 2 == 0 else 0
    else:
        wanted = sp.Rational(devices**2 - devices, 2 * devices**2)
    assert share == wanted


@pytest.mark.parametrize("devices", [1, 3, 5, 9])
def test_a_balanced_schedule_of_odd_devices_adds_no_matrix_flops(devices):
    sizes = {"batch": 2, "heads": 4, "seq": 32 * devices, "head_dim": 8}
    parts = cm.evaluate(get("dist-flash-attention")(), **sizes, devices=devices, sram=4096)
    whole = cm.evaluate(get("tiled-attention")(causal=True), **sizes, sram=4096)
    assert parts["matrix_flops"] * devices == whole["matrix_flops"]
    assert parts["special_flops"] * devices >= whole["special_flops"]


def test_balancing_saves_what_the_paper_measured_over_ring_attention():
    """arXiv 2310.03294 measured 1.67 times: on 8 devices, 7½ blocks against 4½."""
    sizes = {**SHAPE, "devices": 8, "sram": 163840}
    ring = cm.evaluate(get("ring-attention")(causal=True), **sizes)["matrix_flops"]
    balanced = cm.evaluate(get("dist-flash-attention")(), **sizes)["matrix_flops"]
    assert ring / balanced == pytest.approx(5 / 3, rel=1e-3)


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
def test_a_ring_sends_keys_once_less_than_it_has_devices(devices):
    assert sum("keys" in sent for sent in ring_messages(devices)) == devices - 1


def test_ring_self_attention_sends_as_much_as_megatron():
    """arXiv 2105.13120, §3.2: both send 8 (p − 1) messages of B·(L/p)·A·Z in a training step."""
    sent = even(get("ring-self-attention")(direction="fwd+bwd").cost.bytes["link"])
    assert sp.expand(sp.simplify(sent / _own_keys() - 8 * (T - 1))) == 0
    megatron = sum(even(get("megatron")(direction=way).cost.bytes["link"]) for way in ("fwd", "bwd"))
    assert sp.simplify(sent / (megatron / 2)) == 2  # half of Megatron's bytes belong to the feed-forward part


def _own_keys():
    return 2 * B * S / T * H


def test_bytes_sent_shrink_with_devices_for_ulysses_but_not_for_a_ring():
    """arXiv 2309.14509, §3.2: 4·N·h/p forward; a ring sends all keys and values through every device."""
    ulysses, ring = (even(get(name)().cost.bytes["link"]) for name in ("ulysses", "ring-attention"))
    assert sp.simplify(ulysses - 4 * (T - 1) / T * _own_keys()) == 0
    assert sp.simplify(ring - 2 * (T - 1) * _own_keys()) == 0


@pytest.mark.parametrize("name", ["ring-attention", "ulysses", "dist-flash-attention"])
@pytest.mark.parametrize("direction", ["fwd", "bwd"])
def test_sequence_parallel_attention_on_one_device_equals_tiled_attention(name, direction):
    causal = {} if name.startswith("dist") else {"causal": True}
    sizes = {"batch": 2, "heads": 6, "kv_heads": 3, "seq": 77, "head_dim": 16, "sram": 4096}
    one = cm.evaluate(get(name)(direction=direction, **causal), **sizes, devices=1)
    alone = cm.evaluate(get("tiled-attention")(direction=direction, causal=True), **sizes)
    for count in _COUNTS:
        assert one[count] == alone[count], count
    assert one["link_bytes"] == 0


def test_checkpointing_of_dist_flash_attention_trades_memory_for_work():
    """arXiv 2310.03294, §3.3: the rematerialisation-aware checkpoint keeps O and its statistics.

    With it no attention is computed again; an ordinary checkpoint of the layer repeats the forward pass.
    """
    none, layer, attention = (
        get("dist-flash-attention")(direction="bwd", checkpoint=c) for c in ("none", "layer", "attention")
    )
    counts = [cm.evaluate(x, **SHAPE, devices=8, sram=163840) for x in (none, layer, attention)]
    forward = cm.evaluate(get("dist-flash-attention")(), **SHAPE, devices=8, sram=163840)
    assert counts[1]["matrix_flops"] == counts[0]["matrix_flops"] + forward["matrix_flops"]
    assert counts[1]["link_bytes"] == counts[0]["link_bytes"] + forward["link_bytes"]
    assert counts[2]["matrix_flops"] == counts[0]["matrix_flops"]
    own = 65536 / 8 * 32 * 128 * 2
    assert [c["kept_bytes"] for c in counts] == [4 * own + own / 64, 0, own + own / 64]
    with pytest.raises(UnknownNameError, match="layer"):
        get("dist-flash-attention")(checkpoint="output")


# -- time --------------------------------------------------------------------------------------


def simulate(devices, own, block, transfer):
    """Run a ring that computes a block once it has arrived and passes it on at once; return the end."""
    there, busy = [0.0] * devices, [own] * devices
    for _ in range(1, devices):
        there = [there[(i - 1) % devices] + transfer for i in range(devices)]
        busy = [max(busy[i], there[i]) + block for i in range(devices)]
    return max(busy)


@pytest.mark.parametrize("seq", [8 * 32, 8 * 300, 8 * 700, 8 * 1500, 8 * 8192])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("devices", [1, 2, 3, 8])
def test_the_time_of_a_ring_equals_a_simulation_with_overlapping_transfers(devices, causal, seq):
    """The simulation takes the predicted times of one block and of one transfer."""
    layer = get("ring-attention")(causal=causal)
    p = cm.predict(layer, "a100-sxm-80gb", rung="bound", **{**SHAPE, "seq": seq, "devices": devices})
    chunk = math.ceil(seq / devices) * 32 * 128 * 2
    transfer = 2 * chunk / p.device.link_bandwidth
    phases = p.phases
    last = next(i for i, x in enumerate(phases) if x["phase"] == "merge")
    merging = phases[last]["seconds"]
    blocks = [x["seconds"] for x in phases[:last] if x["kernel"] == "attention"]
    assert p.seconds - merging == pytest.approx(simulate(devices, blocks[0], blocks[2] or 0, transfer))
    assert sum(x["seconds"] for x in phases) == pytest.approx(p.seconds)


def test_short_sequences_of_a_ring_are_limited_by_its_link():
    short, long = (
        cm.predict(get("ring-attention")(), "a100-pcie-80gb", rung="bound", **{**SHAPE, "seq": n}, devices=8)
        for n in (1024, 2**20)
    )
    assert (short.bound, long.bound) == ("link", "matrix:bf16")
    assert sum(x["seconds"] for x in long.phases if x["kernel"] == "collective") == 0
    sizes = {**SHAPE, "seq": [1024, 2**20], "devices": 8}
    many = cm.predict(get("ring-attention")(), "a100-pcie-80gb", rung="bound", **sizes)
    assert list(many.bound) == ["link", "matrix:bf16"]
    assert many.seconds == pytest.approx([short.seconds, long.seconds])


@pytest.mark.parametrize("name", [*SEQUENCE, "megatron"])
@pytest.mark.parametrize("direction", ["fwd", "bwd", "fwd+bwd"])
def test_kernel_predictions_are_at_least_their_bound_and_say_what_they_lack(name, direction):
    sizes = {**SHAPE, "seq": 16384, "devices": 16, "node": 8}
    if name == "megatron":
        sizes = {**sizes, "d_model": 4096}
    layer = get(name)(direction=direction)
    bound = cm.predict(layer, "mi300x", rung="bound", **sizes)
    for rung in (None, "kernel"):
        p = cm.predict(layer, "mi300x", rung=rung, **sizes)
        assert bound.lower_s <= bound.seconds <= p.seconds
        assert p.rung == "kernel"
        assert "none" in p.constants_from
    with pytest.raises(UnavailableError, match="collective"):
        cm.predict(layer, "mi300x", rung="calibrated", **sizes)


def test_a_ring_across_nodes_is_limited_by_the_network():
    sizes = {**SHAPE, "seq": 16384, "devices": 16}
    near, far = (cm.predict(get("ring-attention")(), "a100-sxm-80gb", **sizes, node=n) for n in (16, 8))
    assert far.seconds > near.seconds
    assert far.bound == "link"


def test_without_a_link_the_bound_reports_it_and_the_kernel_rung_is_refused():
    alone = next(d for d in map(hardware.load, hardware.available()) if not d.link_bandwidth)
    layer = get("ulysses")(dtype="fp32")
    sizes = {**SHAPE, "seq": 512, "devices": 4}
    assert "link" in cm.predict(layer, alone, rung="bound", **sizes).missing
    with pytest.raises(UnavailableError, match="no link"):
        _ = cm.predict(layer, alone, rung="kernel", **sizes).seconds


def test_link_bytes_exist_only_for_layers_over_devices():
    assert "link_bytes" not in cm.evaluate(get("tiled-attention")(), **SHAPE, sram=65536)
    counts = cm.evaluate(get("ulysses")(), **SHAPE, devices=np.array([1, 2, 4]), sram=65536)
    assert list(counts["link_bytes"]) == [0, 4 * 2**29 / 4, 4 * 2**29 * 3 / 16]


@pytest.mark.parametrize("name", [*SEQUENCE, "megatron"])
def test_twice_the_width_doubles_the_bytes_sent_and_nothing_else(name):
    """The schedule of phases stays the same."""
    sizes = {**SHAPE, "seq": 4096, "devices": 4, "sram": 65536}
    if name == "megatron":
        sizes = {**sizes, "d_model": 4096}
    narrow, wide = (get(name)(dtype=dtype) for dtype in ("bf16", "fp32"))
    assert [p.name for p in narrow.phases()] == [p.name for p in wide.phases()]
    assert dataclasses.replace(narrow, dtype="fp32") == wide
    few, many = (cm.evaluate(layer, **sizes)["link_bytes"] for layer in (narrow, wide))
    assert many / few == pytest.approx(2, rel=0.02)  # statistics are fp32 in both
