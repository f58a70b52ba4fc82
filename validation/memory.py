"""Compare measured memory and traffic with what layers state."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from costmodel import hardware
from costmodel.predict import predict
from costmodel.validation.case import Case
from costmodel.validation.counters import count_cases
from costmodel.validation.registry import find


def footprints(frame: pd.DataFrame) -> pd.DataFrame:
    """Return measured and stated memory of each case that has both.

    Parameters
    ----------
    frame : DataFrame
        As `costmodel.validation.run` returns it.

    Returns
    -------
    DataFrame
        ``op``, ``kernel``, ``dtype``, ``direction``, ``case``; ``measured_bytes`` (peak of torch's allocator,
        including workspaces of libraries), ``stated_bytes`` (the footprint: operands, intermediates, what is
        kept for backward), and ``ratio``, stated over measured.
    """
    rows = frame[frame["peak_bytes"].notna() & frame["footprint_bytes"].notna()]
    answer = rows[["op", "kernel", "dtype", "direction", "case"]].assign(
        measured_bytes=rows["peak_bytes"].astype("float64"), stated_bytes=rows["footprint_bytes"]
    )
    return answer.assign(ratio=answer["stated_bytes"] / answer["measured_bytes"]).reset_index(drop=True)


def traffic(cases: Sequence[Case], device: hardware.Device) -> pd.DataFrame:
    """Count the bytes that cases move on this machine's GPU, and compare them with those that layers state.

    Parameters
    ----------
    cases : sequence of Case
        Cases to count; see `costmodel.validation.plans.counted`.
    device : Device
        The GPU's spec.

    Returns
    -------
    DataFrame
        One row per case: ``row_id``, ``op``, ``kernel``, ``dtype``, ``direction``, ``case`` (in words),
        ``status`` and ``reason`` (see `costmodel.validation.counters.Counts`), the counted columns,
        ``measured_bytes`` (counted in main memory), ``stated_bytes`` (the layer's ``hbm_bytes``),
        ``l2_bytes`` (stated, to compare with the counted ``lts_bytes``) and ``ratio``, stated over measured.
    """
    rows = []
    for case in cases:
        bench = find(case.bench)
        layer = bench.layer(case)
        assert layer is not None, f"{case} is counted, and no layer states its traffic"
        sizes = {name: value for name, value in case.sizes if name in layer.sizes()}
        stated = predict(layer, device, sizes, rung="bound", state=case.state)
        rows.append(
            {
                "row_id": case.key,
                "op": bench.op(case),
                "kernel": bench.kernel,
                "dtype": case.dtype,
                "direction": case.direction,
                "case": str(case),
                "stated_bytes": stated.hbm_bytes,
                "l2_bytes": stated.l2_bytes,
            }
        )
    counted = count_cases(cases)
    answer = pd.DataFrame(rows).merge(counted, on="row_id", validate="one_to_one")
    measured = answer.pop("dram_bytes").astype("float64")
    return answer.assign(measured_bytes=measured, ratio=answer["stated_bytes"] / measured)
