"""The speed of repeated predictions, relative to plain NumPy and pandas in the same run."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
from timing import medians, report

import costmodel as cm

ROWS = 100_000


def lengths() -> bool:
    """100,000 lengths of tiled attention against its roofline written out by hand."""
    n = np.linspace(128, 131072, ROWS).round()
    flash, h200 = cm.TiledAttention(), cm.hardware.load("nvidia/h200-sxm")
    sizes = {"batch": 4, "heads": 32, "seq": n, "head_dim": 128}
    times = medians(
        {
            "plain NumPy": lambda: (
                3e-6 + np.maximum(4 * 4 * 32 * n * n * 128 / 9.89e14, 2 * 4 * 4 * 32 * n * 128 / 4.8e12)
            ),
            "100,000 lengths, bound": lambda: cm.predict(flash, h200, rung="bound", **sizes).seconds,
            "100,000 lengths, kernel": lambda: cm.predict(flash, h200, rung="kernel", **sizes).seconds,
            "100,000 lengths, best rung": lambda: cm.predict(flash, h200, **sizes).seconds,
        },
        rounds=15,
    )
    return all(
        [
            report("100,000 lengths, bound", "plain NumPy", times, 6),
            report("100,000 lengths, kernel", "plain NumPy", times, 100),
            report("100,000 lengths, best rung", "plain NumPy", times, 100),
        ]
    )


def table() -> bool:
    """A sweep of a million rows against making a frame of its columns."""
    grids = {"seq": np.arange(1, 1001) * 64, "batch": np.arange(1, 101), "heads": np.arange(1, 11)}
    sizes = {**grids, "head_dim": 64}

    def sweep() -> pd.DataFrame:
        return cm.sweep(cm.TiledAttention(), "nvidia/h200-sxm", rung="bound", **sizes)

    frame = sweep()
    assert len(frame) == 10 * ROWS
    # What pandas itself needs: copying each column into the frame.
    columns = {
        name: np.asarray(frame[name].array.codes if frame[name].dtype == "category" else frame[name])
        for name in frame
    }
    times = medians(
        {"a frame of its columns": lambda: pd.DataFrame(columns, copy=True), "a sweep of 10⁶ rows": sweep},
        rounds=3,
    )
    return report("a sweep of 10⁶ rows", "a frame of its columns", times, 15)


def scalar() -> bool:
    """One prediction against one call of the compiled expression inside it."""
    flash, h200 = cm.TiledAttention(), cm.hardware.load("nvidia/h200-sxm")
    sizes = {"batch": 4, "heads": 32, "seq": 8192, "head_dim": 128}
    p = cm.predict(flash, h200, rung="bound", **sizes)
    function, arguments = p.plan.bound_function, [p.shapes[name] for name in p.plan.arguments]
    times = medians(
        {
            "the compiled expression": lambda: function(*arguments),
            "one scalar predict, bound": lambda: cm.predict(flash, h200, rung="bound", **sizes).seconds,
        },
        rounds=15,
        calls=2000,
    )
    return report("one scalar predict, bound", "the compiled expression", times, 30)


if __name__ == "__main__":
    sys.exit(0 if all([lengths(), table(), scalar()]) else 1)
