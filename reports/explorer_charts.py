"""Charts of the explorer, whose rows the reader's browser computes.

The ``kind`` of a row says what it is in a chart: a point of a curve, the current setting, a corner of the
roof, a crossover.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from costmodel.reports import binding, style
from costmodel.reports.roofline import drawn

#: Placeholder in a chart's specification for the size along which curves run.
ALONG = "ALONG"

ROOFLINE = (
    "Rate of matrix arithmetic over arithmetic intensity (matrix FLOPs per byte of main-memory traffic). "
    "Lines: over the chosen size; dots: the current settings. The roof is the smaller of the engine's peak "
    "and the memory's bandwidth times the intensity. Layers without matrix products are not drawn."
)
TIME = (
    "Time at rung bound over the chosen size. Thin lines: the lower bound, which no measurement may "
    "undercut. Dots: the current settings. Rings: where the fastest layer changes."
)
WAITING = (
    "The roofline's time, plus what waiting would add if none of it were hidden: dependent steps at the "
    "device's step latency, and launches at its launch latency. Most of these latencies are assumed, and "
    "rung bound leaves them out."
)
MEMORY = (
    "Operands and intermediates; for training also gradients and what is kept for the backward pass. "
    "Optimiser state and allocator overhead are not included. Dashed line: the device's memory."
)
#: Height of one bar [px].
_BAR = 40
PARTS = ("roofline", "dependent steps", "launches")


def roofline(names: Sequence[str]) -> Any:
    """Return the roofline for rows of kinds roof, curve and now, with intensity [FLOP/B] and rate [FLOP/s].

    Parameters
    ----------
    names : sequence of str
        The layers, in order.
    """
    alt = style.altair()
    tooltip = style.tips(
        ("label:N", "layer", ""),
        ("at:Q", ALONG, ","),
        ("intensity:Q", "FLOP/B", ",.3~r"),
        ("rate:Q", "FLOP/s", ".3~s"),
        ("share:Q", "share of peak", ".1~%"),
        ("seconds:Q", "time [s]", ".3~s"),
        ("limit:N", "limited by", ""),
    )
    roof, curve, now = (_kind(alt, kind) for kind in ("roof", "curve", "now"))
    dots = _dots(now).encode(tooltip=tooltip)
    figure = drawn(roof, curve, dots, by="label", note="note", along="at", names=names)
    return figure.properties(width="container", height=style.HEIGHT + 40)


def time(names: Sequence[str]) -> Any:
    """Return time along a size for rows of kinds curve, now and cross, with ``at``, seconds and lower_s [s].

    Parameters
    ----------
    names : sequence of str
        The layers, in order.
    """
    alt = style.altair()
    axis = alt.Axis(format=",", labelOverlap=True, labelSeparation=8, tickCount=10, grid=False)
    along = alt.X("at:Q", title=ALONG, scale=alt.Scale(type="log", base=2, nice=False), axis=axis)
    seconds = style.log_y("seconds", "time [s]", style.SECONDS)
    tooltip = style.tips(
        ("label:N", "layer", ""),
        ("at:Q", ALONG, ","),
        ("seconds:Q", "time [s]", ".3~s"),
        ("lower_s:Q", "lower bound [s]", ".3~s"),
        ("limit:N", "limited by", ""),
    )
    curve, now, cross = (_kind(alt, kind) for kind in ("curve", "now", "cross"))
    lower = curve.transform_filter("datum.lower_s > 0")
    drawn = alt.layer(
        curve.mark_line(strokeWidth=2.5).encode(along, seconds, *style.series_line("label", names)),
        lower.mark_line(strokeWidth=1, opacity=0.7).encode(
            along, alt.Y("lower_s:Q"), *style.series_line("label", names)
        ),
        _dots(now).encode(along, seconds, style.series_fill("label", names), tooltip=tooltip),
        cross.mark_point(size=190, strokeWidth=2, color="#555555")
        .encode(along, seconds)
        .properties(name="ink_cross"),
        # Below the fastest layer there are only lower bounds, so a number has room there.
        cross.transform_filter("isValid(datum.note)")
        .mark_text(align="left", dx=9, dy=13, fontSize=11, fontWeight=600, color="#444444")
        .encode(along, seconds, text="note:N")
        .properties(name="ink_cross_label"),
    ).properties(width="container", height=style.HEIGHT)
    return style.lined(drawn, names)


def waiting(layers: int) -> Any:
    """Return stacked bars of what a layer's time is made of: label, part (of `PARTS`), order, seconds [s].

    Parameters
    ----------
    layers : int
        Number of bars.
    """
    alt = style.altair()
    colours = [style.OKABE_ITO[0], *(binding.LIMITS[limit][2] for limit in ("depth", "launch"))]
    scale = alt.Scale(domain=list(PARTS), range=colours)
    legend = alt.Legend(title=None, orient="top")
    return (
        alt.Chart()
        .mark_bar(stroke="white", strokeWidth=1)
        .encode(
            alt.Y("label:N", title=None, sort=None),
            alt.X("seconds:Q", title="time [s]", axis=alt.Axis(labelExpr=style.SECONDS, tickCount=6)),
            alt.Color("part:N", scale=scale, legend=legend),
            order=alt.Order("order:Q"),
            tooltip=style.tips(
                ("label:N", "layer", ""), ("part:N", "part", ""), ("seconds:Q", "time [s]", ".3~s")
            ),
        )
        .properties(width="container", height=_BAR * layers)
    )


def memory(names: Sequence[str]) -> Any:
    """Return bars of occupied memory: label, footprint_bytes, the device's capacity_bytes, note (the axis).

    Parameters
    ----------
    names : sequence of str
        The layers, in order, one bar each.
    """
    alt = style.altair()
    base = alt.Chart()
    tooltip = style.tips(
        ("label:N", "layer", ""),
        ("footprint_bytes:Q", "memory [B]", ".4~s"),
        ("capacity_bytes:Q", "device memory [B]", ".4~s"),
    )
    axis = alt.Axis(labelExpr=style.BYTES, tickCount=6)
    return alt.layer(
        base.mark_bar().encode(
            alt.Y("note:N", title=None, sort=None),
            alt.X("footprint_bytes:Q", title="memory occupied [B]", axis=axis),
            style.named_bars("label", names),
            tooltip=tooltip,
        ),
        style.capacity_rule(base, "X", "capacity_bytes"),
    ).properties(width="container", height=_BAR * len(names))


def _kind(alt: Any, kind: str) -> Any:
    return alt.Chart().transform_filter(f"datum.kind === '{kind}'")


def _dots(chart: Any) -> Any:
    return chart.mark_point(size=150, strokeWidth=1.5, stroke="white", opacity=1)
