"""Predictions for a table of measured kernels, row by row, and how far off they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel import hardware
from costmodel.errors import CostmodelError, TableError, unknown_name
from costmodel.evaluate import as_size
from costmodel.measured import (
    OPERATIONS_MEASURED,
    STATIC,
    Operation,
    Sizes,
    framework,
    harness,
    label,
    uncounted,
)
from costmodel.predict import Prediction, predict
from costmodel.symbols import GLOSSARY

#: Columns that `score` adds.
NUMBERS = ("seconds", "lower_s", "lo80_s", "hi80_s", "lo95_s", "hi95_s")
TEXTS = ("bound", "rung", "constants_from", "reason")
ADDED = (*NUMBERS, *TEXTS, "in_range")
#: What a cell of the summary is.
CELL = ("gpu", "op", "dtype", "framework")


def read_table(path: Path) -> pd.DataFrame:
    """Return a CSV or Parquet table.

    Raises
    ------
    TableError
        If there is no such file, it is no table, or it has no rows.
    """
    if path.is_dir():
        raise TableError(f"{path}: is a folder, wanted a CSV or Parquet file")
    if not path.is_file():
        raise TableError(f"{path}: no such file")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, low_memory=False)
    except Exception as error:
        # pandas and pyarrow raise many kinds for a broken file.
        raise TableError(f"{path}: not a readable table: {str(error).splitlines()[0]}") from None
    if table.empty:
        raise TableError(f"{path}: has no rows")
    return table


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
        ``reason``: empty, or why there is no prediction.

    Raises
    ------
    TableError
        If a column that every row needs is missing.
    """
    missing = [name for name in ("gpu", "op", "dtype") if name not in table]
    if missing:
        raise TableError(
            f"the table lacks the columns {', '.join(missing)}; it has {', '.join(map(str, table.columns))}"
        )
    answers: dict[str, Any] = {name: np.full(len(table), np.nan) for name in NUMBERS}
    answers |= {name: np.full(len(table), "", dtype=object) for name in TEXTS}
    answers["in_range"] = np.zeros(len(table), dtype=bool)
    keys = [name for name in STATIC if name in table]
    codes = table[keys].astype(object).where(table[keys].notna(), None)
    if "kernel" in codes:
        pairs = codes[["op", "kernel"]].drop_duplicates()
        names = {pair: label(*pair) for pair in pairs.itertuples(index=False, name=None)}
        codes["kernel"] = [names[pair] for pair in zip(codes["op"], codes["kernel"], strict=True)]
    for values, index in codes.groupby(keys, dropna=False, sort=False, observed=True).indices.items():
        static = dict(zip(keys, values if isinstance(values, tuple) else (values,), strict=True))
        operation = OPERATIONS_MEASURED.get(str(static["op"]))
        if operation is None:
            answers["reason"][index] = str(unknown_name("op", str(static["op"]), OPERATIONS_MEASURED))
            continue
        for rows in _patterns(table, np.asarray(index), operation):
            _score_group(table, rows, static, operation, rung, answers)
    return table.assign(**answers)


def _score_group(
    table: pd.DataFrame,
    index: NDArray[np.intp],
    static: Mapping[str, Any],
    operation: Operation,
    rung: str | None,
    answers: dict[str, Any],
) -> None:
    """Predict the rows of one kind; write answers or a reason at their places."""
    try:
        layer = operation.layer(str(static["dtype"]), static)
        device = hardware.load(str(static["gpu"]))
        sizes, reasons = _sizes(table, index, operation)
        for name, more in uncounted(static).items():
            sizes[name] = sizes[name] + more
        good = reasons == ""
        answers["reason"][index[~good]] = reasons[~good]
        if not good.any():
            return
        prediction = predict(
            layer,
            device,
            rung=rung,
            framework=framework(static.get("framework"))[0],
            harness=harness(static.get("timer")),
            kernel=_text(static.get("kernel")),
            **{name: values[good] for name, values in sizes.items()},
        )
        _write(prediction, index[good], answers)
    except CostmodelError as error:
        answers["reason"][index] = str(error)


def _text(value: Any) -> str | None:
    return None if value is None or pd.isna(value) or value == "" else str(value)


def _write(prediction: Prediction, index: NDArray[np.intp], answers: dict[str, Any]) -> None:
    for name in (*NUMBERS, "bound", "in_range"):
        answers[name][index] = getattr(prediction, name)
    answers["rung"][index] = prediction.rung
    answers["constants_from"][index] = prediction.constants_from


def _patterns(table: pd.DataFrame, index: NDArray[np.intp], operation: Operation) -> list[NDArray[np.intp]]:
    """Return the rows in groups that have the same optional sizes: where one is empty, a default holds."""
    optional = [name for name in operation.optional if name in table]
    given = table[optional].iloc[index].notna()
    return (
        [index[rows] for rows in given.groupby(optional, sort=False).indices.values()]
        if optional
        else [index]
    )


def _sizes(
    table: pd.DataFrame, index: NDArray[np.intp], operation: Operation
) -> tuple[Sizes, NDArray[np.object_]]:
    """Return the sizes of rows, and for each row why it has none (or nothing)."""
    lacking = [name for name in operation.columns if name not in table]
    if lacking:
        raise TableError(f"the table lacks the column {', '.join(lacking)}, which this op needs")
    reasons = np.full(len(index), "", dtype=object)
    sizes: Sizes = {}
    for column, size in {**operation.columns, **operation.optional}.items():
        if column not in table or (column in operation.optional and table[column].iloc[index].isna().all()):
            continue
        sizes[size] = _numbers(table[column].iloc[index])
        _refuse(sizes[size], size, column, reasons)
    return sizes, reasons


def _numbers(column: pd.Series) -> NDArray[np.float64]:
    """Return a column as numbers of its own, NaN where it holds none."""
    numbers = pd.to_numeric(column, errors="coerce")
    return np.array(numbers.to_numpy(dtype=np.float64, na_value=np.nan))


def _refuse(values: NDArray[np.float64], size: str, column: str, reasons: NDArray[np.object_]) -> None:
    """Note the reason in rows whose value is not a size, and put 1 there."""
    good = (values >= 1) & (values <= GLOSSARY[size].largest) & (values == np.floor(values))
    for position in np.flatnonzero(~good):
        try:
            as_size(size, float(values[position]))
        except CostmodelError as error:
            reasons[position] = str(error).replace(f"size {size}:", f"{column}:")
    values[~good] = 1.0


def summary(scored: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of each gpu × op × dtype × framework.

    Returns
    -------
    DataFrame
        ``rows``, ``predicted``, ``median_ape`` and ``mean_ape`` (absolute
        error [%]), ``bias`` (median signed error [%], positive where the
        prediction is too long), ``under_lower`` (share [%] of rows measured
        below the lower bound). Rows without a positive measured time count as
        rows only.
    """
    cell = [name for name in CELL if name in scored]
    measured = _numbers(scored["latency_s"])
    valid = (measured > 0) & np.isfinite(measured)
    error = np.where(valid, 100.0 * (scored["seconds"] / np.where(valid, measured, 1.0) - 1.0), np.nan)
    under = np.where(valid & scored["lower_s"].notna(), 100.0 * (scored["lower_s"] > measured), np.nan)
    frame = scored[cell].astype(str).assign(error=error, ape=np.abs(error), under=under)
    grouped = frame.groupby(cell, sort=True, observed=True)
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
