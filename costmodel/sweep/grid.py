"""The points of a sweep, numbered and not made: layers × devices × products of sizes.

A case is a layer on a device; its points are every combination of its sizes, the last size fastest. Points
are predicted a box at a time: a product of runs of sizes, few enough for its arrays to stay in a
processor's cache. A size varies along an axis of its own (an open mesh), so that what does not depend on it
is computed once for all its values.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from costmodel import hardware
from costmodel.arguments import typed
from costmodel.errors import SizeError, unknown_name
from costmodel.evaluate import as_size, bind, check_taken
from costmodel.layers import Layer
from costmodel.predict import STATES, as_device, check_implementation, check_rung, several
from costmodel.sweep.case import Array, Case
from costmodel.sweep.columns import COST, SENT, TEXT, known_columns
from costmodel.sweep.points import Points, gather
from costmodel.sweep.program import program
from costmodel.sweep.where import Condition, condition

#: Points of a part of a file: what a worker is given at a time, and holds in memory.
CHUNK = 262_144
#: More than these nobody waits for: days, and gigabytes for the list of parts alone.
MOST_POINTS = 10**12


@dataclass(frozen=True)
class Chunk:
    """A run of boxes of one case: a part of a file."""

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
        Layers × devices, devices fastest.
    where : tuple of Condition
        What points have to be like to be in the answer; all of them.
    """

    cases: tuple[Case, ...]
    where: tuple[Condition, ...] = ()

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The number of each case's first point."""
        return (0, *itertools.accumulate(case.points for case in self.cases))[:-1]

    @property
    def points(self) -> int:
        """How many points there are, before any condition."""
        return sum(case.points for case in self.cases)

    @cached_property
    def sizes(self) -> tuple[str, ...]:
        """Every size that a layer of the grid takes, those it has by default included."""
        return tuple(dict.fromkeys(name for case in self.cases for name in case.layer.sizes()))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns of its table."""
        sends = any(case.layer.cost.sends for case in self.cases)
        priced = any(case.price is not None for case in self.cases)
        return known_columns(self.sizes, beside=[*[SENT] * sends, *[COST] * priced])

    @cached_property
    def chunks(self) -> tuple[Chunk, ...]:
        """Every chunk, in order."""
        found: list[Chunk] = []
        for index, case in enumerate(self.cases):
            count = max(1, math.ceil(case.points / CHUNK))
            for i in range(count):
                first, last = i * case.boxes // count, (i + 1) * case.boxes // count
                if first < last:
                    found.append(Chunk(len(found), index, first, last))
        return tuple(found)

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave what was computed from the fields behind."""
        return Grid, (self.cases, self.where)

    def points_of(self, chunk: Chunk) -> int:
        """Return how many points a chunk has, before any condition."""
        return self.cases[chunk.case].points_of(chunk.first, chunk.last)

    def warm_up(self) -> None:
        """Compile what predictions need, before several threads ask for it at once."""
        names = [name for name in self.columns if name not in TEXT]
        for _, chunks in itertools.groupby(self.chunks, key=lambda chunk: chunk.case):
            for points in itertools.islice(self.predicted(next(chunks)), 1):
                for one, _ in self.at(points.numbers[:1]):
                    gather([one], names, one.count)

    def predicted(self, chunk: Chunk) -> Iterator[Points]:
        """Yield the points of a chunk, a box at a time; boxes where no point is wanted are left out."""
        case = self.cases[chunk.case]
        for number in range(chunk.first, chunk.last):
            start, slices = case.box(number)
            found = Points.of(case, start + self.starts[chunk.case], case.mesh(slices), self.where)
            if found is not None:
                yield found

    def at(self, numbers: Iterable[int]) -> list[tuple[Points, NDArray[np.int64]]]:
        """Return points by their numbers, case by case, with where each stands in `numbers`."""
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
        """A hash of all that its predictions depend on, the program's own text included."""
        told: list[Any] = [program(), [part.text for part in self.where]]
        for case in self.cases:
            plan = case.plan
            constants = [[p.kernel, p.choice.origin, sorted(p.choice.constants.items())] for p in plan.phases]
            axes = {name: hashlib.sha256(axis.tobytes()).hexdigest() for name, axis in case.axes.items()}
            device = [case.device.name, case.device.spec_hash, case.price]
            told.append([case.layer.label, device, plan.rung, plan.state, dict(case.how), axes, constants])
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
    """Return the points of a sweep; none is predicted yet.

    Parameters
    ----------
    layers, devices, sizes, rung, state, framework
        See `sweep`.
    where : str, optional
        A condition on columns: ``"heads % kv_heads == 0 and footprint_bytes < 80e9"``. What it says of
        sizes alone is tried before anything is predicted.
    prices : mapping of str to float, optional
        Device → price of an hour, in any currency: the column ``cost`` is in it.
    **grids : int or 1-d sequence of int
        Sizes; every combination is one point.

    Raises
    ------
    UnknownNameError, SizeError, UnavailableError, CostmodelError
        See `sweep`.
    """
    if not isinstance(state, str):
        grids, state = {**grids, "state": state}, "warm"
    wanted = [layers] if isinstance(layers, Layer) else list(layers)
    machines = [as_device(device) for device in several(devices)]
    if not wanted or not machines:
        raise SizeError("sweep: wanted at least one layer and one device")
    asked = {**(sizes or {}), **grids}
    check_taken(asked, wanted)
    given = {name: np.atleast_1d(as_size(name, as_axis(name, values))) for name, values in asked.items()}
    check_rung(rung)
    check_implementation(framework)
    if state not in STATES:
        raise unknown_name("state", str(state), STATES)
    paid = _by_device(prices or {}, machines)
    how = {"rung": rung, "state": state, "framework": framework}
    cases = tuple(
        Case(layer, machine, _taken(layer, given), how, paid.get(machine.name))
        for layer in wanted
        for machine in machines
    )
    grid = Grid(cases)
    if grid.points > MOST_POINTS:
        raise SizeError(
            f"sweep: wanted at most {MOST_POINTS:,} points, got {grid.points:,}; "
            "give longer steps, such as seq=1..65536:log2"
        )
    parts = condition(where, grid.columns).parts() if where else []
    for case in () if parts else cases:
        # Sizes that do not go together are found now, not hours later.
        bind(case.layer, case.mesh([slice(0, n) for n in case.shape]))
    for case in cases:
        _ = case.text  # a rung or a dtype that the device has not
    return Grid(cases, tuple(parts))


def as_axis(name: str, values: ArrayLike) -> NDArray[Any]:
    """Return a size's values as an array of one axis."""
    axis = np.atleast_1d(np.asarray(values))
    if axis.ndim > 1:
        raise SizeError(f"size {name}: wanted one value or a list of them, got an array of {axis.ndim} axes")
    return axis


def _taken(layer: Layer, given: Mapping[str, Array]) -> dict[str, Array]:
    return {name: values for name, values in given.items() if name in layer.sizes()}


def _by_device(prices: Mapping[str, float], machines: Sequence[hardware.Device]) -> dict[str, float]:
    """Return prices [currency/h] by full names of devices."""
    names = {machine.name for machine in machines}
    found = {}
    for name, price in prices.items():
        full = name if name in names else as_device(name).name
        if full not in names:
            raise unknown_name("device of this sweep", name, names)
        if not (math.isfinite(price) and price > 0):
            raise SizeError(f"price of {name}: wanted a positive number for an hour, got {price!r}")
        found[full] = float(price)
    return found
