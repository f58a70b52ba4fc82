"""The best points of a grid, without its table: least of a column, or a Pareto front over two.

Each chunk gives its own best points; summaries of chunks are merged, in whatever order they come. Of equals
the one with the lowest number is kept, so that the answer does not depend on that order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel.errors import CostmodelError, unknown_name
from costmodel.sweep.engines import Engine, Progress
from costmodel.sweep.grid import Case, Chunk, Grid
from costmodel.sweep.points import COST, ENERGY, TEXT, Points, absent, size_column
from costmodel.sweep.table import rows_of

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

#: What people say for a column.
SHORT = {"energy": ENERGY, "time": "seconds"}


@dataclass(frozen=True)
class Aim:
    """A column and which way is better.

    Attributes
    ----------
    column : str
        A column of numbers.
    sign : float
        1 where less is better, −1 where more is.
    """

    column: str
    sign: float = 1.0

    @classmethod
    def of(cls, text: str, grid: Grid) -> Aim:
        """Return what ``seconds`` (the least), or ``-batch`` (the most), asks for.

        Raises
        ------
        CostmodelError
            If there is no such column of numbers, or it is not known of every layer and device: what has
            none would be left out in silence.
        """
        name, sign = (text[1:], -1.0) if text.startswith("-") else (text, 1.0)
        name = SHORT.get(name, name)
        numbers = [column for column in grid.columns if column not in (*TEXT, "bound")]
        if name in (*TEXT, "bound"):
            raise CostmodelError(f"wanted a column of numbers, such as seconds, got {name!r}, which is text")
        if name not in (*numbers, COST):
            raise unknown_name("column", name, [*numbers, *SHORT])
        lacking = [case for case in grid.cases if name in absent(case, grid.sizes)]
        if lacking:
            raise _not_known(name, lacking)
        return cls(name, sign)

    def boxed(self, points: Points) -> Array:
        """Return what is to be least, in the shape of the box; infinite where it is not known."""
        values = points.boxed(self.column)
        values = values if self.sign > 0 else np.where(np.isinf(values), values, -values)
        return np.where(np.isnan(values), np.inf, values)


def _not_known(name: str, cases: Sequence[Case]) -> CostmodelError:
    """Return the error for a column that some layers or devices have not."""
    devices = ", ".join(dict.fromkeys(case.device.name for case in cases))
    if name == COST:
        return CostmodelError(
            f"{name} needs the price of an hour of every device; give that of {devices}, or leave it out"
        )
    if name == ENERGY:
        return CostmodelError(
            f"{name} needs the TDP of every device; leave out {devices}, of which none is known"
        )
    layers = ", ".join(dict.fromkeys(case.layer.name for case in cases))
    return CostmodelError(f"{name} is not a size of every layer; leave out {layers}")


class Summary(Protocol):
    """The best of some points."""

    def merge(self, other: Any) -> Any:
        """Return the best of both."""

    def numbers(self) -> list[int]:
        """Return the best points' numbers."""


# -- the least ---------------------------------------------------------------------------------

#: What a group has in common → its least value, and the number of the point that has it.
Groups = dict[tuple[Any, ...], tuple[float, int]]


@dataclass
class Least:
    """The least point of each group."""

    groups: Groups = field(default_factory=dict)

    def merge(self, other: Least) -> Least:
        """Return the least of both, group by group."""
        groups = dict(self.groups)
        for key, found in other.groups.items():
            groups[key] = min(groups.get(key, found), found)
        return Least(groups)

    def numbers(self) -> list[int]:
        """Return the points' numbers, groups in the order of the grid's points."""
        return sorted(number for _, number in self.groups.values())


@dataclass(frozen=True)
class FindLeast:
    """The job that finds the least points of a chunk.

    Attributes
    ----------
    aim : Aim
        What is to be least.
    by : tuple of str
        Columns that make the groups: sizes, and text.
    """

    aim: Aim
    by: tuple[str, ...] = ()

    @classmethod
    def of(cls, of: str, by: Sequence[str], grid: Grid) -> FindLeast:
        """Return the job of some columns' names.

        Raises
        ------
        CostmodelError
            If there is no such column, or a layer or device of the grid has none.
        """
        known = [*TEXT, *dict.fromkeys(size_column(axis) for case in grid.cases for axis in case.axes)]
        for name in by:
            if name not in known:
                raise unknown_name("column to group by", name, known)
        return cls(Aim.of(of, grid), tuple(by))

    def __call__(self, grid: Grid, chunk: Chunk) -> Least:
        """Return the least point of each group of the chunk."""
        groups: Groups = {}
        for points in grid.predicted(chunk):
            for key, least in self._of_box(points):
                groups[key] = min(groups.get(key, least), least)
        return Least(groups)

    def _of_box(self, points: Points) -> Iterator[tuple[tuple[Any, ...], tuple[float, int]]]:
        """Yield each group of a box with the value and the number of its least point."""
        values = self.aim.boxed(points)
        along = {size_column(name): i for i, name in enumerate(points.mesh)}
        kept = [along[name] for name in self.by if name in along]
        rest = [i for i in range(values.ndim) if i not in kept]
        grouped = values.transpose([*kept, *rest])
        shapes = grouped.shape[: len(kept)], grouped.shape[len(kept) :]
        flat = grouped.reshape(math.prod(shapes[0]), -1)
        # Within a group numbers go up: the first of equals has the lowest.
        least = flat.argmin(axis=1)
        found = np.flatnonzero(flat[np.arange(least.size), least] < np.inf)
        places = [*_unravelled(found, shapes[0]), *_unravelled(least[found], shapes[1])]
        turned = [places[i] for i in np.argsort([*kept, *rest])]
        positions = np.ravel_multi_index(turned, values.shape)
        keys = points.keys(self.by, positions)
        yield from zip(
            keys,
            zip(values[tuple(turned)].tolist(), (positions + points.begin).tolist(), strict=True),
            strict=True,
        )


