"""Posted times of mixtures' experts in vLLM's Triton kernel, and their predictions.

The rows (``validation/posted/experts.csv``) are from the text tables of NVIDIA's aiconfigurator, in four
significant digits: the parts of these tables that were read (their file is long, and its series are in no
order), in 16-bit and per-tensor FP8 formats, at 1, 4, 16, 64, 256, 1024, 2048, 3072, 4096 and 16,384 tokens.
Left out by rule: loads from a power law on several devices, where the busiest device was timed and its share
is not posted; and the 4-bit kernel, which is posted under another kernel's name than the one that was called
(validation/DIARY.md); and parts of experts whose width is no multiple of 16. Constants are fitted on the
models of widths 2688, 3072, 6144 and 7168 (``experts_fitted.csv``), and judged on those of widths 2048 and
4096, and on B300.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from numpy.typing import ArrayLike

from costmodel.layers.moe import MoE
from costmodel.predict import predict
from costmodel.validation.residuals import errors

FOLDER = Path(__file__).parent / "posted"
#: Rows that constants are fitted on.
FITTED = FOLDER / "experts_fitted.csv"
#: Columns of a series: all but the tokens.
SERIES = ["gpu", "dtype", "d_model", "d_ff", "experts", "top_k", "expert", "loads"]
#: Tokens up to which a regime reaches: mostly the weights' way from memory, both, mostly arithmetic.
REGIMES = {"1 to 16 tokens": 16, "64 to 256": 256, "1024 and more": 2**20}


def judged() -> pd.DataFrame:
    """Return the rows that nothing was fitted on, with predictions.

    They have ``seconds``, the bound ``lower_s`` [s], the ``error`` [%], and in words the ``loads``, the
    ``devices`` over which the experts are spread, and the ``regime``.
    """
    found = predicted(pd.read_csv(FOLDER / "experts.csv"))
    regime = [next(name for name, most in REGIMES.items() if tokens <= most) for tokens in found["tokens"]]
    devices = ["one" if devices == 1 else "several" for devices in found["expert"]]
    return found.assign(loads=[_loads(loads) for loads in found["loads"]], devices=devices, regime=regime)


def predicted(told: pd.DataFrame) -> pd.DataFrame:
    """Return posted rows with predictions: ``seconds``, ``lower_s`` [s], ``error`` [%]."""
    return pd.concat([_predicted(layer, rows) for layer, rows in series(told)], ignore_index=True)


def series(told: pd.DataFrame) -> Iterator[tuple[MoE, pd.DataFrame]]:
    """Yield the rows of each series, with the layer that they are times of: choices are given to it."""
    for _, rows in told.groupby(SERIES, sort=True):
        one = rows.iloc[0]
        loads, among = _loads(one["loads"]), int(one["expert"])
        yield MoE(dtype=one["dtype"], router=False, loads=loads, among=among), rows


def sizes(rows: pd.DataFrame) -> dict[str, ArrayLike]:
    """Return the layer's sizes for a series; `d_ff` is the width of a device's part of an expert."""
    one = rows.iloc[0]
    same = {name: int(one[name]) for name in ("d_model", "d_ff", "experts", "top_k")}
    return {"batch": 1, "seq": rows["tokens"].to_numpy(), **same}


def _loads(posted: str) -> str:
    """Return the layer's name for loads; those of a power law are posted with its exponent."""
    return "power-law" if posted.startswith("power_law") else posted


def _predicted(layer: MoE, rows: pd.DataFrame) -> pd.DataFrame:
    found = predict(layer, str(rows["gpu"].iloc[0]), sizes(rows))
    error = errors(found.seconds, rows["latency_s"])
    return rows.assign(seconds=found.seconds, lower_s=found.lower_s, error=error)
