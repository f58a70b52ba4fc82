"""How PyTorch and vLLM map the rows of a softmax or norm to threads.

Softmax of up to 1024 columns uses one warp per row (``PersistentSoftmax.cuh``), longer rows one block
(``SoftMax.cu``: 128-bit loads, then a scalar tail of one load per thread). Layer norm uses one block of 128
threads per row, its loop unrolled by four (``layer_norm_kernel.cu``). On AMD, long rows follow PyTorch 2.4,
which keeps aligned ones in shared memory. vLLM's RMS norm and gated activation use one block per row and load
single values.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from costmodel.kernels.base import Array


@dataclass(frozen=True)
class Layout:
    """Mapping of rows to threads.

    Attributes
    ----------
    threads, block_rows : array
        Threads and rows per block.
    loads : array
        Dependent loads of a row in all its passes.
    rereads : array
        Passes over a row after the first.
    issued : array
        How many times an element's instructions are issued.
    """

    threads: Array
    block_rows: Array
    loads: Array
    rereads: Array
    issued: Array = field(default_factory=lambda: np.ones(()))


def layout(pattern: str, cols: Array, width: float, *, amd: bool) -> Layout:
    """Return the layout of rows of `cols` elements that are `width` bytes wide.

    ``pattern`` is ``softmax``, ``norm``, ``rmsnorm`` or ``gated``.
    """
    if pattern == "softmax":
        return _softmax(cols, width, amd)
    if pattern == "norm":
        return _norm(cols, amd)
    return _block(cols, rereads=1.0 if pattern == "rmsnorm" else 0.0)


def _softmax(cols: Array, width: float, amd: bool) -> Layout:
    lanes, vector = 64.0 if amd else 32.0, 16.0 / width
    padded = 2.0 ** np.ceil(np.log2(np.maximum(cols, 1.0)))
    short = cols <= 1024
    block_rows = 128.0 / np.minimum(padded, lanes) * np.where(padded <= 128, 2.0, 1.0)
    aligned = cols % vector == 0
    if amd:
        block = np.full_like(cols, 1024.0)
    else:
        half = np.minimum(cols / vector, 1024.0) / 2
        block = np.maximum(2.0 ** np.ceil(np.log2(np.maximum(half, 1.0))), lanes)
    full = np.floor(cols / (vector * block))
    scalar = np.ceil((cols - full * vector * block) / block)
    # A row that starts inside a vector has one more scalar load: 3 rows in 4 for an odd number of fp32
    # columns.
    shift = np.where(aligned, 0.0, np.where((cols % 2 == 0) & (vector == 4), 0.5, 0.75))
    loads = full + scalar + (0.0 if amd else shift)
    rereads = np.full_like(cols, 2.0)
    if amd:  # aligned rows are kept in shared memory and loaded by vectors only
        loads = np.where(aligned, np.ceil(cols / (vector * block)), loads)
        rereads = np.where(aligned, 0.0, rereads)
    return Layout(
        threads=np.where(short, 128.0, block),
        block_rows=np.where(short, block_rows, 1.0),
        loads=np.where(short, 1.0, loads * (rereads + 1.0)),
        rereads=np.where(short, 0.0, rereads),
        # Long rows compute every exponential twice, for the sum and for the result. It matters where
        # instructions limit, which they do not on NVIDIA GPUs.
        issued=np.where(short | (not amd), 1.0, 2.0),
    )


def _norm(cols: Array, amd: bool) -> Layout:
    vectors = cols / 4.0
    loads = np.ceil(vectors / 128.0)
    # Unrolled by 4: a warp with some lanes of 4k loads and some of 4k − 1 runs both loops.
    split = (loads % 4 == 0) & (vectors % (64.0 if amd else 32.0) != 0)
    one = np.ones_like(cols)
    return Layout(128.0 * one, one, (loads + 3.0 * split) / 2, one)


def _block(cols: Array, rereads: float) -> Layout:
    threads = np.minimum(np.ceil(cols / 32.0) * 32.0, 1024.0)
    one = np.ones_like(cols)
    return Layout(threads, one, np.ceil(cols / threads), rereads * one)
