"""The counted programs of the authority compute what torch computes: the same values and gradients."""

import math
import random

import pytest
from authority import cells, pointwise
from authority.counted import LEDGER, Counted, log2_ceil

torch = pytest.importorskip("torch")


def xielu(x):
    """Huang & Schlag, arXiv 2411.13010, eq. 5, with the values that its parameters start from."""
    below = 0.8 * (torch.expm1(torch.clamp(x, max=-1e-6)) - x) + 0.5 * x
    return torch.where(x > 0, 0.8 * x**2 + 0.5 * x, below)


REFERENCE = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": torch.nn.functional.gelu,
    "gelu-tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "silu": torch.nn.functional.silu,
    "relu2": lambda x: torch.relu(x) ** 2,
    "xielu": xielu,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
    "add-scalar": lambda x: x + 0.3,
    "sub-scalar": lambda x: x - 0.3,
    "mul-scalar": lambda x: x * 0.3,
    "div-scalar": lambda x: x / 0.3,
    "pow-scalar": lambda x: x**1.7,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "copy": lambda x: x,
}


def times(function):
    return lambda a, b: function(a) * b


REFERENCE |= {f"{name}-and-mul": times(REFERENCE[name]) for name in pointwise.GATES}


def numbers(count, seed=0):
    rng = random.Random(seed)
    return [rng.uniform(0.2, 1.5) for _ in range(count)]


def counted(values):
    return [Counted(v) for v in values]


def tensor(values, grad=True):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def values(row):
    return [x.value for x in row]


@pytest.mark.parametrize("op", pointwise.PROGRAMS)
def test_pointwise_programs_and_gradients_equal_torchs(op):
    operands, program, gradient = pointwise.PROGRAMS[op]
    xs, g = numbers(operands), -0.7
    inputs = [tensor(x) for x in xs]
    result = REFERENCE[op](*inputs)
    assert program(*counted(xs)).value == pytest.approx(result.item(), rel=1e-12)
    (result * g).backward()
    needed = [] if op in pointwise.LINEAR else counted(xs)
    got = gradient(*needed, Counted(g))
    got = [got] if isinstance(got, Counted) else got
    assert [x.value for x in got] == pytest.approx([x.grad.item() for x in inputs], rel=1e-12)


@pytest.mark.parametrize("op", ["relu", "relu2", "xielu"])
def test_functions_with_two_branches_equal_torchs_below_zero(op):
    _, program, gradient = pointwise.PROGRAMS[op]
    x = tensor(-0.8)
    y = REFERENCE[op](x)
    assert program(Counted(-0.8)).value == pytest.approx(y.item())
    (y * -0.7).backward()
    assert gradient(Counted(-0.8), Counted(-0.7)).value == pytest.approx(x.grad.item())


@pytest.mark.parametrize("op", pointwise.OF_RESULT)
def test_gradients_computed_from_results_equal_torchs(op):
    for value in (-0.8, 0.6):
        x = tensor(value)
        y = REFERENCE[op](x)
        (y * -0.7).backward()
        assert pointwise.OF_RESULT[op](Counted(y.item()), Counted(-0.7)).value == pytest.approx(x.grad.item())


def test_softmax_and_its_gradient_equal_torchs():
    xs, gs = numbers(5), numbers(5, 1)
    x = tensor(xs)
    y = torch.softmax(x, 0)
    y.backward(tensor(gs, grad=False))
    ys = pointwise.softmax(counted(xs))
    assert values(ys) == pytest.approx(y.tolist())
    assert values(pointwise.softmax_gradient(ys, counted(gs))) == pytest.approx(x.grad.tolist())


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norms_and_their_gradients_equal_torchs(kind):
    xs, gs, gain, offset = (numbers(6, seed) for seed in range(4))
    x, w, b = tensor(xs), tensor(gain), tensor(offset)
    if kind == "layer":
        y = torch.nn.functional.layer_norm(x, (6,), w, b)
        got = pointwise.layer_norm(counted(xs), counted(gain), counted(offset))
    else:
        y = torch.nn.functional.rms_norm(x, (6,), w, eps=1e-5)
        got = pointwise.rms_norm(counted(xs), counted(gain))
    assert values(got) == pytest.approx(y.tolist())
    y.backward(tensor(gs, grad=False))
    mean = sum(xs) / 6 if kind == "layer" else 0.0
    root = Counted((sum((v - mean) ** 2 for v in xs) / 6 + 1e-5) ** -0.5)
    if kind == "layer":
        dx, dw = pointwise.layer_norm_gradient(counted(xs), counted(gs), counted(gain), Counted(mean), root)
    else:
        dx, dw = pointwise.rms_norm_gradient(counted(xs), counted(gs), counted(gain), root)
    assert values(dx) == pytest.approx(x.grad.tolist())
    assert values(dw) == pytest.approx(w.grad.tolist())


MODULES = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}


@pytest.mark.parametrize("cell", MODULES)
def test_recurrent_cells_equal_torchs_forward_and_backward(cell):
    """Compared: outputs of every step, and the gradient of h0 after walking back through all steps."""
    torch.manual_seed(0)
    width, inputs, steps = 3, 2, 4
    module = MODULES[cell](inputs, width).double()
    x = torch.randn(steps, inputs, dtype=torch.float64)
    h0 = torch.randn(1, width, dtype=torch.float64, requires_grad=True)
    c0 = torch.randn(1, width, dtype=torch.float64, requires_grad=True)
    y, _ = module(x, (h0, c0) if cell == "lstm" else h0)
    dy = torch.randn(steps, width, dtype=torch.float64)
    (y * dy).sum().backward()

    u = module.weight_hh_l0.tolist()
    biases = (module.bias_ih_l0.tolist(), module.bias_hh_l0.tolist())
    h, c, histories = counted(h0[0].tolist()), counted(c0[0].tolist()), []
    for t in range(steps):
        h, c, kept = cells.forward(cell, counted((module.weight_ih_l0 @ x[t]).tolist()), (h, c), u, biases)
        assert values(h) == pytest.approx(y[t].tolist())
        histories.append(kept)
    zeros = counted([0.0] * width)
    carried = (zeros, zeros)
    for t in reversed(range(steps)):
        carried = cells.backward(cell, counted(dy[t].tolist()), carried, histories[t], u)
    product, past = carried
    total = (
        [p.value + q.value for p, q in zip(product, past, strict=True)] if cell == "gru" else values(product)
    )
    assert total == pytest.approx(h0.grad[0].tolist())
    if cell == "lstm":
        assert values(past) == pytest.approx(c0.grad[0].tolist())


def test_attention_equals_torchs_and_has_the_formulas_flops_and_depth():
    """FLOPs and depth: formulas.md §3.3, without projections."""
    n, d = 5, 3
    q, k, v = (torch.randn(n, d, dtype=torch.float64, generator=torch.manual_seed(s)) for s in range(3))
    LEDGER.clear()
    queries = [counted((row / math.sqrt(d)).tolist()) for row in q]
    got = pointwise.attention(queries, k.tolist(), v.tolist())
    wanted = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]
    assert [values(row) for row in got] == [pytest.approx(row) for row in wanted.tolist()]
    assert {"matrix": 4 * n * n * d, "vector": 4 * n * n, "special": n * n} == LEDGER
    deepest = max(x.depth for row in got for x in row)
    assert deepest == (1 + log2_ceil(d)) + log2_ceil(n) + 2 + log2_ceil(n) + 1 + (1 + log2_ceil(n))
