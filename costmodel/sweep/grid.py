"""The points of a sweep, numbered but not computed in advance: layers × devices × products of sizes.

A case is a layer on a device; its points are all combinations of its sizes, the last size varying fastest.
Points are predicted one box at a time: a box is a product of slices of the sizes, small enough for its arrays
to stay in a processor's cache. Each size varies along its own axis (an open mesh), so that what does not
depend on a size is computed once for all its values.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from costmodel import hardware
from costmodel.arguments import typed
from costmodel.errors import SizeError, shown, unknown_name
from costmodel.evaluate import as_size, bind, check_taken
from costmodel.layers import Layer
from costmodel.predict import STATES, as_device, check_implementation, check_rung, several
from costmodel.sweep.case import Case
from costmodel.sweep.columns import COST, SENT, TENSOR, TEXT, known_columns, sharing
from costmodel.sweep.points import Points, gather
from costmodel.sweep.program import program
from costmodel.sweep.where import Condition, condition

#: Target number of points in a chunk: what a worker gets at a time and holds in memory.
CHUNK = 262_144
#: Largest number of points: more would take days, and gigabytes for the list of parts alone.
MOST_POINTS = 10**12


@dataclass(frozen=True)
class Chunk:
    """A range of boxes of one case (`first` to `last`, exclusive); it becomes one part of a file."""

    number: int
    case: int
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class Grid:
    """All points of a sweep.

    Attributes
    ----------
    cases : tuple of Case
        Layers × devices, devices varying fastest.
    where : tuple of Condition
        Conditions that points must all meet to be in the answer.
    """

    cases: tuple[Case, ...]
    where: tuple[Condition, ...] = ()

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The number of each case's first point."""
        return (0, *itertools.accumulate(case.points for case in self.cases))[:-1]

    @property
    def points(self) -> int:
        """Number of points, before any condition."""
        return sum(case.points for case in self.cases)

    @cached_property
    def sizes(self) -> tuple[str, ...]:
        """Every size that a layer of the grid takes, including sizes with defaults."""
        return tuple(dict.fromkeys(name for case in self.cases for name in case.layer.sizes()))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns of the grid's table."""
        sends = any(case.layer.cost.sends for case in self.cases)
        priced = any(case.price is not None for case in self.cases)
        shared = any(sharing(case.layer) > 1 for case in self.cases)
        return known_columns(self.sizes, beside=[*[TENSOR] * shared, *[SENT] * sends, *[COST] * priced])

    @cached_property
    def chunks(self) -> tuple[Chunk, ...]:
        """All chunks, in order."""
        found: list[Chunk] = []
        for index, case in enumerate(self.cases):
            count = max(1, math.ceil(case.points / CHUNK))
            for i in range(count):
                # A box is no larger than a chunk, so each chunk has a box at least.
                first, last = i * case.boxes // count, (i + 1) * case.boxes // count
                found.append(Chunk(len(found), index, first, last))
        return tuple(found)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the fields only, without what was computed from them."""
        return Grid, (self.cases, self.where)

    def points_of(self, chunk: Chunk) -> int:
        """Return the number of points in a chunk, before any condition."""
        return self.cases[chunk.case].points_of(chunk.first, chunk.last)

    def warm_up(self) -> None:
        """Compile what predictions need before several threads need it at once."""
        names = [name for name in self.columns if name not in TEXT]
        for _, chunks in itertools.groupby(self.chunks, key=lambda chunk: chunk.case):
            for points in itertools.islice(self.predicted(next(chunks)), 1):
                for one, _ in self.at(points.numbers[:1]):
                    gather([one], names, one.count)

    def predicted(self, chunk: Chunk) -> Iterator[Points]:
        """Yield the predicted points of a chunk, box by box; boxes without a wanted point are skipped."""
        case = self.cases[chunk.case]
        for number in range(chunk.first, chunk.last):
            start, slices = case.box(number)
            found = Points.of(case, start + self.starts[chunk.case], case.mesh(slices), self.where)
            if found is not None:
                yield found

    def at(self, numbers: Iterable[int]) -> list[tuple[Points, NDArray[np.int64]]]:
        """Return points by their numbers, grouped by case, each with its position in `numbers`."""
        wanted = np.fromiter(numbers, dtype=np.int64)
        of = np.searchsorted(self.starts, wanted, side="right") - 1
        found = []
        for index in np.unique(of):
            places = np.flatnonzero(of == index)
            sizes = self.cases[index].at(wanted[places] - self.starts[index])
            points = Points(self.cases[index], wanted[places], self.cases[index].predict(sizes))
            found.append((points, places))
        return found

    @cached_property
    def identity(self) -> str:
        """A hash of everything that the predictions depend on, including the program's source."""
        told: list[Any] = [program(), [part.text for part in self.where]]
        for case in self.cases:
            plan = case.plan
            constants = [[p.kernel, p.choice.origin, sorted(p.choice.constants.items())] for p in plan.phases]
            axes = {name: hashlib.sha256(axis.tobytes()).hexdigest() for name, axis in case.axes.items()}
            device = [case.device.name, case.device.spec_hash, case.price]
            told.append(
                [
                    case.layer.label,
                    sharing(case.layer),
                    device,
                    dict(case.how),
                    axes,
                    constants,
                ]
            )
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


