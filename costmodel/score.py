"""Predict every row of a table of measured kernels, and summarise the errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel import hardware
from costmodel.arguments import typed
from costmodel.errors import CostmodelError, SizeError, TableError, shown, unknown_name
from costmodel.evaluate import as_size, bind
from costmodel.measured import (
    NUMERIC,
    OPERATIONS_MEASURED,
    STATIC,
    Operation,
    Sizes,
    framework,
    harness,
    label,
    uncounted,
    with_parts,
    with_sequences,
)
from costmodel.predict import check_rung, measured_as
from costmodel.prediction import Prediction
from costmodel.symbols import GLOSSARY
from costmodel.tables import check_once, read_as_written

#: Positions of rows in a table.
Places = NDArray[np.intp]

#: Columns that `score` adds.
NUMBERS = ("seconds", "lower_s", "lo80_s", "hi80_s", "lo95_s", "hi95_s")
TEXTS = ("bound", "rung", "constants_from", "reason")
ADDED = (*NUMBERS, *TEXTS, "in_range")
#: Columns that every row needs.
NEEDED = ("gpu", "op", "dtype")
#: Ops that go by another name in layers and in torch.
_OTHERWISE = {
    "matmul": "gemm",
    "mm": "gemm",
    "linear": "gemm",
    "batched-matmul": "bmm",
    "attention": "attention_prefill",
}
#: Factors between seconds and the units that times are often given in.
_UNITS = {1e3: "ms", 1e6: "µs", 1e9: "ns"}
#: Columns that identify a cell of the summary.
CELL = ("gpu", "op", "dtype", "framework")


@typed
def read_measured(path: Path) -> pd.DataFrame:
    """Return a table of measured kernels; columns that `score` does not read keep their text as written.

    Raises
    ------
    TableError
        See `read_table`.
    """
    return read_as_written(path, STATIC, NUMERIC)


def kept_names(table: pd.DataFrame) -> dict[str, str]:
    """Return new names for the table's columns that have a name of a column that `score` adds."""
    kept = {}
    for name in ADDED:
        if name in table:
            kept[name] = f"{name}_given"
            while kept[name] in table:
                kept[name] += "_given"
    return kept


@typed
def score(table: pd.DataFrame, *, rung: str | None = None) -> pd.DataFrame:
    """Return the table with a prediction in every row, in its order.

    Parameters
    ----------
    table : DataFrame
        Rows of measured kernels: ``gpu``, ``op``, ``dtype``, the sizes of the
        op, and, where known, ``framework``, ``timer``, ``kernel``, ``direction``.
    rung : str, optional
        See `predict`; default the best there is, row by row.

    Returns
    -------
    DataFrame
        All columns of the table, and ``seconds``, ``lower_s``, ``bound``,
        ``rung``, ``constants_from``, the interval columns, ``in_range``, and
        ``reason``: empty, or why there is no prediction. A column of the table
        that has one of these names is kept under another, see `kept_names`.

    Raises
    ------
    TableError
        If a column that every row needs is missing, or a column occurs twice.
    UnknownNameError
        If there is no such rung.
    """
    check_rung(rung)
    missing = [name for name in NEEDED if name not in table]
    if missing:
        raise TableError(
            f"the table lacks the columns {', '.join(missing)}; it has {', '.join(map(repr, table.columns))}"
        )
    check_once(table)
    _check_kinds(table)
    answers: dict[str, Any] = {name: np.full(len(table), np.nan) for name in NUMBERS}
    answers |= {name: np.full(len(table), "", dtype=object) for name in TEXTS}
    answers["in_range"] = np.zeros(len(table), dtype=bool)
    columns = _Columns(with_sequences(table))
    for static, index in _kinds(with_parts(table)):
        empty = [name for name in NEEDED if static[name] is None]
        if empty:
            answers["reason"][index] = f"{', '.join(empty)}: empty, and every row needs it"
            continue
        operation = OPERATIONS_MEASURED.get(str(static["op"]))
        if operation is None:
            name = str(static["op"])
            meant = [op for op in (_OTHERWISE.get(name),) if op]
            answers["reason"][index] = str(unknown_name("op", name, OPERATIONS_MEASURED, meant=meant))
            continue
        try:
            operation = operation.of(static)
        except CostmodelError as error:
            answers["reason"][index] = str(error)
            continue
        for rows in _patterns(columns, index, operation):
            _score_group(columns, rows, static, operation, rung, answers)
    return table.rename(columns=kept_names(table)).assign(**answers)


