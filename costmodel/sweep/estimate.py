"""How long a sweep takes and how large its file becomes, from a few of its chunks."""

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

#: Chunks of a sample for each worker, and for how long [s] more of them are tried.
_SAMPLES, _PATIENCE_S = 4, 5.0


@dataclass(frozen=True)
class Estimate:
    """What a sweep takes.

    Attributes
    ----------
    points : int
        Of the grid, before any condition.
    parts : int
        Chunks that it is worked through in.
    sampled : int
        Points that the estimate was measured on.
    points_per_s : float
        Rate on those, by all workers together [1/s].
    seconds : float
        Time at that rate [s].
    bytes : float
        Size of the file if all is as in the sample [B]; 0 where none is written.
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
    """Return what is done with each chunk: the search for `best` or `pareto`, or else a file's columns."""
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
    """Return what a job on all of a grid takes, measured on chunks spread evenly over it.

    Parameters
    ----------
    grid : Grid
        The points.
    job : Job
        What is done with each chunk: `Encode` for a file, `FindLeast` or `FindFront` for a search.
    engine : Engine, optional
        Who does the work.

    Notes
    -----
    Compiling is not in it, nor is joining the parts at the end, which copies them once.
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
