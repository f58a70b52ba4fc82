"""The report of any sweep: its layers compared on its devices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from costmodel.reports import fastest
from costmodel.reports.compose import compose
from costmodel.reports.figure import Pick
from costmodel.reports.frames import MOST_ROWS, Facts, Frames, axis_of, axis_title, checked, idle, sizes_of
from costmodel.reports.page import Page
from costmodel.reports.words import listed
from costmodel.reports.words import rows as counted

#: Largest number of values of one size in a chart, and in a list to pick from.
MOST_POINTS = 40
MOST_CHOICES = 12


def page(frame: pd.DataFrame, facts: Facts, *, title: str | None = None, command: str) -> Page:
    """Return the report of a sweep's table.

    All charts of a page run along one size: layers without it are left out, and the page says so. A table
    too large for a page is thinned to fewer, evenly spread values of each size, with first and last kept;
    the page says so.

    Raises
    ------
    TableError
        If the table is not a sweep's.
    """
    table = checked(frame)
    x = axis_of(table)
    whole = table[table[x].notna()]
    chosen_by = picked_columns(whole, x)
    rows = thinned(whole, [x, *chosen_by])
    picks = [_pick(rows, column) for column in chosen_by]
    layers, devices = list(dict.fromkeys(rows["series"])), list(dict.fromkeys(rows["device"]))
    low, high = rows[x].min(), rows[x].max()
    along = axis_title(x).partition(" [")[0]
    span = f"for {along} from {low:,.0f} to {high:,.0f}" if low < high else f"at {along} {low:,.0f}"
    asked = [f"{listed(layers)} on {listed(devices)}, {span}."]
    if len(whole) < len(table):
        others = list(dict.fromkeys(table["series"][table[x].isna()]))
        asked.append(f"Left out, because they have no {along}: {listed(others)}.")
    if at_rest := int(idle(frame).sum()):
        asked.append(f"Left out: {counted(at_rest)} in which no work is done.")
    if len(rows) < len(whole):
        asked.append(
            f"The table has {len(whole):,} rows; this page shows {len(rows):,} of them, evenly spread over "
            "its sizes."
        )
    raced = len(layers) > 1 and low < high
    crossings = fastest.rows(rows, chosen_by) if raced else pd.DataFrame()
    frames = Frames(rows=rows, facts=facts, fastest=crossings)
    heading = title or f"{listed([name.partition('[')[0] for name in layers])} compared"
    return compose(frames, picks, title=heading, asked=tuple(asked), command=command)


def picked_columns(frame: pd.DataFrame, x: str) -> list[str]:
    """Return the columns that tell a table's cases apart, other than layer and `x`.

    Left out are sizes that follow from others (keys from queries, the model's width from its heads), and a
    rung that follows from layer and device: layers are compared at the best rung of each.
    """
    chosen = ["where"] if frame["where"].nunique() > 1 else []
    for name in (*(name for name in ("rung", "state") if name in frame), *sizes_of(frame)):
        if name == x or name in chosen or frame[name].nunique() < 2:
            continue
        cases = frame.groupby(["series", x, *chosen], dropna=False, observed=True)[name]
        if (cases.nunique() > 1).any():
            chosen.append(name)
    return chosen


def thinned(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the rows with few enough values of each size for a page."""
    numbers = [name for name in columns if name in sizes_of(frame)]
    limits = {name: MOST_POINTS if name == columns[0] else MOST_CHOICES for name in numbers}
    rows = frame
    for name in numbers:
        rows = _few(rows, name, limits[name])
    while len(rows) > MOST_ROWS:
        name = max(numbers or ["where"], key=lambda column: rows[column].nunique())
        if rows[name].nunique() <= 2:
            return rows.head(MOST_ROWS)
        rows = _few(rows, name, max(2, rows[name].nunique() * 2 // 3))
    return rows.reset_index(drop=True)


def _few(frame: pd.DataFrame, column: str, most: int) -> pd.DataFrame:
    """Return the rows with at most `most` values of a column, evenly spread, ends kept."""
    values = np.array(sorted(frame[column].dropna().unique()))
    if len(values) <= most:
        return frame
    kept = values[np.unique(np.round(np.linspace(0, len(values) - 1, most)).astype(int))]
    return frame[frame[column].isin(kept) | frame[column].isna()]


def _pick(frame: pd.DataFrame, column: str) -> Pick:
    labels = {"where": "Device", "rung": "Rung", "state": "State"}
    values = frame[column].dropna()
    plain: Iterable[object] = (
        dict.fromkeys(values) if column in labels else sorted(float(v) for v in set(values))
    )
    return Pick(column, labels.get(column, axis_title(column).partition(" [")[0].capitalize()), tuple(plain))
