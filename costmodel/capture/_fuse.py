"""Fusion: which memory-bound operations run as one kernel.

With ``eager`` and ``flash``, none are fused. ``compile`` follows Inductor's treatment of pointwise
operations, reductions and norms. Going through the operations in order, each joins the latest kernel that
produced one of its operands, and also merges that kernel with the others that did, if

- both pass over the same number of elements; or the operation passes over as many as a row reduction in
  that kernel has left; or that kernel is pointwise only, and smaller (a broadcast, which is recomputed in
  place);
- no other operand comes from a kernel that has to wait for that kernel;
- the operation does not read a sum over columns from that kernel, which is ready only at its end.

Generated values (zeros, a range of positions) are computed where they are read, unless a product
reads them. A fused kernel reads its outside operands once, and writes the results that are used outside.
Products and convolutions are separate kernels: nothing is fused into their epilogue. The values kept
for backward are those that autograd keeps: Inductor recomputes some of them instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import sympy as sp

from costmodel.capture._parts import CapturedPart, Example, size_of
from costmodel.capture._passes import Memory
from costmodel.capture._records import Call, Piece, union

FUSION = ("eager", "flash", "compile")


@dataclass(eq=False)
class Unit:
    """A kernel: a product, or memory-bound operations that run as one."""

    place: int  # of its first operation
    calls: list[Call]
    parts: list[CapturedPart] = field(default_factory=list)
    members: list[Memory] = field(default_factory=list)
    needs: set[Unit] = field(default_factory=set)
    late: set[int] = field(default_factory=set)  # storages that are complete only at the kernel's end
    tables: set[sp.Expr] = field(default_factory=set)

    @property
    def pointwise(self) -> bool:
        """Whether no member reduces or moves anything."""
        return all(one.kind in ("pointwise", "creation") for one in self.members)

    def after(self, other: Unit) -> bool:
        """Return whether this kernel has to wait for another, directly or indirectly."""
        seen, waiting = set(), [self]
        while waiting:
            unit = waiting.pop()
            for before in unit.needs:
                if before is other:
                    return True
                if before not in seen:
                    seen.add(before)
                    waiting.append(before)
        return False


def units(
    calls: Iterable[tuple[Call, list[CapturedPart], Memory | None]], *, fuse: bool, example: Example
) -> list[Unit]:
    """Return the kernels that run, in the order in which they were begun.

    Parameters
    ----------
    calls : iterable of (Call, parts, Memory or None)
        The operations of one direction: products with their parts, or the traffic of memory-bound ones.
    fuse : bool
        Whether memory-bound operations are fused, by the rule above.
    example : mapping
        Example sizes, for comparing the sizes of tables.
    """
    found: list[Unit] = []
    maker: dict[int, Unit] = {}
    for call, parts, what in calls:
        makers = {maker[o.storage] for o in call.operands if o.storage in maker}
        homes = _homes(what, makers, example) if fuse and what is not None else []
        if homes:
            home = homes[0]
        else:
            home = Unit(call.place, [], parts)
            found.append(home)
        for other in homes[1:]:
            _merge(home, other, found, maker)
        home.calls.append(call)
        home.needs |= makers.difference(homes)
        if what is not None:
            _join(home, what)
        for operand in call.written:
            maker[operand.storage] = home
    return found


def _merge(home: Unit, other: Unit, found: list[Unit], maker: dict[int, Unit]) -> None:
    """Merge another kernel into a kernel; neither waits for the other."""
    home.calls += other.calls
    home.members = sorted([*home.members, *other.members], key=lambda one: one.call.place)
    home.tables |= other.tables
    home.late |= other.late
    home.needs |= other.needs
    for unit in found:
        if other in unit.needs:
            unit.needs = (unit.needs - {other}) | {home}
    for storage in [s for s, unit in maker.items() if unit is other]:
        maker[storage] = home
    found.remove(other)


def _join(unit: Unit, what: Memory) -> None:
    unit.members.append(what)
    unit.tables.add(what.table.numel)
    if what.reduced is not None:
        if what.by_rows:
            unit.tables.add(what.reduced.numel)
        else:
            unit.late.add(what.reduced.storage)
    if what.call.op.endswith("_norm_backward"):
        unit.late |= {operand.storage for operand in what.call.outputs[1:]}  # gradients of gain and offset


def _homes(what: Memory, makers: set[Unit], example: Example) -> list[Unit]:
    """Return the kernels that an operation may join, the latest first; none waits for another."""
    if what.kind == "scatter":
        return []  # adds at positions given by indices
    found = []
    for unit in sorted(makers, key=lambda unit: -unit.place):
        if all(one.kind == "scatter" for one in unit.members):
            continue  # a product, or a scatter
        numel = what.table.numel
        smaller = unit.pointwise and all(
            size_of(table, example) <= size_of(numel, example) for table in unit.tables
        )
        from_late = any(operand.storage in unit.late for operand in what.call.operands)
        waited_for = any(other.after(unit) for other in makers)
        if (numel in unit.tables or smaller) and not from_late and not waited_for:
            found.append(unit)
    return found


def traffic(unit: Unit, outside: set[int], inlined: set[int]) -> tuple[sp.Expr, sp.Expr]:
    """Return the bytes that a fused kernel reads and writes.

    Parameters
    ----------
    unit : Unit
        The kernel.
    outside : set of int
        Storages that other kernels read, or that persist.
    inlined : set of int
        Storages whose values are generated where they are read.
    """
    made: set[int] = set()
    reads: list[tuple[Piece, sp.Expr]] = []
    writes: list[tuple[Piece, sp.Expr]] = []
    for one in unit.members:
        within = made | inlined
        reads += [item for item in one.reads.items() if item[0].storage not in within]
        made |= {piece.storage for piece in one.writes}
        writes += [item for item in one.writes.items() if item[0].storage in outside]
    return sp.Add(*union(reads).values()), sp.Add(*union(writes).values())
