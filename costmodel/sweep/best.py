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

from costmodel.arguments import typed
from costmodel.errors import unknown_name
from costmodel.sweep.aim import Aim
from costmodel.sweep.columns import TEXT, size_column
from costmodel.sweep.engines import Engine, Progress
from costmodel.sweep.grid import Chunk, Grid
from costmodel.sweep.pareto import FindFront, Front
from costmodel.sweep.points import Points
from costmodel.sweep.table import rows_of

Numbers = NDArray[np.int64]


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
        return cls(Aim.of(of, grid), tuple(dict.fromkeys(by)))

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


# -- asking ------------------------------------------------------------------------------------


@typed
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


@typed
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
