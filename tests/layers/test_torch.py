"""FLOPs and parameters against torch: recorded goldens, and FlopCounterMode on meta for random shapes."""

import csv
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel import evaluate
from costmodel.layers import get
from costmodel.symbols import symbol

torch = pytest.importorskip("torch")
FlopCounterMode = pytest.importorskip("torch.utils.flop_counter").FlopCounterMode
nn = torch.nn

GOLDEN = Path(__file__).parents[1] / "golden" / "torch_flops.csv"


def read(text):
    return dict(pair.split("=") for pair in text.split())


def count(layer, options, sizes, direction):
    cost = get(layer)(**options, direction=direction, convention="torch")
    return evaluate(cost, **sizes)["matrix_flops"]


def goldens():
    with GOLDEN.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("row", goldens(), ids=lambda row: f"{row['layer']} {row['sizes']}")
def test_flops_equal_torchs_goldens(row):
    layer = get(row["layer"])
    sizes = {name: int(value) for name, value in read(row["sizes"]).items()}
    for direction, column in (("fwd", "fwd"), ("fwd+bwd", "fwd_plus_bwd")):
        if row[column]:
            settings = {**read(row["options"]), "direction": direction, "convention": "torch"}
            assert evaluate(layer.from_text(settings), **sizes)["matrix_flops"] == int(row[column])


