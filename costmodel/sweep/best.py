"""Search of a grid without its table: the minimum of a column, or the Pareto front of two.

Each chunk yields its own best points; the summaries of chunks are merged in any order. Among equal points
the one with the lowest number wins, so the answer does not depend on that order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel.arguments import typed
from costmodel.errors import unknown_name
from costmodel.sweep.aim import Aim
from costmodel.sweep.columns import TENSOR, TEXT, size_column
from costmodel.sweep.engines import Engine, Progress
from costmodel.sweep.grid import Chunk, Grid
from costmodel.sweep.pareto import FindFront, Front
from costmodel.sweep.points import Points
from costmodel.sweep.table import rows_of

Numbers = NDArray[np.int64]


class Summary(Protocol):
    """The best points of some chunks."""

    def merge(self, other: Any) -> Any:
        """Return the best of both."""

    def numbers(self) -> list[int]:
        """Return the numbers of the best points."""


# -- minimum -----------------------------------------------------------------------------------

#: The values that define a group → its minimum, and the number of the point that has it.
Groups = dict[tuple[Any, ...], tuple[float, int]]


@dataclass
class Least:
    """The point with the minimum, for each group."""

    groups: Groups = field(default_factory=dict)

    def merge(self, other: Least) -> Least:
        """Return the minima of both, group by group."""
        groups = dict(self.groups)
        for key, found in other.groups.items():
            groups[key] = min(groups.get(key, found), found)
        return Least(groups)

    def numbers(self) -> list[int]:
        """Return the numbers of the points, in the order of the grid."""
        return sorted(number for _, number in self.groups.values())


@dataclass(frozen=True)
class FindLeast:
    """The job that finds the minimum of each group in a chunk.

    Attributes
    ----------
    aim : Aim
        The objective.
    by : tuple of str
        Columns that define the groups: sizes, text, and ``tensor``.
    """

    aim: Aim
    by: tuple[str, ...] = ()

    @classmethod
    def of(cls, of: str, by: Sequence[str], grid: Grid) -> FindLeast:
        """Return the job for columns given by name.

        Raises
        ------
        CostmodelError
            If a column is unknown, or a layer or device of the grid lacks it.
        """
        known = [*TEXT, *dict.fromkeys(size_column(axis) for case in grid.cases for axis in case.axes)]
        known += [TENSOR] * (TENSOR in grid.columns)
        for name in by:
            if name not in known:
                raise unknown_name("column to group by", name, known)
        return cls(Aim.of(of, grid), tuple(dict.fromkeys(by)))

    def __call__(self, grid: Grid, chunk: Chunk) -> Least:
        """Return the minimum of each group of the chunk."""
        groups: Groups = {}
        for points in grid.predicted(chunk):
            for key, least in self._of_box(points):
                groups[key] = min(groups.get(key, least), least)
        return Least(groups)

    def _of_box(self, points: Points) -> Iterator[tuple[tuple[Any, ...], tuple[float, int]]]:
        """Yield each group of a box with its minimum and the number of the point that has it."""
        values = self.aim.boxed(points)
        along = {size_column(name): i for i, name in enumerate(points.mesh)}
        kept = [along[name] for name in self.by if name in along]
        rest = [i for i in range(values.ndim) if i not in kept]
        grouped = values.transpose([*kept, *rest])
        shapes = grouped.shape[: len(kept)], grouped.shape[len(kept) :]
        flat = grouped.reshape(math.prod(shapes[0]), -1)
        # Numbers increase within a group, so the first minimum has the lowest number.
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


# -- search ------------------------------------------------------------------------------------


@typed
def best(
    grid: Grid,
    of: str,
    *,
    by: Sequence[str] = (),
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return the point with the minimum of a column, or one for each group.

    Parameters
    ----------
    grid : Grid
        The points to search.
    of : str
        A numeric column or a formula of such: ``seconds``, ``cost / batch``, …; ``-batch`` asks for the
        maximum.
    by : sequence of str, optional
        Sizes of the grid and text columns (``layer``, ``device``, …): one point is returned for each
        combination of their values.
    engine : Engine, optional
        Where the work runs.
    progress : callable, optional
        Called with the number of points done.

    Returns
    -------
    DataFrame
        Rows as from `sweep`, in the order of the grid.

    Raises
    ------
    CostmodelError
        If a column is unknown, or a layer or device of the grid lacks it.
    """
    return _search(grid, FindLeast.of(of, by, grid), Least(), engine, progress)


@typed
def front(
    grid: Grid,
    one: str,
    other: str,
    *,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return the Pareto front of two columns: the points that no other point dominates.

    Parameters
    ----------
    grid : Grid
        The points to search.
    one, other : str
        Numeric columns or formulas of such; ``-batch`` asks for the maximum.
    engine : Engine, optional
        Where the work runs.
    progress : callable, optional
        Called with the number of points done.

    Returns
    -------
    DataFrame
        Rows as from `sweep`, best in `one` first; of equal points only the first.

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
