"""Copies, fills, look-ups and updates by index: the bytes that they move, whatever the indices are.

A trace records the shapes of indices, not their values. All may be equal, so a look-up is only sure to read
the indices, and everything written may go to one row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from costmodel.traces._events import Op
from costmodel.traces._operands import (
    WIDTHS,
    Moved,
    Operand,
    Reader,
    both,
    computes,
    format_of,
    is_tensor,
    least,
    operand,
)


def _copy(op: Op) -> Moved | None:
    """Return what a copy on one device moves; it may change the format or the order of dimensions."""
    if op.leaves_device:
        return None
    to, source = operand(op, 0), operand(op, 1)
    kind = "copy" if to.kind == source.kind else "cast"
    return Moved(kind, format_of([to, source]), to.shape, source.bytes, to.bytes, source.bytes)


def _fill(op: Op) -> Moved:
    """Return what a fill writes; it reads nothing."""
    to = operand(op, 0)
    return Moved("fill", format_of([to]), to.shape, 0, to.bytes, 0)


def _drawn(op: Op) -> Moved | None:
    """Return what random numbers write on a GPU; a CPU draws them one by one, which limits it instead."""
    return _fill(op) if op.kernels and not is_tensor(op, 1) else None


# -- reading at indices ------------------------------------------------------------------------


def _gather(index: int, shape: Callable[[Op, Operand, Operand], tuple[int, ...]], op: Op) -> Moved:
    """Return what a look-up moves: it reads the indices and each returned element, and writes the latter."""
    table, indices = operand(op, 0), operand(op, index)
    found = shape(op, table, indices)
    taken = math.prod(found) * WIDTHS[table.kind]
    return Moved("gather", format_of([table]), found, taken + indices.bytes, taken, indices.bytes)


def _selected(op: Op, table: Operand, indices: Operand) -> tuple[int, ...]:
    """Return the shape of the result of ``index_select``, which takes `indices` along one dimension."""
    sides = list(table.shape)
    sides[int(op.values[1])] = math.prod(indices.shape)
    return tuple(sides)


def _indexed(op: Op) -> Moved | None:
    """Return what ``a[i]`` moves; its result is what it allocates, as indices are not recorded."""
    taken, table = op.allocated, operand(op, 0)
    if op.kernels or not taken:
        return None
    count, last = taken // WIDTHS[table.kind], table.shape[-1]
    shape = (count // last, last) if count % last == 0 else (count,)
    return Moved("gather", format_of([table]), shape, taken, taken, 0)


def _bags(op: Op) -> Moved:
    """Return what an embedding bag moves: it reads indices, offsets and a row per index, and writes sums."""
    table, indices, offsets = (operand(op, place) for place in range(3))
    row = table.shape[-1] * WIDTHS[table.kind]
    bags = math.prod(offsets.shape) - (op.values[7] == "True")
    read = math.prod(indices.shape) * row + indices.bytes + offsets.bytes
    shape = (math.prod(indices.shape), table.shape[-1])
    return Moved("gather", format_of([table]), shape, read, bags * row, least([indices, offsets]))


# -- writing at indices ------------------------------------------------------------------------


def _embedding_gradient(op: Op) -> Moved:
    """Return what the gradient of an embedding moves: it reads rows and indices, and writes a new table."""
    rows, indices = operand(op, 0), operand(op, 1)
    written = int(op.values[2]) * rows.shape[-1] * WIDTHS[rows.kind]
    read = rows.bytes + indices.bytes
    return Moved("scatter-add", format_of([rows]), rows.shape, read, written, read)


def _bags_gradient(op: Op) -> Moved:
    """Return what the gradient of an embedding bag moves: a row per index, and a new table."""
    sums, indices = operand(op, 0), operand(op, 1)
    row, count = sums.shape[-1] * WIDTHS[sums.kind], math.prod(indices.shape)
    written = int(op.values[5]) * row
    read = count * row + indices.bytes
    return Moved("scatter", format_of([sums]), (count, sums.shape[-1]), read, written, indices.bytes)


def _into(kind: str, index: int | None, source: int, op: Op) -> Moved:
    """Return what a write or an addition at indices of a table moves.

    Parameters
    ----------
    kind : str
        ``scatter`` or ``scatter-add``.
    index : int or None
        Input with the indices, one per element written (``scatter``); None if the trace does not have it.
    source : int
        Input with the values to write: a tensor or a number.
    op : Op
        The call, which updates its table in place, or else a copy of it.
    """
    table = operand(op, 0)
    given = [operand(op, place) for place in (index, source) if place is not None and is_tensor(op, place)]
    count = math.prod(given[0].shape)
    moved = count * WIDTHS[table.kind]
    adds = kind == "scatter-add"
    # Of a source with more elements than there are indices, only a part is read.
    needed = [each for each in given if math.prod(each.shape) == count]
    read = sum(each.bytes for each in given[:1]) + (moved if len(given) > 1 else 0) + adds * moved
    kind = computes(kind, [table]) if adds else kind
    if op.name.endswith("_"):
        return Moved(kind, format_of([table]), given[0].shape, read, moved, least(needed), False, 0)
    whole = math.prod(table.shape) * WIDTHS[table.kind]
    read += table.bytes
    return Moved(kind, format_of([table]), given[0].shape, read, whole + moved, least(needed), False, whole)


def _along(kind: str, op: Op) -> Moved | None:
    """Return what a write or an addition of slices along one dimension moves (``index_add_``)."""
    places, slices = operand(op, 2), operand(op, 3)
    found = _into(kind, None, 3, op)
    return replace(found, read=found.read + places.bytes, least=least([places, slices]))


def _put(op: Op) -> Moved | None:
    """Return what ``a[i] = b`` or ``+=`` moves; `b` must be as large as what it replaces, not broadcast."""
    values = operand(op, 2)
    if not values.shape or 1 in values.shape:
        return None
    return _into("scatter-add" if op.values[3] == "True" else "scatter", None, 2, op)


def _bucketed(op: Op) -> Moved:
    """Return what a search in sorted boundaries moves: it reads the table and writes an index per element."""
    x = operand(op, 0)
    width = 4 if op.values[2] == "True" else 8
    return Moved("integer", format_of([x]), x.shape, x.bytes, math.prod(x.shape) * width, x.bytes)


DRAWN = tuple(f"aten::{name}" for name in ("bernoulli_", "exponential_", "normal_", "uniform_", "random_"))
READERS: Mapping[str, Reader] = {
    "aten::copy_": _copy,
    "aten::fill_": _fill,
    "aten::zero_": _fill,
    **dict.fromkeys(DRAWN, _drawn),
    "aten::embedding": partial(_gather, 1, lambda _, table, indices: (*indices.shape, table.shape[-1])),
    "aten::index_select": partial(_gather, 2, _selected),
    "aten::gather": partial(_gather, 2, lambda _, __, indices: indices.shape),
    "aten::index": _indexed,
    "aten::_embedding_bag": _bags,
    "aten::_embedding_bag_forward_only": _bags,
    "aten::embedding_dense_backward": _embedding_gradient,
    "aten::_embedding_bag_dense_backward": _bags_gradient,
    **both(("scatter",), partial(_into, "scatter", 2, 3)),
    **both(("scatter_add", "scatter_reduce"), partial(_into, "scatter-add", 2, 3)),
    **both(("index_copy",), partial(_along, "scatter")),
    **both(("index_add",), partial(_along, "scatter-add")),
    "aten::_index_put_impl_": _put,
    "aten::index_put_": _put,
    "aten::bucketize": _bucketed,
}
