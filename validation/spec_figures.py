"""Figures of a measured spec: values with their unit, source, status and a note."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from costmodel import units
from costmodel.validation.microbench import BEYOND_CACHE
from costmodel.validation.torch_env import Machine

#: Source key of figures measured on the device itself.
SOURCE = "own"


def measured_figure(value: str | int, note: str) -> dict[str, Any]:
    """Return a figure that was measured here or reported by the system."""
    return {"value": value, "source": [SOURCE], "status": "measured", "note": note}


def derived(value: str, note: str) -> dict[str, Any]:
    """Return a figure that is derived from other figures."""
    return {"value": value, "source": ["calc"], "status": "derived", "note": note}


def at_least(value: float, unit: str) -> str:
    """Return a limit as text of four digits, rounded up, so that no measurement exceeds it."""
    step = 10.0 ** (math.floor(math.log10(value)) - 3)
    # The float of 1,980 MHz may be slightly larger than that.
    return units.render(math.ceil(value / step - 1e-9) * step, unit)


def micro(seconds: float) -> str:
    """Return a time in microseconds."""
    return f"{seconds * 1e6:.3g} us"


def main_memory(measured: pd.DataFrame, machine: Machine) -> tuple[float, str]:
    """Return the highest bandwidth of working sets well beyond the caches, or of the largest one [B/s]."""
    rates = measured[measured["quantity"] == "bandwidth"]
    beyond = rates[rates["bytes"] >= min(BEYOND_CACHE * machine.cache_at_most, rates["bytes"].max())]
    top = beyond.sort_values("best").iloc[-1]
    return float(top["best"]), f"highest seen: {top['pattern']} over {int(top['bytes']) >> 20} MiB"


def level(whole: int, measured: pd.DataFrame, memory: float) -> dict[str, Any]:
    """Return a cache level: its size [bytes], and its highest bandwidth.

    A cache that appears slower than main memory was disturbed by other load, so its bandwidth is left out.
    """
    inside = measured[
        (measured["quantity"] == "bandwidth") & measured["bytes"].between(whole // 8, whole // 2)
    ]
    entry = {"capacity": measured_figure(f"{whole // 2**10} KiB", "as the system states it")}
    best = float(inside["best"].max()) if not inside.empty else 0.0
    if best >= memory:
        entry["bandwidth"] = measured_figure(at_least(best, "B/s"), "highest over working sets that fit")
    return entry
