"""The other layers of a model: torch's counts and gradients, published sizes, training memory."""

import math
import random
from fractions import Fraction

import numpy as np
import pytest
import sympy as sp
from authority import optimisers, pointwise, tokens
from authority.chances import expected_distinct
from authority.counted import Counted
from flop_counter import flops
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel import evaluate, predict
from costmodel.asymptotics import degree
from costmodel.errors import CostmodelError
from costmodel.evaluate import compile_expressions
from costmodel.layers import get
from costmodel.symbols import Distinct, symbols

few = settings(max_examples=12, deadline=None)
small = st.integers(1, 6)


# -- expected distinct -------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 1), (5, 2), (6, 6), (9, 4)])
@pytest.mark.parametrize("draws", [1, 2, 3, 8])
def test_expected_distinct_equals_a_markov_chain_of_draws(n, k, draws):
    """Cardenas's formula against hands drawn one after the other."""
    assert sp.Rational(Distinct(n, k, draws)) == sp.Rational(str(expected_distinct(n, k, draws)))


def test_compiled_expected_distinct_loses_no_precision():
    """At a million rows, 1 − (1 − 1/n)^t computed directly loses 10 of 16 digits."""
    n, k, draws = symbols("vocab top_k seq")
    compiled = compile_expressions([Distinct(n, k, draws)], ["vocab", "top_k", "seq"])
    for size, chosen, times in ((10**6, 1, 3), (2**40, 1, 7), (256, 8, 4096), (3, 3, 9), (1, 1, 1)):
        exact = size * (1 - (1 - Fraction(chosen, size)) ** times)
        assert compiled(float(size), float(chosen), float(times))[0] == pytest.approx(float(exact), rel=1e-14)
    many = compiled(np.array([8.0, 8.0]), 2.0, np.array([1.0, 1e9]))[0]
    assert many.tolist() == [2.0, 8.0]


def test_expected_distinct_is_linear_in_the_things_and_constant_in_the_draws():
    n, k, draws = symbols("experts top_k seq")
    assert (degree(Distinct(n, k, draws), "experts"), degree(Distinct(n, k, draws), "seq")) == (1, 0)


# -- counted programs against torch --------------------------------------------------------------


def numbers(count, seed=0):
    rng = random.Random(seed)
    return [rng.uniform(0.2, 1.5) for _ in range(count)]


@pytest.mark.parametrize("name", pointwise.GATES)
@pytest.mark.parametrize("first", [0.7, -0.3])
def test_gradients_of_gates_equal_torchs(name, first):
    torch = pytest.importorskip("torch")
    function = pytest.importorskip("test_counted").REFERENCE[name]
    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (first, -0.4))
    (function(a) * b * 0.3).backward()
    found = pointwise.GATES[name](Counted(first), Counted(-0.4), Counted(0.3))
    assert [x.value for x in found] == pytest.approx([a.grad.item(), b.grad.item()], rel=1e-12)


