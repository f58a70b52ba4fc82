"""Claims of the background articles and their sources, held against the layers' expressions.

Each test names its claim in the project's list of testable claims (claims.md §1–§3). Claims that are
arithmetic on printed constants say nothing about a layer, and are derived, not tested:

=========  ====================================================================================
S4, §2     training FLOPs of the Transformer: 8 · 9.5e12 · 12 h = 3.3e18, 3.5 days = 2.3e19
§3.3       the GFLOP column of FlashAttention's Figure 2 does not reproduce, and is not asserted
§3.4       utilisation: 230 of 312 TFLOP/s is 73 %
§5         printed numbers that contradict themselves
=========  ====================================================================================

Held elsewhere: S3, S5 in seconds, the measured halves of S1, S10, S14 and §3.7 in `test_claims_in_time`; S8's
and the crossovers of §3.7 in `validation/test_crossovers`; S24's and §4 in `layers/test_memory`; S21 in
`layers/test_rest`; Table 1's other rows, S20 and §3.6 in `layers/test_family_claims` and
`layers/test_attention_variants`; S19 and §3.5 in `layers/test_devices` and `validation/test_long_context`.
"""

import math

import numpy as np
import pytest
import sympy as sp

from costmodel import crossover, evaluate
from costmodel.asymptotics import complexity, degree, in_width, table1
from costmodel.layers import get
from costmodel.symbols import symbols

n, n_kv, d, heads, batch = symbols("seq seq_kv head_dim heads batch")
RNN, LSTM, GRU = get("rnn"), get("lstm"), get("gru")
DENSE, TILED, BLOCK = get("dense-attention"), get("tiled-attention"), get("transformer-block")
WIDTHS = (6, 64, 512, 1024)


