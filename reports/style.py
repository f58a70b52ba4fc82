"""Style of charts: colours for colour-blind readers, and axes in the field's units."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from costmodel.errors import UnavailableError
from costmodel.reports.frames import axis_title

#: Okabe & Ito 2008, ordered so that the first four keep 3:1 against white and near-black.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
#: Lines also differ by dashes and points by shapes: colour is never the only distinction.
DASHES = ([1, 0], [8, 3], [2, 2], [10, 3, 2, 3], [5, 2], [1, 3], [14, 4])
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")

#: Bars have neither, so seven more colours: 23 or more apart in CIELAB (those above: 26), and 2:1 against
#: white and near-black.
BARS = (*OKABE_ITO, "#6655CC", "#AA3355", "#AAAA22", "#BB33BB", "#775522", "#227722", "#44CCBB")

#: Vega expressions that label an axis: 0.00032 → 320µs, 10000 → 10,000s, 1.2e9 → 1.2GB.
SECONDS = "(datum.value < 1000 ? format(datum.value, '.3~s') : format(datum.value, ',')) + 's'"
BYTES = "format(datum.value, '.3~s') + 'B'"
PLAIN = "format(datum.value, '.3~s')"
WRITTEN_OUT = "format(datum.value, ',~r')"

#: Ticks of an axis over octaves: each power of two if it starts and ends at one, else any 12.
_POWER = "pow(2, round(log({0}) / LN2)) === {0}"
_ENDS = tuple(_POWER.format(f"domain('x')[{end}]") for end in (0, 1))
OCTAVES = f"{' && '.join(_ENDS)} ? min(12, 1 + round(log(domain('x')[1] / domain('x')[0]) / LN2)) : 12"

#: A logarithmic scale that extends slightly beyond the data.
LOG = {"type": "log", "nice": False, "padding": 14}

HEIGHT = 300
#: The chart parameter with the names of the series that are drawn.
DRAWN = "drawn"


def extra(name: str) -> Any:
    """Import and return a module that only reports need.

    Raises
    ------
    UnavailableError
        If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnavailableError(
            "reports need altair and vl-convert: pip install 'costmodel[report]'"
        ) from error


def altair() -> Any:
    """Return the altair module; see `extra`."""
    return extra("altair")


def series_line(by: str, names: Sequence[str]) -> list[Any]:
    """Return colours and dashes of lines by a column, with a legend of those drawn; see `lined`.

    Parameters
    ----------
    by : str
        The column.
    names : sequence of str
        Every value of the column on the page: a layer keeps its style even in charts where others are
        missing. The first seven differ in both colour and dashes, forty-nine in one of them.
    """
    alt = altair()
    legend = _line_legend()
    dashes = alt.Scale(domain=list(names), range=[list(dash) for dash in _turns(DASHES, len(names))])
    return [
        alt.Color(f"{by}:N", scale=_colours(names), legend=legend),
        alt.StrokeDash(f"{by}:N", scale=dashes, legend=legend),
    ]


def series_fill(by: str, names: Sequence[str]) -> Any:
    """Return the fill of points and bands by a column: the lines' colours and the same legend.

    Vega-Lite merges the legends of all channels with equal values; a legend of None would remove it.
    """
    return altair().Fill(f"{by}:N", scale=_colours(names), legend=_line_legend())


def named_bars(by: str, names: Sequence[str]) -> Any:
    """Return the fill of bars that an axis labels: the lines' colours, without a legend."""
    return altair().Fill(f"{by}:N", scale=_colours(names, BARS), legend=None)


def lined(chart: Any, names: Sequence[str]) -> Any:
    """Return a chart with the list of values that its legend shows, see `series_line`; at first, all.

    The page's script reduces the list to the series that have rows.
    """
    return chart.add_params(altair().param(name=DRAWN, value=list(names)))


def _colours(names: Sequence[str], of: Sequence[str] = OKABE_ITO) -> Any:
    return altair().Scale(domain=list(names), range=[of[i % len(of)] for i in range(len(names))])


