"""Attention variants against papers and formulas.md: masks, latents, memories, decoding."""

from fractions import Fraction

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel import evaluate, predict
from costmodel.asymptotics import complexity, degree, in_width, table1
from costmodel.errors import CostmodelError
from costmodel.hardware import load
from costmodel.layers import classes, get
from costmodel.symbols import symbol

few = settings(max_examples=10, deadline=None)
small = st.integers(1, 6)
CORE = {"batch": 2, "heads": 4, "head_dim": 16}


def flops_of(layer):
    return in_width(layer, layer.cost.flops.total)


# -- Table 1 and classes -----------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
def test_table_1_restricted_row(causal):
    """Vaswani et al., Table 1, row 4: O(r·n·d), O(1), O(n/r) (claims.md §2)."""
    w, n, d = symbol("window"), symbol("seq"), symbol("d_model")
    (row,) = table1([get("sliding-window")(causal=causal)])
    assert row.complexity.terms == (w * n * d,)
    assert str(row.sequential) == "O(1)"
    assert row.path.terms == (n / w,)


@pytest.mark.parametrize(
    ("name", "options", "text", "path"),
    [
        ("longformer", {}, "O(w·n·d + n·d·g)", "O(1)"),
        ("strided", {}, "O(n·d·l + n²·d/l)", "O(1)"),
        ("strided", {"pattern": "fixed"}, "O(n²·d·c/l + n·d·l + n·d·c)", "O(1)"),
        ("block-sparse", {}, "O(n²·d·s + n·d·b)", "O(log n)"),
        ("combiner", {}, "O(n^(3/2)·d)", "O(1)"),
        ("combiner", {"pattern": "logsparse"}, "O(n·d·log n)", "O(1)"),
        ("graph-attention", {}, "O(n·d·k_G)", "O(log_k_G n)"),
        ("retrieval-memory", {}, "O(n·d·k_top + n·d·S)", "O(1)"),
        ("compressive-memory", {}, "O(n·d·d_h + n·d·b)", "O(n/b)"),
    ],
)
def test_complexity_and_path_of_each_variant(name, options, text, path):
    (row,) = table1([get(name)(**options)])
    assert (str(row.complexity), str(row.path)) == (text, path)


@pytest.mark.parametrize("pattern", ["fixed", "logsparse"])
@pytest.mark.parametrize("count", ["matrix_flops", "special_flops"])
def test_the_exponent_of_combiner_is_between_1_and_2(pattern, count):
    """claims.md §3.6: O(L√L) and O(L log L) for full attention."""
    layer = get("combiner")(pattern=pattern)
    lengths = 4.0 ** np.arange(5, 10)
    counts = evaluate(layer, **CORE, seq=lengths)[count]
    exponents = np.diff(np.log(counts)) / np.diff(np.log(lengths))
    assert ((exponents > 1) & (exponents < 2)).all()
    assert degree(flops_of(layer), "seq") == {"fixed": Fraction(3, 2), "logsparse": 1}[pattern]


def test_bigbird_is_linear_in_length():
    """Zaheer et al., §2: O(n) for window, global and random tokens, each in whole blocks."""
    n, d = symbol("seq"), symbol("d_model")
    growing = {t for t in complexity(flops_of(get("bigbird")())).terms if t.has(n)}
    assert growing == {n * d * symbol(size) for size in ("window", "globals", "random", "block")}


def test_strided_attention_with_stride_root_n_has_exponent_three_halves():
    """Child et al., §4: O(n·√n) for l near √n."""
    n = symbol("seq")
    for pattern in ("strided", "fixed"):
        layer = get("strided")(pattern=pattern)
        assert degree(flops_of(layer).subs(symbol("stride"), sp.sqrt(n)), "seq") == Fraction(3, 2)