def _check_kinds(table: pd.DataFrame) -> None:
    """Refuse columns that are neither text nor numbers: a time span of 10 µs would become 10,000 s."""
    for name in (*STATIC, *NUMERIC):
        if name not in table:
            continue
        column = table[name]
        if name in NUMERIC and column.dtype.kind in "mMb":
            raise TableError(f"column {name}: wanted numbers, got {column.dtype}")
        # Checking cell by cell is slow, so it is done only where not all are text.
        mixed = name in STATIC and pd.api.types.infer_dtype(column) == "mixed"
        if mixed and not column.map(pd.api.types.is_hashable).all():
            raise TableError(f"column {name}: wanted text, got lists")


def _kinds(table: pd.DataFrame) -> Iterator[tuple[dict[str, Any], Places]]:
    """Yield the static values that a group of rows has in common, and the positions of these rows.

    Columns are factorised to integer codes, and these combined into one code per row: grouping a million rows
    by integers is much faster than by text.
    """
    if table.empty:
        return
    kind = np.zeros(len(table), dtype=np.int64)
    values: dict[str, tuple[Places, Any]] = {}
    for name in STATIC:
        if name not in table:
            continue
        codes, known = pd.factorize(table[name])
        found = [None, *known]
        codes = codes.astype(np.int64) + 1
        if name == "kernel":
            codes, found = _labelled(values["op"], codes, found)
        values[name] = codes, found
        kind = pd.factorize(kind * len(found) + codes)[0]
    order = np.argsort(kind, kind="stable")
    for index in np.split(order, np.flatnonzero(np.diff(kind[order])) + 1):
        yield {name: found[codes[index[0]]] for name, (codes, found) in values.items()}, index


