"""What a power limit makes of arithmetic that lasts."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from costmodel.hardware import Device
from costmodel.kernels._cache import power
from costmodel.kernels.base import Array

#: Sharpness of the change from a device at its stated clock to one at its power limit.
_ORDER = 6.0
#: Power of a board whose clocks are up, without arithmetic [W]. With it the energy of an fp32 operation comes
#: out alike in linear layers on T4 and A100 (13 pJ); with none T4's is half as much again.
_BOARD_W = 25.0


def droop(device: Device, watts: ArrayLike) -> Array:
    """Return the further time of tensor cores at the power limit, over that at the stated clock.

    Power goes with the cube of the clock, as voltage goes with the clock. None where no limit is known.

    Parameters
    ----------
    device : Device
        Where it runs.
    watts : array_like
        What the work would draw at the stated clock [W].
    """
    drawn = np.asarray(watts, dtype=np.float64)
    if device.tdp_w is None:
        return np.zeros_like(drawn)
    return np.asarray((1 + power(drawn / device.tdp_w, _ORDER)) ** (1 / (3 * _ORDER)) - 1)


def plain_droop(device: Device, watts: float) -> float:
    """Return the same of CUDA cores, at the least voltage: power goes with the clock.

    The clock does not go below the datasheet's base.

    Parameters
    ----------
    device : Device
        Where it runs.
    watts : float
        What the work would draw at the stated clock [W].
    """
    if device.tdp_w is None:
        return 0.0
    slower = max(watts / max(device.tdp_w - _BOARD_W, device.tdp_w / 2), 1.0)
    base = device.spec.clocks.base
    return min(slower, device.clock_hz / base.si if base else np.inf) - 1
