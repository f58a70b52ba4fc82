"""Reports: tables in, one self-contained HTML page out.

Everything here knows tables and their column names, not layers or devices. Each chart is a module with
``rows`` (what it draws, for every case that can be picked), ``chart`` (an Altair chart of one case; a line
chart also takes the names of all series of the page, in order) and ``finding`` (what the rows show, in a
sentence).

>>> from costmodel import reports
>>> reports.save(reports.compare(frame), "comparison.html")  # doctest: +SKIP
"""

from __future__ import annotations

import pandas as pd

from costmodel.arguments import typed
from costmodel.reports import explorer_page
from costmodel.reports.explorer_page import Explorer
from costmodel.reports.frames import Facts, Frames, checked
from costmodel.reports.model_frames import ModelFrames
from costmodel.reports.page import Page, save
from costmodel.reports.render import check_installed
from costmodel.tables import check_once
from costmodel.tables import read_table as read

__all__ = [
    "Explorer",
    "Facts",
    "Frames",
    "ModelFrames",
    "Page",
    "check_installed",
    "compare",
    "explorer",
    "model",
    "read",
    "save",
    "story",
    "validation",
]


@typed
def compare(
    frame: pd.DataFrame,
    *,
    facts: Facts | None = None,
    title: str | None = None,
    command: str = "costmodel.reports.compare(frame)",
) -> Page:
    """Return the report of a sweep: its layers compared on its devices.

    Parameters
    ----------
    frame : DataFrame
        A table as returned by `costmodel.sweep`, or by `read` from its file.
    facts : Facts, optional
        Figures and sources of its devices and layers; default: those of the shipped specs.
    title : str, optional
        Default: the layers' names.
    command : str
        The command that made the page, shown on it.

    Raises
    ------
    TableError
        If the table is not a sweep's.
    UnavailableError
        If altair or vl-convert is not installed.
    """
    from costmodel.reports import comparison_page  # noqa: PLC0415 - charts only when asked for

    checked(frame)
    if facts is None:
        from costmodel.facts import facts_of  # noqa: PLC0415 - the one place that asks for them

        facts = facts_of(frame)
    return comparison_page.page(frame, facts, title=title, command=command)


@typed
def story(frames: Frames, *, command: str = "costmodel report -o REPORT.html") -> Page:
    """Return the project's own report: recurrence or attention, and what limits each.

    Parameters
    ----------
    frames : Frames
        From `costmodel.story.story`.
    command : str
        The command that made the page, shown on it.

    Raises
    ------
    UnavailableError
        If altair or vl-convert is not installed.
    """
    from costmodel.reports import story_page  # noqa: PLC0415

    return story_page.page(frames, command=command)


@typed
def validation(
    frame: pd.DataFrame,
    *,
    constants: pd.DataFrame | None = None,
    memory: pd.DataFrame | None = None,
    traffic: pd.DataFrame | None = None,
    facts: Facts | None = None,
    command: str = "costmodel validate --report",
) -> Page:
    """Return the report of predictions against measurements.

    Parameters
    ----------
    frame : DataFrame
        One row per measurement: layer, options, device, op, dtype, rung, state, measured_s, seconds,
        lower_s, bound. Fitted rows are either absent or marked in a column ``held_out``. A column
        ``spread`` (difference between visits of a case over its time) is shown beside the errors.
    constants : DataFrame, optional
        One row per fitted constant: op, direction, dtype, constant, value, low, high, unit, meaning.
    memory : DataFrame, optional
        One row per measurement: op, kernel, dtype, direction, measured_bytes (peak memory), stated_bytes,
        ratio.
    traffic : DataFrame, optional
        The same for traffic that hardware counted, with case, l2_bytes, lts_bytes, status, reason.
    facts : Facts, optional
        Figures and sources of its devices and layers; default: those of the shipped specs.
    command : str
        The command that made the page, shown on it.

    Raises
    ------
    TableError
        If a column is missing or duplicated, or no row has both times.
    UnavailableError
        If altair or vl-convert is not installed.
    """
    from costmodel.reports import validation_page  # noqa: PLC0415

    check_once(frame)
    if facts is None:
        from costmodel.facts import facts_of  # noqa: PLC0415 - the one place that asks for them

        known = frame.reindex(columns=["device", "layer"]).dropna()
        facts = facts_of(known.drop_duplicates())
    return validation_page.page(
        frame, facts, constants=constants, memory=memory, traffic=traffic, command=command
    )


@typed
def explorer(explored: Explorer, *, title: str | None = None, command: str) -> Page:
    """Return the page that recomputes a model in the reader's browser.

    Parameters
    ----------
    explored : Explorer
        From `costmodel.explore`.
    title : str, optional
        Default: the layers' names.
    command : str
        The command that made the page, shown on it.

    Raises
    ------
    UnavailableError
        If altair or vl-convert is not installed.
    """
    return explorer_page.page(explored, title=title, command=command)


@typed
def model(frames: ModelFrames, *, first: str = "prefill", command: str) -> Page:
    """Return the report of a whole model: where its time goes, and what would help.

    Parameters
    ----------
    frames : ModelFrames
        From `costmodel.model_story.story`.
    first : str
        The use shown at first: ``prefill``, ``decode`` or ``training``.
    command : str
        The command that made the page, shown on it.

    Raises
    ------
    UnavailableError
        If altair or vl-convert is not installed.
    """
    from costmodel.reports import model_page  # noqa: PLC0415

    return model_page.page(frames, first=first, command=command)
