"""Estimates of a sweep's time and of its file's size, from a sample of its chunks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from costmodel.arguments import typed
from costmodel.errors import CostmodelError
from costmodel.sweep.aim import Aim
from costmodel.sweep.best import FindLeast
from costmodel.sweep.engines import Engine, Job
from costmodel.sweep.files import Encode
from costmodel.sweep.grid import Grid
from costmodel.sweep.pareto import FindFront

#: Sampled chunks per worker, and the time limit for further ones [s].
_SAMPLES, _PATIENCE_S = 4, 5.0


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of a sweep.

    Attributes
    ----------
    points : int
        Points of the grid, before any condition.
    parts : int
        Number of chunks.
    sampled : int
        Number of points in the sample.
    points_per_s : float
        Throughput of all workers together, on the sample [1/s].
    seconds : float
        Time of the whole sweep at that rate [s].
    bytes : float
        Size of the file, extrapolated from the sample [B]; 0 if no file is written.
    """

    points: int
    parts: int
    sampled: int
    points_per_s: float
    seconds: float
    bytes: float


@typed
def job_of(
    grid: Grid,
    *,
    best: str | None = None,
    by: Sequence[str] = (),
    pareto: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> Job[Any]:
    """Return the job for each chunk: the search for `best` or `pareto`, or else encoding a file's columns."""
    if best is not None:
        return FindLeast.of(best, by, grid)
    if pareto is not None:
        if len(pareto) != 2:
            raise CostmodelError(f"pareto: wanted two columns, got {len(pareto)}")
        one, other = pareto
        return FindFront((Aim.of(one, grid), Aim.of(other, grid)))
    return Encode.of(columns, grid)


@typed
def estimate(grid: Grid, job: Job[Any], engine: Engine | None = None) -> Estimate:
    """Estimate what a job on a whole grid takes, from chunks spread evenly over it.

    Parameters
    ----------
    grid : Grid
        The points of the sweep.
    job : Job
        The job for each chunk: `Encode` for a file, `FindLeast` or `FindFront` for a search.
    engine : Engine, optional
        Where the work runs.

    Notes
    -----
    Not included are compilation and joining the parts at the end, which copies them once.
    """
    engine = engine or Engine()
    grid.warm_up()
    chunks = grid.chunks
    step = max(1, len(chunks) // (_SAMPLES * engine.count))
    points = size = 0
    began = time.perf_counter()
    for chunk, found in engine.run(grid, job, chunks[step // 2 :: step]):
        points += grid.points_of(chunk)
        size += len(found) if isinstance(found, bytes) else 0
        took = time.perf_counter() - began
        if took > _PATIENCE_S:
            break
    rate = points / took
    return Estimate(
        points=grid.points,
        parts=len(chunks),
        sampled=points,
        points_per_s=rate,
        seconds=grid.points / rate,
        bytes=size / points * grid.points,
    )
