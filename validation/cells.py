"""Group tables of measured kernels into cells: op, format, framework and way of timing on one device."""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel import implementations, kernels
from costmodel.cost import Phase
from costmodel.errors import CostmodelError, TableError
from costmodel.evaluate import Number, bind, compile_expressions
from costmodel.hardware import Device
from costmodel.kernels import _tiles
from costmodel.layers import Layer
from costmodel.measured import (
    NUMERIC,
    OPERATIONS_MEASURED,
    framework,
    harness,
    label,
    uncounted,
    with_parts,
)
from costmodel.tables import read_table

#: Kernel models for which a framework has several implementations, which the row's ``kernel`` names.
_BY_LABEL = ("attention", "decode", "delta", "state_update")
TABLES = ("gemm", "attention", "scan", "memops")


@dataclass(frozen=True)
class Cell:
    """Identity of one set of constants; ``label`` is the implementation's own name, where it matters."""

    kernel: str
    op: str
    dtype: str
    framework: str
    harness: str
    label: str = ""

    def __str__(self) -> str:
        """Render for messages."""
        return " ".join(
            word for word in (self.op, self.dtype, self.framework, self.label, self.harness) if word
        )

    @property
    def key(self) -> tuple[str, ...]:
        """Key that identifies its section in a file; see `costmodel.calibration.Section.cell`."""
        labels = (self.label,) if self.label else ()
        return (self.kernel, self.op, self.dtype, self.framework, self.harness, "fwd", *labels)


