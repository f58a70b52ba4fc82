"""Which memory-bound operations run as one kernel.

``eager``, ``flash``: none. ``compile``, after what Inductor does with pointwise operations,
reductions and norms: going through the operations in order, one joins the latest kernel that made
one of its operands, and the other kernels that did join as well, if

- both pass over as many elements; or it passes over as many as a reduction of rows in that kernel
  has left; or that kernel is pointwise only, and smaller (a broadcast, computed again in place);
- no other kernel lies between them;
- what it reads from there is not the sum over columns, which is ready only at the kernel's end.

Values from nothing (zeros, a range of positions) are made where they are read, unless a product
reads them. A fused kernel reads once what comes from outside, and writes what is used outside.
Products and convolutions are kernels of their own: nothing is fused into their epilogue. What is kept
for backward is what autograd keeps: Inductor computes some of it again instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import sympy as sp

from costmodel.capture._parts import CapturedPart, Example, size_of
from costmodel.capture._passes import Memory
from costmodel.capture._records import Call

FUSION = ("eager", "flash", "compile")


@dataclass(eq=False)
class Unit:
    """A kernel: a product, or memory-bound operations that run as one."""

    place: int
    calls: list[Call]
    parts: list[CapturedPart] = field(default_factory=list)
    members: list[Memory] = field(default_factory=list)
    needs: set[Unit] = field(default_factory=set)
    late: set[int] = field(default_factory=set)  # memory that is ready at the kernel's end only
    tables: set[sp.Expr] = field(default_factory=set)

    @property
    def pointwise(self) -> bool:
        """Whether no member reduces or moves anything."""
        return all(one.kind in ("pointwise", "creation") for one in self.members)

    def after(self, other: Unit) -> bool:
        """Whether this kernel has to wait for another, directly or not."""
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
    """Return the kernels that run, in order.

    Parameters
    ----------
    calls : iterable of (Call, parts, Memory or None)
        The operations of one direction: products with their parts, or what they do with memory.
    fuse : bool
        Whether memory-bound operations join, by the rule above.
    example : mapping
        Sizes by which one table is larger than another.
    """
    found: list[Unit] = []
    maker: dict[int, Unit] = {}
    for call, parts, what in calls:
        makers = {maker[o.storage] for o in (*call.operands, *call.mutated) if o.storage in maker}
        homes = _homes(what, makers, maker, example) if fuse and what is not None else []
        if not homes:
            homes = [Unit(len(found), [], parts)]
            found += homes
        home = homes[0]
        for other in homes[1:]:
            if not _apart(home, other):
                _merge(home, other, found, maker)
                makers.discard(other)
        home.calls.append(call)
        home.needs |= makers - {home}
        if what is not None:
            _join(home, what)
        for operand in call.written:
            maker[operand.storage] = home
    return found


def _apart(one: Unit, other: Unit) -> bool:
    """Whether a kernel lies between two others, so that they cannot run as one."""
    return any(between.after(other) for between in one.needs - {other}) or any(
        between.after(one) for between in other.needs - {one}
    )


def _merge(home: Unit, other: Unit, found: list[Unit], maker: dict[int, Unit]) -> None:
    """Let one kernel do what another did as well."""
    home.calls = sorted([*home.calls, *other.calls], key=lambda call: call.place)
    home.members = sorted([*home.members, *other.members], key=lambda one: one.call.place)
    home.tables |= other.tables
    home.late |= other.late
    home.needs = (home.needs | other.needs) - {home, other}
    for unit in found:
        if other in unit.needs and unit is not home:
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
    if what.kind == "rows" and len(what.call.outputs) > 1 and what.call.backward:
        unit.late |= {operand.storage for operand in what.call.outputs[1:]}  # gradients of gain and offset


def _homes(what: Memory, makers: set[Unit], maker: dict[int, Unit], example: Example) -> list[Unit]:
    """Return the kernels that an operation may join, the latest first."""
    if what.kind == "scatter":
        return []  # adds wherever its indices say
    found = []
    for unit in sorted(makers, key=lambda unit: -unit.place):
        if not unit.members or any(one.kind == "scatter" for one in unit.members):
            continue
        numel = what.table.numel
        smaller = unit.pointwise and all(
            size_of(table, example) <= size_of(numel, example) for table in unit.tables
        )
        from_late = any(o.storage in unit.late and maker[o.storage] is unit for o in what.call.operands)
        between = any(other is not unit and other not in found and other.after(unit) for other in makers)
        if (numel in unit.tables or smaller) and not from_late and not between:
            found.append(unit)
    return found


def traffic(unit: Unit, outside: set[int], inlined: set[int]) -> tuple[sp.Expr, sp.Expr]:
    """Return the bytes that a fused kernel reads and writes.

    Parameters
    ----------
    unit : Unit
        The kernel.
    outside : set of int
        Memory that is read elsewhere, or stays.
    inlined : set of int
        Memory whose values are made from nothing where they are read.
    """
    made: set[int] = set()
    reads: dict[int, list[sp.Expr]] = {}
    writes: dict[int, list[sp.Expr]] = {}
    for one in unit.members:
        for storage, count in one.reads.items():
            if storage not in made and storage not in inlined:
                reads.setdefault(storage, []).append(count)
        for storage, count in one.writes.items():
            made.add(storage)
            if storage in outside:
                writes.setdefault(storage, []).append(count)
    return _once(reads), _once(writes)


def _once(counts: dict[int, list[sp.Expr]]) -> sp.Expr:
    return sp.Add(*(sp.Max(*dict.fromkeys(several)) for several in counts.values()))
