"""The tensors among an operation's inputs, and the bytes that a memory-bound operation moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from costmodel.measured import PASSES
from costmodel.traces._events import Op

#: Format by a trace's name of the element type.
DTYPES = {
    "float": "fp32",
    "double": "fp64",
    "c10::BFloat16": "bf16",
    "c10::Half": "fp16",
    "c10::Float8_e4m3fn": "fp8",
    "c10::Float8_e5m2": "fp8",
}
#: Size of an element by its type [bytes]; compilers have several names for integers.
WIDTHS = {
    **dict.fromkeys(("bool", "signed char", "unsigned char", "c10::Float8_e4m3fn", "c10::Float8_e5m2"), 1),
    **dict.fromkeys(("short", "short int", "short unsigned int", "c10::Half", "c10::BFloat16"), 2),
    **dict.fromkeys(("int", "unsigned int", "float"), 4),
    **dict.fromkeys(("long", "long int", "long long", "__int64", "double"), 8),
}
#: Number of a format in an operation's arguments (``c10/core/ScalarType.h``) → type.
NUMBERED = {
    **{"0": "unsigned char", "1": "signed char", "2": "short", "3": "int", "4": "long", "11": "bool"},
    **{"5": "c10::Half", "6": "float", "7": "double", "15": "c10::BFloat16"},
}
#: Pass → the operation of its rows.
_ROWS_OF = {op: name for name, op in PASSES.items()}
#: Format that stands for all of one width, where only that is known and data is only moved.
OF_WIDTH = {1: "int8", 2: "fp16", 4: "fp32", 8: "fp64"}


@dataclass(frozen=True)
class Operand:
    """A tensor among an operation's inputs: its shape, element type and distinct elements in memory."""

    shape: tuple[int, ...]
    kind: str
    elements: int

    @property
    def bytes(self) -> int:
        """Size in memory [bytes]."""
        return self.elements * WIDTHS[self.kind]


@dataclass(frozen=True)
class Moved:
    """The bytes that an operation moves.

    Attributes
    ----------
    op : str
        The kind of pass: an operation of ``costmodel.layers.memory_pass``.
    dtype : str
        The widest floating-point format; for integers, which are only moved, a format of their width.
    shape : tuple of int
        The table over which it passes.
    read, written : int
        Bytes read and written.
    least : int
        Bytes read at least: operands may be the same tensor (``x * x``), and gathered rows the same row.
    in_place : bool
        Whether the result replaces part of what is read.
    least_written : int or None
        Bytes written at least, if fewer than `written`: rows may all be added to the same row.
    """

    op: str
    dtype: str
    shape: tuple[int, ...]
    read: int
    written: int
    least: int
    in_place: bool = False
    least_written: int | None = None

    def row(self) -> dict[str, Any]:
        """Return the columns of its row in a measured table."""
        table = {"m": math.prod(self.shape[:-1]), "n": self.shape[-1] if self.shape else 1}
        moved = {"written_bytes": self.written, "in_place": self.in_place}
        if self.read:
            # Sizes are at least 1; each of these operations reads and writes something.
            moved |= {"read_bytes": self.read, "least_bytes": max(self.least, 1)}
        if self.least_written is not None:
            moved |= {"least_written_bytes": max(self.least_written, 1)}
        return {"op": _ROWS_OF[self.op], "dtype": self.dtype, **table, **moved}


Reader = Callable[[Op], Moved | None]


def is_tensor(op: Op, place: int) -> bool:
    """Return whether an input is a tensor of numbers."""
    return place < len(op.types) and op.types[place] in WIDTHS


def operand(op: Op, place: int) -> Operand:
    """Return an input, which must be a dense tensor with at least one element."""
    shape = tuple(int(side) for side in op.inputs[place])
    kind = op.types[place]
    if kind not in WIDTHS or 0 in shape or is_sparse(op, place):
        raise ValueError(f"input {place} of {op.name} is no dense tensor with elements")
    strides = op.strides[place] if place < len(op.strides) else ()
    return Operand(shape, kind, _elements(shape, strides))


def is_sparse(op: Op, place: int) -> bool:
    """Return whether an input is sparse: it has a shape but no strides, in a trace that has strides."""
    return place < len(op.strides) and len(op.strides[place]) < len(op.inputs[place])


def _elements(shape: tuple[int, ...], strides: Iterable[Any]) -> int:
    """Return the elements of memory that a tensor covers: views may repeat elements, or overlap."""
    steps = [int(step) for step in strides]
    if len(steps) != len(shape):
        return math.prod(shape)
    distinct = math.prod(side for side, step in zip(shape, steps, strict=True) if step)
    return min(distinct, 1 + sum((side - 1) * step for side, step in zip(shape, steps, strict=True)))


def format_of(operands: Iterable[Operand]) -> str:
    """Return the widest floating-point format of some operands; without one, a format of their width."""
    kinds = {each.kind for each in operands}
    floats = [kind for kind in kinds if kind in DTYPES]
    if floats:
        return DTYPES[max(floats, key=lambda kind: (WIDTHS[kind], kind))]
    return OF_WIDTH[max(WIDTHS[kind] for kind in kinds)]


def computes(kind: str, operands: Iterable[Operand]) -> str:
    """Return the kind of pass; ``integer`` instead if no operand is floating-point."""
    return kind if any(each.kind in DTYPES for each in operands) else "integer"


def least(operands: Iterable[Operand]) -> int:
    """Return the bytes read at least: tensors of one type may be the same tensor, or parts of one."""
    largest: dict[str, int] = {}
    for each in operands:
        largest[each.kind] = max(largest.get(each.kind, 0), each.bytes)
    return sum(largest.values())


def numbers(op: Op, place: int) -> list[int]:
    """Return an input that is a list of integers; empty if it is none."""
    said = op.values[place].strip("[]") if place < len(op.values) else ""
    return [int(one) for one in said.split(",")] if said else []


def per_side(op: Op, place: int, sides: int, unsaid: list[int] | None = None) -> list[int]:
    """Return one integer per dimension; a single one applies to all, `unsaid` stands for none."""
    found = numbers(op, place) or unsaid or []
    return found * sides if len(found) == 1 else found


def both(names: Iterable[str], reader: Reader) -> dict[str, Reader]:
    """Return the reader of some operations and of their in-place variants, by name."""
    return {f"aten::{name}{ending}": reader for name in names for ending in ("", "_")}
