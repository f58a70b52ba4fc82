"""Read the machine's state while it is measured: clocks, temperature, power, load."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from costmodel.validation.cpu_clock import clock_hz
from costmodel.validation.torch_env import load_torch


def sensors(kind: str) -> dict[str, float | None]:
    """Return the present state of the device; None for what cannot be read.

    Returns
    -------
    dict
        ``clock_hz`` [Hz], ``temperature_c`` [°C], ``power_w`` [W] of the device, and ``load``, the host's
        average number of runnable processes over one minute. A CPU's clock is the rate of a loop of half a
        millisecond on one core, which is lower if another thread shares the core.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if kind == "cpu":
        return {"clock_hz": clock_hz(tries=1), "temperature_c": None, "power_w": None, "load": load}
    cuda = load_torch().cuda
    return {
        "clock_hz": _scaled(cuda.clock_rate, 1e6),  # MHz
        "temperature_c": _scaled(cuda.temperature, 1.0),
        "power_w": _scaled(cuda.power_draw, 1e-3),  # mW
        "load": load,
    }


def _scaled(read: Callable[[], Any], factor: float) -> float | None:
    """Return a reading; None if the driver's library is missing or does not permit it."""
    try:
        return float(read()) * factor
    except Exception:
        return None