@pytest.mark.shared
def test_the_goldens_contain_every_row_of_the_reference_table(shared):
    """With the same figures."""
    with (shared / "reference" / "torch_flop_goldens.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = sorted((r["torch_fwd"], r["torch_fwd_plus_bwd"]) for r in rows)
    assert sorted((r["fwd"], r["fwd_plus_bwd"]) for r in goldens()) == wanted


# -- live --------------------------------------------------------------------------------------


def counted(run, *inputs):
    """Return (forward, backward) FLOPs of a function of meta tensors."""
    with FlopCounterMode(display=False) as forward:
        result = run(*inputs)
        result = result[0] if isinstance(result, tuple) else result
    with FlopCounterMode(display=False) as backward:
        result.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


def meta(*shape, dtype=torch.float32):
    return torch.empty(*shape, device="meta", dtype=dtype, requires_grad=True)


def agree(layer, options, sizes, run, *inputs):
    there, back = counted(run, *inputs)
    assert count(layer, options, sizes, "fwd") == there
    assert count(layer, options, sizes, "bwd") == back


few = settings(max_examples=12, deadline=None)
small = st.integers(1, 9)
steps = st.integers(1, 4)


@few
@given(
    cell=st.sampled_from(["rnn", "lstm", "gru"]), batch=small, seq=steps, hidden=small, width=small,
    layers=st.integers(1, 3), both=st.booleans(),
)  # fmt: skip
def test_flops_and_parameters_of_recurrent_layers_equal_torchs(cell, batch, seq, hidden, width, layers, both):
    module = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[cell]
    module = module(width, hidden, layers, bidirectional=both, device="meta")
    sizes = {"batch": batch, "seq": seq, "hidden": hidden, "input": width, "num_layers": layers}
    agree(cell, {"bidirectional": both}, sizes, module, meta(seq, batch, width))
    parameters = sum(p.numel() for p in module.parameters())
    assert evaluate(get(cell)(bidirectional=both), **sizes)["parameters"] == parameters


@few
@given(
    batch=small, seq=steps, hidden=st.integers(2, 9), width=small, layers=st.integers(1, 3),
    both=st.booleans(), data=st.data(),
)  # fmt: skip
def test_flops_and_parameters_of_projected_lstms_equal_torchs(batch, seq, hidden, width, layers, both, data):
    """The first step, too, has the gradient of the output projection; only h0's product is omitted."""
    p = data.draw(st.integers(1, hidden - 1))
    module = nn.LSTM(width, hidden, layers, bidirectional=both, proj_size=p, device="meta")
    sizes = {
        "batch": batch,
        "seq": seq,
        "hidden": hidden,
        "input": width,
        "num_layers": layers,
        "projection": p,
    }
    options = {"bidirectional": both, "projected": True}
    agree("lstm", options, sizes, module, meta(seq, batch, width))
    parameters = sum(x.numel() for x in module.parameters())
    assert evaluate(get("lstm")(**options), **sizes)["parameters"] == parameters


def test_parameters_of_a_gru_without_bias_equal_torchs():
    module = nn.GRU(5, 7, 2, bias=False, device="meta")
    parameters = sum(p.numel() for p in module.parameters())
    counts = evaluate(get("gru")(bias=False), batch=1, seq=1, hidden=7, input=5, num_layers=2)
    assert counts["parameters"] == parameters


@few
@given(batch=small, m=small, n=small, k=small)
def test_flops_of_matmul_equal_torchs(batch, m, n, k):
    sizes = {"batch": batch, "m": m, "n": n, "k": k}
    agree("matmul", {}, sizes, torch.bmm, meta(batch, m, k), meta(batch, k, n))


@few
@given(batch=small, heads=small, n=small, n_kv=small, d=small, dv=small, causal=st.booleans())
def test_flops_of_dense_attention_equal_torchs(batch, heads, n, n_kv, d, dv, causal):
    """scaled_dot_product_attention's mathematics on meta; torch never halves a causal mask."""
    n_kv = n if causal else n_kv
    sizes = {"batch": batch, "heads": heads, "seq": n, "seq_kv": n_kv, "head_dim": d, "value_dim": dv}

    def run(q, k, v):
        scores = q @ k.transpose(-1, -2)
        return torch.softmax(scores, -1) @ v

    inputs = (meta(batch, heads, n, d), meta(batch, heads, n_kv, d), meta(batch, heads, n_kv, dv))
    agree("dense-attention", {"causal": causal}, sizes, run, *inputs)


@few
@given(batch=small, groups=st.integers(1, 3), each=st.integers(1, 3), n=small, d=st.sampled_from([8, 16, 64]))
def test_flops_of_tiled_attention_equal_torchs_flash_operator(batch, groups, each, n, d):
    """Torch's registry counts 4 forward and 10 backward; grouped queries count as query heads."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention
    half = torch.float16
    heads = groups * each
    q, k, v = (meta(batch, h, n, d, dtype=half) for h in (heads, heads, heads))
    sizes = {"batch": batch, "heads": heads, "kv_heads": groups, "seq": n, "head_dim": d}
    there, back = counted(flash, q, k, v)
    for schedule in ("fa1", "fa2"):
        assert count("tiled-attention", {"schedule": schedule, "tile": (16, 16)}, sizes, "fwd") == there
        assert count("tiled-attention", {"schedule": schedule, "tile": (16, 16)}, sizes, "bwd") == back


@few
@given(batch=small, groups=st.integers(1, 3), each=st.integers(1, 3), n=small, d=small, width=small)
def test_flops_and_parameters_of_attention_with_projections_equal_torchs(batch, groups, each, n, d, width):
    """Multi-head (each = 1) and grouped-query attention: four linear layers and the core."""
    heads = groups * each
    q, k, v, o = (
        nn.Linear(i, j, bias=False, device="meta")
        for i, j in ((width, heads * d), (width, groups * d), (width, groups * d), (heads * d, width))
    )

    def split(x, h):
        return x.view(batch, n, h, d).transpose(1, 2)

    def run(x):
        keys, vals = (split(p(x), groups).repeat_interleave(each, 1) for p in (k, v))
        core = torch.softmax(split(q(x), heads) @ keys.transpose(-1, -2), -1) @ vals
        return o(core.transpose(1, 2).reshape(batch, n, heads * d))

    sizes = {"batch": batch, "heads": heads, "kv_heads": groups, "seq": n, "head_dim": d, "d_model": width}
    agree("dense-attention", {"projections": True}, sizes, run, meta(batch, n, width))
    parameters = sum(p.weight.numel() for p in (q, k, v, o))
    assert evaluate(get("dense-attention")(projections=True), **sizes)["parameters"] == parameters


@few
@given(batch=small, n=small, heads=st.integers(1, 3), each=small, d_ff=small)
def test_flops_and_parameters_of_feed_forward_and_transformer_layers_equal_torchs(
    batch, n, heads, each, d_ff
):
    d = heads * each
    inner = nn.Sequential(nn.Linear(d, d_ff, bias=False), nn.ReLU(), nn.Linear(d_ff, d, bias=False)).to(
        "meta"
    )
    agree(
        "feed-forward", {}, {"batch": batch, "seq": n, "d_model": d, "d_ff": d_ff}, inner, meta(batch, n, d)
    )
    layer = nn.TransformerEncoderLayer(d, heads, d_ff, batch_first=True, device="meta").train()
    sizes = {"batch": batch, "seq": n, "d_model": d, "heads": heads, "d_ff": d_ff}
    options = {"attention": "dense", "activation": "relu"}
    agree("transformer-block", options, sizes, layer, meta(batch, n, d))
    biases = sum(
        p.numel() for name, p in layer.named_parameters() if re.search("bias", name) and "norm" not in name
    )
    parameters = sum(p.numel() for p in layer.parameters())
    block = evaluate(get("transformer-block")(**options), **sizes)
    assert block["parameters"] == parameters - biases


def sums_of_gradients(run, *inputs):
    """Return how many additions of whole tensors autograd makes because a tensor is read twice."""

    class Additions(torch.utils._python_dispatch.TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.found += function is torch.ops.aten.add.Tensor
            return function(*args, **(kwargs or {}))

    result = run(*inputs)
    with Additions() as additions:
        result.backward(torch.empty_like(result))
    return additions.found


def test_layers_add_input_gradients_where_autograd_does():
    """Once if self-attention, MLA or Mamba reads its input twice; never in cross-attention.

    Linformer adds the gradients of the matrix that mixes both keys and values.
    """

    def product(inner, outer):
        return torch.empty(inner, outer, device="meta", requires_grad=True)

    def read(*shape):
        return torch.empty(*shape, device="meta", requires_grad=True)

    n, d = 12, 8
    q, kv, down, out = product(d, d), product(d, 2 * d), product(d, d), product(d, d)

    def attend(x, y):
        k, v = (y @ kv).chunk(2, -1)
        return ((x @ q) @ k.T).softmax(-1) @ v @ out

    def latent(x):
        query, (key, value) = x @ q @ out, (x @ down @ kv).chunk(2, -1)
        return (query @ key.T).softmax(-1) @ value

    def convolved(x):
        u = (x @ q).tanh()  # stands for whatever makes one x of E channels
        return u * (u @ out)

    def mixed(x, keys, values):
        e = torch.empty(5, n, device="meta", requires_grad=True)
        return (x @ (e @ keys).mT).softmax(-1) @ (e @ values)

    x, y = read(n, d), read(n, d)
    found = {
        ("dense-attention", False): sums_of_gradients(lambda x: attend(x, x), x),
        ("dense-attention", True): sums_of_gradients(attend, x, y),
        ("mla", None): sums_of_gradients(latent, x),
        ("mamba", None): sums_of_gradients(convolved, x),
        ("linformer", None): sums_of_gradients(mixed, x, read(n, d), read(n, d)),
    }
    others = {"mla": {}, "linformer": {"sharing": "keys-and-values"}}
    for (name, cross), additions in found.items():
        options = others.get(name, {"projections": True})
        layer = get(name)(direction="bwd", **options, **({} if cross is None else {"cross": cross}))
        assert sum(phase.name == "sum of input gradients" for phase in layer.phases()) == additions
    assert list(found.values()) == [1, 0, 1, 1, 1]


def test_compressive_memory_adds_gradients_where_autograd_does():
    """Infini-attention adds dσ(Q) and dσ(K) of numerator and denominator, and dQ, dK, dV of both branches."""
    b, h, segments, c, d, dv = 2, 3, 4, 5, 6, 7

    def run(q, k, v):
        mapped = [nn.functional.elu(x) + 1 for x in (q, k)]
        memory = (mapped[1].mT @ v).cumsum(2)
        seen = (mapped[0] @ memory) / (mapped[0] @ mapped[1].sum(3).cumsum(2)[..., None])
        return 0.3 * seen + 0.7 * ((q @ k.mT).softmax(-1) @ v)

    def read(width):
        return torch.empty(b, h, segments, c, width, device="meta", requires_grad=True)

    found = sums_of_gradients(run, read(d), read(d), read(dv))
    sizes = {"batch": b, "heads": h, "seq": segments * c, "head_dim": d, "value_dim": dv, "block": c}
    layer = get("compressive-memory")(direction="bwd")
    flops = {p.name: p.flops["vector", "fp32"] for p in layer.phases() if ("vector", "fp32") in p.flops}
    given = {symbol(name): size for name, size in {**sizes, "kv_heads": h}.items()}
    rows = b * h * segments * c
    # Other operations of these passes are subtracted: −s·z and the sums of −s·q; the factor min(σ, 1).
    added = [
        flops["query gradient, normaliser"].subs(given) - 3 * rows * d,
        flops["key gradient, normaliser"].subs(given),
        flops["feature map gradient"].subs(given) - 2 * 2 * rows * d,
        flops["sum of input gradients"].subs(given),
    ]
    assert added == [rows * d, rows * d, 2 * rows * d, rows * dv]
    assert found == 1 + 1 + 2 + 1
