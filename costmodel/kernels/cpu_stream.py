"""Memory-bound kernels on a CPU: softmax, norms, activations and elementwise arithmetic.

ATen divides a table into chunks of at least 32,768 elements for its threads (tanh and rows of a softmax:
2,048; GELU: 16,384; a layer norm: single rows), and each core streams its chunk with vector instructions. A
call takes its dispatch, the wake-up of other threads, a cost per row, and the larger of its instructions and
its bytes. An RMS norm is several kernels: ATen squares, averages, scales, and multiplies by the gain.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel import dtypes
from costmodel.hardware import Device
from costmodel.kernels._cpu import GRAIN, MEMORY, mapping_seconds, seconds_per_byte
from costmodel.kernels._join import joined
from costmodel.kernels.base import Constant, Estimate, as_rows, filled

CONSTANTS = {
    "element_cycles": Constant(1.0, 0.01, 200.0, "cycles", "instructions per element on one core"),
    "row_cycles": Constant(50.0, 0.1, 20000.0, "cycles", "start and end of a row that is reduced"),
    "start_s": Constant(
        2e-6, 1e-7, 1e-4, "s", "harness: dispatch of a call from Python, including allocation of its result"
    ),
    "fork_s": Constant(3e-6, 1e-7, 2e-4, "s", "waking the other threads and waiting for the last"),
    "grain": Constant(
        GRAIN, 1.0, GRAIN, "elements", "least size of an elementwise operation's chunks (the library's)"
    ),
    "overlap": Constant(2.0, 1.0, 8.0, "1", "order of the norm that joins instructions and bytes"),
    **MEMORY,
}
#: Constants of the harness, not of the device.
HARNESS = ("start_s",)
#: Constants of one operation, which do not apply to another.
OPERATION = ("element_cycles", "row_cycles", "grain", "start_s")

#: Elements of a chunk, by the pattern of reduction (``vec_host_softmax_lastdim``, ``LayerNormKernelImpl``).
_CHUNK = {"softmax": GRAIN / 16, "norm": 1.0}
#: Pattern of several passes → additional reads and writes per element.
_MORE = {"rmsnorm": (3.0, 2.0)}


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    rows: ArrayLike,
    cols: ArrayLike,
    reads: ArrayLike = 1.0,
    writes: ArrayLike = 1.0,
    dtype: str = "fp32",
    pattern: str = "elementwise",
) -> Estimate:
    """Return the time of one pass over a rows × cols table.

    Parameters
    ----------
    rows, cols : array_like
        Sizes of the table [elements].
    reads, writes : array_like
        Elements read and written per element of the table.
    dtype : str
        Number format of the table.
    pattern : str
        As for ``costmodel.kernels.stream``; rows count where they are reduced.

    Returns
    -------
    Estimate
        Terms ``vector:fp32`` (instructions), ``l2`` (caches), ``hbm``, ``launch`` (including the mapping of
        large results). Not counted: gains and biases of a norm.
    """
    c = filled(CONSTANTS, constants)
    rows, cols, reads, writes = as_rows(rows, cols, reads, writes)
    elements = rows * cols
    chunks = np.ceil(
        elements / np.maximum(_CHUNK.get(pattern, c["grain"]), cols if pattern in _CHUNK else 1.0)
    )
    threads = np.clip(chunks, 1.0, device.units)
    width = dtypes.dtype(dtype).bytes
    more_reads, more_writes = _MORE.get(pattern, (0.0, 0.0))
    # The working set is one pass's operands, not those of all passes together.
    cached, memory = seconds_per_byte(device, c, elements * (reads + writes) * width, threads)
    reads, writes = reads + more_reads, writes + more_writes
    traffic = elements * (reads + writes) * width
    by_rows = rows * c["row_cycles"] if pattern != "elementwise" else 0.0
    issue = (elements * c["element_cycles"] + by_rows) / (threads * device.clock_hz)
    launch = c["start_s"] + np.where(threads > 1, c["fork_s"], 0.0)
    launch = launch + writes * mapping_seconds(c, elements * width, threads)
    body = joined(c["overlap"], issue, traffic * (cached + memory))
    return Estimate(
        seconds=launch + body,
        terms={"vector:fp32": issue, "l2": traffic * cached, "hbm": traffic * memory, "launch": launch},
    )
