"""Kernels that several layers run: a matrix product, and a pass over memory."""

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
        Whose dtype the operands have.
    name : str
        What the product is for.
    m, n, k, batch : Expr
        Its sizes.
    share : Expr
        Share of the products that the mathematics asks for (a causal mask
        leaves (n+1)/(2n) of them); what a kernel computes is its own matter.
    a_batch, b_batch, out_batch : Expr, optional
        Distinct matrices of A, B and out in memory, where fewer than ``batch``
        (grouped-query attention shares keys and values between heads).
    workspace : Expr
        Bytes of the result that are an intermediate of the layer.
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
    """Return the two products backward of one of rows × inner with weights of inner × outer.

    The input's gradient, so many bytes of which are an intermediate, and the weights'.
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
        Whose dtype the array has; the arithmetic is in its accumulation format.
    name : str
        What the pass is for.
    rows, cols : Expr
        The array's sizes.
    reads, writes : Expr or int
        Elements read and written for each element of the array.
    op : str, optional
        As measurements name it; left out, none is of it, and the constants of additions serve.
    borrowed : bool
        Whether it is another operation than that, whose constants serve.
    pattern : str
        ``elementwise``, ``gated``, ``softmax``, ``norm`` or ``rmsnorm``: how rows lie, and are reduced.
    vector, special : Expr or int
        FLOP for each element on the vector and the special-function engine.
    depth : Expr or int
        Dependent operations, with a processor for every element.
    share : Expr
        Share of the elements whose arithmetic counts.
    extra_read, extra_write : Expr
        Further traffic [bytes]: masks of one byte, statistics, gains.
    workspace : Expr
        Bytes of the result that are an intermediate of the layer.
    """
    size = rows * cols
    flops = {
        ("vector", layer.accumulate): vector * size * share,
        ("special", layer.accumulate): special * size * share,
    }
    # Kernel models count in elements of the array. Those of rows were fitted without gains and statistics.
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
    """Return a pass with what is counted once a row multiplied out: no fraction is left to round."""
    return replace(phase, flops={key: sp.expand(count) for key, count in phase.flops.items()})


def gradient_sum(layer: Layer, *, rows: sp.Expr, cols: sp.Expr) -> Phase:
    """Return the addition of the gradients that two branches give of what both read."""
    return addition(layer, "sum of input gradients", rows=rows, cols=cols)


def addition(layer: Layer, name: str, *, rows: sp.Expr, cols: sp.Expr) -> Phase:
    """Return the sum of two rows × cols tables."""
    one = stream(layer, name, op="elementwise_add", rows=rows, cols=cols, reads=2, writes=1, vector=1)
    return replace(one, direction="fwd")  # of gradients, too, it is no addition's gradient


class Pointwise(NamedTuple):
    """Arithmetic of a function of one element, first principles; a sign is free.

    Attributes
    ----------
    vector, special : int
        FLOP on the vector engine; exp, tanh, erf.
    depth : int
        Operations that wait for each other.
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
}

#: Their gradients, from x and the result's gradient g.
POINTWISE_GRADIENT: Mapping[str, Pointwise] = {
    "relu": Pointwise(2, 0, 2),  # g · (x > 0)
    "tanh": Pointwise(3, 1, 4),  # g · (1 − t²)
    "sigmoid": Pointwise(5, 1, 6),  # g · s(1 − s)
    "gelu": Pointwise(8, 2, 6),  # g · (Φ(x) + x·φ(x))
    "gelu-tanh": Pointwise(16, 1, 10),  # g · ((1 + t)/2 + x/2 · (1 − t²) · u′)
    "silu": Pointwise(7, 1, 7),  # g · s · (1 + x(1 − s))
}

#: Those that follow from the result y as well, which need not keep x: autograd does not either.
RESULT_GRADIENT: Mapping[str, Pointwise] = {
    "relu": Pointwise(2, 0, 2),  # g · (y > 0)
    "tanh": Pointwise(3, 0, 3),  # g · (1 − y²)
    "sigmoid": Pointwise(3, 0, 3),  # g · y(1 − y)
}


#: Functions that measurements have by themselves; of GELU, the one by erf.
MEASURED = ("relu", "tanh", "gelu", "silu")


def activation(layer: Layer, name: str, function: str, *, rows: sp.Expr, cols: sp.Expr, **more: Any) -> Phase:
    """Return one pointwise function over a rows × cols array: one read, one write."""
    counts = POINTWISE[function]._asdict() | measured(function)
    return stream(layer, name, rows=rows, cols=cols, reads=1, writes=1, **counts, **more)


def measured(function: str) -> dict[str, Any]:
    """Return what `stream` takes of a function that is measured, or whose like is: whose constants serve."""
    op = function.removesuffix("-tanh")
    return {"op": op, "borrowed": op != function} if op in MEASURED else {}


def softmax(layer: Layer, name: str, direction: str, *, rows: sp.Expr, cols: sp.Expr, **more: Any) -> Phase:
    """Return softmax over each row, or its gradient, in one pass.

    Forward, for each element: maximum, subtract, exp, sum, divide. Backward,
    dx = y ∘ (dy − Σ y∘dy): multiply, sum, subtract, multiply.
    """
    counts: dict[str, Any] = {"op": "softmax", "pattern": "softmax", "writes": 1, "vector": 4, **more}
    if direction == "fwd":
        depth = 2 * CeilLog2(cols) + 3
        return stream(layer, name, rows=rows, cols=cols, reads=1, special=1, depth=depth, **counts)
    return stream(layer, name, rows=rows, cols=cols, reads=2, depth=CeilLog2(cols) + 3, **counts)


#: Norms: (FLOP an element forward, backward, learned vectors); what is one a row is left out.
#: Layer norm: mean 1, variance 3, normalise 2, affine 2. RMS norm: square and sum 2, scale 1,
#: gain 1. Backward: normalised again 2 (RMS 1), times gain 1, sums of that and of its product 3
#: (RMS 2), combined 4 (RMS 3), gradients of gain and offset 3 (RMS 2).
NORMS: Mapping[str, tuple[int, int, int]] = {"layer": (8, 13, 2), "rms": (4, 9, 1)}


def norm(layer: Layer, kind: str, direction: str, *, rows: sp.Expr, cols: sp.Expr) -> Phase:
    """Return a norm over each row: one pass, gains and offsets read once.

    Backward reads the gains, and writes the gradients of both.

    Depth, forward: the sums, 1/n (twice for layer norm), ε, the root, and the
    pointwise arithmetic around them. Backward: the longer of dx, a sum over a
    row, and the gains' gradients, a sum over all rows.
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