def _labelled(ops: tuple[Places, Any], codes: Places, names: list[Any]) -> tuple[Places, list[Any]]:
    """Return codes and values of kernels' names, reduced to what matters for the op of each row."""
    pairs, distinct = pd.factorize(ops[0] * len(names) + codes)
    labels = [label(ops[1][pair // len(names)], names[pair % len(names)]) for pair in distinct]
    known = list(dict.fromkeys(labels))
    return np.array([known.index(text) for text in labels], dtype=np.int64)[pairs], known


class _Columns:
    """The columns of a table as numbers, each converted on first use."""

    def __init__(self, table: pd.DataFrame) -> None:
        self._table = table
        self._numbers: dict[str, NDArray[np.float64]] = {}
        self._given: dict[str, NDArray[np.bool_]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._table

    def numbers(self, name: str, index: Places) -> NDArray[np.float64]:
        """Return a column's numbers in some rows, NaN where there is none."""
        if name not in self._numbers:
            self._numbers[name] = _numbers(self._table[name])
        return self._numbers[name][index]

    def cell(self, name: str, row: int) -> Any:
        """Return one cell."""
        return self._table[name].iloc[row]

    def given(self, name: str, index: Places) -> NDArray[np.bool_]:
        """Return for some rows whether the column is not empty."""
        if name not in self._given:
            self._given[name] = self._table[name].notna().to_numpy()
        return self._given[name][index]


def _score_group(
    columns: _Columns,
    index: Places,
    static: Mapping[str, Any],
    operation: Operation,
    rung: str | None,
    answers: dict[str, Any],
) -> None:
    """Predict the rows of one group; write answers, or a reason, at their positions."""
    try:
        layer = operation.layer(str(static["dtype"]), static)
        device = hardware.load(str(static["gpu"]))
        sizes, reasons = _sizes(columns, index, operation)
        for name, more in uncounted(static).items():
            sizes[name] = sizes[name] + more
        good = reasons == ""
        answers["reason"][index[~good]] = reasons[~good]
        whose = framework(static.get("framework"))[0]
        implementation = (whose, harness(static.get("timer")), static.get("kernel") or None)
        predicted = partial(measured_as, implementation, layer, device, rung=rung)
        part = {name: values[good] for name, values in sizes.items()}
        _answer(partial(bind, layer), predicted, part, index[good], answers)
    except CostmodelError as error:
        answers["reason"][index] = str(error)


def _answer(
    bound: Callable[[Sizes], object],
    predicted: Callable[[Sizes], Prediction],
    sizes: Sizes,
    index: Places,
    answers: dict[str, Any],
) -> None:
    """Predict rows together; those whose sizes do not fit together get a reason instead."""
    if not index.size:
        return
    try:
        _write(predicted(sizes), index, answers)
    except SizeError:
        for check in (bound, lambda part: predicted(part).seconds):
            reasons = _refusals(check, sizes)
            good = reasons == ""
            answers["reason"][index[~good]] = reasons[~good]
            sizes, index = {name: values[good] for name, values in sizes.items()}, index[good]
        if index.size:
            _write(predicted(sizes), index, answers)


def _refusals(check: Callable[[Sizes], object], sizes: Sizes) -> NDArray[np.object_]:
    """Return for each row why a check refuses its sizes, or an empty text.

    A check of many rows raises if any one is refused, so the rows are bisected. Equal rows are tried once,
    and similar rows are sorted next to each other, so that few halves mix good and bad ones.
    """
    few_first = sorted(sizes, key=lambda name: len(np.unique(sizes[name])))
    groups = pd.DataFrame(sizes).groupby(few_first).ngroup().to_numpy()
    _, first = np.unique(groups, return_index=True)
    distinct = {name: values[first] for name, values in sizes.items()}
    reasons = np.full(len(first), "", dtype=object)

    def halve(start: int, stop: int) -> None:
        try:
            check({name: values[start:stop] for name, values in distinct.items()})
        except SizeError as error:
            if stop - start == 1:
                reasons[start] = str(error)
            else:
                halve(start, (start + stop) // 2)
                halve((start + stop) // 2, stop)

    if len(first):
        halve(0, len(first))
    return reasons[groups]


def _write(prediction: Prediction, index: Places, answers: dict[str, Any]) -> None:
    for name in ("seconds", "lower_s", "bound", "in_range", "rung", "constants_from"):
        answers[name][index] = getattr(prediction, name)
    for level in (80, 95):
        answers[f"lo{level}_s"][index], answers[f"hi{level}_s"][index] = prediction.interval(level)


def _patterns(columns: _Columns, index: Places, operation: Operation) -> list[Places]:
    """Return the rows in groups that give the same optional sizes: the layer's defaults fill the others."""
    optional = [name for name in operation.optional if name in columns]
    pattern = np.zeros(len(index), dtype=np.int64)
    for name in optional:
        pattern = 2 * pattern + columns.given(name, index)
    return [index[pattern == one] for one in pd.unique(pattern)]


def _sizes(columns: _Columns, index: Places, operation: Operation) -> tuple[Sizes, NDArray[np.object_]]:
    """Return the sizes of rows, and for each row why they are not valid (or an empty text)."""
    lacking = [name for name in operation.columns if name not in columns]
    if lacking:
        raise TableError(f"the table lacks the column {', '.join(lacking)}, which this op needs")
    reasons = np.full(len(index), "", dtype=object)
    sizes: Sizes = {}
    for column, size in {**operation.columns, **operation.optional}.items():
        if column in operation.optional and not (column in columns and columns.given(column, index).any()):
            continue
        sizes[size] = columns.numbers(column, index)
        good = _is_size(sizes[size], size)
        for position in np.flatnonzero(~good):
            reasons[position] = _why_not(column, size, columns.cell(column, index[position]))
        sizes[size][~good] = 1.0
    for column, what in operation.one.items():
        if column in columns:
            reasons[columns.numbers(column, index) > 1] = f"no layer describes {what} ({column} above 1)"
    return sizes, reasons


def _numbers(column: pd.Series) -> NDArray[np.float64]:
    """Return a copy of a column as numbers, NaN where it holds none."""
    numbers = pd.to_numeric(column, errors="coerce")
    return np.array(numbers.to_numpy(dtype=np.float64, na_value=np.nan))


def _usable(measured: NDArray[np.float64]) -> NDArray[np.bool_]:
    good: NDArray[np.bool_] = (measured > 0) & np.isfinite(measured)
    return good


def _is_size(values: NDArray[np.float64], size: str) -> NDArray[np.bool_]:
    good: NDArray[np.bool_] = (
        (values >= 1) & (values <= GLOSSARY[size].largest) & (values == np.floor(values))
    )
    return good


def _why_not(column: str, size: str, cell: Any) -> str:
    """Return why a cell is not a valid size."""
    if pd.api.types.is_scalar(cell) and pd.isna(cell):
        return f"{column}: empty, and this op needs it"
    try:
        as_size(size, float(cell))
    except SizeError as error:
        return str(error).replace(f"size {size}:", f"{column}:")
    except (TypeError, ValueError, OverflowError):
        pass  # not a number, or too large for a float
    return f"{column}: wanted a whole number of at least 1, got {shown(cell)}"


def unusable(scored: pd.DataFrame) -> int:
    """Return how many rows have no measured time that a prediction can be compared with."""
    return int((~_usable(_numbers(scored["latency_s"]))).sum())


def unit(scored: pd.DataFrame) -> str | None:
    """Return the unit that the measured times may be in instead of seconds; None if they may well be seconds.

    Predictions are off by tens of percent, units by a factor of a thousand: the median ratio has to be within
    a factor of ten of it.
    """
    measured = _numbers(scored["latency_s"])
    ratio = (measured / scored["seconds"])[_usable(measured)].median()
    return next((name for factor, name in _UNITS.items() if 0.1 < ratio / factor < 10), None)


def summary(scored: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of each gpu × op × dtype × framework.

    Returns
    -------
    DataFrame
        ``rows``, ``predicted``, ``median_ape`` and ``mean_ape`` (absolute
        error [%]), ``bias`` (median signed error [%], positive where the
        prediction is too long), ``under_lower`` (share [%] of rows measured
        below the lower bound). Rows without a positive measured time count as
        rows only; a cell's name is empty where the table does not say it.
    """
    cell = [name for name in CELL if name in scored]
    measured = _numbers(scored["latency_s"])
    valid = _usable(measured)
    error = np.where(valid, 100.0 * (scored["seconds"] / np.where(valid, measured, 1.0) - 1.0), np.nan)
    under = np.where(valid & scored["lower_s"].notna(), 100.0 * (scored["lower_s"] > measured), np.nan)
    names = scored[cell].astype(object).where(scored[cell].notna(), "").astype(str)
    frame = names.assign(error=error, ape=np.abs(error), under=under)
    grouped = frame.groupby(cell)
    return pd.DataFrame(
        {
            "rows": grouped.size(),
            "predicted": grouped["error"].count(),
            "median_ape": grouped["ape"].median(),
            "mean_ape": grouped["ape"].mean(),
            "bias": grouped["error"].median(),
            "under_lower": grouped["under"].mean(),
        }
    ).reset_index()
