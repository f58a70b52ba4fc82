"""What-ifs for each layer: predictions with one thing changed."""

from __future__ import annotations

from typing import Any

import pandas as pd

from costmodel.reports import style, whatif, words

NAME = "helping"
ABOUT = (
    "Each point is the prediction with one change: a figure of the device doubled, or another way to "
    "compute the same. 1 means no change. It is always the first model's inference, whatever is chosen above."
)

#: A smaller speedup than this counts as none.
NOTHING = 1.005


def rows(changes: pd.DataFrame) -> pd.DataFrame:
    """Return the changes in words.

    Parameters
    ----------
    changes : DataFrame
        where, series (categories: all of them), seq, change, seconds, speedup, constants_from.
    """
    return changes.assign(change=[whatif.said(change) for change in changes["change"]])


def chart(frame: pd.DataFrame) -> Any:
    """Return the speedups, with a row per change and a point per layer.

    Parameters
    ----------
    frame : DataFrame
        From `rows`, for one device.
    """
    alt = style.altair()
    base = alt.Chart(frame)
    change = alt.Y(
        "change:N",
        title=None,
        sort=alt.EncodingSortField("speedup", op="max", order="descending"),
        axis=alt.Axis(grid=True),
    )
    speedup = style.log_x("speedup", "speedup", style.WRITTEN_OUT)
    points = base.mark_point(filled=True, size=90, opacity=1).encode(
        speedup,
        change,
        *style.series_points(style.domain(frame["series"])),
        tooltip=style.tips(
            ("series:N", "layer", ""),
            ("change:N", "change", ""),
            ("speedup:Q", "speedup", ".3~r"),
            ("seconds:Q", "time [s]", ".3~s"),
            ("constants_from:N", "constants from", ""),
        ),
    )
    drawn = points.properties(width="container", height=alt.Step(26))
    return style.titled(drawn, finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return what helps each layer most, among device figures and among ways to compute the same."""
    said = [_most(str(name), part) for name, part in frame.groupby("series", sort=False, observed=True)]
    return f"At {words.at('seq', frame['seq'].iloc[0])}, {'; '.join(said)}"


def _most(name: str, part: pd.DataFrame) -> str:
    best = part.sort_values("speedup", ascending=False, kind="stable").groupby("kind", sort=False).head(1)
    helping = best[best["speedup"] >= whatif.LEAST]
    said = [
        f"{words.times(speedup)} as fast with {change}"
        for change, speedup in zip(helping["change"], helping["speedup"], strict=True)
    ]
    text = f"{name} is {words.listed(said)}" if said else name
    if "figure" in set(helping["kind"]):
        return text
    figures = part.loc[part["kind"] == "figure", "speedup"]
    gained = "nothing" if (figures < NOTHING).all() else f"less than {100 * (whatif.LEAST - 1):.0f} %"
    return f"{text}{', and' if said else ''} gains {gained} from doubling any one figure of the device"