def wide(width):
    """Return sizes of layers of that width: attention in heads of at
    most 64, recurrent layers with I = H = d.
    """
    each = min(width, 64)
    attention = {"heads": width // each, "head_dim": each}
    return {"batch": 1, "hidden": width, **attention}


# -- §1: steps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [RNN(), LSTM(), GRU(bidirectional=True)])
def test_s1_twice_the_tokens_are_twice_the_steps(layer):
    counts = evaluate(layer, batch=1, seq=[50, 100], hidden=64)
    assert counts["depth"][1] / counts["depth"][0] == 2
    assert 1.9 < counts["pram_depth"][1] / counts["pram_depth"][0] <= 2  # with the input product before


def test_s2_depth_is_linear_in_length_for_recurrent_layers_alone():
    for layer in (RNN(), LSTM(), GRU()):
        assert degree(layer.cost.depth, "seq") == 1
    for layer in (DENSE(), TILED(), DENSE(projections=True), BLOCK()):
        assert degree(layer.cost.depth, "seq") == 0
    # With tree reductions, the other definition: Θ(log n + log d).
    terms = complexity(in_width(layer := DENSE(projections=True), layer.cost.pram_depth)).terms
    assert set(terms) == {sp.log(n), sp.log(d), sp.log(sp.Symbol("d_model", positive=True, integer=True))}


@pytest.mark.parametrize(("length", "width", "count"), [(128, 64, 4), (1000, 64, 8), (7, 3, 5)])
@pytest.mark.parametrize("layer", [DENSE(projections=True), DENSE(projections=True, cross=True)])
def test_s2_depth_of_one_attention_layer(layer, length, width, count):
    """formulas.md §3.3: a product is 1 + ⌈log₂ k⌉; Q, K and V at once, scores, maximum, subtract and exp,
    sum, divide, PV, O.
    """

    def log(x):
        return math.ceil(math.log2(x))

    product, model = {"d": 1 + log(width), "n": 1 + log(length)}, 1 + log(width * count)
    wanted = model + product["d"] + log(length) + 2 + log(length) + 1 + product["n"] + model
    found = evaluate(layer, batch=3, seq=length, heads=count, head_dim=width)
    assert found["pram_depth"] == wanted


def test_s2_projections_side_by_side_are_as_deep_as_one():
    sizes = {"batch": 1, "seq": 64, "d_model": 512, "d_ff": 2048}
    apart, fused = (evaluate(get("swiglu")(fused=fused), **sizes) for fused in (False, True))
    assert apart["pram_depth"] == fused["pram_depth"]
    assert apart["launches"] == fused["launches"] + 1


@pytest.mark.parametrize("layers", [1, 2, 7])
def test_s9_a_stack_adds_the_depths_of_its_layers(layers):
    sizes = {"batch": 1, "seq": 100, "hidden": 8, "num_layers": layers}
    assert evaluate(LSTM(), **sizes)["depth"] == 100 * layers
    assert evaluate(LSTM(wavefront=True), **sizes)["depth"] == 100 + layers - 1
    assert evaluate(LSTM(bidirectional=True), **sizes)["depth"] == 100 * layers, "both ways at once"
    # formulas.md §1: training adds T for the gradients of the states; the weights' are one product.
    assert evaluate(LSTM(direction="fwd+bwd"), **sizes)["depth"] == 2 * 100 * layers
    assert evaluate(LSTM(direction="bwd_weights"), **sizes)["depth"] == 1


def test_s10_depth_does_not_depend_on_the_batch():
    for layer in (RNN(), LSTM(), GRU(), DENSE(), TILED(), BLOCK()):
        assert batch not in layer.cost.depth.free_symbols
        assert batch not in layer.cost.pram_depth.free_symbols


def test_s11_path_is_n_for_recurrent_layers_and_1_for_attention():
    assert RNN().cost.path == LSTM().cost.path == n
    assert DENSE().cost.path == TILED().cost.path == BLOCK().cost.path == 1


def test_s12_counts_of_the_articles_snippet():
    """B = 1, T = 5, I = 10, H = 20, no bias: 6000 FLOP, 100 additions, 100 tanh, 5 steps."""
    counts = evaluate(RNN(bias=False), batch=1, seq=5, input=10, hidden=20)
    assert counts["matrix_flops"] == 6000
    assert counts["vector_flops"] == 100
    assert counts["special_flops"] == 100
    assert counts["depth"] == 5


# -- §1: work ------------------------------------------------------------------------------------


def test_s6_attention_is_quadratic_in_length():
    for layer in (DENSE(), TILED(tile=(64, 64)), TILED(schedule="fa1", causal=True)):
        assert degree(layer.cost.flops["matrix"].subs(n_kv, n), "seq") == 2
    scores = sp.Add(*(p.workspace for p in DENSE().forward()))
    assert degree(scores.subs(n_kv, n), "seq") == 2


def test_s7_fewer_comparisons_in_a_longer_chain():
    """Less work beyond a length, and from 2 tokens on more dependent steps."""
    for width in WIDTHS:
        work = crossover(RNN(), DENSE(), over="seq", of="flops", **wide(width))
        assert work.cheaper == ("dense-attention", "rnn")
        steps = crossover(DENSE(), RNN(), over="seq", of="depth", **wide(width))
        assert steps.sizes == (2,)
        assert steps.cheaper[-1] == "dense-attention"


def test_s8_more_work_can_be_less_depth():
    """d = 768, n = 4096: 8nd² + 4n²d = 7.09e10 against Elman's 4nd² = 9.7e9, in 1 step against 4096."""
    sizes = {"batch": 1, "seq": 4096}
    attention = evaluate(DENSE(projections=True), heads=12, head_dim=64, **sizes)
    elman = evaluate(RNN(), hidden=768, **sizes)
    assert attention["matrix_flops"] == pytest.approx(7.09e10, rel=1e-3)
    assert elman["matrix_flops"] == pytest.approx(9.66e9, rel=1e-3)
    assert (attention["depth"], elman["depth"]) == (1, 4096)


def test_s13_attention_counts_every_pair_of_tokens():
    """By hand: 100 tokens have 10,000 pairs, 1,000 a million; causal 5,050 and 500,500."""
    sizes = {"batch": 1, "heads": 1, "head_dim": 1, "seq": [100, 1000]}
    assert (evaluate(DENSE(), **sizes)["matrix_flops"] / 4).tolist() == [10_000, 1_000_000]
    assert (evaluate(DENSE(causal=True), **sizes)["matrix_flops"] / 4).tolist() == [5_050, 500_500]


@pytest.mark.parametrize("layer", [DENSE(), TILED(schedule="fa1"), TILED()])
def test_s14_twice_the_tokens_are_four_times_the_flops(layer):
    sizes = {"batch": 2, "heads": 8, "head_dim": 64, "seq": [1000, 2000, 4000]}
    flops = evaluate(layer, **sizes)["matrix_flops"]
    assert (flops[1] / flops[0], flops[2] / flops[0]) == (4, 16)


@pytest.mark.parametrize("length", [128, 1024, 8192])
@pytest.mark.parametrize("width", [512, 4096])
def test_s14_whole_layers_reach_four_times_the_flops_only_in_the_limit(length, width):
    """r = 2(1 + 2n/6d)/(1 + n/6d), with a feed-forward layer of 4d."""
    flops = evaluate(BLOCK(), batch=1, seq=[length, 2 * length], d_model=width, heads=8)["matrix_flops"]
    share = length / (6 * width)
    assert flops[1] / flops[0] == pytest.approx(2 * (1 + 2 * share) / (1 + share), rel=1e-12)


def test_s15_flops_grow_from_4k_to_32k_and_128k_tokens_as_stated():
    lengths = {"seq": [4096, 32768, 131072]}
    core = evaluate(DENSE(), batch=1, heads=1, head_dim=128, **lengths)["matrix_flops"]
    assert (core / core[0]).tolist() == [1, 64, 1024]
    layer = evaluate(BLOCK(), batch=1, d_model=4096, heads=32, **lengths)["matrix_flops"]
    assert layer[2] / layer[0] == pytest.approx(32 * (1 + 32 / 6) / (1 + 1 / 6), rel=1e-12)
    assert layer[2] / layer[0] == pytest.approx(173.7, rel=1e-3)


# -- §1.1: crossovers with real constants ----------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("attention", "recurrent", "wanted"),
    [
        (DENSE(), RNN(recurrent_only=True), lambda width: width // 2),
        (DENSE(), RNN(), lambda width: width),
        (DENSE(projections=True), RNN(), lambda width: "never"),
        (DENSE(projections=True), GRU(), lambda width: width),
        (DENSE(projections=True), LSTM(), lambda width: 2 * width),
        (DENSE(projections=True, causal=True), GRU(), lambda width: 2 * width - 1),
        (DENSE(projections=True, causal=True), LSTM(), lambda width: 4 * width - 1),
        (TILED(projections=True, causal=True), LSTM(), lambda width: 4 * width - 1),
    ],
    ids=lambda value: getattr(value, "label", ""),
)
def test_s5_and_1_1_attention_needs_fewer_flops_below_this_length(attention, recurrent, wanted, width):
    """The exact length behind "n < d", with the constants of each layer."""
    found = crossover(attention, recurrent, over="seq", of="flops", **wide(width))
    assert found.answer == wanted(width)
    if found.sizes:
        assert found.cheaper[0] == attention.name


def test_1_1_crossover_does_not_depend_on_the_order_of_the_layers():
    one = crossover(DENSE(projections=True), GRU(), over="seq", of="flops", **wide(512))
    other = crossover(GRU(), DENSE(projections=True), over="seq", of="flops", **wide(512))
    assert one.sizes == other.sizes == (512,)
    assert crossover(RNN(), DENSE(projections=True), over="seq", of="flops", **wide(512)).answer == "always"


# -- §1: memory ----------------------------------------------------------------------------------


def test_s16_training_keeps_five_bytes_a_score():
    """5·a·s²·b bytes a layer in 16 bits: softmax output 2, dropout mask 1, dropout output 2 (Korthikanti)."""
    kept = sp.expand(DENSE(dtype="fp16", dropout=True).cost.kept.subs(n_kv, n))
    assert kept.coeff(n, 2) == 5 * heads * batch
    assert degree(TILED(dtype="fp16").cost.kept.subs(n_kv, n), "seq") == 1


def test_s17_tiling_saves_memory_and_traffic_and_no_flops():
    """No fewer FLOPs, O(N) besides the operands, and less traffic."""
    sizes = {"batch": 1, "heads": 8, "seq": 4096, "head_dim": 64, "sram": 192 * 1024}
    for schedule in ("fa1", "fa2"):
        for direction in ("fwd", "bwd", "fwd+bwd"):
            tiled = TILED(dtype="fp16", schedule=schedule, direction=direction)
            dense = DENSE(dtype="fp16", direction=direction)
            assert evaluate(tiled, **sizes)["matrix_flops"] >= evaluate(dense, **sizes)["matrix_flops"]
            assert evaluate(tiled, **sizes)["hbm_bytes"] < evaluate(dense, **sizes)["hbm_bytes"]
            assert all(degree(p.workspace.subs(n_kv, n), "seq") <= 1 for p in tiled.phases())


@pytest.mark.parametrize("width", [32, 64, 128])
def test_s18_unfused_attention_is_below_the_ridge_of_an_a100(width):
    """4N²d/(2(4Nd + 4N²)) → d/2 FLOP a byte in 16 bits: below an A100's ridge of 153."""
    counts = evaluate(DENSE(dtype="fp16"), batch=1, heads=1, seq=[4096, 2**24], head_dim=width)
    intensity = counts["matrix_flops"] / counts["hbm_bytes"]
    assert intensity[0] == pytest.approx(4096 * width / (2 * (width + 4096)), rel=1e-12)
    assert intensity[1] == pytest.approx(width / 2, rel=1e-4)
    assert intensity[1] < 312e12 / 2.039e12


def test_s18_intensity_of_tiled_attention_is_proportional_to_the_memory():
    """∝ M/d²: each doubling of M doubles it, as long as the traffic is that of the blocks."""
    sizes = {"batch": 1, "heads": 1, "seq": 2**20, "head_dim": 64}
    counts = evaluate(TILED(dtype="fp16", schedule="fa1"), sram=2.0 ** np.arange(13, 19), **sizes)
    intensity = counts["matrix_flops"] / counts["hbm_bytes"]
    assert intensity[1:] / intensity[:-1] == pytest.approx(2.0, rel=0.02)


def test_s22_scores_of_gpt3_take_805_mb():
    """2048² scores a head; 96 heads in 16 bits are 805 MB a layer and sequence."""
    (scores, _, _) = DENSE(dtype="fp16").forward()
    values = {batch: 1, heads: 96, n: 2048, n_kv: 2048}
    assert scores.workspace.subs(values) == 2048**2 * 96 * 2 == 805_306_368


@pytest.mark.parametrize(
    ("layers", "kv", "wanted"),
    [(48, 64, 1_572_864), (80, 8, 327_680), (32, 32, 524_288)],
    ids=["48 layers of 64 heads", "Llama-2-70B", "Llama-2-7B"],
)
def test_s23_each_token_adds_these_bytes_to_the_kv_cache(layers, kv, wanted):
    """2·L·h_kv·d_h·w bytes a token: what one more key adds to what attention has to read."""
    inputs = DENSE(dtype="bf16").tensors().inputs
    token = sp.diff(inputs, n_kv).subs(dict.fromkeys(symbols("head_dim value_dim"), 128))
    assert layers * token.subs({batch: 1, symbols("kv_heads")[0]: kv}) == wanted


def test_s24_memory_is_linear_for_tiled_and_nearly_quadratic_for_dense_attention():
    """Training, batch 16, 8 heads of 64, dropout: tiled ×2 a doubling (Table 21, 512 on), dense towards ×4;
    the README's saving of 10× at 2K and 20× at 4K is reached.
    """
    lengths = 2.0 ** np.arange(9, 17)
    sizes = {"batch": 16, "heads": 8, "seq": lengths, "head_dim": 64, "sram": 192 * 1024}
    dense = evaluate(DENSE(dtype="fp16", dropout=True, direction="fwd+bwd"), **sizes)["footprint_bytes"]
    tiled = evaluate(TILED(dtype="fp16", schedule="fa1", direction="fwd+bwd"), **sizes)["footprint_bytes"]
    assert (tiled[1:] / tiled[:-1]).tolist() == [2] * 7
    growth = dense[1:] / dense[:-1]
    assert (np.diff(growth) > 0).all()
    assert 3.4 < growth[0] < growth[-1] < 4
    assert dense[2] / tiled[2] >= 10
    assert dense[3] / tiled[3] >= 20


# -- §2 and §3 -----------------------------------------------------------------------------------


def test_2_classes_are_those_of_table_1():
    rows = table1([DENSE(), RNN()])
    texts = [(str(r.complexity), str(r.sequential), str(r.path)) for r in rows]
    assert texts == [("O(n²·d)", "O(1)", "O(1)"), ("O(n·d²)", "O(n)", "O(n)")]


@pytest.mark.parametrize(("length", "width"), [(1024, 64), (4096, 128), (7, 3)])
def test_3_1_standard_attention_traffic(length, width):
    """Algorithm 0: 4Nd + 4N² elements a head."""
    for dtype, w in (("fp16", 2), ("fp32", 4)):
        counts = evaluate(DENSE(dtype=dtype), batch=3, heads=5, seq=length, head_dim=width)
        assert counts["hbm_bytes"] == 15 * w * (4 * length * width + 4 * length**2)


def elements(layer, length, width, capacity):
    """Return the traffic of one head in elements: in fp32 a statistic is one element."""
    return evaluate(layer, batch=1, heads=1, seq=length, head_dim=width, sram=4 * capacity)["hbm_bytes"] / 4


FA1 = TILED(dtype="fp32", schedule="fa1")
STANDARD = DENSE(dtype="fp32")


@pytest.mark.parametrize(
    ("length", "width", "capacity", "wanted"),
    [
        (1024, 64, 49152, 1_267_712),
        (1024, 64, 98304, 665_600),
        (4096, 64, 49152, 17_915_904),
        (4096, 128, 49152, 68_853_760),
    ],
)
def test_3_2_flash_attention_traffic(length, width, capacity, wanted):
    """2Nd + T_c(3Nd + 4N) − (Nd + 2N), checked by simulation of Algorithm 1."""
    assert elements(FA1, length, width, capacity) == wanted


def test_3_2_no_gain_at_128_wide_heads_in_48k():
    """68.85 million elements against 69.21: within 1 %."""
    standard = elements(STANDARD, 4096, 128, 49152)
    assert standard == 69_206_016
    assert elements(FA1, 4096, 128, 49152) == pytest.approx(standard, rel=0.01)


@pytest.mark.parametrize(("length", "capacity"), [(4096, 49152), (16384, 49152), (4096, 98304)])
def test_3_2_the_width_beyond_which_tiling_loses(length, capacity):
    """The first d with 2Nd + T_c(3Nd + 4N) − (Nd + 2N) ≥ 4Nd + 4N²; at M = 48K elements just beyond 128."""

    def loses(width):
        columns = -(-capacity // (4 * width))
        blocks = -(-length // columns)
        flash = (
            2 * length * width + blocks * (3 * length * width + 4 * length) - (length * width + 2 * length)
        )
        return flash >= 4 * length * width + 4 * length**2

    wanted = next(width for width in range(1, 1024) if loses(width))
    sizes = {"batch": 1, "heads": 1, "seq": length, "sram": 4 * capacity}
    found = crossover(FA1, STANDARD, over="head_dim", of="hbm_bytes", limit=1024, **sizes)
    assert found.size == wanted
    assert found.cheaper[0] == FA1.name
    if (length, capacity) == (4096, 49152):
        assert 128 < wanted < 136


@pytest.mark.parametrize(("length", "width", "capacity"), [(1024, 64, 49152), (4096, 128, 49152)])
def test_3_2_backward_traffic(length, width, capacity):
    """Algorithm 4: 4Nd + T_c(5Nd + 2N)."""
    columns = -(-capacity // (4 * width))
    blocks = -(-length // columns)
    wanted = 4 * length * width + blocks * (5 * length * width + 2 * length)
    backward = TILED(dtype="fp32", schedule="fa1", direction="bwd")
    assert elements(backward, length, width, capacity) == wanted


@pytest.mark.parametrize(("length", "width", "rows"), [(4096, 64, 128), (1000, 128, 64)])
def test_3_2_flash_attention_2_traffic(length, width, rows):
    """Nd (Q) + Nd (O) + N (LSE) and T_r·2Nd (K and V for each block of Q), of which memory sees 2Nd."""
    layer = TILED(dtype="fp32", schedule="fa2", tile=(rows, 64))
    counts = evaluate(layer, batch=1, heads=1, seq=length, head_dim=width)
    assert counts["hbm_bytes"] == 4 * (4 * length * width + length)
    assert counts["l2_bytes"] == 4 * (-(-length // rows) * 2 * length * width)


def test_3_2_tiled_traffic_follows_theorem_2():
    """Θ(N²d²/M): halved by twice the memory, Θ(Nd) where K and V fit, ∝ M/d² less than standard."""
    small, large = elements(FA1, 2**18, 64, 2**15), elements(FA1, 2**18, 64, 2**16)
    assert large / small == pytest.approx(0.5, rel=0.01)
    for length in (1024, 8192):
        fits = elements(FA1, length, 64, 4 * length * 64)
        assert fits == 4 * length * 64 + 2 * length  # one block: each operand once, O and two statistics
    gains = [elements(STANDARD, 2**18, 64, m) / elements(FA1, 2**18, 64, m) for m in (2**14, 2**15, 2**16)]
    assert gains[1] / gains[0] == pytest.approx(2, rel=0.02)
    assert gains[2] / gains[1] == pytest.approx(2, rel=0.02)


def test_3_3_hbm_ratio_of_figure_2():
    """40.3 / 4.4 GB = 9.2 ± 20 % (GPT-2 medium: 64 × 16 heads, N = 1024, d = 64, forward and backward).

    Passes over N² in 16 bits that the unfused side is charged: forward scores w; mask r, w; softmax r, w;
    dropout r, w and its mask of one byte w (½); PV r: 8.5. Backward PᵀdO r; dP w; dropout r, w and its
    mask r (½); softmax's gradient r, r, w; mask's gradient r, w; dQ r, dK r: 11.5. The paper's 40.3 GB are
    18.8 passes. The tiled side has the kernel's tile of 64 × 256 in FA-1's order: Algorithms 1 and 4.
    """
    sizes = {"batch": 64, "heads": 16, "seq": 1024, "head_dim": 64}
    unfused = DENSE(dtype="fp16", mask=True, dropout=True, direction="fwd+bwd")
    tiled = TILED(dtype="fp16", schedule="fa1", tile=(64, 256), direction="fwd+bwd")
    pass_bytes = 2 * 1024 * 1024**2
    operands = 2 * 1024 * 1024 * 64  # one N × d of all heads
    dense_bytes = evaluate(unfused, **sizes)["hbm_bytes"]
    assert dense_bytes == pytest.approx((8.5 + 11.5) * pass_bytes + (4 + 8) * operands, rel=1e-12)
    ratio = dense_bytes / evaluate(tiled, **sizes)["hbm_bytes"]
    assert ratio == pytest.approx(40.3 / 4.4, rel=0.2)


def test_3_3_recomputed_scores_are_a_seventh_product():
    """7 products against 6, as tiled attention computes the scores again for the gradient."""
    sizes = {"batch": 64, "heads": 16, "seq": 1024, "head_dim": 64}
    flops = [evaluate(layer(direction="fwd+bwd"), **sizes)["matrix_flops"] for layer in (TILED, DENSE)]
    assert flops[0] / flops[1] == pytest.approx(7 / 6, rel=1e-12)
    assert flops[1] == pytest.approx(824.6e9, rel=1e-3)
    assert flops[0] == pytest.approx(962.1e9, rel=1e-3)


def test_3_4_flash_attention_2_and_3_flops():
    """4·n²·d·h, backward 2.5 and both 3.5 times; FA-3's case of 2.33861e12."""
    sizes = {"batch": 4, "heads": 16, "seq": 8448, "head_dim": 128}
    forward = evaluate(TILED(), **sizes)["matrix_flops"]
    assert forward == 4 * 4 * 16 * 8448**2 * 128 == pytest.approx(2.33861e12, rel=1e-5)
    assert evaluate(TILED(direction="bwd"), **sizes)["matrix_flops"] == 2.5 * forward
    assert evaluate(TILED(direction="fwd+bwd"), **sizes)["matrix_flops"] == 3.5 * forward


def test_3_5_one_layer_of_llama_7b():
    """2·N²·d = 3.52e13 causal FLOP at 64K tokens."""
    counts = evaluate(TILED(causal=True), batch=1, heads=32, head_dim=128, seq=65536)
    assert counts["matrix_flops"] == pytest.approx(3.52e13, rel=1e-3)


@pytest.mark.parametrize("schedule", ["fa1", "fa2"])
@pytest.mark.parametrize("tile", [None, (128, 128)])
def test_3_6_no_tiling_is_below_quadratic(schedule, tile):
    """Keles et al.: exact attention takes n² operations."""
    layer = TILED(schedule=schedule, tile=tile)
    assert degree(layer.cost.flops["matrix"].subs(n_kv, n), "seq") == 2


def test_3_7_counts_of_flash_rnns_setting():
    """B 16, T 1024, d 768: LSTM recurrent 7.73e10 and with input 1.55e11, attention core causal 2.58e10 FLOP;
    the LSTM's recurrent weights are 4.7 MB in 16 bits.
    """
    sizes = {"batch": 16, "seq": 1024}
    recurrent = evaluate(LSTM(recurrent_only=True, bias=False), hidden=768, **sizes)
    assert recurrent["matrix_flops"] == 8 * 768**2 * 16 * 1024 == pytest.approx(7.73e10, rel=1e-3)
    assert evaluate(LSTM(), hidden=768, **sizes)["matrix_flops"] == pytest.approx(1.55e11, rel=3e-3)
    core = evaluate(TILED(causal=True), heads=12, head_dim=64, **sizes)
    assert core["matrix_flops"] == pytest.approx(2.58e10, rel=2e-3)
    assert 2 * recurrent["parameters"] == pytest.approx(4.7e6, rel=5e-3)


@pytest.mark.parametrize(("layer", "each"), [(LSTM, 8), (GRU, 6), (RNN, 2)])
def test_3_7_deepbench_counts(layer, each):
    """The recurrent part alone: 8, 6 and 2 H²BT."""
    counts = evaluate(layer(recurrent_only=True), batch=32, seq=1500, hidden=2816)
    assert counts["matrix_flops"] == each * 2816**2 * 32 * 1500
