"""What replaying a captured graph does to a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from costmodel.kernels.base import Array

#: Time over which the replays of a graph drift apart, so that their mean is no whole number of ticks [s].
_DRIFT_S = 5e-5


def ticked(seconds: Array, constants: Mapping[str, float]) -> Array:
    """Return times as graph replays show them that begin and end at the ticks of a clock.

    Parameters
    ----------
    seconds : array
        How long the work takes, launch included [s].
    constants : mapping of str to float
        ``tick_s``, 0 where there is none, and ``phase_s``, by how much a replay exceeds whole ticks [s].

    Notes
    -----
    A rounding whose corners are softened (a sawtooth's Poisson kernel), the more the longer the time.
    """
    tick, phase = constants["tick_s"], constants["phase_s"]
    if tick <= 0:
        return seconds
    turns = 2 * np.pi * (seconds - phase) / tick
    sharp = np.exp(-seconds / _DRIFT_S)
    rest = np.arctan2(sharp * np.sin(turns), 1 + sharp * np.cos(turns)) / np.pi
    return np.asarray(seconds - tick * rest)
