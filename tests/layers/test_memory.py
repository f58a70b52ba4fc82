"""Training memory: Korthikanti et al.'s activations exactly, and FlashAttention's table of measured peaks."""

from fractions import Fraction

import pytest

from costmodel import evaluate
from costmodel.layers import get
from costmodel.symbols import symbol

# -- activations ---------------------------------------------------------------------------------

GPT3 = {"batch": 1, "seq": 2048, "d_model": 12288, "heads": 96}


@pytest.mark.parametrize("sizes", [GPT3, {"batch": 3, "seq": 512, "d_model": 768, "heads": 12}])
def test_activation_memory_equals_korthikantis_formulas(sizes):
    """§4: sbh(34 + 5as/h); selective 34sbh; full 2sbh (claims.md §4). GPT-3's 5as/h is 80."""
    s, b, h, a = (sizes[k] for k in ("seq", "batch", "d_model", "heads"))
    block = get("transformer-block")
    paper = {"dtype": "fp16", "dropout": True, "attention": "dense", "direction": "fwd+bwd"}
    kept = {
        recompute: evaluate(block(**paper, recompute=recompute), **sizes)["kept_bytes"]
        for recompute in ("none", "selective", "full")
    }
    assert kept["none"] == s * b * h * (34 + 5 * Fraction(a * s, h))
    assert kept["selective"] == 34 * s * b * h
    assert kept["full"] == 2 * s * b * h
    # FlashAttention keeps as little as selective recomputation plus one fp32 number per row (formulas.md §7).
    tiled = evaluate(block(**paper | {"attention": "tiled"}), **sizes)["kept_bytes"]
    assert tiled == 34 * s * b * h + 4 * a * s * b
    if sizes is GPT3:
        assert kept["none"] / (s * b * h) == 34 + 80
        assert 0.65 <= 1 - kept["selective"] / kept["none"] <= 0.70 + 0.005, "§5: saves 65–70 %"


def test_extra_flops_of_recomputation_equal_korthikantis():
    """§5: selective recomputation adds 4·B·s²·h, for GPT-3 2.7 % of forward.

    Full recomputation adds a forward pass: 96 instead of 72.
    """
    block = get("transformer-block")
    paper = {"dtype": "fp16", "attention": "dense", "direction": "fwd+bwd"}
    none, selective, full = (
        evaluate(block(**paper, recompute=r), **GPT3)["matrix_flops"] for r in ("none", "selective", "full")
    )
    s, h = GPT3["seq"], GPT3["d_model"]
    assert none == 72 * s * h * h + 12 * s * s * h
    assert selective - none == 4 * s * s * h
    assert (selective - none) / (none / 3) == pytest.approx(0.027, abs=0.0005)
    assert full == 96 * s * h * h + 16 * s * s * h


# -- measured peaks ------------------------------------------------------------------------------

MIB = 2**20
#: FlashAttention (arXiv 2205.14135 v2), Table 21 [MiB], by length: batch 16, 8 heads of 64, fp16, no dropout
#: or mask.
TILED = {
    128: 22, 256: 44, 512: 104, 1024: 209, 2048: 418, 4096: 836,
    8192: 1672, 16384: 3344, 32768: 6688, 65536: 13376,
}  # fmt: skip
DENSE = {128: 36, 256: 104, 512: 336, 1024: 1184, 2048: 4416, 4096: 17024}


def sizes(length):
    return {"batch": 16, "heads": 8, "seq": length, "head_dim": 64}


def footprint(name, length, **options):
    layer = get(name)(dtype="fp16", direction="fwd+bwd", **options)
    return evaluate(layer, **sizes(length))["footprint_bytes"]


def table(length):
    """Return the bytes of one of Q, K, V and O."""
    return 16 * 8 * length * 64 * 2


@pytest.mark.parametrize("length", TILED)
def test_memory_of_tiled_attention_equals_the_measured_peak(length):
    """Added to the footprint: 3 tables of gradients of an earlier call, to which torch adds.

    With several blocks of keys (of 256 here), the gradient of Q is summed in fp32; otherwise as in
    Algorithm 4.
    """
    schedule = {"schedule": "fa1", "tile": (64, 256)} if length <= 256 else {"tile": (128, 128)}
    bytes_ = footprint("tiled-attention", length, **schedule) + 3 * table(length)
    assert bytes_ / MIB == pytest.approx(TILED[length], rel=0.02)


@pytest.mark.parametrize("length", DENSE)
def test_memory_of_dense_attention_equals_the_measured_peak(length):
    """Added to the footprint: scores, scaled keys and 3 tables of gradients of an earlier call.

    Torch's softmax kept the scores although its gradient does not need them (pytorch/pytorch#64000, 2021).
    Subtracted: the gradients of Q and K, which do not exist yet when those of P and S both do.
    """
    scores = 16 * 8 * length**2 * 2
    bytes_ = footprint("dense-attention", length) + scores + (1 + 3 - 2) * table(length)
    assert bytes_ / MIB == pytest.approx(DENSE[length], rel=0.001)


