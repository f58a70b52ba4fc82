"""From tables of measured kernels to cells: one op, format, framework and way of timing on one device."""

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

#: Kernel models of which a framework has several implementations, told apart by the row's ``kernel``.
_BY_LABEL = ("attention", "decode", "delta")
TABLES = ("gemm", "attention", "scan", "memops")


@dataclass(frozen=True)
class Cell:
    """What one set of constants is of; ``label`` is the implementation's own name, where it matters."""

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
        """What tells its section from the others of a file; see `costmodel.calibration.Section.cell`."""
        labels = (self.label,) if self.label else ()
        return (self.kernel, self.op, self.dtype, self.framework, self.harness, "fwd", *labels)


def rows_of(paths: Iterable[Path]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the rows of tables one below the other, and each table's hash.

    Raises
    ------
    TableError
        If one of them cannot be read, or lacks what is needed of it.
    """
    frames, hashes = [], {}
    for path in paths:
        frame = read_table(path)
        missing = {"gpu", "op", "dtype", "framework", "timer", "latency_s"} - set(frame)
        if missing:
            raise TableError(f"{path}: lacks the columns {', '.join(sorted(missing))}, which a fit needs")
        hashes[path.name] = digest(path)
        # Text where a number should be is none: its row is left out, and the others are fitted.
        numbers = {n: pd.to_numeric(frame[n], errors="coerce") for n in NUMERIC if n in frame}
        frames.append(frame.assign(table=path.name, **numbers))
    if not frames:
        raise TableError("nothing to fit: no table was given")
    return pd.concat(frames, ignore_index=True), hashes


def digest(path: Path) -> str:
    """Return the first 12 hex digits of a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def usable(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that a fit may use: forward, warm, measured, of an operation that a model knows."""
    good = (rows["latency_s"] > 0) & (rows["latency_s"] < np.inf) & rows["dtype"].notna()
    good &= rows["op"].map(kernel_of).notna() & sized(rows)
    for name, value in (("direction", "fwd"), ("state", "warm"), ("status", "ok")):
        if name in rows:
            good &= rows[name].fillna(value) == value
    good &= ~queued(rows)
    if "bench" in rows:
        # A loop of framework calls, and attention as a chain of kernels, are not the op's one kernel.
        good &= ~rows["bench"].fillna("").str.contains("loop|math|triton")
    return rows[good]


def queued(rows: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows show the host's dispatch where that is the slower.

    Calls launched one by one, where graphs of them, which show the device alone, were measured too.
    """
    if "launch" not in rows or not (rows["launch"] == "graph").any():
        return pd.Series(False, index=rows.index)
    return rows["launch"] != "graph"


def sized(rows: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows have every size that their operation has, each a whole number of at least 1."""
    good = pd.Series(True, index=rows.index)
    for op, operation in OPERATIONS_MEASURED.items():
        ours = rows["op"] == op
        for column in (*operation.columns, *operation.optional) if ours.any() else ():
            values = rows[column].astype("float64") if column in rows else pd.Series(np.nan, index=rows.index)
            good &= ~ours | ((values >= 1) & (values < np.inf) & (values % 1 == 0))
    return good


def cells(rows: pd.DataFrame, device: Device) -> Iterator[tuple[Cell, pd.DataFrame]]:
    """Yield each cell of one device's rows, products before what contains products."""
    labels = rows["kernel"].fillna("") if "kernel" in rows else pd.Series("", index=rows.index)
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
    """Return the kernel model that an operation is timed by; None if it is a chain of several kernels."""
    if op not in OPERATIONS_MEASURED:
        return None
    try:
        phases = OPERATIONS_MEASURED[op].layer("fp32", {"direction": "fwd"}).cost.phases
    except CostmodelError:
        return None  # a whole model: its row alone says what it is
    phase = _named(op, phases)
    return phase.kernel if phase else None


def _named(op: str, phases: Sequence[Phase]) -> Phase | None:
    """Return the kernel of a layer that an operation is, or the only one there is; None if it is several."""
    named = [phase for phase in phases if phase.op == op]
    return named[0] if named else phases[0] if len(phases) == 1 else None


def model_of(op: str, device: Device) -> str:
    """Return the kernel model of an operation on a device.

    Raises
    ------
    TableError
        If no single model times it.
    """
    name = kernel_of(op)
    if name is None:
        raise TableError(f"{op}: no single kernel model times it, so nothing can be fitted to it")
    return kernels.on(name, device)


@cache
def recipe(kernel: str) -> ModuleType:
    """Return the module that fits a kernel model: the ``fit_*.py`` with that name among its ``MODELS``.

    It has ``fit(rows, device, start)``, which returns the constants of one cell from rows with ``latency_s``,
    beginning with what is given; given constants that the rows do not determine stay. Where it says which
    are determined, ``free(rows, device)``. ``other_s`` of a row is the time of what it holds beside this
    kernel (a recurrent layer's products).

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
    """Return the arguments of the kernel model for rows of one cell, as predictions of them have them.

    Parameters
    ----------
    rows : DataFrame
        Of one op, dtype, framework and kernel, with the columns of that op's sizes, and where they are there
        ``framework``, ``kernel`` and ``grid``.
    device : Device
        Where they were measured: libraries choose their kernels by architecture.
    """
    layer, sizes = described(rows)
    return _arguments(_timed(rows, layer), rows, sizes, device)


def repeats(rows: pd.DataFrame) -> NDArray[np.float64]:
    """Return how often each row of a cell runs its kernel: a stack of recurrences, once a layer."""
    layer, sizes = described(rows)
    return _repeats(_timed(rows, layer), rows, sizes)


def beside(
    rows: pd.DataFrame, device: Device
) -> Iterator[tuple[str, str, dict[str, Any], NDArray[np.float64]]]:
    """Yield what rows of a cell hold beside its own kernel: kernel model, operation, arguments, repeats."""
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
    """Return the first row: what all rows of a cell have in common, it says."""
    return {str(name): value for name, value in rows.iloc[0].items()}


def _timed(rows: pd.DataFrame, layer: Layer) -> Phase:
    """Return the kernel of a layer that rows of a cell are timed by."""
    phase = _named(str(rows["op"].iloc[0]), layer.cost.phases)
    assert phase is not None, "rows of a cell have a kernel"
    return phase


def _arguments(
    phase: Phase, rows: pd.DataFrame, sizes: Mapping[str, Number], device: Device
) -> dict[str, Any]:
    """Return the arguments of the model of one of the kernels of rows."""
    first = _first(rows)
    kernel, name = kernels.on(phase.kernel, device), framework(first.get("framework"))[0]
    said = label(phase.op, first.get("kernel")) or None
    found: dict[str, Any] = dict(zip(phase.sizes, _evaluated(phase.sizes.values(), sizes), strict=True))
    found |= phase.options
    found |= implementations.arguments(kernel, phase.op, name, said, device)
    found |= implementations.beside(kernel, phase.op, name, str(found.get("direction", "fwd")))
    if "tile_m" in found and "kernel" in rows:
        # Of one product each row may have another tile.
        tiles = _tiles.from_names(with_parts(rows)["kernel"])
        found |= zip(("tile_m", "tile_n", "tile_k", "split"), tiles, strict=True)
    return found


def _repeats(phase: Phase, rows: pd.DataFrame, sizes: Mapping[str, Number]) -> NDArray[np.float64]:
    (times,) = _evaluated([phase.repeats], sizes)
    return np.broadcast_to(np.asarray(times, dtype=np.float64), (len(rows),))


def _evaluated(expressions: Iterable[Any], sizes: Mapping[str, Number]) -> tuple[Number, ...]:
    """Return what expressions are at those sizes."""
    return compile_expressions(list(expressions), list(sizes))(*sizes.values())
