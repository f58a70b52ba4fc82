"""Reductions and losses: the bytes that they move."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

from costmodel.traces._events import Op
from costmodel.traces._operands import (
    DTYPES,
    NUMBERED,
    WIDTHS,
    Moved,
    Reader,
    computes,
    format_of,
    is_tensor,
    least,
    numbers,
    operand,
)
from costmodel.traces._pointwise import broadcast, pointwise, promoted


def _sum(dims: int, dtype: int | None, result: str, op: Op) -> Moved | None:
    """Return what a sum or a maximum over some dimensions moves.

    Parameters
    ----------
    dims : int
        Input with the dimensions; if it has none, all are reduced.
    dtype : int or None
        Input with the format of the result; default: that of the first input, 64 bits for sums of integers.
    result : str
        ``float``, ``sum`` (floating-point or integer), ``same`` (an extreme), ``bool``, ``index`` (of a
        maximum), ``both`` a maximum and its index, or ``two`` extremes.
    op : Op
        The call.
    """
    x = operand(op, 0)
    if dtype is not None and len(op.values) == 2:  # (self, dtype)
        dims, dtype = 2, 1
    along = numbers(op, dims)
    over = along or range(len(x.shape))
    sums = math.prod(x.shape) // math.prod(x.shape[side] for side in over)
    made = x.kind
    if dtype is not None and dtype < len(op.values) and op.values[dtype]:
        made = NUMBERED[op.values[dtype]]
    elif result == "sum" and made not in DTYPES:
        made = "long"
    if result == "float" and made not in DTYPES:
        return None
    widths = {"bool": 1, "index": 8, "both": WIDTHS[made] + 8 * bool(along), "two": 2 * WIDTHS[made]}
    number = widths.get(result, WIDTHS[made])
    return Moved(computes("sum", [x]), format_of([x]), x.shape, x.bytes, sums * number, x.bytes)


def _largest(op: Op) -> Moved | None:
    """Return what ``max`` or ``min`` moves: of two tensors, along one dimension with indices, or of all."""
    if is_tensor(op, 1):
        return pointwise("arithmetic", 2, "same", op)
    return _sum(1, None, "both", op)


def _scanned(op: Op) -> Moved | None:
    """Return what a cumulative sum moves; one of integers has 64 bits."""
    x = operand(op, 0)
    if len(op.values) > 2 and op.values[2]:
        return None
    written = math.prod(x.shape) * (WIDTHS[x.kind] if x.kind in DTYPES else 8)
    return Moved(computes("sum", [x]), format_of([x]), x.shape, x.bytes, written, x.bytes)


def _difference(op: Op) -> Moved:
    """Return what a loss of differences moves: it reads both tensors, and writes each loss or their sum."""
    read = [operand(op, place) for place in range(2)]
    shape, width = broadcast(read), WIDTHS[promoted(read)]
    written = width * (math.prod(shape) if op.values[2] == "0" else 1)
    return Moved("sum", format_of(read), shape, sum(each.bytes for each in read), written, least(read))


def _loss(op: Op) -> Moved:
    """Return what a loss of chosen scores moves: a number and its place per row in, their mean out."""
    scores, chosen = operand(op, 0), operand(op, 1)
    number = WIDTHS[scores.kind]
    rows = math.prod(chosen.shape)
    written = (rows if op.values[3] == "0" else 1) * number
    read = chosen.bytes + rows * number
    return Moved("gather", format_of([scores]), chosen.shape, read, written, chosen.bytes)


def _loss_gradient(op: Op) -> Moved:
    """Return what the gradient of a loss of chosen scores writes: zeros, and one number per row."""
    scores, chosen = operand(op, 1), operand(op, 2)
    written = math.prod(scores.shape) * WIDTHS[scores.kind]
    return Moved("copy", format_of([scores]), scores.shape, chosen.bytes, written, chosen.bytes)


READERS: Mapping[str, Reader] = {
    **{f"aten::nll_loss{size}_forward": _loss for size in ("", "2d")},
    **{f"aten::nll_loss{size}_backward": _loss_gradient for size in ("", "2d")},
    **{f"aten::{name}": _difference for name in ("mse_loss", "smooth_l1_loss", "huber_loss")},
    "aten::sum": partial(_sum, 1, 3, "sum"),
    "aten::mean": partial(_sum, 1, 3, "float"),
    "aten::prod": partial(_sum, 1, 3, "sum"),
    "aten::linalg_vector_norm": partial(_sum, 2, 4, "float"),
    "aten::var": partial(_sum, 1, None, "float"),
    "aten::std": partial(_sum, 1, None, "float"),
    "aten::amax": partial(_sum, 1, None, "same"),
    "aten::amin": partial(_sum, 1, None, "same"),
    "aten::aminmax": partial(_sum, 1, None, "two"),
    "aten::argmax": partial(_sum, 1, None, "index"),
    "aten::argmin": partial(_sum, 1, None, "index"),
    "aten::max": _largest,
    "aten::min": _largest,
    "aten::any": partial(_sum, 1, None, "bool"),
    "aten::all": partial(_sum, 1, None, "bool"),
    "aten::cumsum": _scanned,
}
