"""The roofline with every layer on it (Williams, Waterman & Patterson 2009)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.frames import Facts, axis_of

NAME = "roofline"
ABOUT = (
    "Rate of matrix arithmetic over arithmetic intensity (matrix FLOPs per byte of main-memory traffic), "
    "one line per layer from the smallest size to the largest. The roof is the smaller of the engine's "
    "peak and the memory's bandwidth times the intensity."
)
#: Columns of a sweep that this chart does not use.
_NOT_DRAWN = (
    *("options", "direction", "serial_s", "special_flops", "vector_flops", "l2_bytes", "launches", "state"),
    *("footprint_bytes", "kept_bytes", "lo80_s", "hi80_s", "hbm_capacity_bytes", "spec_hash"),
)


def rows(frame: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """Return points of layers and corners of roofs.

    Returns
    -------
    DataFrame
        The frame's rows with ``intensity`` [FLOP/B], ``rate`` [FLOP/s], ``share`` of the peak and ``kind``
        "layer"; for each ``where``, three rows of kind "roof", with ``label`` at the ridge. Layers without
        matrix products and roofs of unknown devices are left out.
    """
    counted = frame[(frame["matrix_flops"] > 0) & (frame["hbm_bytes"] > 0) & (frame["seconds"] > 0)]
    points = counted.merge(
        facts.devices.drop(columns=["title", "missing"]), on=["device", "dtype"], how="left"
    )
    points = points.assign(
        kind="layer",
        intensity=points["matrix_flops"] / points["hbm_bytes"],
        rate=points["matrix_flops"] / points["seconds"],
    )
    points["share"] = points["rate"] / points["peak_flops"]
    points = points.drop(columns=[name for name in _NOT_DRAWN if name in points])
    roofs = [_roof(group) for _, group in points.groupby(["where", "dtype"], sort=False)]
    return pd.concat([points, *roofs], ignore_index=True)


def _roof(points: pd.DataFrame) -> pd.DataFrame:
    """Return the left end, ridge and right end of the roof over these points; none if it is unknown."""
    first = points.iloc[0]
    peak, bandwidth = first["peak_flops"], first["hbm_bandwidth"]
    if not math.isfinite(peak):
        return points.iloc[:0]
    ridge = peak / bandwidth
    corners = [min(points["intensity"].min(), ridge) / 2, ridge, max(points["intensity"].max(), ridge) * 2]
    label = f"{words.flop(peak)}/s · {words.size(bandwidth)}/s · ridge {ridge:,.0f} FLOP/B"
    return pd.DataFrame(
        {
            "kind": "roof",
            "where": first["where"],
            "dtype": first["dtype"],
            "intensity": corners,
            "rate": [min(peak, bandwidth * x) for x in corners],
            "peak_flops": peak,
            "hbm_bandwidth": bandwidth,
            "label": [None, label, None],
        }
    )


def drawn(roof: Any, lines: Any, dots: Any, *, by: str, note: str, along: str, names: Sequence[str]) -> Any:
    """Return the roof with its label, and the layers under it as lines and dots.

    Parameters
    ----------
    roof, lines : Chart
        Charts of rows with intensity [FLOP/B] and rate [FLOP/s], for the roof and for the layers.
    dots : Chart
        Marks of the layers' points, with their tooltip.
    by, note, along : str
        Columns of the layer, the roof's label, and the size along which lines run.
    names : sequence of str
        Every layer of the page, in order.
    """
    alt = style.altair()
    intensity = style.log_x("intensity", "arithmetic intensity [FLOP/B]", style.WRITTEN_OUT)
    rate = style.log_y("rate", "matrix arithmetic [FLOP/s]", style.PLAIN)
    layered = alt.layer(
        roof.mark_line(strokeWidth=2.5, color="#666666").encode(intensity, rate).properties(name="ink_roof"),
        # Shifted off the dots that lie on the roof.
        roof.mark_text(align="right", dy=-16, fontSize=11, color="#444444")
        .encode(rate, x=alt.value(alt.ExprRef("width")), text=f"{note}:N")
        .transform_filter(f"isValid(datum.{note})")
        .properties(name="ink_roof_label"),
        lines.mark_line(strokeWidth=2).encode(
            intensity, rate, *style.series_line(by, names), order=alt.Order(f"{along}:Q")
        ),
        dots.encode(intensity, rate, style.series_fill(by, names)),
    )
    return style.lined(layered, names)


def chart(frame: pd.DataFrame, names: Sequence[str]) -> Any:
    """Return the roofline of one device."""
    x = axis_of(frame)
    base = style.altair().Chart(frame)
    layers = base.transform_filter("datum.kind === 'layer'")
    tooltip = style.tips(
        ("series:N", "layer", ""),
        (f"{x}:Q", x, ","),
        ("intensity:Q", "FLOP/B", ",.3~r"),
        ("rate:Q", "FLOP/s", ".3~s"),
        ("share:Q", "share of peak", ".1~%"),
        ("seconds:Q", "time [s]", ".3~s"),
        ("bound:N", "limited by", ""),
    )
    roof = base.transform_filter("datum.kind === 'roof'")
    dots = layers.mark_point(strokeWidth=0, size=45, opacity=1).encode(tooltip=tooltip)
    figure = drawn(roof, layers, dots, by="series", note="label", along=x, names=names)
    figure = figure.properties(width="container", height=style.HEIGHT + 60)
    return style.titled(figure, finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return the largest share of the peak that each layer reaches."""
    points = frame[frame["kind"] == "layer"]
    if points.empty:
        return "No matrix products, so there is nothing to draw under the roof"
    if not points["share"].notna().any():
        best = points.groupby("series", sort=False)["rate"].max()
        said = [f"{words.flop(rate)}/s for {name}" for name, rate in best.items()]
        return f"At most {words.listed(said)}; the device's roof is not known"
    best = points.groupby("series", sort=False)["share"].max().sort_values(ascending=False)
    said = [f"{name} {words.share(value)}" for name, value in best.items()]
    return f"Highest share of peak FLOP/s: {words.listed(said[:4])}"