def test_exact_dense_attention_is_quadratic_and_sparse_attention_is_not():
    """Keles et al. 2022 (claims.md §3.6): only fewer pairs or an approximation are below the square."""
    dense = [kind for kind in classes().values() if kind.family == "attention" and "seq" in kind.required]
    assert {"dense-attention", "tiled-attention", "flash-attention-3", "mla"} <= {kind.name for kind in dense}
    for kind in dense:
        layer = kind(causal=True)
        assert degree(flops_of(layer), "seq") == 2, kind.name
    for name in ("sliding-window", "longformer", "bigbird", "combiner", "graph-attention"):
        assert degree(flops_of(get(name)()), "seq") < 2
        assert get(name).family != "attention"


# -- the lower bound on traffic (claims.md §3.2) -----------------------------------------------


@pytest.mark.parametrize("schedule", ["fa1", "fa2"])
def test_tiled_attention_moves_at_least_the_lower_bound_and_its_order(schedule):
    """Dao et al.: N²d²/M accesses for every M from d to N·d.

    Proposition 3 is the lower bound, Theorem 2 says that FlashAttention has this order.
    """
    layer = get("tiled-attention")(dtype="fp32", schedule=schedule)
    n, d, m = symbol("seq"), symbol("head_dim"), symbol("sram")
    order = n**2 * d**2 / (m / 4)  # M in elements of 4 bytes
    leading = n**2 * d * symbol("d_model") / m  # all heads together
    moved = in_width(layer, layer.cost.bytes["hbm"] + layer.cost.bytes["l2"])
    assert leading in complexity(moved).terms
    assert complexity(order).terms == (n**2 * d**2 / m,)
    for length, width in ((256, 16), (1000, 64), (4096, 128)):
        for capacity in np.geomspace(width, length * width, 12).astype(int):
            sizes = {"batch": 1, "heads": 1, "seq": length, "head_dim": width, "sram": 4 * int(capacity)}
            counts = evaluate(layer, **sizes)
            accesses = (counts["hbm_bytes"] + counts["l2_bytes"]) / 4
            assert accesses >= length**2 * width**2 / capacity
            assert accesses <= 40 * (length**2 * width**2 / capacity + length * width)


def test_block_sparse_traffic_and_flops_equal_the_papers_formulas():
    """formulas.md §3.2: 2Nd + s·T_c(3Nd + 4N) elements; FLOPs 4·N²·d·s (Proposition 4)."""
    layer = get("block-sparse")(dtype="fp32")
    for n, d, b, s in ((1024, 64, 128, 25), (4096, 32, 64, 50), (512, 128, 64, 100)):
        counts = evaluate(layer, batch=1, heads=1, seq=n, head_dim=d, block=b, density=s)
        elements = 2 * n * d + s / 100 * (n / b) * (3 * n * d + 4 * n)
        assert counts["hbm_bytes"] == 4 * elements
        assert counts["matrix_flops"] == 4 * n * n * d * s / 100


# -- masks that leave all pairs -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "more"),
    [
        ("sliding-window", {"causal": True}, {"window": 96}),
        ("strided", {"pattern": "strided"}, {"stride": 1}),
        ("strided", {"pattern": "fixed"}, {"stride": 8, "summary": 8}),
    ],
)
def test_the_widest_causal_mask_costs_as_much_as_causal_attention(name, options, more):
    whole = evaluate(get("tiled-attention")(causal=True), seq=96, **CORE, sram=1e5)
    found = evaluate(get(name)(**options), seq=96, **CORE, **more)
    assert found["matrix_flops"] == whole["matrix_flops"]
    assert found["hbm_bytes"] == whole["hbm_bytes"]