@pytest.mark.parametrize("length", DENSE)
def test_footprints_alone_are_at_most_30_percent_below_the_measured_peaks(length):
    """Without the corrections of the two tests above, they are up to 29 % too small."""
    if length >= 512:
        tiled = footprint("tiled-attention", length, tile=(128, 128)) / MIB
        assert 0.71 <= tiled / TILED[length] <= 1
    assert 0.70 <= footprint("dense-attention", length) / MIB / DENSE[length] <= 1


def test_memory_of_tiled_attention_is_linear_and_of_dense_quadratic():
    """claims.md S24: 20 times less at 4K tokens; a doubled length doubles or quadruples it."""
    tiled = {n: footprint("tiled-attention", n, tile=(128, 128)) for n in (4096, 8192, 65536, 131072)}
    dense = {n: footprint("dense-attention", n) for n in (4096, 8192, 65536, 131072)}
    assert dense[4096] / tiled[4096] == pytest.approx(17024 / 836, rel=0.12)
    assert tiled[131072] / tiled[65536] == 2
    assert dense[131072] / dense[65536] == pytest.approx(4, rel=0.01)


# -- counted once ----------------------------------------------------------------------------------


def training(name, sizes, **options):
    return evaluate(get(name)(direction="fwd+bwd", **options), **sizes)["footprint_bytes"]


def test_footprints_in_training_count_kept_results_once():
    """Expected: the tensors listed in the comments, by hand."""
    n, d, v = 7, 5, 11
    # Logits and softmax of n rows: y, dy and ds (n·V), x and dx (n·d), W and dW (d·V).
    sizes = {"batch": 1, "seq": n, "d_model": d, "vocab": v}
    assert training("logits", sizes, head="softmax") == 2 * (3 * n * v + 2 * n * d + 2 * d * v)
    # RWKV: k, v and y with their gradients, w and u with theirs, and two fp32 values per position.
    found = training("rwkv", {"batch": 1, "seq": n, "d_model": d})
    assert found == 2 * (6 * n * d + 4 * d) + 2 * 4 * n * d
    # One Elman layer: x, h, dx and dh; weights and biases with gradients; gradients of tanh's input.
    found = training("rnn", {"batch": 1, "seq": n, "input": d, "hidden": v, "onchip": 1})
    assert found == 2 * (2 * (n * d + n * v) + 2 * (v * (d + v) + 2 * v) + n * v)


@pytest.mark.parametrize("direction", ["fwd", "bwd", "fwd+bwd"])
@pytest.mark.parametrize("name", ["dense-attention", "tiled-attention", "mla"])
def test_projections_add_up_to_a_fifth_to_the_cores_footprint(name, direction):
    """Q, K, V, the heads' O and their gradients are now intermediate results instead of operands.

    Forward, MLA is not charged for a copy of the rotated key in each head.
    """
    sizes = {"batch": 2, "heads": 4, "seq": 640, "head_dim": 8, "sram": 4096}
    narrow = {"d_model": 1} | ({"q_rank": 1, "kv_rank": 1} if name == "mla" else {})
    width = {"head_dim": 12, "value_dim": 8} if name == "mla" else {}  # a head's width and the rotated key's
    alone = get("tiled-attention" if name == "mla" else name)(direction=direction)
    whole = get(name)(direction=direction, **({} if name == "mla" else {"projections": True}))
    with_them = evaluate(whole, **sizes | narrow)["footprint_bytes"]
    core = evaluate(alone, **sizes | width)["footprint_bytes"]
    assert (0.95 if name == "mla" else 1) * core <= with_them <= 1.2 * core


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "slstm", "min-gru", "qrnn", "rg-lru"])
def test_a_stack_of_layers_adds_one_sequence_to_the_footprint(name):
    """It is what one layer hands to the next. More than two layers add nothing: two buffers take turns."""
    sizes = {"batch": 2, "seq": 9, "hidden": 8, "heads": 1, "k": 2, "onchip": 1}
    found = {}
    for layers in (1, 2, 3, 7):
        layer = get(name)()
        counts = evaluate(layer, **{s: v for s, v in sizes.items() if s in (*layer.sizes(), "onchip")},
                          num_layers=layers)  # fmt: skip
        found[layers] = counts["footprint_bytes"] - 2 * counts["parameters"]
    assert found[2] - found[1] == 2 * 2 * 9 * 8
    assert found[2] == found[3] == found[7]


@pytest.mark.parametrize("name", ["ring-attention", "dist-flash-attention", "ulysses"])
@pytest.mark.parametrize("direction", ["fwd", "bwd", "fwd+bwd"])
def test_footprint_of_ring_attention_on_one_device_is_that_of_tiled_attention(name, direction):
    """There are no rounds, and none of their buffers."""
    sizes = {"batch": 2, "heads": 4, "seq": 300, "head_dim": 16, "sram": 4096}
    causal = {} if name == "dist-flash-attention" else {"causal": True}
    alone = evaluate(get("tiled-attention")(causal=True, direction=direction), **sizes)["footprint_bytes"]
    ring = get(name)(direction=direction, **causal)
    assert evaluate(ring, devices=1, **sizes)["footprint_bytes"] == alone


