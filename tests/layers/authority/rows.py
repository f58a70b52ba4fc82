"""Passes that reduce rows (softmax and norms), counted by running them on one row."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from .counted import LEDGER, Counted, Tally, log2_ceil
from .kernels import Kernel, table
from .pointwise import (
    Row,
    layer_norm,
    layer_norm_gradient,
    rms_norm,
    rms_norm_gradient,
    softmax,
    softmax_gradient,
)


def softmax_pass(w: Any, rows: int, cols: int, direction: str, **more: Any) -> Kernel:
    """Return a softmax over rows or its gradient, counted by running it on one row."""
    cost = row_cost("softmax", direction, cols)
    return table(w, rows, cols, 1 if direction == "fwd" else 2, 1, **vars(cost), **more)


def norm_pass(w: Any, kind: str, rows: int, cols: int, direction: str) -> Kernel:
    """Return a norm that reads gain and offset once, or its gradient.

    Backward reads x, dy and the gain, and writes dx and the sums over rows.
    """
    gains = w * (2 if kind == "layer" else 1) * cols
    cost = row_cost(kind, direction, cols)
    if direction == "fwd":
        return table(w, rows, cols, 1, 1, **vars(cost), more_read=gains, by_row=True)
    # dy∘x̂ is known after normalising and one product; then follows a tree over the rows.
    across = (3 if kind == "layer" else 2) + log2_ceil(rows)
    depth = max(cost.depth, across)
    sums = table(
        w,
        rows,
        cols,
        2,
        1,
        **vars(cost) | {"depth": depth},
        more_read=w * cols,
        more_write=gains,
        by_row=True,
    )
    added = 2 if kind == "layer" else 1  # sums over rows: the gain's gradient, and the offset's
    return replace(sums, vector=sums.vector + added * rows * cols)


@cache
def row_cost(kind: str, direction: str, cols: int) -> Tally:
    """Run a function on a row; return its cost per element, without operations that occur once per row."""
    LEDGER.clear()
    xs: Row = [Counted(0.1 * (i % 7)) for i in range(cols)]
    gs: Row = [Counted(0.2)] * cols
    one = Counted(1.0)
    match kind, direction:
        case "softmax", "fwd":
            result = softmax(xs)
        case "softmax", _:
            result = softmax_gradient(xs, gs)
        case "layer", "fwd":
            result = layer_norm(xs, gs, gs)
        case "layer", _:
            result, _ = layer_norm_gradient(xs, gs, gs, one, one)
        case "rms", "fwd":
            result = rms_norm(xs, gs)
        case _:
            result, _ = rms_norm_gradient(xs, gs, gs, one)
    # Operations per element are whole numbers; the rest is a constant per row.
    constant = {"layer": 3 if direction == "fwd" else 2, "rms": 2 if direction == "fwd" else 1}.get(kind, 0)
    root = 1 if direction == "fwd" and kind != "softmax" else 0
    vector, rest = divmod(LEDGER["vector"] - constant, cols)
    special, more = divmod(LEDGER["special"] - root, cols)
    assert rest == more == 0, "every element costs the same"
    return Tally(vector, special, max(x.depth for x in result))