@pytest.mark.parametrize(
    ("name", "options", "more"),
    [
        ("sliding-window", {"causal": False}, {"window": 96}),
        ("longformer", {}, {"globals": 96}),
        ("bigbird", {}, {"globals": 96, "block": 32}),
        ("block-sparse", {"schedule": "fa2"}, {"density": 100, "block": 32}),
        ("graph-attention", {}, {"degree": 96}),
        ("sliding-window", {"convention": "torch"}, {"window": 3}),
    ],
)
@pytest.mark.parametrize("direction", ["fwd", "bwd"])
def test_the_densest_mask_costs_as_much_as_dense_attention(name, options, more, direction):
    whole = evaluate(get("tiled-attention")(direction=direction), seq=96, **CORE, sram=1e5)
    found = evaluate(get(name)(**options, direction=direction), seq=96, **CORE, **more)
    assert found["matrix_flops"] == whole["matrix_flops"]
    if name != "graph-attention":
        assert found["hbm_bytes"] == whole["hbm_bytes"]


@pytest.mark.parametrize("direction", ["bwd", "fwd+bwd"])
def test_block_sparse_attention_with_all_blocks_equals_flash_attention(direction):
    """Dao et al., §3.3: Algorithms 1 and 4 without zero blocks; first reads of O, l, m are charged here."""
    for dtype in ("bf16", "fp32"):
        options = {"schedule": "fa1", "direction": direction, "dtype": dtype}
        whole = evaluate(get("tiled-attention")(**options, tile=(32, 32)), seq=96, **CORE)
        found = evaluate(get("block-sparse")(**options), seq=96, **CORE, density=100, block=32)
        rows = CORE["batch"] * CORE["heads"] * 96
        output = get("block-sparse")(dtype=dtype).bytes * CORE["head_dim"] + 8
        first = rows * output if direction != "bwd" else 0
        assert found["hbm_bytes"] == whole["hbm_bytes"] + first
        for count in ("vector_flops", "special_flops", "l2_bytes", "launches", "pram_depth", "kept_bytes"):
            assert found[count] == whole[count], count
        assert found["footprint_bytes"] == whole["footprint_bytes"]


def steps(mask, wanted):
    """Return the layers after which every wanted pair of positions is connected, mask by mask."""
    reached, layers = mask, 1
    while not (reached | ~wanted).all():
        reached, layers = (mask.astype(int) @ reached) > 0, layers + 1
    return layers


