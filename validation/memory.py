"""Measured peak memory held against the footprint that layers state."""

from __future__ import annotations

import pandas as pd

from costmodel.validation.counters import COUNTED


def footprints(frame: pd.DataFrame) -> pd.DataFrame:
    """Return measured and stated memory of each case, where both are there.

    Parameters
    ----------
    frame : DataFrame
        As `costmodel.validation.run` returns it. ``peak_bytes`` is measured on CUDA alone: the
        CPU's allocator does not say.

    Returns
    -------
    DataFrame
        The case, ``peak_bytes`` (most that tensors took at once, the library's workspace included),
        ``footprint_bytes`` (operands, intermediates, what is kept), and ``ratio``, stated over
        measured.
    """
    rows = frame[frame["peak_bytes"].notna() & frame["footprint_bytes"].notna()]
    names = ["op", "kernel", "dtype", "direction", "case", "peak_bytes", "footprint_bytes"]
    answer = rows[names].reset_index(drop=True)
    return answer.assign(ratio=answer["footprint_bytes"] / answer["peak_bytes"].astype("float64"))


def traffic(counted: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Return counted and stated traffic of each case that was counted.

    Parameters
    ----------
    counted : DataFrame
        As `costmodel.validation.counters.count_cases` returns it.
    frame : DataFrame
        As `costmodel.validation.run` returns it: ``hbm_bytes`` is what layers state.

    Returns
    -------
    DataFrame
        One row for each counted case: what the hardware counted, ``hbm_bytes``, ``status`` and
        ``reason``, and ``ratio``, stated over counted bytes of the main memory.
    """
    stated = frame[["row_id", "op", "kernel", "dtype", "direction", "hbm_bytes"]]
    answer = counted.merge(stated, on="row_id", how="left", validate="one_to_one")
    for name in COUNTED:
        if name not in answer:
            answer[name] = float("nan")
    return answer.assign(ratio=answer["hbm_bytes"] / answer["dram_bytes"])
