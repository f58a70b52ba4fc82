"""Fit the GEMM model's constants to one cell: device × op × dtype × framework.

The loss is soft-L1 on log(predicted/measured) at a scale of 3 %: nearly a median fit, which a few disturbed
rows cannot change much. The constants that a harness's rows determine are free; the others keep their values
in ``start``, or their defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from costmodel import dtypes
from costmodel.hardware import Device
from costmodel.kernels import gemm
from costmodel.kernels._replay import TICKS
from costmodel.kernels.base import Array
from costmodel.measured import harness
from costmodel.validation.cells import arguments
from costmodel.validation.log_fit import Expected, known, least_log_error, on_ticks

#: Kernel models that are fitted here.
MODELS = ("gemm",)
#: Harness → host constants that its rows contain besides the kernel's (a kernel hides no part of the wall
#: time's). Rows of other harnesses are kernel times or graph replays.
_HOST = {
    "eager-events": ("dispatch_s", "record_s"),
    "host-wall": ("dispatch_s",),
}

#: Below this number of rows, only the constants that every row depends on are free. With the priors below,
#: 17 rows of int8 on MI300X determine the others too: held out 10 %, with two constants 14 %.
_FEW = 16
#: Number of products that fit in L2 from which their constants are free.
_ENOUGH_SHORT = 40
#: Number of small products from which the constants of their special kernels are free.
_FEW_SMALL = 10

_COMMON = (
    "peak_share",
    "step_cycles",
    "tail_waves",
    "store_bytes",
    "bandwidth_share",
    "overlap",
    "energy_j",
    "droop_s",
)
#: Constants that only 16- and 8-bit kernels determine: the rate from L2, and the start of block after block.
_NARROW = ("l2_unit_bytes", "block_cycles")
#: Time below which rows distinguish a kernel's start from its first loads [s].
_SHORT = 5e-6
#: Families whose fp32 rows show that loads open DRAM pages and that blocks get out of step: for linear
#: layers; for batched products (pages only); and those whose rows determine how much blocks share when out of
#: step.
_SCATTER = ("pascal", "pascal-gp10x", "volta", "turing", "cdna2")
_PAGES = ("pascal-gp10x", "volta")
_SHARING = ("pascal", "pascal-gp10x", "turing")
#: Families whose rows show tiles beyond the reach of address translation.
_REACH = ("pascal", "cdna2")
#: Families on which cuBLAS has special kernels for a single row, and for small products.
_ROW_KERNELS = ("ampere", "ada")
_LITTLE_WORK = {
    "ampere": ("small_cycles", "small_column_cycles", "tiny_s", "tiny_cycles"),
    "ada": ("small_cycles", "small_column_cycles"),
}
#: Constants that products of few rows determine where a kernel of its own runs them all.
_DECODE = ("decode_cycles", "bandwidth_share", "start_s")
#: Constants of sglang's FP8 kernels by family.
_FP8 = {"hopper": ("ragged",), "blackwell": ("band_tiles",)}
#: Families whose L2 is so large that rows determine its rate for data that no two units share.
_LARGE_L2 = ("ada",)


def _short_ones(rows: pd.DataFrame, device: Device) -> bool:
    """Return whether there are enough 16-bit products that fit in L2.

    Larger ones determine neither what stays in L2 nor how a block begins, and hardly how it ends.
    """
    elements = rows["m"] * rows["k"] + rows["n"] * rows["k"] + rows["m"] * rows["n"]
    return int((2 * elements < device.l2_capacity).sum()) >= _ENOUGH_SHORT


def decoded(rows: pd.DataFrame, device: Device) -> bool:
    """Return whether all products have so few rows that a kernel of its own runs them (``gemm.DECODED``)."""
    return bool((rows["m"] <= gemm.DECODED.get(device.family, 0.0)).all())


def free(rows: pd.DataFrame, device: Device) -> tuple[str, ...]:
    """Return the names of the constants that rows of this cell determine."""
    return _DECODE if decoded(rows, device) else _free_of_tiles(rows, device)


def _free_of_tiles(rows: pd.DataFrame, device: Device) -> tuple[str, ...]:
    """Return the same for a cell with products that are computed tile by tile."""
    op, dtype = str(rows["op"].iloc[0]), str(rows["dtype"].iloc[0])
    host = _HOST.get(str(harness(rows["timer"].iloc[0])), ())
    if len(rows) < _FEW:
        return ("peak_share", "bandwidth_share", *host)
    names = (*_COMMON, *host)
    if not host and rows["latency_s"].min() < _SHORT:
        names = (*names, "start_s")
    if op == "gemm_fp8_dynquant":
        names = (*names, *_NARROW, "fill_cycles", "cache_share", "quantise_share")
        return (*names, *_FP8.get(device.family, ()))
    if dtype != "fp32":
        names = (*names, *_NARROW, "split_s")
        if _short_ones(rows, device):
            names = (*names, "cache_share", "fill_cycles")
            names = (*names, "l2_once_bytes") if device.family in _LARGE_L2 else names
        single = rows["m"] == 1
        if single.sum() >= _FEW_SMALL and device.family in _ROW_KERNELS:
            names = (
                *names,
                "row_cycles",
                "row_bytes",
                *(("row_split_s",) if device.family == "ampere" else ()),
            )
        little = ~single & (rows["m"] * rows["n"] * rows["k"] < gemm.SMALL_WORK)
        if little.sum() >= _FEW_SMALL:
            names = (*names, *_LITTLE_WORK.get(device.family, ()))
        return names
    names = (*names, "edge_elements", "fill_cycles")
    if op == "bmm":
        if device.family == "cdna2":
            return (*names, "thin_cost", "l2_unit_bytes")
        return (*names, "page_bytes", "scatter_share") if device.family in _PAGES else names
    names = (*names, "split_s")
    if device.family in _SCATTER:
        names = (*names, "drift", "page_bytes", "scatter_share")
    if device.family in _SHARING:
        names = (*names, "lone_share")
    if device.family in _REACH:
        names = (*names, "reach_unit")
    return names


_STARTS: tuple[dict[str, float], ...] = (
    {"droop_s": 5e-3, "overlap": 3.0, "l2_unit_bytes": 100.0, "cache_share": 0.05},
    {"droop_s": 3e-4, "overlap": 1.3, "l2_unit_bytes": 20.0, "cache_share": 1.0},
    {
        "droop_s": 3e-3,
        "overlap": 3.0,
        "l2_unit_bytes": 20.0,
        "cache_share": 1.0,
        "step_cycles": 500.0,
    },
)
#: Initial value of a limit that rows may not determine, high enough not to matter.
_UNLIMITED = {"l2_unit_bytes": 100.0}
#: Typical constants of fp32 products, used as priors: a fit departs from them as far as rows demand.
_FP32 = {
    "energy_j": 1.2e-11,
    "droop_s": 3e-3,
    "peak_share": 0.98,
    "edge_elements": 15.0,
    "step_cycles": 400.0,
    "fill_cycles": 1500.0,
    "tail_waves": 0.8,
    "overlap": 2.3,
    "l2_unit_bytes": 60.0,
    "store_bytes": 40.0,
    "bandwidth_share": 0.85,
    "split_s": 1e-5,
    "drift": 0.002,
    "reach_unit": 2e7,
    "page_bytes": 3e4,
    "scatter_share": 0.3,
    "lone_share": 0.5,
    "thin_cost": 2.0,
    "cache_share": 1.0,
}

#: The same for 16- and 8-bit products. Devices differ more there, so these priors have half the weight; the
#: energy of an 8-bit operation differs more than tenfold and has no prior.
_NARROW_KNOWN = {
    "droop_s": 3e-3,
    "peak_share": 0.85,
    "step_cycles": 350.0,
    "fill_cycles": 500.0,
    "tail_waves": 0.5,
    "overlap": 2.6,
    "l2_unit_bytes": 40.0,
    "l2_once_bytes": 7.0,
    "store_bytes": 14.0,
    "bandwidth_share": 0.8,
    "block_cycles": 4.0,
    "cache_share": 0.8,
    "split_s": 2.5e-6,
    "start_s": 2.3e-6,
    "row_cycles": 0.4,
    "row_bytes": 8.0,
    "row_split_s": 1.4e-6,
    "small_cycles": 10.5,
    "small_column_cycles": 0.2,
    "tiny_s": 1e-6,
    "tiny_cycles": 5.0,
    "band_tiles": 30.0,
    "quantise_share": 0.77,
    "ragged": 0.2,
}
_SIXTEEN_BIT_KNOWN = {**_NARROW_KNOWN, "energy_j": 1.3e-12}
_HALF_SURE = 0.5
#: Weight of the priors if all rows are long, which hardly determine a block's stores and the last wave.
_SURER = 2.0

#: Initial values of constants that are off by default.
_BEGIN = {
    "block_cycles": 3.0,
    "small_cycles": 10.0,
    "small_column_cycles": 0.2,
    "l2_once_bytes": 7.0,
    "row_cycles": 0.4,
    "decode_cycles": 0.1,
    "tiny_s": 1.2e-6,
    "scatter_share": 0.3,
    "thin_cost": 2.0,
    "ragged": 0.1,
}
#: Number of rows that suffices for a fit; they are evenly spaced in the table's order.
_ENOUGH = 800


def fit(rows: pd.DataFrame, device: Device, start: Mapping[str, float]) -> dict[str, float]:
    """Return the constants of one cell; see `costmodel.validation.cells.recipe`."""
    rows = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, _ENOUGH).astype(int))]
    kwargs, measured = arguments(rows, device), rows["latency_s"].to_numpy(dtype=np.float64)
    names = free(rows, device)
    wide = kwargs["dtype"] == "fp32"
    expected = _expected(kwargs["dtype"], names)
    begin: dict[str, float] = {}
    if "dispatch_s" in names:
        floor = float(measured.min())
        hidden = 0.4 * floor if "record_s" in names else 0.0
        begin |= {"dispatch_s": floor - hidden, "record_s": hidden}
    begin |= {name: value for name, value in _BEGIN.items() if name in names and name not in expected}

    def predict(values: Mapping[str, float]) -> Array:
        return gemm.seconds(device, values, **kwargs).seconds

    def best(
        starts: Iterable[Mapping[str, float]], free: tuple[str, ...], said: Mapping[str, Expected]
    ) -> dict[str, float]:
        return least_log_error(
            predict, measured, gemm.CONSTANTS, free, starts, expected=said, evaluations=40
        )[1]

    if wide:
        return best(({**expected, **begin, **start},), names, known(gemm.CONSTANTS, expected))
    # Fit without priors first, then with priors, starting both from that fit and from the priors.
    sure = _HALF_SURE if _short_ones(rows, device) else _SURER
    said = known(gemm.CONSTANTS, expected, sure=sure)
    starts = ({name: value for name, value in first.items() if name in names} for first in _STARTS)
    alone = best(({**_UNLIMITED, **first, **begin, **start} for first in starts), names, {})
    smooth = best((alone, {**alone, **expected}), names, said)
    tick = TICKS.get(device.family) if kwargs["rotation"] in gemm.REPLAYED else None
    if tick is None or "start_s" not in names:
        return smooth
    ticked = on_ticks(smooth, tick, "start_s", tick / gemm.REPLAYED[kwargs["rotation"]])
    return best(ticked, (*names, "phase_s"), said)


def _expected(dtype: str, names: tuple[str, ...]) -> dict[str, float]:
    """Return the prior values of the free constants."""
    if dtype == "fp32":
        return {name: value for name, value in _FP32.items() if name in (*names, "cache_share")}
    values = _NARROW_KNOWN if dtypes.dtype(dtype).bytes < 2 else _SIXTEEN_BIT_KNOWN
    return {name: value for name, value in values.items() if name in names}