@pytest.mark.parametrize("n", [1, 2, 5, 9, 16, 23])
def test_path_lengths_equal_those_found_by_applying_the_masks(n):
    def path(name, more, **options):
        sizes = {"batch": 1, "heads": 1, "seq": n, "head_dim": 1, **more}
        return evaluate(get(name)(**options), **sizes)["path"]

    i, j = np.arange(n)[:, None], np.arange(n)[None, :]
    past, whole, apart = j <= i, np.ones((n, n), bool), np.abs(i - j)
    for w in (2, 3, 8, 30):
        assert path("sliding-window", {"window": w}) == steps(past & (apart < w), past)
        assert path("sliding-window", {"window": w}, causal=False) == steps(apart < w, whole)
        for g in (1, 4, 22):
            seen = (i < g) | (j < g) | (apart <= w // 2)
            assert path("longformer", {"window": w, "globals": g}) == steps(seen, whole)
    for side in (1, 2, 4, 7, 22):
        seen = (apart <= side) | (apart % side == 0)
        assert path("strided", {"stride": side}) == steps(past & seen, past)
        for c in {1, side}:
            seen = (i // side == j // side) | (j % side >= side - c)
            found = path("strided", {"stride": side, "summary": c}, pattern="fixed")
            assert found == steps(past & seen, past)


def test_bigbird_with_all_blocks_has_a_path_of_one_and_otherwise_two():
    for size in ("globals", "window", "random"):
        assert evaluate(get("bigbird")(), **CORE, seq=300, **{size: 300})["path"] == 1
    assert evaluate(get("bigbird")(), **CORE, seq=3000)["path"] == 2


@pytest.mark.parametrize("name", ["sliding-window", "longformer", "strided", "bigbird", "block-sparse"])
def test_no_mask_has_more_flops_than_dense_attention(name):
    """The lower bound uses these counts, so padding of short sequences to whole blocks must not count."""
    lengths = np.array([1.0, 2.0, 63.0, 65.0, 100.0, 511.0, 513.0])
    whole = evaluate(get("tiled-attention")(), seq=lengths, **CORE, sram=1e5)
    layer = get(name)()
    window = {"window": 100} if "window" in layer.required else {}
    found = evaluate(layer, seq=lengths, **CORE, **window)
    assert (found["matrix_flops"] <= whole["matrix_flops"] * (1 + 1e-12)).all()


def test_short_windows_take_less_than_a_tenth_of_the_time():
    """At both uncalibrated rungs."""
    sizes = {"batch": 1, "heads": 32, "seq": 65536, "head_dim": 128}
    for rung in ("bound", "kernel"):
        full = predict(get("tiled-attention")(causal=True), "nvidia/h200-sxm", rung=rung, **sizes)
        near = predict(get("sliding-window")(), "nvidia/h200-sxm", rung=rung, window=1024, **sizes)
        assert near.seconds < full.seconds / 10


@pytest.mark.parametrize(
    "device", ["h200-sxm", "h100-sxm", "a100-sxm-80gb", "mi300x", "tpu-v5e", "xeon-8480plus"]
)
@pytest.mark.parametrize("direction", ["fwd", "bwd"])
def test_a_window_of_all_keys_takes_the_time_of_causal_attention(device, direction):
    """It is the same kernel with nothing to skip, at every rung and on every kind of device."""
    sizes = {
        "batch": 2,
        "heads": 16,
        "kv_heads": 4,
        "seq": np.array([100.0, 2048.0, 8192.0]),
        "head_dim": 128,
    }
    for rung in ("bound", "kernel"):
        causal = predict(
            get("tiled-attention")(causal=True, direction=direction), device, rung=rung, **sizes
        ).seconds
        layer = get("sliding-window")(direction=direction)
        for window in (8192, 100000):
            seconds = predict(layer, device, rung=rung, window=window, **sizes).seconds
            assert seconds == pytest.approx(causal, rel=1e-9)
        fewer = predict(layer, device, rung=rung, window=1024, **sizes).seconds
        assert (fewer[1:] < causal[1:]).all()


# -- MLA ---------------------------------------------------------------------------------------

V2 = {"heads": 128, "head_dim": 128, "d_model": 5120}


def test_deepseek_v2_caches_1152_bytes_per_token_and_layer():
    """DeepSeek-V2, §2.1.4: d_c + d_h^R numbers per token and layer, as much as 2.25 KV heads of GQA."""
    layer = get("mla")()
    sizes = {symbol("kv_rank"): 512, symbol("rope_dim"): 64}
    assert layer.cached.subs(sizes) == 1152
    assert layer.cached.subs(sizes) == Fraction(9, 4) * 2 * 128 * 2
    counts = evaluate(layer, batch=1, seq=1, **V2)
    assert evaluate(layer, batch=1, seq=1, seq_kv=101, **V2)["compulsory_bytes"] == (
        counts["compulsory_bytes"] + 100 * 1152
    )


def test_depth_of_mla_equals_a_hand_count():
    """formulas.md §3.3: the down projections run in parallel, and so do the up projections.

    Then scores, softmax, PV and the output projection follow.
    """
    sizes = {"batch": 1, "heads": 4, "seq": 32, "head_dim": 16, "value_dim": 8, "rope_dim": 4}
    sizes |= {"d_model": 64, "q_rank": 48, "kv_rank": 200}
    # ⌈log₂⌉ of 64; of the larger of 48 and 200; of 16 + 4; three times of 32; of 4 · 8.
    wanted = (1 + 6) + (1 + 8) + (1 + 5) + 5 + 2 + 5 + 1 + (1 + 5) + (1 + 5)
    assert evaluate(get("mla")(), **sizes)["pram_depth"] == wanted


def test_weights_and_flops_of_mla_equal_deepseek_v2s_formulas():
    """formulas.md §3.1: d = 5120, h = 128, d_n = d_v = 128, d_r = 64, q = 1536, c = 512."""
    d, h, n_, r, q, c, s = 5120, 128, 128, 64, 1536, 512, 4096
    weights = d * q + q * h * (n_ + r) + d * (c + r) + c * h * 2 * n_ + h * n_ * d
    plain = evaluate(get("mla")(), batch=1, seq=s, **V2)
    assert plain["parameters"] == weights
    assert plain["matrix_flops"] == s * (2 * weights + 2 * s * h * (n_ + r + n_))
    absorbed = evaluate(get("mla")(absorbed=True), batch=1, seq=1, seq_kv=s, **V2)
    outside = 2 * (d * q + q * h * (n_ + r) + d * (c + r) + h * n_ * d) + 2 * h * c * 2 * n_
    assert absorbed["matrix_flops"] == outside + 2 * s * h * (2 * c + r)


def test_absorption_saves_flops_when_decoding_but_not_in_prefill():
    """Making keys and values of the prefix costs 2·c·h(d_n + d_v) per token, which absorption avoids."""
    sizes = {"batch": 8, "seq": 1, "seq_kv": 8192, **V2}
    plain, absorbed = (evaluate(get("mla")(absorbed=a), **sizes)["matrix_flops"] for a in (False, True))
    assert absorbed < plain / 10
    long = sizes | {"seq": 8192}
    plain, absorbed = (evaluate(get("mla")(absorbed=a), **long)["matrix_flops"] for a in (False, True))
    assert plain < absorbed


def counted(run, *tensors):
    """Return FlopCounterMode's FLOPs (forward, backward) on meta tensors."""
    torch = pytest.importorskip("torch")
    counter = pytest.importorskip("torch.utils.flop_counter").FlopCounterMode
    with counter(display=False) as there:
        out = run(*tensors)
    with counter(display=False) as back:
        out.sum().backward()
    assert torch is not None
    return there.get_total_flops(), back.get_total_flops()


def meta(*shape):
    return pytest.importorskip("torch").empty(*shape, device="meta", requires_grad=True)


@few
@given(b=small, n=small, h=small, d=small, dn=small, dr=small, dv=small, q=small, c=small)
def test_flops_and_parameters_of_mla_equal_torchs(b, n, h, d, dn, dr, dv, q, c):
    """Five projections and the core, unabsorbed.

    Torch keeps the probabilities; the layer computes the scores again backward.
    """
    torch = pytest.importorskip("torch")

    def run(x, qd, qu, kd, ku, out):
        queries = (x @ qd @ qu).view(b, n, h, dn + dr).transpose(1, 2)
        latent, turned = (x @ kd).split([c, dr], -1)
        keys, values = (latent @ ku).view(b, n, h, dn + dv).transpose(1, 2).split([dn, dv], -1)
        keys = torch.cat([keys, turned.unsqueeze(1).expand(b, h, n, dr)], -1)
        scores = torch.softmax(queries @ keys.mT, -1)
        return (scores @ values).transpose(1, 2).reshape(b, n, h * dv) @ out

    x, *weights = (
        meta(b, n, d), meta(d, q), meta(q, h * (dn + dr)), meta(d, c + dr), meta(c, h * (dn + dv)),
        meta(h * dv, d),
    )  # fmt: skip
    sizes = {"batch": b, "seq": n, "heads": h, "d_model": d, "head_dim": dn, "rope_dim": dr,
             "value_dim": dv, "q_rank": q, "kv_rank": c, "sram": 1e5}  # fmt: skip
    ours = [evaluate(get("mla")(direction=way), **sizes) for way in ("fwd", "bwd")]
    again = 2 * b * h * n * n * (dn + dr)
    there, back = counted(run, x, *weights)
    assert [ours[0]["matrix_flops"], ours[1]["matrix_flops"]] == [there, back + again]
    assert ours[0]["parameters"] == sum(w.numel() for w in weights)


@few
@given(b=small, h=small, s=st.integers(2, 20), k=st.integers(1, 2), d=small, dv=small)
def test_flops_of_retrieval_memory_equal_torchs(b, h, s, k, d, dv):
    torch = pytest.importorskip("torch")

    def run(q, keys, values):
        best = (q @ keys.mT).topk(k, -1).indices  # (h, b, k)
        near = keys.unsqueeze(1).expand(h, b, s, d).gather(2, best.unsqueeze(-1).expand(h, b, k, d))
        its = values.unsqueeze(1).expand(h, b, s, dv).gather(2, best.unsqueeze(-1).expand(h, b, k, dv))
        weights = torch.softmax(q.unsqueeze(2) @ near.mT, -1)
        return weights @ its

    there, _ = counted(run, meta(h, b, d), meta(h, s, d), meta(h, s, dv))
    sizes = {"batch": b, "seq": 1, "heads": h, "head_dim": d, "value_dim": dv, "store": s, "top_k": k}
    assert evaluate(get("retrieval-memory")(), **sizes)["matrix_flops"] == there


def test_an_inverted_file_compares_with_a_part_of_the_store_only():
    """Johnson et al., §2: with about √S lists, √S centres and probes·√S entries.

    A flat index compares with all S entries.
    """
    sizes = {"batch": 1, "seq": 512, "heads": 8, "head_dim": 128, "store": 2**20, "top_k": 32}
    flat = evaluate(get("retrieval-memory")(), **sizes)
    ivf = evaluate(get("retrieval-memory")(index="ivf"), **sizes, lists=1024, probes=8)
    queries = 512 * 8
    attended = 4 * queries * 32 * 128
    assert flat["matrix_flops"] - attended == 2 * queries * 2**20 * 128
    assert ivf["matrix_flops"] - attended == 2 * queries * (1024 + 8 * 1024) * 128
    assert ivf["footprint_bytes"] >= 2 * 8 * 2**20 * 256  # K and V of the whole store, for all heads


def test_compressive_memory_costs_grow_linearly_with_the_length():
    """Munkhdalai et al., Table 1: the memory has d_k × (d_v + 1) numbers per head, whatever came before."""
    layer = get("compressive-memory")()
    sizes = {"batch": 1, "heads": 8, "head_dim": 128, "block": 2048}
    short, long = (evaluate(layer, seq=n, **sizes) for n in (2**16, 2**17))
    local = 4 * 8 * 128 * 2048 * 2049 / 2
    assert short["matrix_flops"] == 32 * local + 4 * 8 * 2**16 * 128 * 128
    assert long["matrix_flops"] == 2 * short["matrix_flops"]
    assert (short["depth"], long["path"]) == (32, 64)


# -- decoding ----------------------------------------------------------------------------------

DECODE = {"batch": 3, "heads": 8, "kv_heads": 2, "head_dim": 64}


def test_pages_add_a_page_table_and_less_than_a_page_of_padding():
    """Kwon et al., §4: each sequence wastes less than a page, and its table of page numbers is read."""
    plain = evaluate(get("decode-attention")(), seq_kv=1001, **DECODE)
    for page in (1, 16, 256):
        paged = evaluate(get("decode-attention")(paged=True), seq_kv=1001, block=page, **DECODE)
        pages = -(-1001 // page)
        token = 2 * 2 * 2 * 64
        assert paged["hbm_bytes"] - plain["hbm_bytes"] == 4 * 3 * pages
        left_over = 3 * (pages * page - 1001) * token
        assert paged["footprint_bytes"] - plain["footprint_bytes"] == 4 * 3 * pages + left_over
        assert left_over < 3 * page * token
        assert paged["matrix_flops"] == plain["matrix_flops"]


def test_splits_are_merged_in_a_tree_and_cost_fp32_partial_outputs():
    """formulas.md §3.3: ⌈log₂ S⌉ levels; each part writes an output and a statistic in fp32."""
    one = evaluate(get("decode-attention")(), seq_kv=4096, **DECODE)
    for splits in (1, 2, 7, 64):
        layer = get("split-kv")()
        found = evaluate(layer, seq_kv=4096, splits=splits, **DECODE)
        assert found["matrix_flops"] == one["matrix_flops"]
        assert found["hbm_bytes"] - one["hbm_bytes"] == 2 * 4 * 3 * 8 * splits * 65
        _, merge = layer.phases()
        levels = (splits - 1).bit_length()
        assert merge.pram_depth.subs(symbol("splits"), splits) == 2 * levels + 4
    assert complexity(get("split-kv")().phases()[1].pram_depth).terms == (sp.log(symbol("splits")),)


# -- FlashAttention-3 --------------------------------------------------------------------------


def test_flash_attention_3_overlaps_exponentials_with_products():
    """Shah et al., §3.1: at d = 128 one operation in 512 is an exponential, at 1/256 of the rate.

    They take half the time of the products in fp16 and as much in fp8. The bound is the larger of the two
    times; one after the other they would take up to their sum.
    """
    device = load("nvidia/h100-sxm")
    ratio = device.peak("fp16") / device.peak("fp32", "special")
    assert ratio == pytest.approx(256, rel=0.1)
    sizes = {"batch": 1, "heads": 16, "seq": 16384, "head_dim": 128}
    for dtype, share in (("fp16", 0.5), ("fp8", 1.0)):
        p = predict(get("flash-attention-3")(dtype=dtype), device, rung="bound", **sizes)
        (phase,) = get("flash-attention-3")(dtype=dtype).phases()
        assert phase.kernel == "attention"
        products = p.matrix_flops / device.peak(dtype)
        exponentials = p.special_flops / device.peak("fp32", "special")
        assert exponentials / products == pytest.approx(share, rel=0.1)
        assert p.seconds == pytest.approx(max(products, exponentials), rel=1e-9)
        assert p.serial_s > (1 + 0.9 * share) * products


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("strided", {"pattern": "stride"}, "strided"),
        ("combiner", {"pattern": "axial"}, "fixed"),
        ("block-sparse", {"schedule": "fa3"}, "fa2"),
        ("retrieval-memory", {"index": "hnsw"}, "ivf"),
        ("retrieval-memory", {"direction": "bwd"}, "fwd"),
        ("mla", {"absorbed": True, "direction": "bwd"}, "fwd"),
        ("flash-attention-3", {"schedule": "fa1"}, "fa2"),
        ("split-kv", {"direction": "fwd+bwd"}, "fwd"),
    ],
)
def test_impossible_options_are_refused(name, options, text):
    with pytest.raises(CostmodelError, match=text):
        get(name)(**options)


@pytest.mark.parametrize(
    ("name", "sizes", "text"),
    [
        ("sliding-window", {"seq": 4, "window": 2, "kv_heads": 3}, "multiple of kv_heads"),
        ("block-sparse", {"seq": 4, "density": 101}, "at most 100"),
        ("graph-attention", {"seq": 4, "edges": 3}, "edges"),
        ("graph-attention", {"seq": 4, "edges": 17}, "edges"),
        ("retrieval-memory", {"seq": 4, "store": 8, "top_k": 9}, "top_k"),
        ("mla", {"seq": 4, "seq_kv": 3}, "seq_kv"),
        ("mla", {"seq": 4, "head_dim": 5}, "rope_dim"),
    ],
)
def test_impossible_sizes_are_refused(name, sizes, text):
    with pytest.raises(CostmodelError, match=text):
        evaluate(get(name)(), **CORE | sizes)


def test_parts_larger_than_the_whole_are_refused():
    with pytest.raises(CostmodelError, match="probes"):
        evaluate(get("retrieval-memory")(index="ivf"), **CORE, seq=1, store=10**6, top_k=1, lists=4, probes=5)
    with pytest.raises(CostmodelError, match="splits"):
        evaluate(get("split-kv")(), **CORE, seq_kv=4, splits=5)
    with pytest.raises(CostmodelError, match="summary"):
        evaluate(get("strided")(pattern="fixed"), **CORE, seq=4, stride=4, summary=5)