def _unravelled(flat: Numbers, shape: tuple[int, ...]) -> tuple[Numbers, ...]:
    return np.unravel_index(flat, shape) if shape else ()


# -- Pareto fronts -----------------------------------------------------------------------------

#: Points of a front that others are compared with before they are sorted: few enough for a first cache.
_ASKED = 1024


@dataclass
class Front:
    """Points of which none is better than another in both of two columns.

    Attributes
    ----------
    first, second : array, shape (points,)
        What is to be least; the first goes up, the second down.
    number : array of int, shape (points,)
        The points' numbers.
    """

    first: Array = field(default_factory=lambda: np.empty(0))
    second: Array = field(default_factory=lambda: np.empty(0))
    number: Numbers = field(default_factory=lambda: np.empty(0, np.int64))

    def merge(self, *others: Front) -> Front:
        """Return the front of all."""
        fronts = (self, *others)
        return front_of(
            np.concatenate([front.first for front in fronts]),
            np.concatenate([front.second for front in fronts]),
            np.concatenate([front.number for front in fronts]),
        )

    def may_join(self, first: Array, second: Array) -> Numbers:
        """Return where points stand that no point of the front is known to be as good as in both columns.

        Of a long front every so many points are asked: a search in few is several times faster.
        """
        known = np.isfinite(first) & np.isfinite(second)
        if self.first.size:
            some = slice(None, None, math.ceil(self.first.size / _ASKED))
            # The best second column among points that are no worse in the first.
            place = np.searchsorted(self.first[some], first, side="right") - 1
            known &= (place < 0) | (self.second[some][place] > second)
        return np.flatnonzero(known)

    def numbers(self) -> list[int]:
        """Return the points' numbers, the least of the first column first."""
        return [int(number) for number in self.number]


def front_of(first: Array, second: Array, number: Numbers) -> Front:
    """Return the front of points: those that no other equals or betters in both columns.

    Of points that are equal in both, the one with the lowest number is kept.
    """
    if not first.size:
        return Front()
    order = np.argsort(first)
    first, second, number = first[order], second[order], number[order]
    starts = _starts(first)
    least = np.minimum.reduceat(second, starts)
    falls = np.append(True, least[1:] < np.minimum.accumulate(least)[:-1])
    wanted = np.repeat(np.where(falls, least, np.nan), np.diff(starts, append=first.size))
    first, second, number = (column[second == wanted] for column in (first, second, number))
    starts = _starts(first)
    return Front(first[starts], second[starts], np.minimum.reduceat(number, starts))


def _starts(values: Array) -> Numbers:
    """Return where runs of equal values start."""
    return np.flatnonzero(np.append(True, values[1:] != values[:-1]))


@dataclass(frozen=True)
class FindFront:
    """The job that finds the front of a chunk.

    Attributes
    ----------
    aims : tuple of two Aims
        What is to be least.
    """

    aims: tuple[Aim, Aim]

    def __call__(self, grid: Grid, chunk: Chunk) -> Front:
        """Return the front of the chunk's points."""
        front, found, waiting = Front(), list[Front](), 0
        for points in grid.predicted(chunk):
            first, second = (aim.boxed(points).reshape(-1) for aim in self.aims)
            left = front.may_join(first, second)
            found.append(front_of(first[left], second[left], left.astype(np.int64) + points.begin))
            waiting += found[-1].first.size
            # Together, once they are as many as there were: each point is then merged a few times only.
            if waiting >= front.first.size:
                front, found, waiting = front.merge(*found), [], 0
        return front.merge(*found)


# -- asking ------------------------------------------------------------------------------------


def best(
    grid: Grid,
    of: str,
    *,
    by: Sequence[str] = (),
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return the point that needs least of something, or one for each group.

    Parameters
    ----------
    grid : Grid
        The points.
    of : str
        A column of numbers: ``seconds``, ``cost``, ``energy``, …; ``-batch`` asks for the most.
    by : sequence of str, optional
        Sizes that the grid gives, and columns of text (``layer``, ``device``, …): a point is sought for each
        combination of them.
    engine : Engine, optional
        Who does the work.
    progress : callable, optional
        Told how many points are done.

    Returns
    -------
    DataFrame
        Rows as `sweep` has them, in the order of the grid.

    Raises
    ------
    CostmodelError
        If there is no such column, or a layer or device of the grid has none.
    """
    return _search(grid, FindLeast.of(of, by, grid), Least(), engine, progress)


def front(
    grid: Grid,
    one: str,
    other: str,
    *,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return the Pareto front over two columns: points that no other equals in one and betters in the other.

    Parameters
    ----------
    grid : Grid
        The points.
    one, other : str
        Columns of numbers; ``-batch`` asks for the most.
    engine : Engine, optional
        Who does the work.
    progress : callable, optional
        Told how many points are done.

    Returns
    -------
    DataFrame
        Rows as `sweep` has them, the best in `one` first; of equal points the first.

    Raises
    ------
    CostmodelError
        See `best`.
    """
    aims = (Aim.of(one, grid), Aim.of(other, grid))
    return _search(grid, FindFront(aims), Front(), engine, progress)


def _search(
    grid: Grid, job: Any, summary: Summary, engine: Engine | None, progress: Progress | None
) -> pd.DataFrame:
    grid.warm_up()
    done = 0
    for chunk, found in (engine or Engine()).run(grid, job, grid.chunks):
        summary = summary.merge(found)
        done += grid.points_of(chunk)
        if progress:
            progress(done)
    return rows_of(grid, summary.numbers())
