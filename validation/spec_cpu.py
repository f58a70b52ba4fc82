"""Make a spec for this machine's CPU: caches from the system, measured clock and bandwidths."""

from __future__ import annotations

import platform
import re
import time
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from costmodel import units
from costmodel._version import __version__
from costmodel.errors import UnavailableError
from costmodel.validation.cpu_clock import clock_hz
from costmodel.validation.spec_figures import at_least, derived, level, main_memory, measured_figure, micro
from costmodel.validation.torch_env import Machine, cpu_caches, cpu_facts

#: FLOP per cycle of one core in fp32, with two multiply-add units.
_FLOP_A_CYCLE = {"avx512": 64, "avx2": 32, "other": 16, "neon": 32}
#: AMD's family of Zen 3, which has no AVX-512, and Zen 4, which runs it on units of 256 bits in two cycles
#: (A. J. Yee, Zen 5's AVX512 teardown, numberworld.org, 2024; measured: 32.0 FLOP a cycle either way).
_ZEN_4 = {"vendor_id": "AuthenticAMD", "cpu family": "25"}

#: Times at which the clock is sought, the pause between two [s], and the loops of half a millisecond at each:
#: a neighbour may keep a core slow for seconds.
_CLOCK_LOOKS, _CLOCK_PAUSE_S, _CLOCK_TRIES = 20, 0.25, 100


def cpu_name(machine: Machine) -> str:
    """Return the name of a CPU's spec: ``cpu/amd-epyc-2-threads``."""
    words = re.sub(r"\(r\)|\(tm\)|cpu|processor|@.*", " ", machine.title.lower())
    slug = re.sub(r"[^a-z0-9]+", "-", words).strip("-") or "unknown"
    return f"cpu/{slug}-{machine.units}-thread{'s' if machine.units > 1 else ''}"


def cpu_spec(machine: Machine, measured: pd.DataFrame) -> dict[str, Any]:
    """Return the content of a spec file for this machine's CPU.

    Parameters
    ----------
    machine : Machine
        The machine and its properties.
    measured : DataFrame
        As `costmodel.validation.microbench.microbenchmarks` returns it.

    Raises
    ------
    UnavailableError
        If the system does not report its caches.
    """
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
    memory, memory_note = main_memory(measured, machine)
    levels = {
        f"l{number}": level(size * machine.units if number == 2 else size, measured, memory)
        for number, size in caches.items()  # L2 is each core's own
        if number in (2, 3)
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
        "units": {"kind": "core", "count": measured_figure(machine.units, "threads that torch uses")},
        "clocks": {"boost": measured_figure(at_least(clock, "Hz"), clock_note)},
        "compute": {
            "vector": {
                "fp64": derived(at_least(max(peak, product) / 2, "FLOP/s"), "half of fp32"),
                "fp32": derived(at_least(max(peak, product), "FLOP/s"), note),
            }
        },
        "memory": {
            "hbm": {
                "technology": "DRAM",
                "bandwidth": measured_figure(at_least(memory, "B/s"), memory_note),
                "capacity": measured_figure(
                    units.render(float(machine.memory_bytes), "B"), "as the system states it"
                ),
            },
            **levels,
        },
        "latency": {
            "launch": measured_figure(
                micro(launch), f"one element added to, called from Python, costmodel {__version__}"
            ),
            "step": measured_figure(micro(step), "the same, each call on the result of the one before"),
        },
    }


def _clock(product: float, machine: Machine) -> tuple[float, str]:
    """Return the highest measured clock [Hz], or else the least that explains the rate of a product."""
    found = []
    for look in range(_CLOCK_LOOKS):
        time.sleep(_CLOCK_PAUSE_S if look else 0)
        found.append(clock_hz(tries=_CLOCK_TRIES))
    clocks = [clock for clock in found if clock is not None]
    if clocks:
        return max(clocks), "highest over short loops of one cycle a turn, one thread"
    least = product / (machine.units * _flop_a_cycle(machine))
    return least, "the least at which the fastest product can run"


def with_highest_clock(content: dict[str, Any], clock: float) -> dict[str, Any]:
    """Return the content of a spec with a clock [Hz] that was seen since; its peaks stay as they are."""
    seen = measured_figure(at_least(clock, "Hz"), "highest over loops of one cycle a turn during a campaign")
    return {**content, "clocks": {**content["clocks"], "max": seen}}


def _flop_a_cycle(machine: Machine) -> int:
    """Return fp32 FLOP per cycle of one core: two multiply-add units, as wide as the instruction set's."""
    if platform.machine() in ("arm64", "aarch64"):
        return _FLOP_A_CYCLE["neon"]
    capability = machine.capability.lower()
    if "512" in capability and cpu_facts().items() >= _ZEN_4.items():
        return _FLOP_A_CYCLE["avx2"]
    return _FLOP_A_CYCLE["avx512" if "512" in capability else "avx2" if "avx2" in capability else "other"]


def _vendor(machine: Machine) -> str:
    known = ("AMD", "Intel", "Apple", "Ampere", "AWS")
    return next((name for name in known if name.lower() in machine.title.lower()), "unknown")
