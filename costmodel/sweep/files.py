"""A grid written to Parquet, part by part: whatever its size, a few parts are in memory, and none is lost.

While a sweep runs, its parts lie in a folder beside the file that they will be (``sweep.parquet.parts``):
each a whole Parquet file, moved into place when it is complete, so that the folder can be read at every
moment. ``_sweep.json`` there says whose they are. A sweep that was killed goes on with the parts that are
missing. The last step copies all parts into one file, moves it into place, and removes the folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from costmodel._version import __version__
from costmodel.arguments import typed
from costmodel.errors import CostmodelError, OutputError, TableError, unknown_name
from costmodel.files import check_writable, write_text, write_whole
from costmodel.prediction import LIMITS
from costmodel.sweep.columns import TEXT, size_column
from costmodel.sweep.engines import Engine, Progress
from costmodel.sweep.grid import Chunk, Grid
from costmodel.sweep.points import absent, gather
from costmodel.sweep.splice import footer, splice

#: What says whose parts lie in a folder; readers of Parquet folders pass over such a name.
MANIFEST = "_sweep.json"
_TEXT_TYPE = pa.dictionary(pa.int8(), pa.string())


@dataclass(frozen=True)
class Encode:
    """The job that turns a chunk into a Parquet file.

    Attributes
    ----------
    columns : tuple of str
        Which columns it has, in order.
    """

    columns: tuple[str, ...]

    @classmethod
    def of(cls, columns: Sequence[str] | None, grid: Grid) -> Encode:
        """Return the job for some of a grid's columns; None for all.

        Raises
        ------
        UnknownNameError, CostmodelError
            If there is no such column, or one is wanted twice.
        """
        wanted = tuple(columns or grid.columns)
        for i, name in enumerate(wanted):
            if name not in grid.columns:
                raise unknown_name("column", name, grid.columns)
            if name in wanted[:i]:
                raise CostmodelError(f"columns: wanted each once, got {name} twice")
        return cls(wanted)

    def __call__(self, grid: Grid, chunk: Chunk) -> bytes:
        """Return the file's bytes."""
        case = grid.cases[chunk.case]
        own = {size_column(name) for name in case.layer.sizes()}
        missing = absent(case, grid.sizes)
        numbers = [name for name in self.columns if name not in TEXT and name not in missing]
        most = case.points_of(chunk.first, chunk.last)
        # A column that is always there says how many rows there are.
        found = gather(grid.predicted(chunk), {*numbers, "seconds"}, most)
        table = self._table(case.text, found, len(found["seconds"]))
        sink = pa.BufferOutputStream()
        repeated = [name for name in self.columns if name in {*TEXT, "bound", *own}]
        # Few different values go into a dictionary; of the others, bytes of like weight stand together.
        split = [name for name in numbers if name not in repeated]
        pq.write_table(
            table,
            sink,
            row_group_size=max(1, table.num_rows),
            compression="snappy",
            use_dictionary=repeated or False,
            use_byte_stream_split=split or False,
        )
        return bytes(sink.getvalue().to_pybytes())

    def _table(self, text: dict[str, str], numbers: dict[str, Any], rows: int) -> pa.Table:
        def array(name: str) -> pa.Array:
            if name in TEXT:
                codes = pa.array(np.zeros(rows, np.int8))
                return pa.DictionaryArray.from_arrays(codes, pa.array([text[name]]))
            if name == "bound":
                return pa.DictionaryArray.from_arrays(pa.array(numbers[name]), pa.array(LIMITS))
            found = numbers.get(name)
            return pa.nulls(rows, pa.float64()) if found is None else pa.array(found)

        kinds = [(n, _TEXT_TYPE if n in TEXT or n == "bound" else pa.float64()) for n in self.columns]
        return pa.Table.from_arrays([array(name) for name in self.columns], schema=pa.schema(kinds))


