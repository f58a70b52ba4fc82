"""The report of predictions compared with measurements."""

from __future__ import annotations

import numpy as np
import pandas as pd

from costmodel._version import __version__
from costmodel.errors import TableError
from costmodel.reports import agreement, errors, residuals, tightness
from costmodel.reports.compose import RUNGS, layers, lead, rungs, sources
from costmodel.reports.figure import Figure, Pick, at_first
from costmodel.reports.frames import Facts, with_text
from costmodel.reports.page import Page, Section
from costmodel.reports.stated import MEMORY, TRAFFIC, Stated
from costmodel.reports.table import Column, Table
from costmodel.reports.words import listed, whole

NEEDED = ("device", "op", "dtype", "rung", "measured_s", "seconds", "lower_s", "bound")
#: Cases whose reruns differ by more than this are counted as noisy.
NOISY = 0.10
#: Columns that the reader can choose by.
CASES = {"device": "Device", "rung": "Rung", "state": "State"}


def page(
    frame: pd.DataFrame,
    facts: Facts,
    *,
    constants: pd.DataFrame | None,
    memory: pd.DataFrame | None,
    traffic: pd.DataFrame | None,
    command: str,
) -> Page:
    """Return the page of a table of measurements with their predictions; see `costmodel.reports.validation`.

    Raises
    ------
    TableError
        If a column is missing, or no row has both times.
    """
    rows, fitted = _checked(frame)
    both = rows[np.isfinite(rows["seconds"]) & (rows["seconds"] > 0)]
    if both.empty:
        raise TableError("no row has both a measured and a predicted time: nothing to compare")
    cases = [name for name in CASES if name in both]
    picks = tuple(_pick(name, both[name]) for name in cases if both[name].nunique() > 1)
    ops = list(
        dict.fromkeys(name for table in (rows, memory, traffic) if table is not None for name in table["op"])
    )
    figures = tuple(
        Figure.of(module, _with_categories(module.rows(both, cases), ops))
        for module in (agreement, residuals, tightness)
    )
    by_rung = errors.rows(rows, [*cases, "op"])
    by_rung["rung"] = pd.Categorical(by_rung["rung"], list(dict.fromkeys(by_rung["rung"])))
    wide = Figure.of(errors, by_rung.rename(columns={"rung": "at_rung"}))
    table = errors.rows(rows, [name for name in errors.CELL if name in rows])
    stated = {one.name: _stated(one, more, ops) for one, more in ((MEMORY, memory), (TRAFFIC, traffic))}
    sections = (
        Section("agreement", "Predicted and measured time", figures=figures[:1]),
        Section("errors", "Errors by op and rung", figures=(wide,)),
        Section("residuals", "Errors by measured time and limit", figures=figures[1:2]),
        Section("roofline", "How close measurements come to the lower bound", figures=figures[2:]),
        Section("memory", "Measured memory and stated footprint", figures=stated[MEMORY.name]),
        Section(
            "traffic",
            "Traffic from hardware counters",
            figures=stated[TRAFFIC.name],
            tables=_counted(traffic),
        ),
        Section("numbers", "The accuracy table", tables=(_table(table),)),
        Section("constants", "Fitted constants, with intervals", tables=_constants(constants), folded=True),
        Section("means", "What the numbers mean", notes=_notes(rows, facts)),
        sources(facts),
    )
    kept = tuple(section for section in sections if section.figures or section.tables or section.notes)
    devices, timed = (list(dict.fromkeys(rows[name])) for name in ("device", "op"))
    asked = [
        f"{whole(_measurements(rows))} measurements of {listed(timed)} on {listed(devices)}: how large are "
        "the prediction errors, in which direction, and where?"
    ]
    if fitted:
        asked.append(f"{whole(fitted)} more, of shapes that constants are fitted on, are left out.")
    return Page(
        title=f"Predictions compared with measurements on {listed(devices[:3])}",
        asked=tuple(asked),
        findings=tuple(
            figure.say(at_first(picks))
            for figure in (figures[0], wide, *figures[1:], *stated[MEMORY.name], *stated[TRAFFIC.name])
        ),
        picks=picks,
        sections=kept,
        command=command,
        version=__version__,
        lead=lead(picks),
        caveat=" ".join(said for said in (_caveat(rows), _noise(rows)) if said),
    )


def _pick(name: str, column: pd.Series) -> Pick:
    """Return a choice among a column's values; among rungs, the most detailed one is the default."""
    values = tuple(dict.fromkeys(column))
    if name == "rung":
        known = [rung for rung in RUNGS if rung in values]
        return Pick(name, CASES[name], values, values.index(known[-1]) if known else 0)
    return Pick(name, CASES[name], values)


def _notes(rows: pd.DataFrame, facts: Facts) -> tuple[tuple[str, str], ...]:
    """Return notes on the measurements, the definition of errors, and each rung and layer."""
    return (
        ("Measured", "Time of one run, as defined by whoever measured it; see the columns of the table."),
        (
            "Error",
            "Predicted over measured time, minus 1: median and mean of its absolute value, and the median "
            "with its sign as bias. Rows that constants were fitted on are left out.",
        ),
        *rungs(rows),
        *layers(facts),
    )


