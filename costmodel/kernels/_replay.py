"""What replaying a captured graph does to a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from costmodel.kernels.base import Array

#: Architectures whose replays begin and end at the ticks of a clock, and how long one is [s]: measured times
#: lie at whole numbers of it, of calls of under 20 µs, or of its n-th part where a graph has n calls.
TICKS = {"blackwell": 2.048e-6}
#: Time over which the replays of a graph drift apart, so that their mean is no whole number of ticks [s].
_DRIFT_S = 5e-5


def ticked(seconds: Array, constants: Mapping[str, float], calls: float = 1.0) -> Array:
    """Return times as graph replays show them that begin and end at the ticks of a clock.

    Parameters
    ----------
    seconds : array
        How long a call takes, launch included [s].
    constants : mapping of str to float
        ``tick_s``, 0 where there is none, and ``phase_s``, by how much a replay exceeds whole ticks [s].
    calls : float
        In a replay, one after the other.

    Notes
    -----
    A rounding whose corners are softened (a sawtooth's Poisson kernel), the more the longer the time.
    """
    tick, phase = constants["tick_s"], constants["phase_s"]
    if tick <= 0:
        return seconds
    replay = calls * seconds
    turns = 2 * np.pi * (replay - phase) / tick
    sharp = np.exp(-replay / _DRIFT_S)
    rest = np.arctan2(sharp * np.sin(turns), 1 + sharp * np.cos(turns)) / np.pi
    return np.asarray((replay - tick * rest) / calls)
