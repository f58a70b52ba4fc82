"""The records of a trace: operations, operands, what is kept. Plain data, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy as sp

#: torch's number formats and their names here.
FORMATS: Mapping[str, str] = {
    "float64": "fp64",
    "float32": "fp32",
    "bfloat16": "bf16",
    "float16": "fp16",
    "float8_e4m3fn": "fp8",
    "float8_e5m2": "fp8",
    "int8": "int8",
}
#: Size of an element of every torch format that a module may use [bytes].
WIDTHS: Mapping[str, int] = {
    **dict.fromkeys(("bool", "uint8", "int8", "float8_e4m3fn", "float8_e5m2"), 1),
    **dict.fromkeys(("bfloat16", "float16", "int16", "uint16"), 2),
    **dict.fromkeys(("float32", "int32", "uint32"), 4),
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 8),
    "complex128": 16,
}


@dataclass(frozen=True)
class Piece:
    """A part of a storage, from some element on: what a view reads.

    Attributes
    ----------
    storage : int
        Identifier of the memory.
    start : Expr
        Place of the view's first element in it.
    held : Expr
        Size of the whole storage [bytes].
    """

    storage: int
    start: sp.Expr
    held: sp.Expr = field(compare=False)


@dataclass(frozen=True)
class Operand:
    """A tensor that an operation reads or writes.

    Attributes
    ----------
    storage : int
        Identifier of its memory; views share it.
    shape : tuple of Expr
        Its sizes.
    elements : Expr
        Number of distinct elements: an expanded dimension counts once.
    dtype : str
        torch's name of its format.
    start : Expr
        Place of its first element in its memory.
    held : Expr
        Size of that memory [bytes].
    """

    storage: int
    shape: tuple[sp.Expr, ...]
    elements: sp.Expr
    dtype: str
    start: sp.Expr
    held: sp.Expr

    @property
    def piece(self) -> Piece:
        """The part of its memory that it is."""
        return Piece(self.storage, self.start, self.held)

    @property
    def numel(self) -> sp.Expr:
        """Number of elements, with expanded dimensions counted in full."""
        return sp.Mul(*self.shape)

    @property
    def bytes(self) -> sp.Expr:
        """Size of its distinct elements [bytes]."""
        return self.elements * WIDTHS[self.dtype]

    @property
    def is_float(self) -> bool:
        """Whether gradients may flow through it."""
        return self.dtype in FORMATS and self.dtype != "int8"


@dataclass(frozen=True, eq=False)
class Call:
    """One operation that ran.

    Attributes
    ----------
    op : str
        Its name in aten, without overload and trailing underscore (``addmm``, ``add``), or of a
        composite operation: ``attention``, ``recurrent``.
    module : str
        Path of the module that ran it.
    backward : bool
        Whether it ran in the backward pass.
    args, kwargs : tuple, mapping
        Its arguments, with operands for tensors.
    outputs : tuple of Operand
        Its results.
    mutated : tuple of Operand
        Arguments that it modifies.
    pointwise : bool
        Whether each element of the result depends on one element of each operand.
    reduction : bool
        Whether it reduces dimensions of its operand.
    counted : Expr or None
        FLOP that ``torch.utils.flop_counter`` counts for it; None where it counts nothing.
    place : int
        Its position among all operations.
    """

    op: str
    module: str
    backward: bool
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Operand, ...]
    mutated: tuple[Operand, ...] = ()
    pointwise: bool = False
    reduction: bool = False
    counted: sp.Expr | None = None
    place: int = 0

    @property
    def tensors(self) -> tuple[Operand, ...]:
        """All tensors among its arguments."""
        return tuple(leaves((self.args, tuple(self.kwargs.values()))))

    @property
    def operands(self) -> tuple[Operand, ...]:
        """All tensors among its arguments; of several views of one storage, the first."""
        return distinct(self.tensors)

    @property
    def pieces(self) -> dict[Piece, sp.Expr]:
        """What its arguments read, each part of a storage once [bytes]."""
        return {operand.piece: operand.bytes for operand in reversed(self.tensors)}

    @property
    def written(self) -> tuple[Operand, ...]:
        """All tensors that it writes; of several views of one storage, the first."""
        return distinct((*self.mutated, *self.outputs))


def distinct(operands: Iterable[Operand]) -> tuple[Operand, ...]:
    """Return operands with distinct storages; of several views of one storage, the first."""
    found: dict[int, Operand] = {}
    for operand in operands:
        found.setdefault(operand.storage, operand)
    return tuple(found.values())


def union(counts: Iterable[tuple[Piece, sp.Expr]]) -> dict[int, sp.Expr]:
    """Return the bytes of views together, by storage.

    Views from the same element on are parts of the largest. Others are taken not to overlap, as the two
    halves of a table, but not to be more than the storage.
    """
    found: dict[int, dict[Piece, list[sp.Expr]]] = {}
    for piece, count in counts:
        found.setdefault(piece.storage, {}).setdefault(piece, []).append(count)
    return {storage: _together(parts) for storage, parts in found.items()}


def _together(parts: Mapping[Piece, list[sp.Expr]]) -> sp.Expr:
    largest = [sp.Max(*dict.fromkeys(several)) for several in parts.values()]
    if len(largest) == 1:
        return largest[0]
    return sp.Min(sp.expand(sp.Add(*largest)), next(iter(parts)).held)


def leaves(tree: Any) -> Iterator[Operand]:
    """Yield the operands in nested tuples and lists."""
    if isinstance(tree, Operand):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for branch in tree:
            yield from leaves(branch)


@dataclass
class Trace:
    """A module's trace, forward and backward.

    Attributes
    ----------
    calls : list of Call
        Operations in the order they ran.
    weights : dict of int to Operand
        Parameters and buffers, by storage.
    parameters, trained : set of int
        Storages of the parameters, and of those that have gradients.
    inputs, outputs : tuple of Operand
        The module's inputs and results.
    gradients : tuple of Operand
        Inputs that have gradients.
    made : dict of int to Operand
        Gradients in memory after the backward pass, by storage.
    kept : dict of int to Expr
        What autograd saved for backward, without weights, by storage [bytes].
    assumed : list of str
        What was assumed where the module's control flow depends on data or on a size.
    bounds : list of (Boolean, str)
        Conditions on the sizes that the module's code checked, and where.
    settled : dict of Symbol to Expr
        Sizes that turned out to be fixed, or equal to another.
    example : dict of Symbol to int
        The sizes of the example inputs.
    """

    calls: list[Call] = field(default_factory=list)
    weights: dict[int, Operand] = field(default_factory=dict)
    parameters: set[int] = field(default_factory=set)
    trained: set[int] = field(default_factory=set)
    inputs: tuple[Operand, ...] = ()
    outputs: tuple[Operand, ...] = ()
    gradients: tuple[Operand, ...] = ()
    made: dict[int, Operand] = field(default_factory=dict)
    kept: dict[int, sp.Expr] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    bounds: list[tuple[Any, str]] = field(default_factory=list)
    settled: dict[sp.Symbol, sp.Expr] = field(default_factory=dict)
    example: dict[sp.Symbol, int] = field(default_factory=dict)

    @property
    def lasting(self) -> set[int]:
        """Storages that persist after the pass that wrote them, whether or not anything reads them."""
        return {*self.weights, *self.kept, *(o.storage for o in (*self.inputs, *self.outputs))}

    def settle(self, expression: sp.Expr) -> sp.Expr:
        """Return an expression in the sizes that are still open."""
        return expression.xreplace(self.settled) if self.settled else expression