def test_cross_entropy_and_its_gradient_equal_torchs():
    torch = pytest.importorskip("torch")
    scores = numbers(5)
    x = torch.tensor([scores], dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(x, torch.tensor([3]))
    (loss * 0.4).backward()
    found, below = tokens.cross_entropy([Counted(v) for v in scores], 3)
    assert found.value == pytest.approx(loss.item())
    gradient = tokens.cross_entropy_gradient([Counted(v) for v in scores], below, Counted(0.4), 3)
    assert [v.value for v in gradient] == pytest.approx(x.grad[0].tolist())


def test_rotation_keeps_length_and_turns_back():
    x, y = tokens.rotate(Counted(0.6), Counted(-0.3), math.cos(0.4), math.sin(0.4))
    assert math.hypot(x.value, y.value) == pytest.approx(math.hypot(0.6, 0.3))
    back = tokens.rotate(x, y, math.cos(-0.4), math.sin(-0.4))
    assert [v.value for v in back] == pytest.approx([0.6, -0.3])


@pytest.mark.parametrize(
    ("name", "fp32", "bf16"), [("sgd", 0, 4), ("momentum", 4, 8), ("adam", 8, 12), ("adamw", 8, 12)]
)
def test_state_bytes_of_optimisers(name, fp32, bf16):
    """Moments in fp32 and a copy of a narrower weight: K = 12 for Adam (arXiv 1910.02054, §3.1)."""
    made = (get("optimizer-step")(optimiser=name, dtype=dtype) for dtype in ("fp32", "bf16"))
    assert [layer.state_bytes for layer in made] == [fp32, bf16]


@pytest.mark.parametrize("name", optimisers.STEPS)
def test_optimiser_steps_equal_torchs(name):
    """Three steps of torch's own optimiser from the same gradients."""
    torch = pytest.importorskip("torch")
    p = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
    o = optimisers
    rates = {"lr": o.RATE}
    adam = {**rates, "betas": (o.BETA1, o.BETA2), "eps": o.EPSILON}
    made = {
        "sgd": lambda: torch.optim.SGD([p], **rates),
        "momentum": lambda: torch.optim.SGD([p], **rates, momentum=o.MOMENTUM),
        "adam": lambda: torch.optim.Adam([p], **adam),
        "adamw": lambda: torch.optim.AdamW([p], **adam, weight_decay=o.DECAY),
    }[name]()
    states = {"sgd": 0, "momentum": 1, "adam": 2, "adamw": 2}[name]
    state = [Counted(0.0)] * states
    for step, g in enumerate((0.3, -0.2, 0.5), start=1):
        before = Counted(p.item())
        p.grad = torch.tensor(g, dtype=torch.float64)
        made.step()
        if step == o.AGE:
            found = o.STEPS[name](before, Counted(g), *state)
            found = found if isinstance(found, tuple) else (found,)
            assert found[0].value == pytest.approx(p.item(), rel=1e-9)
        names = {"momentum": ["momentum_buffer"], "sgd": []}.get(name, ["exp_avg", "exp_avg_sq"])
        state = [Counted(float(made.state[p][key])) for key in names]


# -- torch's counter -----------------------------------------------------------------------------


def counted(name, sizes, **options):
    there, back = (
        evaluate(get(name)(convention="torch", direction=direction, **options), **sizes)
        for direction in ("fwd", "bwd")
    )
    return (there["matrix_flops"], back["matrix_flops"]), there["parameters"]


def meta(*shape):
    torch = pytest.importorskip("torch")
    return torch.empty(*shape, device="meta", requires_grad=True)


@few
@given(batch=small, length=small, d=small, f=small, fused=st.booleans())
def test_flops_and_parameters_of_swiglu_equal_torchs(batch, length, d, f, fused):
    torch = pytest.importorskip("torch")
    up = [torch.nn.Linear(d, 2 * f, bias=False, device="meta")]
    if not fused:
        up = [torch.nn.Linear(d, f, bias=False, device="meta") for _ in range(2)]
    down = torch.nn.Linear(f, d, bias=False, device="meta")

    def run(x):
        a, b = up[0](x).chunk(2, -1) if fused else (up[0](x), up[1](x))
        return down(torch.nn.functional.silu(a) * b)

    sizes = {"batch": batch, "seq": length, "d_model": d, "d_ff": f}
    found, parameters = counted("swiglu", sizes, fused=fused)
    assert found == flops(run, meta(batch, length, d))
    assert parameters == sum(w.numel() for module in (*up, down) for w in module.parameters())


@few
@given(length=small, d=small, f=small, e=st.integers(1, 5), shared=st.integers(0, 2), data=st.data())
def test_flops_and_parameters_of_moe_equal_torchs(length, d, f, e, shared, data):
    """Each token has products of its own with its k experts: as many FLOPs as grouped products."""
    torch = pytest.importorskip("torch")
    k = data.draw(st.integers(1, e))

    def expert(width):
        return torch.nn.ModuleList(
            [torch.nn.Linear(*s, bias=False, device="meta") for s in ((d, 2 * width), (width, d))]
        )

    router = torch.nn.Linear(d, e, bias=False, device="meta")
    all_experts = torch.nn.ModuleList([expert(f) for _ in range(e)])
    common = expert(shared * f) if shared else None

    def through(module, x):
        a, b = module[0](x).chunk(2, -1)
        return module[1](torch.nn.functional.silu(a) * b)

    def run(x):
        weights = router(x).softmax(-1)
        rows = []
        for t in range(length):  # which experts a token chooses does not change the count
            row = x[t : t + 1]
            rows.append(sum(through(all_experts[(t + i) % e], row) * weights[t, i] for i in range(k)))
        out = torch.cat(rows)
        return out + through(common, x) if common is not None else out

    sizes = {"batch": 1, "seq": length, "d_model": d, "d_ff": f, "experts": e, "top_k": k}
    found, parameters = counted("moe", sizes, shared=shared)
    assert found == flops(run, meta(length, d))
    modules = [router, all_experts, *([common] if common is not None else [])]
    assert parameters == sum(w.numel() for module in modules for w in module.parameters())


@few
@given(
    batch=small, length=small, d=small, v=small, head=st.sampled_from(["none", "softmax", "cross-entropy"])
)
def test_flops_and_parameters_of_logits_equal_torchs(batch, length, d, v, head):
    torch = pytest.importorskip("torch")
    table = torch.nn.Linear(d, v, bias=False, device="meta")

    def run(x):
        scores = table(x)
        return scores.log_softmax(-1) if head != "none" else scores

    found, parameters = counted(
        "logits", {"batch": batch, "seq": length, "d_model": d, "vocab": v}, head=head
    )
    assert found == flops(run, meta(batch, length, d))
    assert parameters == table.weight.numel()


def test_an_embedding_has_no_flops_and_a_dense_gradient_as_in_torch():
    """Neither direction has FLOPs in torch's count."""
    torch = pytest.importorskip("torch")
    table = torch.nn.Embedding(7, 3)
    rows = torch.tensor([[1, 5, 1, 1]])
    assert flops(table, rows) == (0, 0)
    assert table.weight.grad.shape == (7, 3)
    assert sorted(table.weight.grad.sum(1).tolist()) == [0, 0, 0, 0, 0, 3, 9]
    counts = evaluate(get("embedding")(), batch=1, seq=4, vocab=7, d_model=3)
    assert counts["parameters"] == table.weight.numel()
    assert counts["matrix_flops"] == 0


def test_dropout_keeps_one_byte_per_value():
    torch = pytest.importorskip("torch")
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        torch.dropout(torch.ones(6, 5, requires_grad=True), 0.1, True)
    kept = evaluate(get("dropout")(dtype="fp32"), m=6, n=5)["kept_bytes"]
    assert kept == 6 * 5
    # On a CPU torch keeps the scaled mask in the values' format; its CUDA kernel keeps one byte per value.
    assert [t.numel() for t in saved] == [30]


# -- published sizes -----------------------------------------------------------------------------


def test_mixed_precision_adam_holds_16_bytes_per_parameter():
    """claims.md §4, S21: weight 2, gradient 2, master, m and v 4 each; a step reads and writes 14 bytes."""
    for optimiser, occupied, moved in (
        ("adam", 16, 28),
        ("adamw", 16, 28),
        ("momentum", 12, 20),
        ("sgd", 8, 12),
    ):
        counts = evaluate(get("optimizer-step")(optimiser=optimiser), params=10**9)
        assert counts["footprint_bytes"] == occupied * 10**9
        assert counts["hbm_bytes"] == counts["compulsory_bytes"] == moved * 10**9
    wide = evaluate(get("optimizer-step")(dtype="fp32"), params=10**9)
    assert (wide["footprint_bytes"], wide["hbm_bytes"]) == (16 * 10**9, 28 * 10**9)
    narrow = evaluate(get("optimizer-step")(master=False), params=10**9)
    assert (narrow["footprint_bytes"], narrow["hbm_bytes"]) == (8 * 10**9, 14 * 10**9)


def test_a_fused_optimiser_has_one_launch_and_the_least_traffic():
    sizes = {"params": 7 * 10**9, "tensors": 291}
    fused, foreach, loop = (
        evaluate(get("optimizer-step")(implementation=i), **sizes) for i in ("fused", "foreach", "loop")
    )
    assert [c["launches"] for c in (fused, foreach, loop)] == [1, 10, 10 * 291]
    assert fused["hbm_bytes"] < foreach["hbm_bytes"] == loop["hbm_bytes"]
    assert fused["vector_flops"] == foreach["vector_flops"] == loop["vector_flops"]
    many = {"params": 10**7, "tensors": 291}
    times = [
        predict(get("optimizer-step")(implementation=i), "nvidia/a100-sxm-80gb", **many).seconds
        for i in ("fused", "foreach", "loop")
    ]
    assert times[0] < times[1] < times[2]


def test_parameters_and_flops_of_mixtral_and_deepseek_experts_are_as_published():
    """Per layer: Mixtral-8x7B 8·3·4096·14336 and a router; DeepSeek-V2 160 + 2 experts of width 1536."""
    mixtral = evaluate(get("moe")(), batch=1, seq=1, d_model=4096, d_ff=14336, experts=8, top_k=2)
    assert mixtral["parameters"] == 8 * 3 * 4096 * 14336 + 8 * 4096
    assert mixtral["matrix_flops"] == 2 * 4096 * 8 + 2 * 6 * 4096 * 14336
    deepseek = evaluate(get("moe")(shared=2), batch=1, seq=1, d_model=5120, d_ff=1536, experts=160, top_k=6)
    assert deepseek["parameters"] == 162 * 3 * 5120 * 1536 + 160 * 5120
    assert deepseek["matrix_flops"] == 2 * 5120 * 160 + 8 * 6 * 5120 * 1536
    one = 2 * 3 * 5120 * 1536
    few_bytes, many_bytes = (
        evaluate(get("moe")(), batch=b, seq=1, d_model=5120, d_ff=1536, experts=160, top_k=6)["hbm_bytes"]
        for b in (1, 1024)
    )
    assert few_bytes == pytest.approx(6 * one, rel=0.05)
    assert many_bytes == pytest.approx(160 * one, rel=0.15)
    occupied = evaluate(get("moe")(), batch=1, seq=1, d_model=5120, d_ff=1536, experts=160, top_k=6)
    assert occupied["footprint_bytes"] == pytest.approx(160 * one, rel=0.01)


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("swiglu", {"activation": "silo"}, "silu"),
        ("moe", {"activation": "gleu"}, "gelu"),
        ("moe", {"shared": -1}, "0 or more"),
        ("logits", {"head": "soft-max"}, "softmax"),
        ("optimizer-step", {"optimiser": "adamm"}, "adam"),
        ("optimizer-step", {"implementation": "for-each"}, "foreach"),
        ("optimizer-step", {"direction": "bwd"}, "fwd"),
        ("transformer-block", {"recompute": "selective"}, "attention=dense"),
        ("transformer-block", {"recompute": "ful"}, "full"),
    ],
)
def test_impossible_options_are_refused(name, options, text):
    with pytest.raises(CostmodelError, match=text):
        get(name)(**options)


def test_a_token_cannot_choose_more_experts_than_there_are():
    with pytest.raises(CostmodelError, match="top_k must be at most experts"):
        evaluate(get("moe")(), batch=1, seq=1, d_model=4, experts=2, top_k=3)
