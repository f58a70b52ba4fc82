"""Decide which of cuDNN's recurrent algorithms torch asks for: a persistent one, or a kernel per step.

The rules are torch's (``aten/src/ATen/native/cudnn/RNN.cpp``: ``get_algo`` and the functions it calls). Left
out: Volta's rule for the larger persistent kernel, which also depends on the sequence length; the condition
that the input's width is a multiple of 128.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from costmodel.hardware import Device
from costmodel.kernels.base import Array

#: Gates → widest state of the small persistent kernel, forward and backward. It exists from Pascal on.
_SMALL = {1.0: (384.0, 256.0), 3.0: (192.0, 128.0), 4.0: (192.0, 128.0)}
_BEFORE_PASCAL = ("kepler", "maxwell")
#: Architectures with the larger persistent kernel, and the least number of multiprocessors; torch excludes
#: GA10x.
_LARGE, _UNITS = ("ampere", "ada", "hopper", "blackwell", "blackwell-rtx"), 98


def persistent(
    device: Device, gates: Array, hidden: Array, batch: Array, parallel: Array, dtype: str, *, forward: bool
) -> NDArray[np.bool_]:
    """Return which recurrences torch runs as one persistent kernel, which keeps the weights on the chip.

    Parameters
    ----------
    device : Device
        An NVIDIA GPU.
    gates, hidden, batch, parallel : array
        Gates (1, 3, 4 for RNN, GRU, LSTM); width of the state; sequences; layers times directions.
    dtype : str
        Format of weights and states.
    forward : bool
        Whether it is the forward pass.
    """
    widest = np.select(
        [gates == known for known in _SMALL], [ends[not forward] for ends in _SMALL.values()], 0.0
    )
    small = (hidden <= widest) & (dtype != "fp64") & (device.family not in _BEFORE_PASCAL)
    if dtype != "fp16" or device.family not in _LARGE or device.units < _UNITS:
        return np.asarray(small)
    shape = (hidden <= 1024) & (hidden % 128 == 0) & (parallel == 1) & (batch % 8 == 0) & (batch <= 128)
    # torch excludes GRUs, and RNNs of sizes where the kernel was seen to be slow.
    large = shape & (gates != 3) & ((gates == 4) | (batch < 96) | (hidden < 896))
    return np.asarray(small | large)
