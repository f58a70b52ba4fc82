"""Slow-down of long arithmetic at the power limit."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from costmodel.hardware import Device
from costmodel.kernels._cache import power
from costmodel.kernels.base import Array

#: Sharpness of the transition from the stated clock to the power limit.
_ORDER = 6.0
#: Power of a board at full clocks without arithmetic [W]. With it, T4 and A100 give the same energy of an
#: fp32 operation in linear layers (13 pJ); without it, T4's is 1.5 times as large.
_BOARD_W = 25.0


def droop(device: Device, watts: ArrayLike) -> Array:
    """Return the extra time of tensor cores at the power limit, relative to that at the stated clock.

    Power scales with the cube of the clock, because voltage scales with the clock. 0 if no limit is known.

    Parameters
    ----------
    device : Device
        The device that runs it.
    watts : array_like
        Power that the work would draw at the stated clock [W].
    """
    drawn = np.asarray(watts, dtype=np.float64)
    if device.tdp_w is None:
        return np.zeros_like(drawn)
    return np.asarray((1 + power(drawn / device.tdp_w, _ORDER)) ** (1 / (3 * _ORDER)) - 1)


def plain_droop(device: Device, watts: float) -> float:
    """Return the same for CUDA cores, at the lowest voltage, where power scales with the clock.

    The clock does not fall below the datasheet's base clock.

    Parameters
    ----------
    device : Device
        The device that runs it.
    watts : float
        Power that the work would draw at the stated clock [W].
    """
    if device.tdp_w is None:
        return 0.0
    slower = max(watts / max(device.tdp_w - _BOARD_W, device.tdp_w / 2), 1.0)
    base = device.spec.clocks.base
    return min(slower, device.clock_hz / base.si if base else np.inf) - 1
