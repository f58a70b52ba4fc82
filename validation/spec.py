"""A spec for a device that has none: its figures measured, and marked so."""

from __future__ import annotations

import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from costmodel import units
from costmodel._version import __version__
from costmodel.errors import UnavailableError
from costmodel.files import write_whole
from costmodel.validation.cpu_clock import clock_hz
from costmodel.validation.microbench import BEYOND_CACHE
from costmodel.validation.torch_env import Machine, cpu_caches

#: FLOP a cycle of one core in fp32: two multiply-add units of this many lanes each.
_FLOP_A_CYCLE = {"avx512": 64, "avx2": 32, "other": 16, "neon": 32}
#: The source key of what was measured on the device itself.
SOURCE = "own"


def cpu_name(machine: Machine) -> str:
    """Return the name of a CPU's spec: ``cpu/amd-epyc-2-threads``."""
    words = re.sub(r"\(r\)|\(tm\)|cpu|processor|@.*", " ", machine.title.lower())
    slug = re.sub(r"[^a-z0-9]+", "-", words).strip("-") or "unknown"
    return f"cpu/{slug}-{machine.units}-thread{'s' if machine.units > 1 else ''}"


def cpu_spec(machine: Machine, measured: pd.DataFrame) -> dict[str, Any]:
    """Return the content of a spec file for the CPU in front of us.

    Parameters
    ----------
    machine : Machine
        Its facts.
    measured : DataFrame
        As `costmodel.validation.microbench.microbenchmarks` returns it.

    Raises
    ------
    UnavailableError
        If the machine is no CPU, or does not tell its caches.
    """
    if machine.kind != "cpu":
        raise UnavailableError(f"a spec is measured for CPUs only; write one for {machine.title} by hand")
    caches = dict(cpu_caches())
    if not caches:
        raise UnavailableError("this system does not tell its caches: write a spec by hand")
    product = float(measured.query("quantity == 'matmul' and pattern == 'fp32'")["best"].max())
    clock, clock_note = _clock(product, machine)
    per_cycle = _flop_a_cycle(machine)
    peak = machine.units * per_cycle * clock
    lanes = f"{machine.units} threads × {per_cycle} FLOP a cycle × {clock / 1e9:.2f} GHz"
    note = f"{lanes}; the fastest product ran at {units.render(product, 'FLOP/s')}"
    day = datetime.now(UTC).date()
    memory, memory_note = _main_memory(measured, machine)
    levels = {
        f"l{level}": _level(level, size, machine, measured, memory)
        for level, size in caches.items()
        if level in (2, 3)
    }
    launch = float(measured.query("quantity == 'launch'")["value"].min())
    step = float(measured.query("quantity == 'step' and pattern == 'eager'")["value"].min())
    return {
        "schema": 1,
        "name": cpu_name(machine),
        "title": f"{machine.title}, {machine.units} threads",
        "vendor": _vendor(machine),
        "family": "x86" if platform.machine() in ("x86_64", "AMD64") else "other",
        "chip": machine.title,
        "year": day.year,
        "scope": f"what {machine.units} threads of one process reach; year is that of the measurement",
        "units": {"kind": "core", "count": _measured(machine.units, "threads that torch uses")},
        "clocks": {"boost": _measured(units.render(clock, "Hz"), clock_note)},
        "compute": {
            "vector": {
                "fp64": _derived(units.render(max(peak, product) / 2, "FLOP/s"), "half of fp32"),
                "fp32": _derived(units.render(max(peak, product), "FLOP/s"), note),
            }
        },
        "memory": {
            "hbm": {
                "technology": "DRAM",
                "bandwidth": _measured(units.render(memory, "B/s"), memory_note),
                "capacity": _measured(
                    units.render(float(machine.memory_bytes), "B"), "as the system states it"
                ),
            },
            **levels,
        },
        "latency": {
            "launch": _measured(
                _micro(launch), f"one element added to, called from Python, costmodel {__version__}"
            ),
            "step": _measured(_micro(step), "the same, each call on the result of the one before"),
        },
    }


def write(content: dict[str, Any], path: Path, *, overwrite: bool = False) -> Path:
    """Write a spec as YAML; see `costmodel.files.write_whole` for what it raises."""
    text = "# Measured by `costmodel validate`.\n" + yaml.safe_dump(
        content, sort_keys=False, allow_unicode=True
    )
    write_whole(path, lambda place: place.write_text(text, encoding="utf-8"), overwrite=overwrite)
    return path


def _measured(value: str | int, note: str) -> dict[str, Any]:
    return {"value": value, "source": [SOURCE], "status": "measured", "note": note}


def _derived(value: str, note: str) -> dict[str, Any]:
    return {"value": value, "source": ["calc"], "status": "derived", "note": note}


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} us"


def _clock(product: float, machine: Machine) -> tuple[float, str]:
    """Return the highest clock seen [Hz]; without a loop to time, the least that explains a `product`."""
    clock = clock_hz()
    if clock is not None:
        return clock, "highest over short loops of one cycle a turn, one thread"
    least = product / (machine.units * _flop_a_cycle(machine))
    return least, "the least at which the fastest product can run"


def _flop_a_cycle(machine: Machine) -> int:
    """Return fp32 FLOP a cycle of one core: two multiply-add units as wide as the instruction set."""
    if platform.machine() in ("arm64", "aarch64"):
        return _FLOP_A_CYCLE["neon"]
    capability = machine.capability.lower()
    return _FLOP_A_CYCLE["avx512" if "512" in capability else "avx2" if "avx2" in capability else "other"]


def _main_memory(measured: pd.DataFrame, machine: Machine) -> tuple[float, str]:
    """Return the highest bandwidth over working sets well beyond the caches [B/s]."""
    beyond = measured[
        (measured["quantity"] == "bandwidth") & (measured["bytes"] >= BEYOND_CACHE / 2 * machine.cache_bytes)
    ]
    top = beyond.sort_values("best").iloc[-1]
    return float(top["best"]), f"highest seen: {top['pattern']} over {int(top['bytes']) >> 20} MiB"


def _level(level: int, size: int, machine: Machine, measured: pd.DataFrame, memory: float) -> dict[str, Any]:
    """Return a cache level: size of the whole (L2 is each core's own) and its highest bandwidth.

    A cache that looks slower than main memory was measured under another load: its bandwidth is left out.
    """
    whole = size * machine.units if level == 2 else size
    lower, upper = (whole // 8, whole // 2)
    inside = measured[(measured["quantity"] == "bandwidth") & measured["bytes"].between(lower, upper)]
    entry = {"capacity": _measured(f"{whole // 2**10} KiB", "as the system states it")}
    best = float(inside["best"].max()) if not inside.empty else 0.0
    if best >= memory:
        entry["bandwidth"] = _measured(units.render(best, "B/s"), "highest over working sets that fit")
    return entry


def _vendor(machine: Machine) -> str:
    known = ("AMD", "Intel", "Apple", "Ampere", "AWS")
    return next((name for name in known if name.lower() in machine.title.lower()), "unknown")
