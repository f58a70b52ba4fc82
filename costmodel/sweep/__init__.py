"""Design spaces: layers × devices × products of sizes, as a table, a stream of tables, or their best points.

`sweep` returns a table. Larger spaces are a `Grid`, whose points are numbered but not computed in advance:
`stream` writes them to a Parquet file, `best` and `front` search them, `estimate` says how long that takes.
"""

from __future__ import annotations

from costmodel.sweep.best import best, front
from costmodel.sweep.columns import COUNTS, TIMES
from costmodel.sweep.engines import Engine
from costmodel.sweep.estimate import Estimate, estimate, job_of
from costmodel.sweep.files import stream
from costmodel.sweep.grid import Grid, make_grid
from costmodel.sweep.table import as_frame, concat, log2_range, product, rows_of, sweep, whole

__all__ = [
    "COUNTS",
    "TIMES",
    "Engine",
    "Estimate",
    "Grid",
    "as_frame",
    "best",
    "concat",
    "estimate",
    "front",
    "job_of",
    "log2_range",
    "make_grid",
    "product",
    "rows_of",
    "stream",
    "sweep",
    "whole",
]
