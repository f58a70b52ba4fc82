"""Which of cuDNN's recurrent algorithms torch asks for: the persistent ones, or a kernel for each step.

Read from torch's source (``aten/src/ATen/native/cudnn/RNN.cpp``: ``get_algo`` and the functions
it asks). Left out: Volta's rule for the larger persistent kernel, which goes by the length too; an input
that is no multiple of 128 wide.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from costmodel.hardware import Device
from costmodel.kernels.base import Array

#: Widest state of the small persistent kernel, by gates: forward, and backward. From Pascal on.
_SMALL = {1.0: (384.0, 256.0), 3.0: (192.0, 128.0), 4.0: (192.0, 128.0)}
_BEFORE_PASCAL = ("kepler", "maxwell")
#: Architectures with the larger one, from so many multiprocessors on; GA10x is left out there.
_LARGE, _UNITS = ("ampere", "ada", "hopper", "blackwell", "blackwell-rtx"), 98


def persistent(
    device: Device, gates: Array, hidden: Array, batch: Array, parallel: Array, dtype: str, *, forward: bool
) -> NDArray[np.bool_]:
    """Return which recurrences torch runs as one kernel that keeps the weights.

    Parameters
    ----------
    device : Device
        An NVIDIA GPU.
    gates, hidden, batch, parallel : array
        1, 3, 4 for RNN, GRU, LSTM; width of the state; sequences; layers and directions.
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
    # A GRU's is left out, and an RNN's where it was seen to be slow.
    large = shape & (gates != 3) & ((gates == 4) | (batch < 96) | (hidden < 896))
    return np.asarray(small | large)