#: Bytes of 16 positions of 2 heads of size 8, and of one statistic for each row.
BLOCK, STATISTICS = 2 * 16 * 2 * 8, 4 * 16 * 2
#: FlashAttention-2 sums dQ in fp32.
SUM = 2 * BLOCK


def in_parts(name, p, direction="fwd", **options):
    """Return the footprint of one of p devices with 16 positions each."""
    sizes = {"batch": 1, "heads": 2, "head_dim": 8, "sram": 4096, "seq": 16 * p, "devices": p}
    return evaluate(get(name)(direction=direction, **options), **sizes)["footprint_bytes"]


def test_ring_attention_needs_six_blocks_at_any_length():
    """Liu et al., §3: Q, O, K, V and the K and V that arrive, 6bch numbers; outputs are merged in fp32.

    Backward, K, V and their fp32 gradients arrive while others are in use; sums are in fp32.
    """
    assert in_parts("ring-attention", 1) == 4 * BLOCK + STATISTICS
    for p in (2, 3, 30):
        assert in_parts("ring-attention", p) == 6 * BLOCK + 2 * BLOCK + STATISTICS
        # Q, K, V, O and their gradients; LSE and D; arriving K, V; sums of dQ, dK, dV; arriving dK, dV.
        trained = (8 + 2) * BLOCK + 2 * STATISTICS + 2 * (3 + 2) * BLOCK + SUM
        assert in_parts("ring-attention", p, "bwd") == in_parts("ring-attention", p, "fwd+bwd") == trained


@pytest.mark.parametrize(("balanced", "rounds", "helped"), [(False, (1, 2, 8), 0), (True, (1, 1, 4), 1)])
def test_dist_flash_attention_holds_the_blocks_of_two_rounds(balanced, rounds, helped):
    """Its own K and V, those of this round and the next, and a helper's O and LSE."""
    for p, count in zip((2, 3, 9), rounds, strict=True):
        found = in_parts("dist-flash-attention", p, balanced=balanced)
        results = helped * (p > 2) * (BLOCK + STATISTICS)
        assert found == (4 + 2) * BLOCK + STATISTICS + 2 * min(count, 2) * BLOCK + results


def test_ulysses_holds_every_tensor_twice():
    """By positions and by heads: eight blocks forward.

    In training also their gradients, and two statistics.
    """
    assert in_parts("ulysses", 2) == 8 * BLOCK + STATISTICS
    for direction in ("bwd", "fwd+bwd"):
        assert in_parts("ulysses", 2, direction) == 16 * BLOCK + 2 * STATISTICS + SUM


def test_sequence_parallel_megatron_is_charged_for_gathered_positions():
    """Forward, four tables of all positions, before and after each part; all-reduces work in place."""
    sizes = {"batch": 1, "seq": 64, "d_model": 32, "heads": 4}
    for p in (1, 4):
        whole, cut = (
            evaluate(get("megatron")(sequence_parallel=c), **sizes, devices=p)["footprint_bytes"]
            for c in (False, True)
        )
        table = 2 * 64 * 32
        assert cut - whole == (4 * table - 2 * (table - table / p) if p > 1 else 0)


def test_expert_parallelism_holds_tokens_sent_and_received():
    """k copies of each token, sent and received, and k results: 3·k·d numbers a token; alone, none."""
    sizes = {"batch": 1, "seq": 24, "d_model": 16, "experts": 4, "top_k": 4, "d_ff": 8}
    alone, four = (evaluate(get("expert-parallel")(), **sizes, devices=p) for p in (1, 4))
    experts = 3 * 16 * 8 * 2 * (4 - 1)  # three of four experts are on other devices
    assert four["footprint_bytes"] - alone["footprint_bytes"] == 3 * (2 * 24 * 4 * 16) - experts


@pytest.mark.parametrize(
    ("name", "options", "sizes"),
    [
        ("dist-flash-attention", {"checkpoint": "layer"}, {"devices": 4, "seq": 4096}),
        ("dist-flash-attention", {"checkpoint": "attention"}, {"devices": 4, "seq": 4096}),
        ("transformer-block", {"recompute": "full"}, {"seq": 1024, "seq_kv": 65536, "d_model": 512}),
    ],
)
def test_training_holds_all_operands_with_their_gradients(name, options, sizes):
    """This includes layers whose forward pass keeps few of them.

    Recomputation must not subtract what was never kept.
    """
    sizes = {"batch": 1, "heads": 8, "head_dim": 64, "sram": 65536, **sizes}
    tensors = get(name)(**options).tensors()
    held = sum((tensors.inputs, tensors.outputs, tensors.weights, tensors.offsets))
    others = {"kv_heads": 8, "value_dim": 64, "num_layers": 1, "d_ff": 2048, "devices": 1}
    given = {symbol(size): value for size, value in {**others, **sizes}.items()}
    assert training(name, sizes, **options) >= 2 * held.subs(given)
