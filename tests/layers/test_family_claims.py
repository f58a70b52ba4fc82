"""Recurrent, scan, convolution and linear-attention layers against papers and formulas.md."""

import numpy as np
import pytest
from flop_counter import flops
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel import crossover, evaluate, predict
from costmodel.asymptotics import complexity, degree, in_width, table1
from costmodel.errors import CostmodelError
from costmodel.layers import get
from costmodel.symbols import symbol

few = settings(max_examples=10, deadline=None)
small = st.integers(1, 6)


# -- Table 1 (claims.md §2) --------------------------------------------------------------------


def row(name, **options):
    (found,) = table1([get(name)(**options)])
    return str(found.complexity), str(found.sequential), str(found.path)


def test_table_1_convolutional_row():
    k, n, d = symbol("k"), symbol("seq"), symbol("d_model")
    (dilated,) = table1([get("conv")(dilated=True)])
    assert dilated.complexity.terms == (k * n * d**2,)
    assert str(dilated.sequential) == "O(1)"
    assert str(dilated.path) == "O(log_K n)"
    (contiguous,) = table1([get("conv")()])
    assert contiguous.path.terms == (n / k,)


def test_a_separable_convolution_over_all_positions_costs_a_transformer_layer():
    """O(k·n·d + n·d²): with k = n, as self-attention and a feed-forward layer (Vaswani et al., §4)."""
    k, n, d = symbol("k"), symbol("seq"), symbol("d_model")
    layer = get("separable-conv")()
    whole = in_width(layer, layer.cost.flops.total)
    assert set(complexity(whole).terms) == {k * n * d, n * d**2}
    attention, outer = get("dense-attention")(), get("feed-forward")()
    both = in_width(attention, attention.cost.flops.total) + in_width(outer, outer.cost.flops.total)
    assert set(complexity(whole.subs(k, n)).terms) == set(complexity(both).terms)


@pytest.mark.parametrize(
    ("name", "options", "sequential"),
    [
        ("min-gru", {}, "O(n)"),
        ("min-gru", {"algorithm": "kogge-stone"}, "O(log n)"),
        ("sru", {}, "O(n)"),
        ("rg-lru", {}, "O(n)"),
        ("rg-lru", {"algorithm": "kogge-stone"}, "O(log n)"),
        ("min-lstm", {"algorithm": "brent-kung"}, "O(log n)"),
        ("slstm", {}, "O(n)"),
        ("mamba", {"algorithm": "blelloch"}, "O(log n)"),
        ("retnet", {}, "O(n/b)"),
        ("linear-attention", {}, "O(1)"),
        ("linformer", {}, "O(1)"),
    ],
)
def test_sequential_operations_of_each_layer(name, options, sequential):
    assert row(name, **options)[1] == sequential


LINEAR_IN_LENGTH = [
    (name, options)
    for name in (
        *("retnet", "gla", "mlstm", "mamba-2", "mamba", "rwkv", "performer"),
        *("gated-delta-net", "kimi-delta-attention"),
    )
    for options in ({}, {"direction": "fwd+bwd"})
] + [("linear-attention", {"causal": True}), ("linformer", {}), ("min-gru", {}), ("qrnn", {}), ("slstm", {})]
LINEAR_IN_LENGTH += [("rg-lru", {}), ("rg-lru", {"direction": "fwd+bwd"})]


@pytest.mark.parametrize(("name", "options"), LINEAR_IN_LENGTH)
def test_work_and_traffic_are_linear_in_length(name, options):
    """claims.md §3.6: the exponent of linear attention is 1; with a softmax over all pairs it is 2."""
    cost = get(name)(**options).cost
    assert degree(cost.flops.total, "seq") == degree(cost.bytes["hbm"], "seq") == 1
    softmax = get("tiled-attention")(tile=(64, 64))
    assert degree(in_width(softmax, softmax.cost.flops.total), "seq") == 2


# -- products (formulas.md §1, §4, §5, §6) -----------------------------------------------------

MATRIX = {
    "min-gru": lambda b, t, i, h, k: 4 * b * t * i * h,
    "min-lstm": lambda b, t, i, h, k: 6 * b * t * i * h,
    "qrnn": lambda b, t, i, h, k: 6 * k * b * t * i * h,
}
#: Pointwise FLOPs per unit and step with the loop's multiply and add, without biases.
POINTWISE = {"min-gru": 4, "min-lstm": 3 + 3, "qrnn": 4 + 1}


