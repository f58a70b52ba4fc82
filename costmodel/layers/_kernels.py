"""Kernels that several layers run: a matrix product, and a pass over memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def stream(
    layer: Layer,
    name: str,
    *,
    rows: sp.Expr,
    cols: sp.Expr,
    reads: sp.Expr | int,
    writes: sp.Expr | int,
    op: str = "elementwise_add",
    pattern: str = "elementwise",
    vector: sp.Expr | int = 0,
    special: sp.Expr | int = 0,
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
    op : str
        As measurements name it.
    pattern : str
        ``elementwise``, ``softmax``, ``norm`` or ``rmsnorm``: how a row is reduced.
    vector, special : Expr or int
        FLOP for each element on the vector and the special-function engine.
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
    reduced: sp.Expr = ZERO if pattern == "elementwise" else 2 * CeilLog2(cols)
    return Phase(
        name=name,
        kernel="stream",
        op=op,
        sizes={"rows": rows, "cols": cols, "reads": sp.sympify(reads), "writes": sp.sympify(writes)},
        options={"dtype": layer.dtype, "pattern": pattern},
        flops={key: sp.sympify(value) for key, value in flops.items() if value != 0},
        read=layer.bytes * reads * size + extra_read,
        write=layer.bytes * writes * size + extra_write,
        pram_depth=ONE + reduced,
        workspace=workspace,
    )


#: Pointwise functions: (vector FLOP, special FLOP) for each element, first principles.
POINTWISE: Mapping[str, tuple[int, int]] = {
    "relu": (1, 0),  # max(x, 0)
    "tanh": (0, 1),
    "sigmoid": (2, 1),  # 1 / (1 + exp(−x)): add, divide; exp
    "gelu": (4, 1),  # x/2 · (1 + erf(x/√2)): scale, add, two multiplies; erf
    "gelu-tanh": (8, 1),  # x³, 0.044715·x³, + x, ·√(2/π), + 1, ·x, /2; tanh
    "silu": (3, 1),  # x / (1 + exp(−x)): negate, add, divide; exp
}


def activation(layer: Layer, name: str, function: str, *, rows: sp.Expr, cols: sp.Expr, **more: Any) -> Phase:
    """Return one pointwise function over a rows × cols array: one read, one write."""
    vector, special = POINTWISE[function]
    return stream(
        layer, name, rows=rows, cols=cols, reads=1, writes=1, vector=vector, special=special, **more
    )


#: Norms: (FLOP an element forward, backward, learned vectors). First principles:
#: layer norm is mean 1, variance 3, normalise 2, affine 2; RMS norm is square and
#: sum 2, scale 1, gain 1. Backward: normalise again 2, two sums of products 4
#: (RMS one, 2), combine 3, gradients of the gains 2 (RMS 1).
NORMS: Mapping[str, tuple[int, int, int]] = {"layer": (8, 11, 2), "rms": (4, 8, 1)}


def norm(layer: Layer, kind: str, direction: str, *, rows: sp.Expr, cols: sp.Expr) -> Phase:
    """Return a norm over each row: one pass, the gains read once (backward: and their gradients written)."""
    forward, backward, vectors = NORMS[kind]
    gains = layer.bytes * vectors * cols
    if direction == "fwd":
        counts: dict[str, Any] = {"reads": 1, "writes": 1, "vector": forward, "extra_read": gains}
    else:
        counts = {"reads": 2, "writes": 1, "vector": backward, "extra_read": gains, "extra_write": gains}
    name = f"{kind} norm" if direction == "fwd" else f"{kind} norm gradient"
    op, pattern = ("layernorm", "norm") if kind == "layer" else ("rmsnorm", "rmsnorm")
    return stream(layer, name, op=op, rows=rows, cols=cols, pattern=pattern, **counts)
