"""Kernels that many layers use: matrix products and passes over memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase
from costmodel.layers._base import Layer
from costmodel.symbols import CeilLog2, tree_depth


def gemm(
    layer: Layer,
    name: str,
    *,
    m: sp.Expr,
    n: sp.Expr,
    k: sp.Expr,
    batch: sp.Expr = ONE,
    share: sp.Expr = ONE,
    a_batch: sp.Expr | None = None,
    b_batch: sp.Expr | None = None,
    out_batch: sp.Expr | None = None,
    workspace: sp.Expr = ZERO,
) -> Phase:
    """Return ``out[batch, m, n] = A[batch, m, k] · B[batch, k, n]``: 2·batch·m·n·k FLOP.

    Parameters
    ----------
    layer : Layer
        The layer whose dtype the operands have.
    name : str
        What the product is for.
    m, n, k, batch : Expr
        Sizes of the product.
    share : Expr
        Share of the multiply-adds that the mathematics requires (a causal mask
        leaves (n+1)/(2n) of them); a kernel may compute more.
    a_batch, b_batch, out_batch : Expr, optional
        Number of distinct matrices of A, B and out in memory, if fewer than ``batch``
        (grouped-query attention shares keys and values between heads).
    workspace : Expr
        Part of the result that is an intermediate of the layer [bytes].
    """
    a_batch, b_batch, out_batch = a_batch or batch, b_batch or batch, out_batch or batch
    return Phase(
        name=name,
        kernel="gemm",
        op="gemm" if batch == ONE else "bmm",
        sizes={"batch": batch, "m": m, "n": n, "k": k},
        options={"dtype": layer.dtype},
        flops={("matrix", layer.dtype): 2 * batch * m * n * k * share},
        read=layer.bytes * (a_batch * m * k + b_batch * k * n),
        write=layer.bytes * out_batch * m * n,
        pram_depth=tree_depth(k),
        workspace=workspace,
    )


def gradients(
    layer: Layer,
    name: str,
    *,
    rows: sp.Expr,
    inner: sp.Expr,
    outer: sp.Expr,
    batch: sp.Expr = ONE,
    workspace: sp.Expr = ZERO,
) -> tuple[Phase, Phase]:
    """Return the two backward products of a product of rows × inner with weights of inner × outer.

    They are the input gradient, of which `workspace` bytes are an intermediate, and the weight gradient.
    """
    return (
        gemm(layer, f"{name}, input gradient", batch=batch, m=rows, n=inner, k=outer, workspace=workspace),
        gemm(layer, f"{name}, weight gradient", batch=batch, m=inner, n=outer, k=rows),
    )


def stream(
    layer: Layer,
    name: str,
    *,
    rows: sp.Expr,
    cols: sp.Expr,
    reads: sp.Expr | int,
    writes: sp.Expr | int,
    op: str | None = None,
    borrowed: bool = False,
    pattern: str = "elementwise",
    vector: sp.Expr | int = 0,
    special: sp.Expr | int = 0,
    depth: sp.Expr | int = 1,
    share: sp.Expr = ONE,
    extra_read: sp.Expr = ZERO,
    extra_write: sp.Expr = ZERO,
    workspace: sp.Expr = ZERO,
) -> Phase:
    """Return one pass over a rows × cols array: memory-bound arithmetic.

    Parameters
    ----------
    layer : Layer
        The layer whose dtype the array has; the arithmetic uses its accumulation format.
    name : str
        What the pass is for.
    rows, cols : Expr
        Sizes of the array.
    reads, writes : Expr or int
        Elements read and written per element of the array.
    op : str, optional
        Operation under its name in the measurements, whose fitted constants apply; if left out, the
        operation has none, and the constants of elementwise additions apply.
    borrowed : bool
        Whether `op` names another operation, whose constants are borrowed.
    pattern : str
        ``elementwise``, ``gated``, ``softmax``, ``norm`` or ``rmsnorm``: how rows are laid out and reduced.
    vector, special : Expr or int
        FLOP per element on the vector and on the special-function engine.
    depth : Expr or int
        Number of dependent operations, given one processor per element.
    share : Expr
        Share of the elements whose arithmetic is counted.
    extra_read, extra_write : Expr
        Further traffic [bytes]: one-byte masks, statistics, gains.
    workspace : Expr
        Part of the result that is an intermediate of the layer [bytes].
    """
    size = rows * cols
    flops = {
        ("vector", layer.accumulate): vector * size * share,
        ("special", layer.accumulate): special * size * share,
    }
    # Kernel models count traffic in elements of the array. The row-wise ones were fitted without gains
    # and statistics.
    by_row = pattern != "elementwise"
    more_read, more_write = (
        ZERO if by_row else extra / (layer.bytes * size) for extra in (extra_read, extra_write)
    )
    return Phase(
        name=name,
        kernel="stream",
        op=op or "elementwise_add",
        borrowed=borrowed or op is None,
        sizes={"rows": rows, "cols": cols, "reads": reads + more_read, "writes": writes + more_write},
        options={"dtype": layer.dtype, "pattern": pattern},
        flops={key: sp.sympify(value) for key, value in flops.items() if value != 0},
        read=layer.bytes * reads * size + extra_read,
        write=layer.bytes * writes * size + extra_write,
        pram_depth=sp.sympify(depth),
        workspace=workspace,
    )


def multiplied_out(phase: Phase) -> Phase:
    """Return a pass with its FLOP counts expanded, so that per-row terms leave no fraction to round."""
    return replace(phase, flops={key: sp.expand(count) for key, count in phase.flops.items()})


def gradient_sum(layer: Layer, *, rows: sp.Expr, cols: sp.Expr) -> Phase:
    """Return the addition of the two gradients of an input that two branches read."""
    return addition(layer, "sum of input gradients", rows=rows, cols=cols)


def addition(layer: Layer, name: str, *, rows: sp.Expr, cols: sp.Expr) -> Phase:
    """Return the addition of two rows × cols tables."""
    one = stream(layer, name, op="elementwise_add", rows=rows, cols=cols, reads=2, writes=1, vector=1)
    return replace(one, direction="fwd")  # an addition of gradients is timed as a forward addition


class Pointwise(NamedTuple):
    """Arithmetic of a function of one element, from first principles; a change of sign is free.

    Attributes
    ----------
    vector, special : int
        FLOP on the vector engine; number of exp, tanh and erf.
    depth : int
        Number of dependent operations.
    """

    vector: int
    special: int
    depth: int


POINTWISE: Mapping[str, Pointwise] = {
    "relu": Pointwise(1, 0, 1),  # max(x, 0)
    "tanh": Pointwise(0, 1, 1),
    "sigmoid": Pointwise(2, 1, 3),  # 1 / (1 + exp(−x))
    "gelu": Pointwise(4, 1, 4),  # x/2 · (1 + erf(x/√2))
    "gelu-tanh": Pointwise(8, 1, 7),  # x/2 · (1 + tanh(√(2/π) · (x + 0.044715·x³)))
    "silu": Pointwise(2, 1, 3),  # x / (1 + exp(−x))
    "relu2": Pointwise(2, 0, 2),  # max(x, 0)²
    # (αₚ·x + β)·x if x > 0, else (exp(min(x, ε)) − 1 − x)·αₙ + β·x: both are computed, one is chosen.
    "xielu": Pointwise(11, 1, 7),
}

#: Gradients of these functions, from x and the result's gradient g.
POINTWISE_GRADIENT: Mapping[str, Pointwise] = {
    "relu": Pointwise(2, 0, 2),  # g · (x > 0)
    "tanh": Pointwise(3, 1, 4),  # g · (1 − t²)
    "sigmoid": Pointwise(5, 1, 6),  # g · s(1 − s)
    "gelu": Pointwise(8, 2, 6),  # g · (Φ(x) + x·φ(x))
    "gelu-tanh": Pointwise(16, 1, 10),  # g · ((1 + t)/2 + x/2 · (1 − t²) · u′)
    "silu": Pointwise(7, 1, 7),  # g · s · (1 + x(1 − s))
    "relu2": Pointwise(3, 0, 2),  # 2g · max(x, 0)
    # g · (2αₚ·x + β) if x > 0, else g · ((exp(min(x, ε)) − 1)·αₙ + β); sums for αₚ and αₙ are left out.
    "xielu": Pointwise(9, 1, 7),
}

#: Gradients that can be computed from the result y, so that x need not be kept: autograd does the same.
RESULT_GRADIENT: Mapping[str, Pointwise] = {
    "relu": Pointwise(2, 0, 2),  # g · (y > 0)
    "tanh": Pointwise(3, 0, 3),  # g · (1 − y²)
    "sigmoid": Pointwise(3, 0, 3),  # g · y(1 − y)
}

#: Gradient arithmetic of f(a)·b, from a, b and the result's gradient g: g·b is multiplied by f′(a), and
#: g by f(a), which shares intermediate values with f′.
GATED_GRADIENT: Mapping[str, Pointwise] = {
    "relu": Pointwise(5, 0, 2),
    "tanh": Pointwise(5, 1, 4),
    "sigmoid": Pointwise(7, 1, 6),
    "gelu": Pointwise(11, 2, 6),
    "gelu-tanh": Pointwise(19, 1, 10),
    "silu": Pointwise(9, 1, 7),
    "relu2": Pointwise(6, 0, 3),
    "xielu": Pointwise(18, 1, 8),
}


def gated(function: str) -> Pointwise:
    """Return the arithmetic of f(a)·b."""
    vector, special, depth = POINTWISE[function]
    return Pointwise(vector + 1, special, depth + 1)


#: Functions that have been measured on their own; for GELU, the exact (erf) form.
MEASURED = ("relu", "tanh", "gelu", "silu")


def activation(layer: Layer, name: str, function: str, *, rows: sp.Expr, cols: sp.Expr, **more: Any) -> Phase:
    """Return a pointwise function over a rows × cols array: one read and one write per element."""
    counts = POINTWISE[function]._asdict() | measured(function)
    return stream(layer, name, rows=rows, cols=cols, reads=1, writes=1, **counts, **more)


def measured(function: str) -> dict[str, Any]:
    """Return the `op` and `borrowed` arguments of `stream` for a measured function, or a variant of one."""
    op = function.removesuffix("-tanh")
    return {"op": op, "borrowed": op != function} if op in MEASURED else {}


def measured_gated(function: str) -> dict[str, Any]:
    """Return the `op`, `borrowed` and `pattern` arguments of `stream` for f(a)·b.

    Libraries use one kernel for every gated activation; it has been measured with SiLU.
    """
    return {"op": "silu_and_mul", "borrowed": function != "silu", "pattern": "gated"}


def softmax(layer: Layer, name: str, direction: str, *, rows: sp.Expr, cols: sp.Expr, **more: Any) -> Phase:
    """Return softmax over each row, or its gradient, in one pass.

    Forward, per element: maximum, subtract, exp, sum, divide. Backward,
    dx = y ∘ (dy − Σ y∘dy): multiply, sum, subtract, multiply.
    """
    counts: dict[str, Any] = {"op": "softmax", "pattern": "softmax", "writes": 1, "vector": 4, **more}
    if direction == "fwd":
        depth = 2 * CeilLog2(cols) + 3
        return stream(layer, name, rows=rows, cols=cols, reads=1, special=1, depth=depth, **counts)
    return stream(layer, name, rows=rows, cols=cols, reads=2, depth=CeilLog2(cols) + 3, **counts)


#: Norms: (FLOP per element forward, FLOP per element backward, learned vectors); per-row work is left out.
#: Layer norm: mean 1, variance 3, normalise 2, affine 2. RMS norm: square and sum 2, scale 1,
#: gain 1. Backward: normalise again 2 (RMS 1), multiply by the gain 1, sums of that and of its product 3
#: (RMS 2), combine 4 (RMS 3), gradients of gain and offset 3 (RMS 2).
NORMS: Mapping[str, tuple[int, int, int]] = {"layer": (8, 13, 2), "rms": (4, 9, 1)}


def norm(layer: Layer, kind: str, direction: str, *, rows: sp.Expr, cols: sp.Expr) -> Phase:
    """Return a norm over each row: one pass, with gains and offsets read once.

    Backward reads the gains, and writes the gradients of both.

    Forward, the depth counts the sums, 1/n (twice for layer norm), ε, the root, and the
    pointwise arithmetic around them; backward, the longer of dx, a sum over a row, and
    the gains' gradients, a sum over all rows.
    """
    forward, backward, vectors = NORMS[kind]
    learned = layer.bytes * vectors * cols
    log = CeilLog2(cols)
    counts: dict[str, Any] = {"writes": 1}
    if direction == "fwd":
        depth = 2 * log + 9 if kind == "layer" else log + 6
        counts |= {"reads": 1, "vector": forward, "depth": depth, "extra_read": learned}
    else:
        first = 2 if kind == "layer" else 1  # x normalised again
        depth = first + sp.Max(log + 5, CeilLog2(rows) + 1)
        counts |= {"reads": 2, "vector": backward, "depth": depth}
        counts |= {"extra_read": layer.bytes * cols, "extra_write": learned}
    name = f"{kind} norm" if direction == "fwd" else f"{kind} norm gradient"
    op, pattern = ("layernorm", "norm") if kind == "layer" else ("rmsnorm", "rmsnorm")
    return stream(layer, name, op=op, rows=rows, cols=cols, pattern=pattern, **counts)
