"""Pareto fronts of two columns: of a chunk of a grid, and merged over chunks in any order."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from costmodel.sweep.aim import Aim
from costmodel.sweep.grid import Chunk, Grid

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

#: Number of front points used to filter others before sorting: few enough for a first-level cache.
_ASKED = 1024


@dataclass
class Front:
    """Points of which none dominates another in two columns.

    Attributes
    ----------
    first, second : array, shape (points,)
        Values to minimise; the first ones ascend, the second ones descend.
    number : array of int, shape (points,)
        Numbers of the points.
    """

    first: Array = field(default_factory=lambda: np.empty(0))
    second: Array = field(default_factory=lambda: np.empty(0))
    number: Numbers = field(default_factory=lambda: np.empty(0, np.int64))

    def merge(self, *others: Front) -> Front:
        """Return the front of all points of several fronts."""
        fronts = (self, *others)
        return front_of(
            np.concatenate([front.first for front in fronts]),
            np.concatenate([front.second for front in fronts]),
            np.concatenate([front.number for front in fronts]),
        )

    def may_join(self, first: Array, second: Array) -> Numbers:
        """Return the positions of points that are not known to be dominated by the front.

        A long front is sampled: searching a few points is several times faster.
        """
        known = np.isfinite(first) & np.isfinite(second)
        if self.first.size:
            some = slice(None, None, math.ceil(self.first.size / _ASKED))
            # The best second value among front points that are no worse in the first.
            place = np.searchsorted(self.first[some], first, side="right") - 1
            known &= (place < 0) | (self.second[some][place] > second)
        return np.flatnonzero(known)

    def numbers(self) -> list[int]:
        """Return the numbers of the points, by ascending first value."""
        return [int(number) for number in self.number]


def front_of(first: Array, second: Array, number: Numbers) -> Front:
    """Return the Pareto front of points.

    Of points that are equal in both values, the one with the lowest number is kept.
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
    """Return the start of each run of equal values."""
    return np.flatnonzero(np.append(True, values[1:] != values[:-1]))


@dataclass(frozen=True)
class FindFront:
    """The job that finds the front of a chunk.

    Attributes
    ----------
    aims : tuple of two Aims
        The two objectives.
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
            # Merge only when the waiting points are as many as the front's: each is then merged only a few
            # times.
            if waiting >= front.first.size:
                front, found, waiting = front.merge(*found), [], 0
        return front.merge(*found)
