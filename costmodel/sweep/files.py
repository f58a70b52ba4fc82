"""A grid written to Parquet part by part, with only a few parts in memory and none lost on interruption.

During a sweep its parts are in a folder beside the final file (``sweep.parquet.parts``). Each is a complete
Parquet file, moved into place when finished, so the folder is readable at any moment; ``_sweep.json``
identifies the sweep. An interrupted sweep resumes with the missing parts. The last step writes all parts into
one file, moves it into place, and removes the folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
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

#: File that identifies the sweep of a folder's parts; readers of Parquet folders ignore names like this.
MANIFEST = "_sweep.json"
_TEXT_TYPE = pa.dictionary(pa.int8(), pa.string())


@dataclass(frozen=True)
class Encode:
    """The job that turns a chunk into a Parquet file.

    Attributes
    ----------
    columns : tuple of str
        The file's columns, in order.
    """

    columns: tuple[str, ...]

    @classmethod
    def of(cls, columns: Sequence[str] | None, grid: Grid) -> Encode:
        """Return the job for some of a grid's columns; None: all.

        Raises
        ------
        UnknownNameError, CostmodelError
            If a column is unknown or given twice.
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
        missing = absent(case, grid.sizes)
        numbers = [name for name in self.columns if name not in TEXT and name not in missing]
        most = case.points_of(chunk.first, chunk.last)
        # `seconds` is in every grid and gives the number of rows.
        found = gather(grid.predicted(chunk), {*numbers, "seconds"}, most)
        table = self._table(case.text, found, len(found["seconds"]))
        sink = pa.BufferOutputStream()
        _write(sink, [table], grid.sizes)
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
    """Write a grid's table to a file, or resume an interrupted one.

    Parameters
    ----------
    grid : Grid
        The points of the table.
    path : str or Path
        ``NAME.parquet``; or a name without an ending, for a folder that keeps the parts as they are: joining
        them takes the space of the table twice.
    columns : sequence of str, optional
        Columns to write; default: all.
    engine : Engine, optional
        Where the work runs; the file is the same bit for bit.
    overwrite : bool
        Whether an existing file, or another sweep's parts, may be replaced.
    progress : callable, optional
        Called with the number of points done.

    Returns
    -------
    int
        Number of rows written: all points, or those that meet the conditions.

    Raises
    ------
    OutputError
        If the file cannot be written, or existing parts belong to another sweep. Existing files are then
        unchanged, and finished parts are kept.
    UnknownNameError, CostmodelError
        If a column is unknown or given twice.
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
            write_whole(path, lambda target: join(paths, target, grid.sizes), overwrite=overwrite)
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
        The folder.
    grid : Grid
        The points of the table.
    job : Encode
        The job that turns a chunk into a part.
    """

    folder: Path
    grid: Grid
    job: Encode

    def path(self, chunk: Chunk) -> Path:
        """Return the path of a chunk's part."""
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
        """Create the folder, or check the parts it has.

        Raises
        ------
        OutputError
            If the folder holds another sweep's parts, or something else.
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
            # Remove what a killed process was writing.
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
        """Write the missing parts."""
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
        """Remove the folder if it has no part."""
        if self.folder.is_dir() and not any(self.folder.glob("part-*.parquet")):
            shutil.rmtree(self.folder, ignore_errors=True)


def join(parts: Sequence[Path], out: Path, sizes: Sequence[str]) -> None:
    """Write the rows of Parquet files, in order, to one file, with a part at a time in memory.

    Parameters
    ----------
    parts : sequence of Path
        At least one file; all have the columns of the first.
    out : Path
        The file to write; an existing one is replaced.
    sizes : sequence of str
        Names of all sizes, whose columns have few distinct values.

    Raises
    ------
    TableError
        If a part is incomplete.
    """
    _write(out, map(_read, parts), sizes)


def _read(part: Path) -> pa.Table:
    try:
        return pq.ParquetFile(part).read()
    except pa.ArrowInvalid:
        raise TableError(f"{part}: not a whole Parquet file") from None


def _write(target: Any, tables: Iterable[pa.Table], sizes: Sequence[str]) -> None:
    """Write tables of the same columns, each as a row group.

    Columns with few distinct values get a dictionary; the others are split into streams of bytes.
    """
    tables = iter(tables)
    first = next(tables)
    few = {*TEXT, "bound", *map(size_column, sizes)}
    repeated = [name for name in first.column_names if name in few]
    split = [name for name in first.column_names if name not in few]
    writer = pq.ParquetWriter(
        target,
        first.schema,
        compression="snappy",
        use_dictionary=repeated or False,
        use_byte_stream_split=split or False,
    )
    with writer:
        for table in chain([first], tables):
            writer.write_table(table, row_group_size=max(1, table.num_rows))


def _is_whole(path: Path) -> bool:
    try:
        pq.read_metadata(path)
    except (OSError, pa.ArrowInvalid):
        return False
    return True


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
