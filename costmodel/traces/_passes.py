"""Memory-bound operations of torch: the bytes of their operands and results.

A reader knows an operation's operands and the size of its result; shapes, strides and formats come from the
trace. If these do not determine the bytes, `row` returns None, and `lacking` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from costmodel.traces import _lists, _moves, _pointwise, _sums, _windows
from costmodel.traces._events import Op
from costmodel.traces._operands import WIDTHS, Reader, is_sparse

#: Readers by torch's name of the operation.
READERS: Mapping[str, Reader] = {
    **_pointwise.READERS,
    **_sums.READERS,
    **_moves.READERS,
    **_windows.READERS,
    **_lists.READERS,
}
#: Look-ups by tensors of indices.
_INDEXED = frozenset(("aten::index", "aten::index_put_", "aten::_index_put_impl_"))
#: Operations whose work depends on the values.
_BY_VALUE = frozenset(
    f"aten::{name}"
    for name in (
        "sort",
        "argsort",
        "topk",
        "kthvalue",
        "median",
        "unique_dim",
        "_unique2",
        "nonzero",
        "bincount",
    )
)
_DRAWN = frozenset((*_moves.DRAWN, "aten::multinomial", "aten::randperm"))


def row(op: Op) -> dict[str, Any] | None:
    """Return the columns of the row of a memory-bound operation; None if its bytes are not known."""
    reader = READERS.get(op.name)
    try:
        moved = reader(op) if reader else None
    except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return None  # inputs of another release's schema
    return moved.row() if moved else None


def lacking(op: Op) -> str:
    """Return why a memory-bound operation has no row; empty if there is no known reason."""
    return next((reason for reason, holds in _REASONS.items() if holds(op)), "")


def _sparse(op: Op) -> bool:
    """Return whether one of its inputs is a sparse tensor."""
    return any(is_sparse(op, place) for place, kind in enumerate(op.types) if kind in WIDTHS)


#: Reason why an operation has no row → whether it applies; the first that applies counts.
_REASONS: Mapping[str, Callable[[Op], bool]] = {
    "a trace does not record how many elements a sparse tensor holds": _sparse,
    "a trace does not record the formats of tensors in a list; with profile_memory=True the memory that a "
    "concatenation allocates tells them": lambda op: op.name == "aten::cat" and not op.kernels,
    "a trace does not record the formats of tensors in a list, nor the shapes of a long one": (
        lambda op: op.name in _lists.READERS or op.name.startswith("aten::_foreach_")
    ),
    "a trace does not record the tensors of indices of a[i]; with profile_memory=True the memory that it "
    "allocates tells the size of its result": lambda op: op.name in _INDEXED,
    "a CPU draws random numbers one after another, which no layer describes": (
        lambda op: op.name in _DRAWN and not op.kernels
    ),
    "how often a sort or a selection passes over its input depends on the values": (
        lambda op: op.name in _BY_VALUE
    ),
}