@typed
def stream(
    grid: Grid,
    path: str | Path,
    *,
    columns: Sequence[str] | None = None,
    engine: Engine | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write a grid's table to a file, or go on with one that was begun.

    Parameters
    ----------
    grid : Grid
        Its points.
    path : str or Path
        ``NAME.parquet``, or a name without an ending: a folder that keeps the parts as they are, for tables
        that are not wanted on the disk twice.
    columns : sequence of str, optional
        Those wanted; default all.
    engine : Engine, optional
        Who does the work; the file is the same bit for bit.
    overwrite : bool
        Whether a file that is there, or another sweep's parts, may be replaced.
    progress : callable, optional
        Told how many points are done.

    Returns
    -------
    int
        Rows written: all points, or those that the conditions leave.

    Raises
    ------
    OutputError
        If the file cannot be written, or the parts there are another sweep's. What was there before is then
        as it was, and parts that are done are kept.
    UnknownNameError, CostmodelError
        If there is no such column, or one is wanted twice.
    UnavailableError
        See `Engine.run`.
    """
    path, job = Path(path), Encode.of(columns, grid)
    single = path.suffix != ""
    if single:
        check_writable(path, overwrite=overwrite, suffixes=(".parquet",))
    elif not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}")
    parts = Parts(path.with_name(f"{path.name}.parts") if single else path, grid, job)
    parts.open(overwrite=overwrite)
    try:
        parts.write(engine or Engine(), progress)
        paths = [parts.path(chunk) for chunk in grid.chunks]
        rows = sum(int(pq.read_metadata(part).num_rows) for part in paths)
        if single:
            write_whole(path, lambda target: splice(paths, target), overwrite=overwrite)
            shutil.rmtree(parts.folder)
    finally:
        parts.close()
    return rows


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of a table in a folder.

    Attributes
    ----------
    folder : Path
        Where they are.
    grid : Grid
        The table's points.
    job : Encode
        What makes a part of a chunk.
    """

    folder: Path
    grid: Grid
    job: Encode

    def path(self, chunk: Chunk) -> Path:
        """Return where a chunk's part is, or will be."""
        return self.folder / f"part-{chunk.number:06}.parquet"

    @property
    def _manifest(self) -> dict[str, Any]:
        return {
            "made by": f"costmodel {__version__}: the parts of a sweep that is not finished, or of a folder",
            "sweep": self.grid.identity,
            "columns": list(self.job.columns),
            "points": self.grid.points,
            "parts": len(self.grid.chunks),
        }

    def open(self, *, overwrite: bool) -> None:
        """Make the folder, or find the parts that are there.

        Raises
        ------
        OutputError
            If what is there is another sweep's, or no sweep's at all.
        """
        manifest = self.folder / MANIFEST
        try:
            self.folder.mkdir(exist_ok=True)
            there = list(self.folder.iterdir())
            told = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else f"{MANIFEST} is not readable"
            raise OutputError(f"cannot write {self.folder}: {reason}") from None
        if told == self._manifest:
            # What a killed process was writing.
            _remove(path for path in there if path.name.startswith(".part-"))
            return
        if there and told is None:
            raise OutputError(f"cannot write {self.folder}: it is a folder with something else in it")
        if there and not overwrite:
            raise OutputError(
                f"cannot write {self.folder}: it holds parts of another sweep; "
                "give that one's command to finish it, another name, or --force to begin anew"
            )
        _remove(path for path in there if path.name.startswith((".part-", "part-")))
        text = json.dumps(self._manifest, indent=2) + "\n"
        write_text(manifest, text, overwrite=True)

    def write(self, engine: Engine, progress: Progress | None) -> None:
        """Make the parts that are missing."""
        missing = [chunk for chunk in self.grid.chunks if not _is_whole(self.path(chunk))]
        sizes = {chunk.number: self.grid.points_of(chunk) for chunk in self.grid.chunks}
        done = self.grid.points - sum(sizes[chunk.number] for chunk in missing)
        if progress:
            progress(done)
        self.grid.warm_up()
        for chunk, content in engine.run(self.grid, self.job, missing):
            self._keep(self.path(chunk), content)
            done += sizes[chunk.number]
            if progress:
                progress(done)

    def _keep(self, path: Path, content: bytes) -> None:
        write_whole(path, lambda target: target.write_bytes(content), overwrite=True)

    def close(self) -> None:
        """Leave no folder behind in which there is no part."""
        if self.folder.is_dir() and not any(self.folder.glob("part-*.parquet")):
            shutil.rmtree(self.folder, ignore_errors=True)


def _is_whole(path: Path) -> bool:
    try:
        footer(path)
    except (OSError, TableError):
        return False
    return True


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
