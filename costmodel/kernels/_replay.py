"""What replaying a captured graph does to a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel.hardware import Device
from costmodel.kernels.base import Array, Constant, Estimate

#: What of a time belongs to the ticks, of every kernel model whose rows are replays.
CONSTANTS = {
    "tick_s": Constant(0.0, 0.0, 1e-5, "s", "harness: clock at whose ticks a replay ends; 0: none"),
    "phase_s": Constant(5e-7, 0.0, 2e-6, "s", "harness: by how much replays exceed whole ticks"),
}

#: Architectures whose replays begin and end at the ticks of a clock, and how long one is [s]: measured times
#: lie at whole numbers of it, of calls of under 20 µs, or of its n-th part where a graph has n calls.
TICKS = {"blackwell": 2.048e-6}
#: Calls that a replay of a convolution or of a delta net has: the number, of one to twenty, of which the
#: phases of B200's rows are most alike.
SCANS = 10.0
#: By how much the replays of a graph vary, over their length (standard deviation): the longer they are, the
#: less is their mean a whole number of ticks.
_VARY = 0.008


def shown(
    device: Device,
    constants: Mapping[str, float],
    seconds: Array,
    terms: Mapping[str, ArrayLike],
    calls: float = 1.0,
) -> Estimate:
    """Return an estimate as graph replays show it (`ticked`): what waits for a tick is launch."""
    total = ticked(device, constants, seconds, calls)
    shown = {name: np.broadcast_to(np.asarray(term), total.shape) for name, term in terms.items()}
    return Estimate(total, {**shown, "launch": shown["launch"] + np.maximum(total - seconds, 0.0)})


def ticked(device: Device, constants: Mapping[str, float], seconds: Array, calls: float = 1.0) -> Array:
    """Return times as graph replays show them that begin and end at the ticks of a clock.

    Parameters
    ----------
    device : Device
        Where it runs: constants carried from an architecture with ticks to one without bring none.
    constants : mapping of str to float
        ``tick_s``, 0 where there is none, and ``phase_s``, by how much a replay exceeds whole ticks [s].
    seconds : array
        How long a call takes, launch included [s].
    calls : float
        In a replay, one after the other.

    Notes
    -----
    A rounding whose corners are softened (a sawtooth's Poisson kernel) as far as normally distributed
    times have lost their phase: exp(−σ²/2), σ their standard deviation in turns of a tick [rad].
    """
    tick, phase = constants["tick_s"], constants["phase_s"]
    if tick <= 0 or device.family not in TICKS:
        return seconds
    replay = calls * seconds
    turns = 2 * np.pi * (replay - phase) / tick
    sharp = np.exp(-0.5 * (2 * np.pi * _VARY * replay / tick) ** 2)
    rest = np.arctan2(sharp * np.sin(turns), 1 + sharp * np.cos(turns)) / np.pi
    return np.asarray((replay - tick * rest) / calls)