def _turns(looks: Sequence[Any], count: int) -> list[Any]:
    """Return styles to combine with colours: whenever a colour repeats, it gets the next style."""
    return [looks[(i + i // len(OKABE_ITO)) % len(looks)] for i in range(count)]


def series_points(names: Sequence[str]) -> list[Any]:
    """Return colours and shapes by ``series`` for charts of several devices, with their legend.

    The first seven differ in both, forty-nine in one of them.
    """
    alt = altair()
    legend = _legend(symbolSize=90)
    shapes = alt.Scale(domain=list(names), range=_turns(SHAPES, len(names)))
    return [
        alt.Color("series:N", scale=_colours(names), legend=legend),
        alt.Shape("series:N", scale=shapes, legend=legend),
    ]


def series_bars(names: Sequence[str]) -> Any:
    """Return colours by ``series`` for bars of several devices, with a legend of those drawn; see `lined`.

    The first fourteen differ.
    """
    legend = _legend(symbolType="square", values=altair().ExprRef(DRAWN))
    return altair().Color("series:N", scale=_colours(names, BARS), legend=legend)


def named_colours(column: pd.Series, colours: Mapping[str, str], *, drawn: bool = False) -> Any:
    """Return colours by a column whose values have their own colours (others are grey), with its legend.

    Parameters
    ----------
    column : Series
        The column.
    colours : mapping of str to str
        Colours of its values.
    drawn : bool
        Whether the legend lists only values that have rows; the chart is then passed through `lined`.
    """
    alt = altair()
    scale = _named(domain(column), colours, "#DDDDDD")
    values = alt.ExprRef(DRAWN) if drawn else alt.Undefined
    return alt.Color(
        f"{column.name}:N", scale=scale, legend=alt.Legend(title=None, orient="top", values=values)
    )


def groups(column: pd.Series, colours: Mapping[str, str] | None = None) -> list[Any]:
    """Return colours and shapes of points by a column, with a legend of those drawn; see `lined`.

    The legend has as many columns as fit on the page.

    Parameters
    ----------
    column : Series
        A column with every value of the page as its categories, so that each looks the same in all charts.
        If there are more values than colours, colour and shape together tell them apart.
    colours : mapping of str to str, optional
        Colours of values that have their own.
    """
    alt = altair()
    names, legend = domain(column), _group_legend()
    scale = _group_scale(names, colours)
    shapes = alt.Scale(domain=names, range=[SHAPES[i % 5] for i in range(len(names))])
    return [
        alt.Color(f"{column.name}:N", scale=scale, legend=legend),
        alt.Shape(f"{column.name}:N", scale=shapes, legend=legend),
    ]


def group_line(column: pd.Series, colours: Mapping[str, str] | None = None) -> Any:
    """Return the stroke of lines by the same column: the points' colours and the same legend."""
    scale = _group_scale(domain(column), colours)
    return altair().Stroke(f"{column.name}:N", scale=scale, legend=_group_legend())


def _group_scale(names: Sequence[str], colours: Mapping[str, str] | None) -> Any:
    return _colours(names) if colours is None else _named(names, colours, "#999999")


def _group_legend() -> Any:
    alt = altair()
    return _legend(symbolSize=70, columns=alt.Undefined, values=alt.ExprRef(DRAWN))


def _named(names: Sequence[str], colours: Mapping[str, str], other: str) -> Any:
    """Return the colour scale of values with their own colours, and one colour for all others."""
    return altair().Scale(domain=list(names), range=[colours.get(name, other) for name in names])


def _line_legend() -> Any:
    values = altair().ExprRef(DRAWN)
    return _legend(symbolSize=700, symbolStrokeWidth=2.5, symbolType="stroke", values=values)


def _legend(**looks: Any) -> Any:
    wanted = {"columns": 1, "symbolOpacity": 1} | looks
    return altair().Legend(title=None, orient="top", direction="vertical", **wanted)


def domain(column: pd.Series) -> list[str]:
    """Return every value that a column can have, in order: its categories, or else its values."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return [str(name) for name in column.cat.categories]
    return [str(name) for name in dict.fromkeys(column)]


def length_axis(column: str, title: str = "", *, grid: bool = False) -> Any:
    """Return the x channel for a size that doubles from point to point.

    Parameters
    ----------
    column : str
        The column of the size.
    title : str, optional
        Axis title; default: that of the size the column is named after.
    grid : bool
        Whether grid lines are drawn.
    """
    alt = altair()
    return alt.X(
        f"{column}:Q",
        title=title or axis_title(column),
        scale=alt.Scale(type="log", base=2, nice=False),
        axis=alt.Axis(
            format=",",
            labelOverlap=True,
            labelSeparation=8,
            labelFlush=30,  # keeps a label at the end inside the picture
            tickCount=alt.ExprRef(OCTAVES),
            grid=grid,
        ),
    )


def banded(chart: Any, frame: pd.DataFrame, *, spacing: int) -> Any:
    """Return a chart repeated for each of a frame's ``series``, in order, one below the other."""
    alt = altair()
    header = alt.Header(title=None, labelOrient="top", labelAnchor="start", labelFontSize=12)
    return chart.facet(row=alt.Row("series:N", sort=domain(frame["series"]), header=header), spacing=spacing)


def steps() -> Any:
    """Return an axis of discrete sizes, with as many labels as fit."""
    return altair().Axis(format=",", labelAngle=0, labelOverlap=True, labelSeparation=8)


def level(base: Any, value: float) -> Any:
    """Return a horizontal line across a chart, drawn once instead of once per row."""
    once = base.transform_aggregate(count="count()").transform_calculate(level=f"{value:g}")
    rule = once.mark_rule(color="#666666", strokeWidth=1.5)
    return rule.encode(altair().Y("level:Q")).properties(name="ink_level")


def log_axis(channel: str, labels: str) -> Any:
    """Return an axis over decades: ticks at each power of ten, labels there or, if those are few, at more.

    Parameters
    ----------
    channel : str
        ``x`` or ``y``.
    labels : str
        Vega expression of a label.
    """
    alt = altair()
    leading = "round(datum.value / pow(10, floor(log(datum.value) / LN10 + 1e-9)))"
    span = f"domain('{channel}')[1] / domain('{channel}')[0]"
    # Between 2 and 5 there may be no 1, 2 or 5: a span of up to 2.5 has labels at any tick.
    labelled = f"({span} <= 2.5 || indexof({span} > 5000 ? [1] : [1, 2, 5], {leading}) >= 0)"
    return alt.Axis(
        labelExpr=f"{labelled} ? {labels} : ''",
        labelOverlap="greedy",
        labelSeparation=6,
        # A wide number such as "1,000,000" at the end of a horizontal axis stays inside the picture.
        labelFlush=30 if channel == "x" else False,
        tickCount=6,
        gridOpacity=alt.condition(f"{leading} == 1", alt.value(1), alt.value(0)),
        tickOpacity=alt.condition(labelled, alt.value(1), alt.value(0)),
    )


def log_x(name: str, title: str, labels: str) -> Any:
    """Return a logarithmic x channel."""
    return altair().X(f"{name}:Q", title=title, scale=LOG, axis=log_axis("x", labels))


def log_y(name: str, title: str, labels: str) -> Any:
    """Return a logarithmic y channel."""
    return altair().Y(f"{name}:Q", title=title, scale=LOG, axis=log_axis("y", labels))


def tips(*columns: tuple[str, str, str]) -> list[Any]:
    """Return tooltips from (field with type, title, d3 format or "")."""
    alt = altair()
    return [
        alt.Tooltip(field, title=title, format=form) if form else alt.Tooltip(field, title=title)
        for field, title, form in columns
    ]


def titled(chart: Any, text: str, alt_text: str) -> Any:
    """Return the chart with its finding as title and a description for screen readers."""
    alt = altair()
    return chart.properties(title=alt.TitleParams(text, anchor="start"), description=alt_text)


def capacity_rule(base: Any, along: str, column: str = "room_bytes") -> Any:
    """Return a dashed line at the limit of a device's memory.

    Parameters
    ----------
    base : Chart
        A chart of a frame with the column.
    along : str
        ``X`` or ``Y``: the axis of memory.
    column : str
        The column with the limit.
    """
    alt = altair()
    return (
        base.transform_aggregate(capacity=f"max({column})")
        .mark_rule(strokeWidth=2, strokeDash=[6, 4], color="#666666")
        .encode(getattr(alt, along)("capacity:Q"))
        .properties(name="ink_capacity")
    )