@pytest.mark.parametrize("name", MATRIX)
def test_flops_of_cells_whose_products_need_no_state(name):
    sizes = {"batch": 3, "seq": 50, "input": 7, "hidden": 11}
    more = {"k": 3} if name == "qrnn" else {}
    counts = evaluate(get(name)(bias=False), **sizes, **more)
    assert counts["matrix_flops"] == MATRIX[name](3, 50, 7, 11, 3)
    assert counts["vector_flops"] == POINTWISE[name] * 3 * 50 * 11


def test_flops_of_sru_equal_the_papers():
    """6BTd², or 8BTd² with a projected highway; per unit 4 for c, 4 for the peepholes and 4 for h."""
    sizes = {"batch": 2, "seq": 9, "hidden": 16}
    units = 2 * 9 * 16
    for highway, matrices in ((False, 6), (True, 8)):
        counts = evaluate(get("sru")(highway=highway, bias=False), **sizes)
        assert counts["matrix_flops"] == matrices * units * 16
        assert counts["vector_flops"] == (4 + 4 + 4) * units
    linear = evaluate(get("sru")(peephole=False, bias=False), **sizes)
    assert linear["vector_flops"] == (4 + 4) * units


def test_flops_of_mamba_per_token_equal_the_formulas():
    """formulas.md §5 with E = 2d: every term, and 7 to 9·E·N_s for the scan."""
    d, st_ = 1024, 16
    e, r, k = 2 * d, d // 16, 4
    whole = evaluate(get("mamba")(projections=True), batch=1, seq=1, d_model=d)
    assert whole["matrix_flops"] == 4 * d * e + 2 * e * (r + 2 * st_) + 2 * r * e + 2 * d * e
    core = evaluate(get("mamba")(), batch=1, seq=1, d_model=d)
    assert whole["vector_flops"] - core["vector_flops"] == 2 * k * e
    assert core["vector_flops"] == (1 + 2 + 2 + 2) * e * st_ + 2 * e + 3 * e
    assert 7 <= core["vector_flops"] / (e * st_) <= 9
    assert core["special_flops"] == e * st_ + e


def test_flops_of_mamba_2_per_token_equal_the_formula():
    """2QN_s, shared by the heads of a group, plus 2QP + 4PN_s per token and head; chunks are not halved."""
    q, p, n_s, heads, length = 256, 64, 128, 24, 4096
    counts = evaluate(get("mamba-2")(convention="torch"), batch=1, seq=length, heads=heads)
    assert counts["matrix_flops"] == length * (2 * q * n_s + heads * (2 * q * p + 4 * p * n_s))