def _checked(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return the measured rows that nothing was fitted on, and the number of measurements left out."""
    missing = [name for name in NEEDED if name not in frame]
    if missing:
        raise TableError(f"not a table of measurements with predictions: it lacks {', '.join(missing)}")
    rows = with_text(frame)
    if "held_out" in frame:  # as booleans: any text would count as true
        rows = rows.assign(held_out=frame["held_out"].astype(bool))
    rows = rows[np.isfinite(rows["measured_s"]) & (rows["measured_s"] > 0)]
    if "held_out" not in rows:
        return rows, 0
    return rows[rows["held_out"]], _measurements(rows[~rows["held_out"]])


def _measurements(rows: pd.DataFrame) -> int:
    """Return the number of measurements."""
    return len(_once(rows))


def _once(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per measurement; it has a row for every rung on which it is predicted."""
    return rows.drop_duplicates([name for name in ("device", "op", "dtype", "measured_s") if name in rows])


def _with_categories(frame: pd.DataFrame, ops: list[str]) -> pd.DataFrame:
    """Return a chart's rows with all ops of the page as categories, so that charts share one style."""
    return frame.assign(op=pd.Categorical(frame["op"], ops)) if "op" in frame else frame


def _stated(what: Stated, frame: pd.DataFrame | None, ops: list[str]) -> tuple[Figure, ...]:
    """Return the chart of stated over measured bytes, if there are measurements."""
    rows = None if frame is None else what.rows(frame)
    if rows is None or rows.empty:
        return ()
    return (Figure(what.name, _with_categories(rows, ops), what.chart, what.finding, what.about),)


def _counted(frame: pd.DataFrame | None) -> tuple[Table, ...]:
    """Return the table of counted cases, and of those that could not be counted."""
    if frame is None:
        return ()
    columns = (
        Column("kernel", "Kernel"),
        Column("measured_bytes", "Main memory, measured", "bytes"),
        Column("stated_bytes", "Main memory, stated", "bytes"),
        Column("lts_bytes", "L2, measured", "bytes"),
        Column("l2_bytes", "L2, stated", "bytes"),
        Column("instructions", "Instructions", "count"),
        Column("status", "Status"),
        Column("reason", "Reason"),
        Column("case", "Case"),
    )
    return (Table("counters", "Bytes by hardware counters and as stated, from cold caches", frame, columns),)


def _table(frame: pd.DataFrame) -> Table:
    headings = {
        "device": "Device",
        "op": "Op",
        "kernel": "Kernel",
        "dtype": "Format",
        "direction": "Direction",
        "launch": "Launch",
        "framework": "Framework",
        "state": "State",
        "rung": "Rung",
    }
    # Columns with one value are only in the export, so that errors are visible without scrolling.
    told = [name for name in headings if name in frame and (name == "op" or frame[name].nunique() > 1)]
    columns = (
        *(Column(name, headings[name]) for name in told),
        Column("rows", "Rows", "count"),
        Column("predicted", "Predicted", "count"),
        Column("median_ape", "Median error", "percent"),
        Column("mean_ape", "Mean error", "percent"),
        Column("bias", "Bias", "percent"),
        *([Column("reruns", "Reruns differ by", "percent")] if frame["reruns"].notna().any() else []),
        Column("under_lower", "Below lower bound", "percent"),
    )
    return Table(
        "accuracy", "Errors by cell; bias is signed (positive: the prediction is too long)", frame, columns
    )


def _constants(frame: pd.DataFrame | None) -> tuple[Table, ...]:
    """Return the table of fitted constants, if there are any."""
    if frame is None or frame.empty:
        return ()
    headings = {
        "op": "Op",
        "direction": "Direction",
        "dtype": "Format",
        "constant": "Constant",
        "value": "Value",
        "low": "From",
        "high": "To",
        "unit": "Unit",
        "meaning": "Meaning",
    }
    columns = tuple(Column(name, heading) for name, heading in headings.items())
    caption = (
        "Fitted constants. From and to: the interval of 80 % of the values found on resampled shapes. If it "
        "is wide, these rows do not determine the constant"
    )
    return (Table("constants", caption, frame, columns),)


def _caveat(rows: pd.DataFrame) -> str:
    under = _measurements(rows[rows["measured_s"] < rows["lower_s"]])
    if under == 0:
        return "No measurement is below the lower bound."
    return (
        f"{whole(under)} measurements are below the lower bound: a count, a spec or a timer is wrong there, "
        "and each needs an explanation."
    )


def _noise(rows: pd.DataFrame) -> str:
    """Return how far reruns of a case differ (smaller errors are luck); empty if no table has that."""
    if "spread" not in rows:
        return ""
    spread = _once(rows)["spread"].dropna()
    if spread.empty:
        return "No case was measured twice, so the differences between reruns are not known."
    noisy = int((spread > NOISY).sum())
    return (
        f"Reruns of a case differ by {100 * spread.median():.1f} % (median), by over {100 * NOISY:.0f} % in "
        f"{whole(noisy)} of {whole(len(spread))} cases; smaller errors are within the noise."
    )
