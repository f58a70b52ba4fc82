"""What a power limit makes of arithmetic that lasts."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from costmodel.hardware import Device
from costmodel.kernels._cache import power
from costmodel.kernels.base import Array

#: Sharpness of the change from a device at its stated clock to one at its power limit.
_ORDER = 6.0


def droop(device: Device, watts: ArrayLike) -> Array:
    """Return the further time of work at the power limit, over that at the stated clock.

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
