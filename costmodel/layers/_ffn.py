"""Feed-forward kernels: products around an activation, with one set of weights or one per expert."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase
from costmodel.layers._base import Layer
from costmodel.layers._kernels import (
    GATED_GRADIENT,
    POINTWISE_GRADIENT,
    RESULT_GRADIENT,
    activation,
    gated,
    gradient_sum,
    gradients,
    measured_gated,
    stream,
)
from costmodel.layers._stored import StoredWeights


class Shape(NamedTuple):
    """The sizes of a feed-forward layer: rows per set of weights, widths, number of sets of weights."""

    rows: sp.Expr
    width: sp.Expr
    inner: sp.Expr
    sets: sp.Expr = ONE


class Form(NamedTuple):
    """The variant of a feed-forward layer: activation, gated or not, one fused up product or two."""

    function: str
    gated: bool = False
    fused: bool = True


def parameters(shape: Shape, form: Form) -> sp.Expr:
    """Return the number of parameters of one set of weights."""
    return (3 if form.gated else 2) * shape.width * shape.inner


def held(layer: StoredWeights, shape: Shape, form: Form) -> sp.Expr:
    """Return the size of one set of weights as stored [bytes]."""
    up, down = layer.held(shape.width, shape.inner), layer.held(shape.inner, shape.width)
    return (2 if form.gated else 1) * up + down


def kept(layer: Layer, shape: Shape, form: Form) -> sp.Expr:
    """Return the size of the tables between the products that backward needs [bytes]."""
    return layer.bytes * shape.sets * shape.rows * tables_kept(form) * shape.inner


def tables_kept(form: Form) -> int:
    """Return the number of inner tables kept: the activation's inputs (both parts) and its output.

    The input is not kept if the gradient follows from the output, which the down projection keeps anyway.
    """
    before = 2 if form.gated else int(form.function not in RESULT_GRADIENT)
    return before + 1


def _ups(shape: Shape, form: Form) -> Iterator[tuple[str, sp.Expr]]:
    """Yield the name and number of columns of each product before the activation."""
    if not form.gated:
        yield "up projection", shape.inner
    elif form.fused:
        yield "gate and up projection", 2 * shape.inner
    else:
        yield from (("gate projection", shape.inner), ("up projection", shape.inner))


def forward(layer: StoredWeights, shape: Shape, form: Form) -> tuple[Phase, ...]:
    """Return the up products, the activation and the down product."""
    rows, width, inner, sets = shape
    unit = layer.bytes * sets * rows
    ups = (
        replace(layer.product(name, batch=sets, m=rows, n=cols, k=width, workspace=unit * cols), beside=i > 0)
        for i, (name, cols) in enumerate(_ups(shape, form))
    )
    act = _activation(layer, form, rows=sets * rows, cols=inner, workspace=unit * inner)
    return (*ups, act, layer.product("down projection", batch=sets, m=rows, n=width, k=inner))


def _activation(layer: Layer, form: Form, *, rows: sp.Expr, cols: sp.Expr, workspace: sp.Expr) -> Phase:
    """Return the activation kernel: f(a), or f(a)·b for a gated layer."""
    if not form.gated:
        return activation(layer, form.function, form.function, rows=rows, cols=cols, workspace=workspace)
    return stream(
        layer,
        f"{form.function} and product",
        rows=rows,
        cols=cols,
        reads=2,
        writes=1,
        workspace=workspace,
        **measured_gated(form.function),
        **gated(form.function)._asdict(),
    )


def backward(layer: Layer, shape: Shape, form: Form) -> tuple[Phase, ...]:
    """Return two products for each forward product, and the activation's gradient between them."""
    rows, width, inner, sets = shape
    unit = layer.bytes * sets * rows
    made = {"rows": rows, "batch": sets}
    down = gradients(layer, "down projection", **made, inner=inner, outer=width, workspace=unit * inner)
    parts = 2 if form.gated else 1
    alone = {**POINTWISE_GRADIENT, **RESULT_GRADIENT}
    counts = (GATED_GRADIENT if form.gated else alone)[form.function]._asdict()
    derivative = stream(
        layer,
        f"{form.function} and product gradient" if form.gated else f"{form.function} gradient",
        rows=sets * rows,
        cols=inner,
        reads=parts + 1,
        writes=parts,
        workspace=unit * parts * inner,
        **counts,
    )
    ups, found = list(_ups(shape, form)), list[Phase]()
    for i, (name, cols) in enumerate(ups):
        partial = unit * width if i + 1 < len(ups) else ZERO
        found += gradients(layer, name, **made, inner=width, outer=cols, workspace=partial)
    if len(ups) > 1:
        found.append(gradient_sum(layer, rows=sets * rows, cols=width))
    return (*down, derivative, *found)
