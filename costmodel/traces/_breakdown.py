"""Where the time of a trace went, compared with the prediction and the lower bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from costmodel.arguments import typed
from costmodel.errors import TableError
from costmodel.measured import OPERATIONS_MEASURED

#: Columns that the table needs: `read_trace` makes the first four, `score` the others.
_NEEDED = ("torch_op", "calls", "latency_s", "total_s", "seconds", "lower_s", "lo95_s", "hi95_s", "reason")


@dataclass(frozen=True)
class Breakdown:
    """Where the time of a trace went.

    Attributes
    ----------
    rows : DataFrame
        The scored rows that have a prediction, the longest first, with ``share`` (of the whole time) and
        ``verdict``: ``slower`` or ``faster`` where the measured time lies outside the 95 % interval of the
        prediction, else empty.
    measured_s : float
        Time of all rows [s].
    covered_s, predicted_s, lower_s : float
        Measured time, predicted time and lower bound of the rows that have a prediction [s].
    others : mapping of str to float
        Time of the operations without a prediction by name, the longest first [s].
    reasons : mapping of str to float
        Reasons why operations that a layer describes have no prediction, with their time [s], the longest
        first.
    """

    rows: pd.DataFrame
    measured_s: float
    covered_s: float
    predicted_s: float
    lower_s: float
    others: dict[str, float]
    reasons: dict[str, float]


@typed
def breakdown(scored: pd.DataFrame) -> Breakdown:
    """Return where the time of a scored trace went.

    Parameters
    ----------
    scored : DataFrame
        A table from `read_trace`, scored by `costmodel.score.score`.

    Raises
    ------
    TableError
        If a column is missing.
    """
    lacking = [name for name in _NEEDED if name not in scored]
    if lacking:
        raise TableError(f"wanted a scored trace, score(read_trace(…)); it lacks {', '.join(lacking)}")
    whole, measured = float(scored["total_s"].sum()), scored["latency_s"]
    verdict = np.select([measured > scored["hi95_s"], measured < scored["lo95_s"]], ["slower", "faster"], "")
    table = scored.assign(verdict=verdict, share=scored["total_s"] / (whole or 1.0))
    table = table.sort_values("total_s", ascending=False, kind="stable")
    known = table["seconds"].notna()
    rows = table[known].reset_index(drop=True)
    names = table["torch_op"].where(table["torch_op"] != "", table["op"])
    # What the trace lacks, or why the operation has no prediction on this device.
    unread = table["unread"].fillna("") if "unread" in table else pd.Series("", index=table.index)
    reasons = table["reason"].where(table["op"].isin(list(OPERATIONS_MEASURED)), unread)
    return Breakdown(
        rows=rows,
        measured_s=whole,
        covered_s=float(rows["total_s"].sum()),
        predicted_s=float((rows["calls"] * rows["seconds"]).sum()),
        lower_s=float((rows["calls"] * rows["lower_s"]).sum()),
        others=_times(table[~known], names),
        reasons=_times(table[~known & (reasons != "")], reasons),
    )


def _times(rows: pd.DataFrame, names: pd.Series) -> dict[str, float]:
    """Return the time of some rows by name, the longest first."""
    sums = rows["total_s"].groupby(names[rows.index], sort=False).sum().sort_values(ascending=False)
    return {str(name): float(seconds) for name, seconds in sums.items()}
