"""Fit the kernel models of a CPU to one cell: op × dtype × framework.

The constants of the memory levels are common to the whole machine. They are fitted on copies first, and fixed
for all other kernels. The loss is soft-L1 on log(predicted/measured) at a scale of 3 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel import kernels
from costmodel.errors import TableError
from costmodel.hardware import Device
from costmodel.kernels import _cpu, cpu_attention, cpu_recurrence, cpu_scan, cpu_stream
from costmodel.layers.recurrent import GATES
from costmodel.validation.cells import arguments, model_of, repeats
from costmodel.validation.chains import Chain
from costmodel.validation.log_fit import defaults, least_log_error

#: Kernel models that are fitted here.
MODELS = (
    "cpu_attention",
    "cpu_conv",
    "cpu_decode",
    "cpu_delta",
    "cpu_gemm",
    "cpu_recurrence",
    "cpu_scan",
    "cpu_state_update",
    "cpu_stream",
)
#: Constants known from the library: elements of a chunk, where ATen does not use the default
#: (``UnaryOpsKernel.cpp``, ``Activation.cpp``).
GIVEN = {"tanh": {"grain": 2048.0}, "gelu": {"grain": 16384.0}}


def _free(op: str, kernel: ModuleType, pattern: str | None) -> tuple[str, ...]:
    """Return the constants that rows of an op determine, without memory levels; a pass has a `pattern`."""
    given = (*_cpu.MEMORY, "overlap", "sum_cycles", "grain")
    names = [name for name in kernel.CONSTANTS if name not in given]
    if pattern == "elementwise":
        names.remove("row_cycles")
    if op == "gemm":
        names.remove("matrix_s")
    if op in GATES:
        # A matrix-vector product streams its weights, but more slowly than a copy.
        names.append("l3_bytes_cycle")
    return tuple(names)


#: Kernel model → constants fitted for a kernel within a chain: the costs of a call, a step, an element.
_CHAINED = {
    cpu_stream: ("start_s", "element_cycles", "row_cycles"),
    cpu_recurrence: ("step_s", "sum_cycles"),
    cpu_attention: ("start_s", "peak_share"),
    cpu_scan: ("start_s", "flop_cycles"),
}


def fit_chained(
    chain: Chain,
    device: Device,
    others: NDArray[np.float64],
    rows: NDArray[np.intp],
    start: Mapping[str, float],
) -> dict[str, float]:
    """Return the constants of the only kernel of a chain without any.

    Parameters
    ----------
    chain : Chain
        Rows and their kernels.
    device : Device
        The device they were measured on.
    others : array
        Time of the other kernels, row by row [s].
    rows : array of int
        Rows to fit on.
    start : mapping of str to float
        Initial values: those of the nearest kernel with constants.

    Raises
    ------
    TableError
        If there are fewer than two rows per constant.
    """
    kernel = kernels.model(chain.open.kernel)
    names = _CHAINED.get(kernel, ())
    if kernel is cpu_stream and not chain.reduces:
        names = names[:2]
    if not names or len(rows) < 2 * len(names):
        raise TableError(f"{len(rows)} rows to fit {len(names)} constants on; wanted two for each")
    measured = chain.rows["latency_s"].to_numpy(dtype=np.float64)

    def predict(values: Mapping[str, float]) -> NDArray[np.float64]:
        return (others + chain.own_seconds(device, values))[rows]

    return least_log_error(predict, measured[rows], kernel.CONSTANTS, names, (start,))[1]


def fit(rows: pd.DataFrame, device: Device, start: Mapping[str, float]) -> dict[str, float]:
    """Return the constants of one cell; see `costmodel.validation.cells.recipe`.

    `start` has the constants of the memory levels, fitted on copies.
    """
    op = str(rows["op"].iloc[0])
    kernel, kwargs = kernels.model(model_of(op, device)), arguments(rows, device)
    other: NDArray[np.float64] | float = (
        rows["other_s"].to_numpy(dtype=np.float64) if "other_s" in rows else 0.0
    )
    measured, times = rows["latency_s"].to_numpy(dtype=np.float64), repeats(rows)
    begin = dict(start)
    names = _free(op, kernel, kwargs.get("pattern"))
    if op == "elementwise_copy":
        names = (*names, *_cpu.LEVELS)
    harness = kernel.HARNESS[0]
    begin.setdefault(harness, 0.8 * float(measured.min()))
    if device.units == 1:
        names = tuple(name for name in names if name != "fork_s")

    def predict(values: Mapping[str, float]) -> NDArray[np.float64]:
        return np.asarray(times * kernel.seconds(device, values, **kwargs).seconds + other)

    # Priors fix constants that rows do not determine; otherwise rounding, and so the rows' order, would.
    expected = defaults(kernel.CONSTANTS, names)
    return least_log_error(predict, measured, kernel.CONSTANTS, names, (begin,), expected=expected)[1]