@typed
def make_grid(
    layers: Layer | Iterable[Layer],
    devices: hardware.Device | str | Path | Iterable[hardware.Device | str | Path],
    sizes: Mapping[str, ArrayLike] | None = None,
    *,
    rung: str | None = None,
    state: ArrayLike = "warm",
    framework: str | None = None,
    where: str | None = None,
    prices: Mapping[str, float] | None = None,
    **grids: ArrayLike,
) -> Grid:
    """Return the grid of a sweep; nothing is predicted yet. What is given twice is in it once.

    Parameters
    ----------
    layers, devices, sizes, rung, state, framework
        See `sweep`.
    where : str, optional
        A condition on columns: ``"heads % kv_heads == 0 and footprint_bytes < 80e9"``. Parts of it that
        depend on sizes alone are evaluated before anything is predicted.
    prices : mapping of str to float, optional
        Device → price per hour in any currency; adds the column ``cost`` in that currency.
    **grids : int or 1-d sequence of int
        Sizes; every combination is one point.

    Raises
    ------
    UnknownNameError, SizeError, UnavailableError, CostmodelError
        See `sweep`.
    """
    if not isinstance(state, str):
        grids, state = {**grids, "state": state}, "warm"
    check_rung(rung)
    check_implementation(framework)
    if state not in STATES:
        raise unknown_name("state", str(state), STATES)
    wanted = list(dict.fromkeys([layers] if isinstance(layers, Layer) else layers))
    machines = list(dict.fromkeys(as_device(device) for device in several(devices)))
    if not wanted or not machines:
        raise SizeError(
            f"sweep: wanted at least one layer and one device, got {len(wanted)} and {len(machines)}"
        )
    axes = _axes({**(sizes or {}), **grids}, wanted)
    paid = _by_device(prices or {}, machines)
    how = {"rung": rung, "state": state, "framework": framework}
    cases = tuple(
        Case(layer, machine, taken, how, paid.get(machine.name))
        for layer, taken in zip(wanted, axes, strict=True)
        for machine in machines
    )
    grid = Grid(cases)
    if grid.points > MOST_POINTS:
        raise SizeError(
            f"sweep: wanted at most {MOST_POINTS:,} points, got {grid.points:,}; "
            "give longer steps, such as seq=1..65536:log2"
        )
    parts = condition(where, grid.columns).parts() if where else []
    _check_cases(cases, consistent=not parts)
    return Grid(cases, tuple(parts))


def _axes(asked: Mapping[str, ArrayLike], layers: Sequence[Layer]) -> list[dict[str, NDArray[np.float64]]]:
    """Return the values of each layer's sizes, checked and each once."""
    check_taken(asked, layers)
    sized = {name: np.atleast_1d(as_size(name, as_axis(name, values))) for name, values in asked.items()}
    given = {name: pd.unique(axis) for name, axis in sized.items()}
    return [{name: given[name] for name in given if name in layer.sizes()} for layer in layers]


def _check_cases(cases: Iterable[Case], *, consistent: bool) -> None:
    """Refuse now, not hours later, what no prediction can be made of.

    Raises
    ------
    SizeError
        If `consistent` sizes are wanted and some do not go together; a condition may remove these.
    UnavailableError
        If a device lacks the rung or the dtype.
    """
    for case in cases:
        if consistent:
            bind(case.layer, case.mesh([slice(0, n) for n in case.shape]))
        _ = case.text


def as_axis(name: str, values: ArrayLike) -> NDArray[Any]:
    """Return the values of a size as a one-dimensional array."""
    if isinstance(values, Set | Iterator):  # numpy would take it as one value
        raise SizeError(f"size {name}: wanted one value or a list of them, got {shown(values)}")
    axis = np.atleast_1d(np.asarray(values))
    if axis.ndim > 1:
        raise SizeError(f"size {name}: wanted one value or a list of them, got an array of {axis.ndim} axes")
    return axis


def _by_device(prices: Mapping[str, float], machines: Sequence[hardware.Device]) -> dict[str, float]:
    """Return prices [currency/h] by the devices' full names."""
    names = {machine.name for machine in machines}
    found: dict[str, float] = {}
    for name, price in prices.items():
        full = name if name in names else as_device(name).name
        if full not in names:
            raise unknown_name("device of this sweep", name, names)
        if not 0 <= price < math.inf:
            raise SizeError(f"price of {name}: wanted a price of at least 0 for an hour, got {price!r}")
        if found.get(full, price) != price:
            raise SizeError(f"price of {full} is given twice: {found[full]!r} and {float(price)!r}")
        found[full] = float(price)
    return found
