"""The speed of sweeps and scores, relative to the plain NumPy expression in the same run.

Ratios are of the CPU time of one thread. The rate of two threads in wall-clock time is printed as well, but
not judged, because other work on the machine affects it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from timing import medians, report

import costmodel as cm
from costmodel.score import score
from costmodel.sweep import Engine, Grid, best, front, make_grid, product, stream

ONE = Engine(workers=1)
H200 = cm.hardware.load("nvidia/h200-sxm")
SIZES = {
    "seq": np.arange(1, 101) * 64,
    "batch": np.arange(1, 101),
    "heads": np.arange(1, 101),
    "head_dim": 64,
}
PLAIN = "plain NumPy, a million points"


def grid(rung: str | None) -> Grid:
    """Return a million points of tiled attention."""
    return make_grid(cm.TiledAttention(), H200, SIZES, rung=rung)


def products(rung: str | None) -> Grid:
    """Return a hundred thousand matrix products, all different."""
    edges = {"m": np.arange(1, 51) * 96, "n": np.arange(1, 51) * 64, "k": np.arange(1, 41) * 128}
    return make_grid(cm.Matmul(), H200, edges, rung=rung)


def by_the_clock(space: Grid, engine: str) -> float:
    """Return the predictions per second of two workers, including their start."""
    began = time.perf_counter()
    best(space, "seconds", engine=Engine(engine, workers=2))
    return space.points / (time.perf_counter() - began)


def plain() -> object:
    """Return the least of tiled attention's roofline, written by hand, over the same million points."""
    s = {name: values.astype(np.float64) for name, values in product(SIZES).items()}
    seq, width = s["seq"], s["batch"] * s["heads"] * s["head_dim"]
    seconds = np.maximum(4 * width * seq * seq / 9.89e14, 8 * width * seq / 4.8e12)
    return seconds[np.argmin(seconds)]


def spaces() -> bool:
    """Search a million points, and write them to a file."""
    bound, fitted, gemm = grid("bound"), grid("calibrated"), products("calibrated")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sweep.parquet"
        times = medians(
            {
                PLAIN: plain,
                "the least time, bound": lambda: best(bound, "seconds", engine=ONE),
                "a front, bound": lambda: front(bound, "seconds", "-batch", engine=ONE),
                "the least time, calibrated": lambda: best(fitted, "seconds", engine=ONE),
                "10⁵ products, calibrated": lambda: best(gemm, "seconds", engine=ONE),
                "a file of all columns": lambda: stream(bound, path, engine=ONE, overwrite=True),
            },
            rounds=3,
        )
    good = [
        report("the least time, bound", PLAIN, times, 4),
        report("a front, bound", PLAIN, times, 12),
        report("the least time, calibrated", PLAIN, times, 12),
        report("10⁵ products, calibrated", PLAIN, times, 15),
        report("a file of all columns", PLAIN, times, 60),
    ]
    for name, space in (("bound", bound), ("calibrated", fitted), ("products, calibrated", gemm)):
        rate = by_the_clock(space, "threads")
        print(f"  two threads, by the clock: {rate:>12,.0f} predictions/s at {name}")
    more = {"m": np.arange(1, 201) * 32, "n": np.arange(1, 201) * 32, "k": np.arange(1, 126) * 64}
    rate = by_the_clock(make_grid(cm.Matmul(), H200, more, rung="calibrated"), "processes")
    print(f"  two processes, started with it: {rate:>7,.0f} predictions/s at five million products")
    return all(good)


def scores() -> bool:
    """A million rows of measured softmax and attention, against reading off a million sizes."""
    rows = 1_000_000
    random = np.random.default_rng(0)
    import pandas as pd  # noqa: PLC0415

    table = pd.DataFrame(
        {
            "gpu": "h200-sxm",
            "dtype": "bf16",
            "op": random.choice(["softmax", "attention_decode", "gelu", "layernorm"], rows),
            "framework": random.choice(["pytorch 2.8", "vllm 0.14"], rows),
            **{name: random.integers(1, 4096, rows) for name in ("m", "n", "seq_kv")},
            "batch": random.integers(1, 64, rows),
            "heads_q": 32,
            "head_dim": 128,
        }
    )
    against = "a frame of the table sorted"
    times = medians(
        {
            against: lambda: table.sort_values(["gpu", "op", "dtype", "framework"]),
            "a million rows scored": lambda: score(table),
        },
        rounds=1,
    )
    return report("a million rows scored", against, times, 12)


if __name__ == "__main__":
    sys.exit(0 if all([spaces(), scores()]) else 1)
