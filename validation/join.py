"""Join measured rows with predictions of the layers that describe them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel import hardware
from costmodel.errors import CostmodelError
from costmodel.measured import framework, harness
from costmodel.predict import as_device, measured_as
from costmodel.score import ADDED, NUMBERS, TEXTS
from costmodel.validation.case import Case
from costmodel.validation.record import cases_of
from costmodel.validation.registry import described

#: Columns in addition to those of `score`.
_MORE = ("serial_s", "footprint_bytes", "matrix_flops", "hbm_bytes", "depth")


def with_predictions(
    frame: pd.DataFrame, device: hardware.Device | str | Path, *, rung: str | None = None
) -> pd.DataFrame:
    """Return measured rows with their predictions.

    Parameters
    ----------
    frame : DataFrame
        As `costmodel.validation.record.table` returns it.
    device : Device, str or Path
        The device that the rows were measured on.
    rung : str, optional
        See `costmodel.predict`; default the best there is, row by row.

    Returns
    -------
    DataFrame
        The same rows, and ``seconds``, ``lower_s``, ``serial_s`` and the interval columns [s], ``bound``,
        ``rung``, ``constants_from``, ``in_range``, counts, ``prediction_reason`` (why there is no prediction,
        or empty), ``ratio`` (predicted over measured) and ``under_lower`` (whether the measured time is below
        the lower bound, which means an error in a count, a spec or a timer).
    """
    machine = as_device(device)
    cases = cases_of(frame)
    columns: dict[str, Any] = {name: np.full(len(frame), np.nan) for name in (*NUMBERS, *_MORE)}
    columns |= {name: np.full(len(frame), "", dtype=object) for name in TEXTS}
    columns["in_range"] = np.zeros(len(frame), dtype=bool)
    places: dict[str, list[int]] = {}
    for position, case in enumerate(cases):
        places.setdefault(case.kind, []).append(position)
    for group in places.values():
        index = np.array(group, dtype=np.intp)
        _predict([cases[i] for i in index], _timed_row(frame.iloc[index]), machine, rung, index, columns)
    columns["prediction_reason"] = columns.pop("reason")
    answer = frame.drop(columns=[c for c in (*ADDED, *_MORE) if c in frame and c != "reason"])
    answer = answer.assign(**columns)
    measured = answer["latency_s"].to_numpy(dtype=np.float64, na_value=np.nan)
    return answer.assign(
        ratio=answer["seconds"] / measured, under_lower=(answer["lower_s"] > measured).to_numpy(dtype=bool)
    )


def _timed_row(rows: pd.DataFrame) -> pd.Series[Any]:
    """Return a row that says how it was timed, if any does; failed cases do not."""
    timed = rows[rows["timer"].notna() & (rows["timer"] != "")]
    return (rows if timed.empty else timed).iloc[0]


def _predict(
    cases: Sequence[Case],
    row: pd.Series[Any],
    machine: hardware.Device,
    rung: str | None,
    index: NDArray[np.intp],
    columns: dict[str, Any],
) -> None:
    """Predict cases that differ only in sizes; write answers, or the reason, at their positions."""
    try:
        layer, sizes = described(cases)
        if layer is None:
            columns["reason"][index] = "no layer describes a loop of framework calls"
            return
        implementation = (framework(row["framework"])[0], harness(row["timer"]), str(row["kernel"]))
        prediction = measured_as(implementation, layer, machine, sizes, rung=rung, state=cases[0].state)
        for name in (*NUMBERS, *_MORE, "bound", "in_range"):
            columns[name][index] = getattr(prediction, name)
        columns["rung"][index] = prediction.rung
        columns["constants_from"][index] = prediction.constants_from
    except CostmodelError as error:
        columns["reason"][index] = str(error)
