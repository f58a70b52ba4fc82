"""What a memory-bound operation of torch reads and writes: the bytes of its operands and of its result.

Readers say of each operation which operands it has and how large its result is; shapes, strides and formats
are the trace's. Where these do not settle the bytes, `row` returns None, and `lacking` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from costmodel.traces import _lists, _moves, _pointwise, _sums, _windows
from costmodel.traces._events import Op
from costmodel.traces._operands import WIDTHS, Reader, is_sparse

#: Operations by the names that traces give them.
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
    """Return the columns of the row of a memory-bound operation; None if its bytes are not to be told."""
    reader = READERS.get(op.name)
    try:
        moved = reader(op) if reader else None
    except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return None  # inputs that are not those of the schema: another release's
    return moved.row() if moved else None


def lacking(op: Op) -> str:
    """Return why a memory-bound operation has no row; empty if it is none of the table."""
    return next((reason for reason, holds in _REASONS.items() if holds(op)), "")


def _sparse(op: Op) -> bool:
    """Return whether one of its inputs is a sparse tensor."""
    return any(is_sparse(op, place) for place, kind in enumerate(op.types) if kind in WIDTHS)


#: Why an operation has no row → whether that holds for it; the first that does counts.
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