def rows_of(paths: Iterable[Path]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the concatenated rows of tables, and each table's hash.

    Raises
    ------
    TableError
        If one of them cannot be read, or lacks a required column.
    """
    frames, hashes = [], {}
    for path in paths:
        frame = read_table(path)
        missing = {"gpu", "op", "dtype", "framework", "timer", "latency_s"} - set(frame)
        if missing:
            raise TableError(f"{path}: lacks the columns {', '.join(sorted(missing))}, which a fit needs")
        hashes[path.name] = digest(path)
        # Text instead of a number becomes NaN, so that its row is left out and the others are fitted.
        numbers = {n: pd.to_numeric(frame[n], errors="coerce") for n in NUMERIC if n in frame}
        frames.append(frame.assign(table=path.name, **numbers))
    if not frames:
        raise TableError("nothing to fit: no table was given")
    return pd.concat(frames, ignore_index=True), hashes


def digest(path: Path) -> str:
    """Return the first 12 hex digits of a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def usable(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows usable for a fit: forward, warm, measured, of an operation with a kernel model."""
    good = (rows["latency_s"] > 0) & (rows["latency_s"] < np.inf) & rows["dtype"].notna()
    good &= rows["op"].map(kernel_of).notna() & sized(rows)
    for name, value in (("direction", "fwd"), ("state", "warm"), ("status", "ok")):
        if name in rows:
            good &= rows[name].fillna(value) == value
    good &= ~queued(rows)
    if "bench" in rows:
        # A loop of framework calls, or attention as a chain of kernels, is not the op's single kernel.
        good &= ~_text(rows["bench"]).str.contains("loop|math|triton")
    return rows[good]


def queued(rows: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows may be limited by the host's dispatch.

    These are calls launched one by one, if graphs, which show the device alone, were measured as well.
    """
    if "launch" not in rows or not (rows["launch"] == "graph").any():
        return pd.Series(False, index=rows.index)
    return rows["launch"] != "graph"


def sized(rows: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows have all sizes of their operation, each a whole number of at least 1."""
    good = pd.Series(True, index=rows.index)
    for op, operation in OPERATIONS_MEASURED.items():
        ours = rows["op"] == op
        for column in (*operation.columns, *operation.optional) if ours.any() else ():
            values = rows[column].astype("float64") if column in rows else pd.Series(np.nan, index=rows.index)
            good &= ~ours | ((values >= 1) & (values < np.inf) & (values % 1 == 0))
    return good


def _text(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column with empty cells as empty text; one without any text was read as numbers."""
    return column.astype("object").fillna("")


def cells(rows: pd.DataFrame, device: Device) -> Iterator[tuple[Cell, pd.DataFrame]]:
    """Yield the cells of one device's rows; products come before operations that contain products."""
    labels = _text(rows["kernel"]) if "kernel" in rows else pd.Series("", index=rows.index)
    frameworks = rows["framework"].map(lambda text: framework(text)[0] or "")
    models = {op: model_of(op, device) for op in rows["op"].unique()}
    labels = labels.where(rows["op"].map(models).isin(_BY_LABEL), "")
    keys = [rows["op"], rows["dtype"], frameworks, rows["timer"].map(harness), labels]
    found = []
    for key, part in rows.groupby(keys, sort=True, dropna=False):
        op, dtype, name, timed, said = (str(word) for word in key)
        found.append((Cell(models[op], op, dtype, name, timed, said), part))
    order = ("elementwise_copy", "gemm", "bmm")
    yield from sorted(found, key=lambda pair: order.index(pair[0].op) if pair[0].op in order else len(order))


@cache
def kernel_of(op: str) -> str | None:
    """Return the kernel model of an operation with constants of its own; None for a chain of kernels."""
    if op not in OPERATIONS_MEASURED:
        return None
    try:
        phases = OPERATIONS_MEASURED[op].layer("fp32", {"direction": "fwd"}).cost.phases
    except CostmodelError:
        return None  # a whole model, which is known only from its row
    phase = _named(op, phases)
    return phase.kernel if phase and not phase.borrowed else None


def _named(op: str, phases: Sequence[Phase]) -> Phase | None:
    """Return the phase of a layer that is the operation, or its only phase; None if there are several."""
    named = [phase for phase in phases if phase.op == op]
    return named[0] if named else phases[0] if len(phases) == 1 else None


def model_of(op: str, device: Device) -> str:
    """Return the kernel model of an operation on a device.

    Raises
    ------
    TableError
        If it has no single kernel model.
    """
    name = kernel_of(op)
    if name is None:
        raise TableError(f"{op}: no single kernel model times it, so nothing can be fitted to it")
    return kernels.on(name, device)


@cache
def recipe(kernel: str) -> ModuleType:
    """Return the module that fits a kernel model: the ``fit_*.py`` that lists it in ``MODELS``.

    It has a function ``fit(rows, device, start)``, which returns the constants of one cell from rows with
    ``latency_s``, starting from given constants; those that the rows do not determine are left as given. An
    optional ``free(rows, device)`` returns the names of the constants that the rows determine. A row's
    ``other_s`` is the time of its other kernels (a recurrent layer's products).

    Raises
    ------
    TableError
        If there is none.
    """
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name.startswith("fit_"):
            found = importlib.import_module(f"{package}.{module.name}")
            if kernel in found.MODELS:
                return found
    raise TableError(f"nothing fits the kernel model {kernel}: no fit_*.py has it among its MODELS")


def arguments(rows: pd.DataFrame, device: Device) -> dict[str, Any]:
    """Return the arguments of the kernel model for rows of one cell, as predictions use them.

    Parameters
    ----------
    rows : DataFrame
        Rows of one op, dtype, framework and kernel, with the columns of that op's sizes, and ``framework``,
        ``kernel`` and ``grid`` where known.
    device : Device
        The device they were measured on: libraries choose kernels by architecture.
    """
    layer, sizes = described(rows)
    return _arguments(_timed(rows, layer), rows, sizes, device)


def repeats(rows: pd.DataFrame) -> NDArray[np.float64]:
    """Return how many times each row of a cell runs its kernel: a stack of recurrences, once per layer."""
    layer, sizes = described(rows)
    return _repeats(_timed(rows, layer), rows, sizes)


def beside(
    rows: pd.DataFrame, device: Device
) -> Iterator[tuple[str, str, dict[str, Any], NDArray[np.float64]]]:
    """Yield the other kernels in rows of a cell: kernel model, operation, arguments, repeats."""
    layer, sizes = described(rows)
    own = _timed(rows, layer)
    for phase in layer.cost.phases:
        if phase != own:
            name, kwargs = kernels.on(phase.kernel, device), _arguments(phase, rows, sizes, device)
            yield name, phase.op, kwargs, _repeats(phase, rows, sizes)


def described(rows: pd.DataFrame) -> tuple[Layer, dict[str, Number]]:
    """Return the layer of rows of one cell, and all its sizes."""
    first = _first(rows)
    operation = OPERATIONS_MEASURED[str(first["op"])].of(first)
    layer = operation.layer(str(first["dtype"]), first)
    sizes = {size: rows[column].to_numpy(dtype=np.float64) for column, size in operation.columns.items()}
    plain = bind(layer, sizes)
    for column, size in operation.optional.items():
        if column in rows:
            given = rows[column].to_numpy(dtype=np.float64)
            sizes[size] = np.where(np.isnan(given), plain[size], given)
    for size, more in uncounted(first).items():
        sizes[size] = sizes[size] + more
    return layer, bind(layer, sizes)


def _first(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the first row, which has the values common to all rows of a cell."""
    return {str(name): value for name, value in rows.iloc[0].items()}


def _timed(rows: pd.DataFrame, layer: Layer) -> Phase:
    """Return the phase of a layer that rows of a cell measure."""
    phase = _named(str(rows["op"].iloc[0]), layer.cost.phases)
    assert phase is not None, "rows of a cell have a kernel"
    return phase


def _arguments(
    phase: Phase, rows: pd.DataFrame, sizes: Mapping[str, Number], device: Device
) -> dict[str, Any]:
    """Return the arguments of a phase's kernel model for rows."""
    first = _first(rows)
    kernel, name = kernels.on(phase.kernel, device), framework(first.get("framework"))[0]
    said = label(phase.op, first.get("kernel")) or None
    found: dict[str, Any] = dict(zip(phase.sizes, _evaluated(phase.sizes.values(), sizes), strict=True))
    found |= phase.options
    found |= implementations.arguments(kernel, phase.op, name, said, device)
    found |= implementations.beside(kernel, phase.op, name, str(found.get("direction", "fwd")))
    if "tile_m" in found and "kernel" in rows:
        # Each row of a product may have its own tile.
        tiles = _tiles.from_names(with_parts(rows)["kernel"])
        found |= zip(("tile_m", "tile_n", "tile_k", "split"), tiles, strict=True)
    return found


def _repeats(phase: Phase, rows: pd.DataFrame, sizes: Mapping[str, Number]) -> NDArray[np.float64]:
    (times,) = _evaluated([phase.repeats], sizes)
    return np.broadcast_to(np.asarray(times, dtype=np.float64), (len(rows),))


def _evaluated(expressions: Iterable[Any], sizes: Mapping[str, Number]) -> tuple[Number, ...]:
    """Return the values of expressions at given sizes."""
    return compile_expressions(list(expressions), list(sizes))(*sizes.values())
