"""Coverage of intervals on rows that they were not taken from.

A calibration's intervals are quantiles of its held-out residuals, so their coverage of those rows is as
promised by construction. Here the held-out rows are split in halves by shape: quantiles are taken from one
half and judged by the other, both ways, so that every row is judged once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from costmodel import calibration, hardware
from costmodel.measured import OPERATIONS_MEASURED
from costmodel.validation.cells import cells, kernel_of
from costmodel.validation.heldout import second_half
from costmodel.validation.residuals import spread

#: Regimes for reporting intervals: upper edge of predicted time [s], and name.
REGIMES = (
    (10e-6, "under 10 µs"),
    (100e-6, "10–100 µs"),
    (1e-3, "0.1–1 ms"),
    (np.inf, "1 ms and more"),
)


def judged(scored: pd.DataFrame) -> pd.DataFrame:
    """Return held-out rows with intervals taken from rows of other shapes.

    Parameters
    ----------
    scored : DataFrame
        Held-out rows of measured tables with ``seconds``, as `costmodel.score.score` returns them.

    Returns
    -------
    DataFrame
        The rows that could be judged, with ``lo80_s``, ``hi80_s``, ``lo95_s``, ``hi95_s`` replaced. If one
        half of a cell has fewer than 8 rows, it gives no interval, and the rows of the other half are left
        out.
    """
    known = scored[scored["seconds"].notna() & scored["op"].isin(OPERATIONS_MEASURED)]
    parts = []
    for label, rows in known.groupby("gpu"):
        for _, cell in cells(rows, hardware.load(str(label))):
            second = second_half(cell)
            for taken, left in ((cell[second], cell[~second]), (cell[~second], cell[second])):
                quantiles = spread(taken["seconds"].to_numpy(), taken["latency_s"].to_numpy())
                if quantiles and len(left):
                    parts.append(_with_intervals(left, quantiles))
    return pd.concat(parts) if parts else known.iloc[:0]


def _with_intervals(rows: pd.DataFrame, quantiles: tuple[calibration.Spread, ...]) -> pd.DataFrame:
    ends: dict[str, Any] = {}
    for level in calibration.LEVELS:
        low, high = calibration.interval(quantiles, rows["seconds"].to_numpy(), level)
        ends |= {f"lo{level}_s": low, f"hi{level}_s": high}
    return rows.assign(**ends)


def coverage(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return the share of rows inside their interval [%], and the intervals' width, by group.

    Returns
    -------
    DataFrame
        ``judged``, and for each level ``covered_80`` and ``width_80`` (median ratio of upper to lower end);
        NaN if no row of a group has an interval.
    """
    table = {"judged": rows.groupby(by, observed=True).size()}
    for level in calibration.LEVELS:
        low, high = rows[f"lo{level}_s"], rows[f"hi{level}_s"]
        # Rows without an interval are neither inside nor outside.
        held = (100.0 * rows["latency_s"].between(low, high)).where(low.notna() & high.notna())
        inside = rows.assign(value=held)
        table[f"covered_{level}"] = inside.groupby(by, observed=True)["value"].mean()
        table[f"width_{level}"] = rows.assign(value=high / low).groupby(by, observed=True)["value"].median()
    return pd.DataFrame(table)


def regime(seconds: pd.Series) -> pd.Series:
    """Return the regime of each row's time, in the order of ``REGIMES``."""
    edges = [0.0, *(edge for edge, _ in REGIMES)]
    return pd.cut(seconds, edges, right=False, labels=[name for _, name in REGIMES])


def by_regime(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the `coverage` by kernel model and regime of predicted time, over all devices."""
    models = {op: kernel_of(op) for op in rows["op"].unique()}
    named = rows.assign(kernel=rows["op"].map(models), regime=regime(rows["seconds"]))
    return coverage(named, ["kernel", "regime"]).reset_index()
