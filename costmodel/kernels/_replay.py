"""Effect of replaying a captured CUDA graph on a measured time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel.hardware import Device
from costmodel.kernels.base import Array, Constant, Estimate

#: Constants of the ticks, shared by all kernel models whose rows are graph replays.
CONSTANTS = {
    "tick_s": Constant(0.0, 0.0, 1e-5, "s", "harness: period of the clock whose ticks end replays; 0: none"),
    "phase_s": Constant(5e-7, 0.0, 2e-6, "s", "harness: time by which replays exceed whole ticks"),
}

#: Architectures whose replays begin and end at ticks of a clock, and the tick's length [s]. Times of calls
#: under 20 µs are whole multiples of it, or of its n-th part where a graph has n calls.
TICKS = {"blackwell": 2.048e-6}
#: Calls per replay of a convolution or a delta net: the number, from one to twenty, for which the phases of
#: B200's rows agree best.
SCANS = 10.0
#: Relative standard deviation of a graph's replays. The longer they are, the less their mean is a whole
#: number of ticks.
_VARY = 0.008


def shown(
    device: Device,
    constants: Mapping[str, float],
    seconds: Array,
    terms: Mapping[str, ArrayLike],
    calls: float = 1.0,
) -> Estimate:
    """Return an estimate as graph replays show it (`ticked`); the wait for a tick counts as ``launch``."""
    total = ticked(device, constants, seconds, calls)
    shown = {name: np.broadcast_to(np.asarray(term), total.shape) for name, term in terms.items()}
    return Estimate(total, {**shown, "launch": shown["launch"] + np.maximum(total - seconds, 0.0)})


def ticked(device: Device, constants: Mapping[str, float], seconds: Array, calls: float = 1.0) -> Array:
    """Return times as graph replays show them, which begin and end at ticks of a clock.

    Parameters
    ----------
    device : Device
        The device: where its architecture has no ticks, constants from one with ticks have no effect.
    constants : mapping of str to float
        ``tick_s`` [s], 0 for none, and ``phase_s``, by how much a replay exceeds whole ticks [s].
    seconds : array
        Time of a call, launch included [s].
    calls : float
        Number of calls in a replay, one after the other.

    Notes
    -----
    This is rounding to ticks with softened corners (a sawtooth's Poisson kernel). They are the
    softer, the more normally distributed times have lost their phase: exp(−σ²/2), where σ is their standard
    deviation relative to a tick [rad].
    """
    tick, phase = constants["tick_s"], constants["phase_s"]
    if tick <= 0 or device.family not in TICKS:
        return seconds
    replay = calls * seconds
    turns = 2 * np.pi * (replay - phase) / tick
    sharp = np.exp(-0.5 * (2 * np.pi * _VARY * replay / tick) ** 2)
    rest = np.arctan2(sharp * np.sin(turns), 1 + sharp * np.cos(turns)) / np.pi
    return np.asarray((replay - tick * rest) / calls)
