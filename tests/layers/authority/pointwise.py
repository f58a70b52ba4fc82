"""Functions of one element and their gradients, operation by operation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from .counted import Counted, above_zero, chosen, dot, exp, highest, maximum, minimum, special, tanh, total

ROOT = math.sqrt(0.5)
SLOPE = math.sqrt(2 / math.pi)
CUBIC = 0.044715
#: xIELU's αₚ and αₙ (learned), β and ε as they are initialised, arXiv 2411.13010, §3.
GROWTH, DROP, LINE, BELOW = 0.8, 0.8, 0.5, -1e-6


def relu(x: Counted) -> Counted:
    return maximum(x, 0.0)


def relu_gradient(x: Counted, g: Counted) -> Counted:
    return g * above_zero(x)


def tanh_gradient(x: Counted, g: Counted) -> Counted:
    t = tanh(x)
    return g * (1 - t * t)


def sigmoid(x: Counted) -> Counted:
    return 1 / (1 + exp(-x))


def sigmoid_gradient(x: Counted, g: Counted) -> Counted:
    s = sigmoid(x)
    return g * (s * (1 - s))


def gelu(x: Counted) -> Counted:
    return (x * 0.5) * (1 + special(math.erf, x * ROOT))


def gelu_gradient(x: Counted, g: Counted) -> Counted:
    u = x * ROOT
    cumulative = (1 + special(math.erf, u)) * 0.5
    density = exp(-(u * u)) * (x * (1 / math.sqrt(2 * math.pi)))
    return g * (cumulative + density)


def gelu_tanh(x: Counted) -> Counted:
    inner = x + (x * x) * (x * CUBIC)
    return (x * 0.5) * (1 + tanh(inner * SLOPE))


def gelu_tanh_gradient(x: Counted, g: Counted) -> Counted:
    cubic = (x * x) * CUBIC
    t = tanh((1 + cubic) * (x * SLOPE))
    inner = cubic * (3 * SLOPE) + SLOPE
    return g * ((1 + t) * 0.5 + (1 - t * t) * ((x * 0.5) * inner))


def silu(x: Counted) -> Counted:
    return x / (1 + exp(-x))


def silu_gradient(x: Counted, g: Counted) -> Counted:
    s = sigmoid(x)
    return (g * s) * (1 + x * (1 - s))


def relu2(x: Counted) -> Counted:
    r = maximum(x, 0.0)
    return r * r


def relu2_gradient(x: Counted, g: Counted) -> Counted:
    return (g * 2) * maximum(x, 0.0)


def xielu(x: Counted) -> Counted:
    line = x * LINE
    below = (exp(minimum(x, BELOW)) - 1 - x) * DROP + line
    return chosen(above_zero(x), (x * GROWTH) * x + line, below)


def xielu_gradient(x: Counted, g: Counted) -> Counted:
    below = (exp(minimum(x, BELOW)) - 1) * DROP + LINE
    return g * chosen(above_zero(x), x * (2 * GROWTH) + LINE, below)


# -- gates: gradients of f(a)·b ----------------------------------------------------------------


def relu_gate(a: Counted, b: Counted, g: Counted) -> Sequence[Counted]:
    return (g * b) * above_zero(a), g * maximum(a, 0.0)


def tanh_gate(a: Counted, b: Counted, g: Counted) -> Sequence[Counted]:
    t = tanh(a)
    return (g * b) * (1 - t * t), g * t


def sigmoid_gate(a: Counted, b: Counted, g: Counted) -> Sequence[Counted]:
    s = sigmoid(a)
    return (g * b) * (s * (1 - s)), g * s


def gelu_gate(a: Counted, b: Counted, g: Counted) -> Sequence[Counted]:
    u = a * ROOT
    cumulative = (1 + special(math.erf, u)) * 0.5
    density = exp(-(u * u)) * (a * (1 / math.sqrt(2 * math.pi)))
    return (g * b) * (cumulative + density), g * (a * cumulative)


def gelu_tanh_gate(a: Counted, b: Counted, g: Counted) -> Sequence[Counted]:
    cubic = (a * a) * CUBIC
    t = tanh((1 + cubic) * (a * SLOPE))
    half = (1 + t) * 0.5
    inner = cubic * (3 * SLOPE) + SLOPE
    return (g * b) * (half + (1 - t * t) * ((a * 0.5) * inner)), g * (a * half)


def relu2_gate(a: Counted, b: Counted, g: Counted) -> Sequence[Counted]:
    r = maximum(a, 0.0)
    return ((g * b) * 2) * r, g * (r * r)


def xielu_gate(a: Counted, b: Counted, g: Counted) -> Sequence[Counted]:
    positive, grown, less = above_zero(a), a * GROWTH, exp(minimum(a, BELOW)) - 1
    rising = grown + LINE
    value = chosen(positive, rising * a, (less - a) * DROP + a * LINE)
    slope = chosen(positive, grown + rising, less * DROP + LINE)
    return (g * b) * slope, g * value


def silu_gate(a: Counted, b: Counted, g: Counted) -> Sequence[Counted]:
    s = sigmoid(a)
    y = a * s
    return (g * b) * (y * (1 - s) + s), g * y


GATES: dict[str, Callable[..., Sequence[Counted]]] = {
    "relu": relu_gate,
    "tanh": tanh_gate,
    "sigmoid": sigmoid_gate,
    "gelu": gelu_gate,
    "gelu-tanh": gelu_tanh_gate,
    "silu": silu_gate,
    "relu2": relu2_gate,
    "xielu": xielu_gate,
}


# -- other operations --------------------------------------------------------------------------


def division_gradient(a: Counted, b: Counted, g: Counted) -> Sequence[Counted]:
    first = g / b
    return first, -(first * (a / b))


def log(x: Counted) -> Counted:
    return special(math.log, x)


def root(x: Counted) -> Counted:
    return special(math.sqrt, x)


def power(a: Counted, b: Counted) -> Counted:
    return exp(log(a) * b)


def power_gradient(a: Counted, b: Counted, g: Counted) -> Sequence[Counted]:
    logarithm = log(a)
    scaled = g * exp(logarithm * b)
    return scaled * (b / a), scaled * logarithm


def dropout(x: Counted, kept: Counted) -> Counted:
    """Return x times the mask (0 or 1), scaled by 1/(1 − p)."""
    return (x * kept) * 1.25


#: (operands, forward, gradient) of each elementwise operation; operands that a gradient does not need are not
#: read.
PROGRAMS: dict[str, tuple[int, Callable[..., object], Callable[..., object]]] = {
    "relu": (1, relu, relu_gradient),
    "tanh": (1, tanh, tanh_gradient),
    "sigmoid": (1, sigmoid, sigmoid_gradient),
    "gelu": (1, gelu, gelu_gradient),
    "gelu-tanh": (1, gelu_tanh, gelu_tanh_gradient),
    "silu": (1, silu, silu_gradient),
    "relu2": (1, relu2, relu2_gradient),
    "xielu": (1, xielu, xielu_gradient),
    "add": (2, lambda a, b: a + b, lambda g: (g, g)),
    "sub": (2, lambda a, b: a - b, lambda g: (g, -g)),
    "mul": (2, lambda a, b: a * b, lambda a, b, g: (g * b, g * a)),
    "div": (2, lambda a, b: a / b, division_gradient),
    "pow": (2, power, power_gradient),
    "add-scalar": (1, lambda a: a + 0.3, lambda g: (g,)),
    "sub-scalar": (1, lambda a: a - 0.3, lambda g: (g,)),
    "mul-scalar": (1, lambda a: a * 0.3, lambda g: (g * 0.3,)),
    "div-scalar": (1, lambda a: a / 0.3, lambda g: (g / 0.3,)),
    "pow-scalar": (1, lambda a: exp(log(a) * 1.7), lambda a, g: (g * exp(log(a) * 1.7)) * (1.7 / a)),
    "exp": (1, exp, lambda x, g: g * exp(x)),
    "log": (1, log, lambda x, g: g / x),
    "sqrt": (1, root, lambda x, g: (g * 0.5) / root(x)),
    "copy": (1, lambda a: a, lambda g: (g,)),
}


def times(function: Callable[..., Any]) -> Callable[[Counted, Counted], Counted]:
    return lambda a, b: function(a) * b


PROGRAMS |= {f"{name}-and-mul": (2, times(PROGRAMS[name][1]), gradient) for name, gradient in GATES.items()}
#: Gradients computed from the result y instead of from x: torch's autograd keeps y.
OF_RESULT: dict[str, Callable[[Counted, Counted], Counted]] = {
    "relu": lambda y, g: g * above_zero(y),
    "tanh": lambda y, g: g * (1 - y * y),
    "sigmoid": lambda y, g: g * (y * (1 - y)),
}
LINEAR = ("add", "sub", "add-scalar", "sub-scalar", "mul-scalar", "div-scalar", "copy")


# -- rows --------------------------------------------------------------------------------------

Row = list[Counted]


def softmax(xs: Row) -> Row:
    top = highest(xs)
    es = [exp(x - top) for x in xs]
    below = total(es)
    return [e / below for e in es]


def softmax_gradient(ys: Row, gs: Row) -> Row:
    inner = total([y * g for y, g in zip(ys, gs, strict=True)])
    return [y * (g - inner) for y, g in zip(ys, gs, strict=True)]


def layer_norm(xs: Row, gain: Row, offset: Row, eps: float = 1e-5) -> Row:
    mean = total(xs) * (1 / len(xs))
    variance = total([(d := x - mean) * d for x in xs]) * (1 / len(xs))
    root = special(lambda v: v**-0.5, variance + eps)
    return [((x - mean) * root) * g + o for x, g, o in zip(xs, gain, offset, strict=True)]


def layer_norm_gradient(xs: Row, gs: Row, gain: Row, mean: Counted, root: Counted) -> tuple[Row, Row]:
    """Return dx and this row's part of the gain's gradient; that of the offset is g itself."""
    normal = [(x - mean) * root for x in xs]
    scaled = [g * w for g, w in zip(gs, gain, strict=True)]
    first = total(scaled) * (1 / len(xs))
    second = total([s * n for s, n in zip(scaled, normal, strict=True)]) * (1 / len(xs))
    dx = [((s - first) - n * second) * root for s, n in zip(scaled, normal, strict=True)]
    return dx, [g * n for g, n in zip(gs, normal, strict=True)]


def rms_norm(xs: Row, gain: Row, eps: float = 1e-5) -> Row:
    square = total([x * x for x in xs]) * (1 / len(xs))
    root = special(lambda v: v**-0.5, square + eps)
    return [(x * root) * g for x, g in zip(xs, gain, strict=True)]


def rms_norm_gradient(xs: Row, gs: Row, gain: Row, root: Counted) -> tuple[Row, Row]:
    normal = [x * root for x in xs]
    scaled = [g * w for g, w in zip(gs, gain, strict=True)]
    second = total([s * n for s, n in zip(scaled, normal, strict=True)]) * (1 / len(xs))
    dx = [(s - n * second) * root for s, n in zip(scaled, normal, strict=True)]
    return dx, [g * n for g, n in zip(gs, normal, strict=True)]


def attention(queries: list[Row], keys: list[list[float]], values: list[list[float]]) -> list[Row]:
    """Return softmax attention of one head (Vaswani et al., eq. 1), with the scaling folded into Q."""
    scores = [[dot(q, k) for k in keys] for q in queries]
    weights = [softmax(row) for row in scores]
    return [[dot(row, [v[j] for v in values]) for j in range(len(values[0]))] for row in weights]