def test_flops_and_traffic_of_linear_attention_per_head_equal_the_formulas():
    """4·N·d_k·d_v; by chunks 4N(Cd + d²) if pairs are not halved.

    Traffic is 4Nd and the states, each written and read once.
    """
    n, d, c = 512, 32, 64
    sizes = {"batch": 1, "heads": 1, "seq": n, "head_dim": d}
    assert evaluate(get("linear-attention")(), **sizes)["matrix_flops"] == 4 * n * d * d
    chunks = evaluate(get("retnet")(convention="torch"), **sizes, value_dim=d, block=c)
    assert chunks["matrix_flops"] == 4 * n * (c * d + d * d)
    assert chunks["hbm_bytes"] == 2 * (4 * n * d + 2 * (n // c) * d * d)
    halved = evaluate(get("retnet")(), **sizes, value_dim=d, block=c)["matrix_flops"]
    assert halved == 4 * n * ((c + 1) / 2 * d + d * d)


@pytest.mark.parametrize(("name", "extra"), [("retnet", 1), ("gla", 1)])
def test_the_recurrent_form_costs_one_more_flop_per_state_for_its_decay(name, extra):
    """4·N·d_k·d_v, and d_k·d_v for the decay; gating both sides of the state would cost twice that."""
    counts = evaluate(get(name)(form="recurrent"), batch=1, heads=1, seq=100, head_dim=8, value_dim=16)
    assert counts["vector_flops"] == (4 + extra) * 100 * 8 * 16
    assert counts["depth"] == 100


# -- torch -------------------------------------------------------------------------------------


def torch_counts(name, sizes, **options):
    there, back = (
        evaluate(get(name)(convention="torch", direction=direction, **options), **sizes)
        for direction in ("fwd", "bwd")
    )
    return tuple(c["matrix_flops"] for c in (there, back)), (there, back)


@few
@given(
    batch=small, length=small, into=small, out=small, k=st.sampled_from([1, 3, 5]), groups=st.integers(1, 3)
)
def test_flops_and_parameters_of_conv_equal_torchs(batch, length, into, out, k, groups):
    torch = pytest.importorskip("torch")
    module = torch.nn.Conv1d(
        groups * into, groups * out, k, padding="same", groups=groups, bias=False, device="meta"
    )
    x = torch.empty(batch, groups * into, length, device="meta", requires_grad=True)
    sizes = {"batch": batch, "seq": length, "input": groups * into, "d_model": groups * out, "k": k}
    found, counts = torch_counts("conv", sizes, groups=groups)
    assert found == flops(module, x)
    assert counts[0]["parameters"] == sum(p.numel() for p in module.parameters())


@few
@given(batch=small, n=small, width=small, taps=small)
def test_flops_of_causal_conv1d_equal_torchs_alone_and_in_mamba(batch, n, width, taps):
    """In torch it is a grouped convolution of a sequence padded in front."""
    torch = pytest.importorskip("torch")
    x = torch.empty(batch, width, n, device="meta", requires_grad=True)
    w = torch.empty(width, 1, taps, device="meta", requires_grad=True)

    def run(x, w):
        return torch.nn.functional.conv1d(torch.nn.functional.pad(x, (taps - 1, 0)), w, groups=width)

    there, back = flops(run, x, w)
    alone, _ = torch_counts("causal-conv1d", {"batch": batch, "seq": n, "d_model": width, "k": taps})
    assert alone == (there, back)
    sizes = {"batch": batch, "seq": n, "d_model": 5, "hidden": width, "k": taps, "rank": 2, "state": 3}
    found, _ = torch_counts("mamba", sizes, projections=True)
    products = 2 * batch * n * (3 * 5 * width + width * (2 + 2 * 3) + 2 * width)
    assert found == (there + products, back + 2 * products)


@pytest.mark.parametrize(("length", "taps"), [(1, 1), (1, 2), (1, 4), (2, 4), (3, 4), (9, 4)])
def test_compulsory_bytes_of_decoding_with_causal_conv1d_write_only_new_places(length, taps):
    """`causal_conv1d_update` with `cache_seqlens` (Dao-AILab): a token overwrites one place in a ring."""
    batch, width, ring = 3, 5, max(taps - 1, 1)
    written = {t % ring for t in range(length)} if taps > 1 else set()
    rows = length + (taps - 1) + length + len(written)  # tokens, state, results, overwritten places
    sizes = {"batch": batch, "seq": length, "d_model": width, "k": taps}
    counts = evaluate(get("causal-conv1d")(decode=True), **sizes)
    assert counts["compulsory_bytes"] == 2 * (batch * width * rows + taps * width)
    assert counts["footprint_bytes"] == 2 * (batch * width * (2 * length + taps - 1) + taps * width)


def test_flops_of_separable_conv_equal_torchs_goldens():
    """torch counts the depthwise part as products, and its weight gradient C times: 565248 and 4276224."""
    sizes = {"batch": 2, "seq": 32, "d_model": 64, "k": 5}
    (there, back), (counts, _) = torch_counts("separable-conv", sizes)
    assert (there, there + back) == (565248, 4276224)
    assert counts["vector_flops"] == 0
    exact = evaluate(get("separable-conv")(direction="fwd+bwd"), **sizes)
    assert exact["matrix_flops"] + exact["vector_flops"] == 3 * 565248


def chunked(q, k, v, c):
    """Run the products of the chunked form from a state on; FlopCounterMode counts no masks and decays."""
    torch = pytest.importorskip("torch")
    state, outs = torch.empty(*q.shape[:2], q.shape[3], v.shape[3], device="meta", requires_grad=True), []
    for first in range(0, q.shape[2], c):
        a, b, x = (t[:, :, first : first + c] for t in (q, k, v))
        outs.append((a @ b.mT) @ x + a @ state)
        state = state + b.mT @ x
    return torch.cat([*outs, state], 2)


@few
@given(batch=small, heads=small, length=st.integers(1, 20), dk=small, dv=small, chunk=st.integers(1, 8))
def test_flops_of_chunked_linear_attention_equal_torchs(batch, heads, length, dk, dv, chunk):
    torch = pytest.importorskip("torch")
    q, k = (torch.empty(batch, heads, length, dk, device="meta", requires_grad=True) for _ in range(2))
    v = torch.empty(batch, heads, length, dv, device="meta", requires_grad=True)
    sizes = {"batch": batch, "heads": heads, "seq": length, "head_dim": dk, "value_dim": dv, "block": chunk}
    for name in ("retnet", "gla", "mlstm"):
        assert torch_counts(name, sizes)[0] == flops(lambda q, k, v: chunked(q, k, v, chunk), q, k, v)


@few
@given(batch=small, heads=small, length=st.integers(1, 20), dk=small, dv=small)
def test_flops_of_noncausal_linear_attention_equal_torchs(batch, heads, length, dk, dv):
    torch = pytest.importorskip("torch")
    q, k = (torch.empty(batch, heads, length, dk, device="meta", requires_grad=True) for _ in range(2))
    v = torch.empty(batch, heads, length, dv, device="meta", requires_grad=True)
    sizes = {"batch": batch, "heads": heads, "seq": length, "head_dim": dk, "value_dim": dv}
    found, _ = torch_counts("linear-attention", sizes)
    assert found == flops(lambda q, k, v: q @ (k.transpose(-1, -2) @ v), q, k, v)


@few
@given(heads=small, chunks=st.integers(1, 3), chunk=st.integers(2, 6), d=small, dv=small)
def test_flops_of_the_chunked_delta_rule_equal_torchs(heads, chunks, chunk, d, dv):
    """Per token 6·C·d + 4·C·d_v + 6·d·d_v; backward twice that and 4·C², in squares, with results kept."""
    torch = pytest.importorskip("torch")
    n = chunks * chunk

    def run(q, k, v, beta, state):
        outs = []
        for first in range(0, n, chunk):
            a, b, x, be = (t[:, first : first + chunk] for t in (q, k, v, beta))
            inverse = torch.linalg.inv(torch.eye(chunk, device="meta") + ((be * b) @ b.mT).tril(-1))
            new = inverse @ (be * x) - (inverse @ (be * b)) @ state
            outs.append(a @ state + (a @ b.mT).tril() @ new)
            state = state + b.mT @ new
        return torch.cat([*outs, state], 1)

    shapes = ((n, d), (n, d), (n, dv), (n, 1), (d, dv))
    there, back = flops(
        run, *(torch.empty(heads, *shape, device="meta", requires_grad=True) for shape in shapes)
    )
    sizes = {"batch": 1, "seq": n, "heads": heads, "head_dim": d, "value_dim": dv}
    ours = [
        evaluate(get("gated-delta-net")(chunk=chunk, direction=direction, convention="torch"), **sizes)[
            "matrix_flops"
        ]
        for direction in ("fwd", "bwd")
    ]
    assert ours == [there, back]


@few
@given(batch=small, heads=small, length=st.integers(1, 20), d=small, dv=small, rank=small)
def test_flops_and_parameters_of_linformer_equal_torchs(batch, heads, length, d, dv, rank):
    torch = pytest.importorskip("torch")
    q, k = (torch.empty(batch, heads, length, d, device="meta", requires_grad=True) for _ in range(2))
    v = torch.empty(batch, heads, length, dv, device="meta", requires_grad=True)
    e, f = (torch.empty(heads, rank, length, device="meta", requires_grad=True) for _ in range(2))

    def run(q, k, v):
        scores = q @ (e @ k).transpose(-1, -2)
        return torch.softmax(scores, -1) @ (f @ v)

    sizes = {"batch": batch, "heads": heads, "seq": length, "head_dim": d, "value_dim": dv, "rank": rank}
    found, counts = torch_counts("linformer", sizes, sharing="none")
    assert found == flops(run, q, k, v)
    assert counts[0]["parameters"] == e.numel() + f.numel()


@few
@given(batch=small, length=small, into=small, width=small, layers=st.integers(1, 3))
def test_flops_and_parameters_of_min_gru_equal_torchs(batch, length, into, width, layers):
    torch = pytest.importorskip("torch")
    stack = [
        torch.nn.Linear(into if layer == 0 else width, 2 * width, device="meta") for layer in range(layers)
    ]

    def run(x):
        for linear in stack:
            z, h = linear(x).chunk(2, -1)
            x = torch.sigmoid(z) * h  # the scan has no matrix product
        return x

    x = torch.empty(batch, length, into, device="meta", requires_grad=True)
    sizes = {"batch": batch, "seq": length, "input": into, "hidden": width, "num_layers": layers}
    found, counts = torch_counts("min-gru", sizes)
    assert found == flops(run, x)
    assert counts[0]["parameters"] == sum(p.numel() for linear in stack for p in linear.parameters())


@few
@given(batch=small, length=small, blocks=small, width=small)
def test_flops_and_parameters_of_rg_lru_equal_torchs(batch, length, blocks, width):
    """Both gates as products with block-diagonal matrices (Griffin, arXiv 2402.19427, §2.4)."""
    torch = pytest.importorskip("torch")
    weights = [torch.empty(blocks, width, width, device="meta", requires_grad=True) for _ in range(2)]
    biases = [torch.empty(blocks, 1, width, device="meta", requires_grad=True) for _ in range(2)]
    decay = torch.empty(blocks * width, device="meta", requires_grad=True)

    def run(x):
        rows = x.reshape(batch * length, blocks, width).transpose(0, 1)
        r, i = (torch.sigmoid(torch.baddbmm(b, rows, w)) for b, w in zip(biases, weights, strict=True))
        return torch.exp(r.transpose(0, 1).reshape(x.shape) * decay) + i.transpose(0, 1).reshape(x.shape) * x

    x = torch.empty(batch, length, blocks * width, device="meta", requires_grad=True)
    found, counts = torch_counts(
        "rg-lru", {"batch": batch, "seq": length, "hidden": blocks * width, "heads": blocks}
    )
    assert found == flops(run, x)
    assert counts[0]["parameters"] == sum(p.numel() for p in (*weights, *biases, decay))


def test_pointwise_flops_of_rg_lru_are_those_of_its_equations():
    """Per unit and step: log a, a², 1 − a², i·x, times the root, and the loop; four special functions."""
    counts = evaluate(get("rg-lru")(bias=False), batch=3, seq=50, hidden=12, heads=4)
    assert counts["vector_flops"] == (5 + 2) * 3 * 50 * 12
    assert counts["special_flops"] == 4 * 3 * 50 * 12
    assert counts["matrix_flops"] == 4 * 3 * 50 * 12 * 3


# -- crossovers, traffic, time -----------------------------------------------------------------


@pytest.mark.parametrize("d", [16, 64, 128])
def test_linear_attention_is_cheaper_than_dense_beyond_the_head_dimension(d):
    """claims.md §3.6: 4N²d against 4Nd², so N > d.

    Causal by chunks, without halving: N > 2(C + d) against 2N²d.
    """
    found = crossover(
        get("linear-attention")(),
        get("dense-attention")(),
        over="seq",
        of="flops",
        batch=1,
        heads=1,
        head_dim=d,
    )
    assert found.sizes == (d,)  # they are equal at N = d
    assert found.cheaper == ("dense-attention", "linear-attention")
    c = 64
    lengths = np.arange(1, 2048)
    sizes = {"batch": 1, "heads": 1, "head_dim": d, "seq": lengths}
    chunked = evaluate(get("linear-attention")(causal=True, convention="torch"), **sizes, block=c)[
        "matrix_flops"
    ]
    cheaper = lengths[(chunked < 2 * lengths**2 * d) & (lengths % c == 0)]
    assert cheaper.min() == next(n for n in lengths if n % c == 0 and n > 2 * (c + d))


def test_chunks_of_64_to_256_are_fastest_although_small_ones_have_fewer_flops():
    """claims.md §4: FLOPs are fewest with small chunks, but every chunk moves a state."""
    layer, chunks = get("retnet")(), 2 ** np.arange(0, 12)
    sizes = {"batch": 4, "heads": 32, "seq": 8192, "head_dim": 128, "value_dim": 128, "block": chunks}
    assert chunks[np.argmin(evaluate(layer, **sizes)["matrix_flops"])] == 1
    for device in ("nvidia/h200-sxm", "nvidia/a100-sxm-80gb", "nvidia/b200-sxm"):
        assert 64 <= chunks[np.argmin(predict(layer, device, rung="kernel", **sizes).seconds)] <= 256
        assert chunks[np.argmin(predict(layer, device, rung="bound", **sizes).seconds)] >= 64


@pytest.mark.parametrize("length", [2048, 16384, 65536])
def test_the_fused_selective_scan_is_20_to_40_times_faster(length):
    """claims.md §3.7, Mamba §4.5: PyTorch's scan with N_s = 16 materialises B·n·E·N_s numbers three times."""
    sizes = {"batch": 1, "seq": length, "d_model": 1024}
    fused, chained = get("mamba")(dtype="fp32"), get("mamba")(dtype="fp32", fused=False)
    traffic = evaluate(chained, **sizes)["hbm_bytes"] / evaluate(fused, **sizes)["hbm_bytes"]
    assert 20 <= traffic <= 40
    for rung in ("bound", "kernel"):
        times = [predict(x, "nvidia/a100-pcie-80gb", rung=rung, **sizes).seconds for x in (chained, fused)]
        assert 20 <= times[0] / times[1] <= 40


def test_generation_has_the_flops_of_teacher_forcing_but_more_traffic_and_launches():
    """The dependent steps are equal, too; weights are read and kernels launched at every step."""
    for name in ("rnn", "lstm", "gru", "min-gru", "qrnn"):
        sizes = {"batch": 1, "seq": 64, "hidden": 1024, "onchip": 10**9}
        at_once, steps = (evaluate(get(name)(generation=g), **sizes) for g in (False, True))
        assert at_once["matrix_flops"] == steps["matrix_flops"]
        assert at_once["depth"] == steps["depth"] == 64
        assert steps["launches"] == 64 * at_once["launches"]
        assert steps["hbm_bytes"] > 20 * at_once["hbm_bytes"]
        assert steps["pram_depth"] > at_once["pram_depth"]
    times = [
        predict(
            get("lstm")(generation=g), "nvidia/h200-sxm", rung="kernel", batch=1, seq=256, hidden=512
        ).seconds
        for g in (False, True)
    ]
    assert times[1] > 3 * times[0]


@pytest.mark.parametrize("name", ["min-gru", "min-lstm"])
def test_parallel_scans_of_min_cells_are_faster_than_sequential_cells(name):
    """claims.md §3.7 has 175 and 235 times on a T4 at T = 512; here only the direction is asserted."""
    sizes = {"batch": 64, "seq": 512, "hidden": 256}
    old = get({"min-gru": "gru", "min-lstm": "lstm"}[name])(direction="fwd+bwd", dtype="fp32")
    new = get(name)(direction="fwd+bwd", dtype="fp32", algorithm="kogge-stone")
    assert evaluate(new, **sizes)["depth"] == 2 * 9
    assert evaluate(old, **sizes, onchip=1)["depth"] == 2 * 512
    seconds = [predict(x, "nvidia/t4", rung="kernel", **sizes).seconds for x in (old, new)]
    assert seconds[0] > 5 * seconds[1]


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("scan", {"algorithm": "blellock"}, "blelloch"),
        ("sru", {"algorithm": "chunked"}, "peephole=false"),
        ("min-gru", {"generation": True, "direction": "bwd"}, "fwd"),
        ("min-gru", {"generation": True, "algorithm": "kogge-stone"}, "generation=false"),
        ("qrnn", {"generation": True, "algorithm": "chunked"}, "generation=false"),
        ("lstm", {"generation": True, "bidirectional": True}, "bidirectional=false"),
        ("retnet", {"form": "recurent"}, "recurrent"),
        ("gla", {"form": "recurrent", "direction": "bwd"}, "fwd"),
        ("linear-attention", {"form": "recurrent"}, "causal=true"),
        ("conv", {"groups": 0}, "groups"),
        ("mamba-2", {"groups": -1}, "groups"),
        ("mamba", {"fused": False, "direction": "bwd"}, "fwd"),
        ("causal-conv1d", {"decode": True, "direction": "bwd"}, "fwd"),
        ("gated-delta-net", {"form": "recurrent", "direction": "fwd+bwd"}, "fwd"),
        ("kimi-delta-attention", {"form": "recurrent", "direction": "fwd+bwd"}, "fwd"),
        ("linformer", {"sharing": "head"}, "heads"),
    ],
)
def test_impossible_options_are_refused(name, options, text):
    with pytest.raises(CostmodelError, match=text):
        get(name)(**options)


@pytest.mark.parametrize(
    ("name", "options", "sizes", "text"),
    [
        ("sru", {}, {"batch": 1, "seq": 1, "hidden": 4, "input": 5}, "highway=true"),
        ("slstm", {}, {"batch": 1, "seq": 1, "hidden": 5, "heads": 2}, "multiple of heads"),
        ("rg-lru", {}, {"batch": 1, "seq": 1, "hidden": 5, "heads": 2}, "multiple of heads"),
        ("conv", {"groups": 3}, {"batch": 1, "seq": 1, "d_model": 4}, "groups=3"),
        ("mamba-2", {"groups": 2}, {"batch": 1, "seq": 1, "heads": 3}, "groups=2"),
    ],
)
def test_impossible_sizes_are_refused(name, options, sizes, text):
    with pytest.raises(CostmodelError, match=text):
        evaluate(get(name)(**options), **sizes)
