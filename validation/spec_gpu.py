"""Make a spec for an unknown NVIDIA GPU: units and clock from the driver, measured bandwidths."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from costmodel import units
from costmodel._version import __version__
from costmodel.errors import UnavailableError
from costmodel.hardware.tables import families
from costmodel.validation.spec_figures import at_least, derived, level, main_memory, measured_figure, micro
from costmodel.validation.torch_env import Machine, load_torch

#: Compute capability, or its major number → family (NVIDIA, "CUDA C++ Programming Guide").
_FAMILIES = {
    "5": "maxwell",
    "6.0": "pascal",
    "6": "pascal-gp10x",
    "7.0": "volta",
    "7": "turing",
    "8.0": "ampere",
    "8.9": "ada",
    "8": "ampere-ga10x",
    "9": "hopper",
    "10": "blackwell",
    "12": "blackwell-rtx",
}
#: Rates of formats on matrix units relative to 16 bits.
_MATRIX = {"bf16": 1.0, "fp16": 1.0, "tf32": 0.5}


def gpu_name(machine: Machine) -> str:
    """Return the name of a GPU's spec: ``nvidia/geforce-rtx-4070-ti``."""
    slug = re.sub(r"[^a-z0-9]+", "-", machine.title.lower().removeprefix("nvidia")).strip("-")
    return f"nvidia/{slug or 'unknown'}"


def gpu_spec(machine: Machine, table: pd.DataFrame) -> dict[str, Any]:
    """Return the content of a spec file for this machine's GPU.

    Peaks are units × FLOP per clock of the architecture × the highest clock that the driver states, so that
    no product is faster than the bound. The rate of the fastest product is in the note.

    Parameters
    ----------
    machine : Machine
        The machine and its properties.
    table : DataFrame
        As `costmodel.validation.microbench.microbenchmarks` returns it.

    Raises
    ------
    UnavailableError
        If the architecture is unknown, or the driver does not state the clock.
    """
    family = _FAMILIES.get(machine.capability) or _FAMILIES.get(machine.capability.partition(".")[0])
    clock = _highest_clock()
    if family is None or clock is None:
        lacking = "the architecture is not known" if family is None else "nvidia-smi does not state its clock"
        raise UnavailableError(
            f"no spec of {machine.title}, and none can be measured: {lacking}; write one by hand "
            "(costmodel check SPEC.yaml) and give it with --spec SPEC.yaml"
        )
    known = families()[family]
    matrix = {name: share * (known.matrix_16bit or 0) for name, share in _MATRIX.items()}
    compute = {
        "matrix": _peaks(matrix, "matmul", machine, clock, table),
        "vector": _peaks({"fp32": known.vector_fp32 or 0}, "vector", machine, clock, table),
    }
    memory, memory_note = main_memory(table, machine)
    day = datetime.now(UTC).date()
    return {
        "schema": 1,
        "name": gpu_name(machine),
        "title": machine.title,
        "vendor": "NVIDIA",
        "family": family,
        "chip": machine.title,
        "year": day.year,
        "scope": "one GPU; year is that of the measurement",
        "units": {
            "kind": "SM",
            "count": measured_figure(machine.units, f"as its driver states, costmodel {__version__}"),
        },
        "clocks": {"boost": measured_figure(at_least(clock, "Hz"), "the highest that its driver states")},
        "compute": {engine: peaks for engine, peaks in compute.items() if peaks},
        "memory": {
            "hbm": {
                "technology": "device memory",
                "bandwidth": measured_figure(at_least(memory, "B/s"), memory_note),
                "capacity": measured_figure(
                    units.render(float(machine.memory_bytes), "B"), "as its driver states"
                ),
            },
            **({"l2": level(machine.cache_bytes, table, memory)} if machine.cache_bytes else {}),
        },
        "latency": {name: _latency(table, name) for name in ("launch", "step")},
    }


def _peaks(
    per_clock: dict[str, float], quantity: str, machine: Machine, clock: float, table: pd.DataFrame
) -> dict[str, Any]:
    """Return the peaks of one engine for the formats that it has and that were measured."""
    peaks = {}
    for dtype, flops in per_clock.items():
        seen = table[table["quantity"].isin((quantity, "matmul")) & (table["pattern"] == dtype)]
        if not flops or seen.empty:
            continue
        fastest = float(seen["best"].max())
        peak = max(machine.units * flops * clock, fastest)
        note = (
            f"{machine.units} SM × {flops:.0f} FLOP a clock × {clock / 1e9:.2f} GHz; the fastest seen: "
            f"{units.render(fastest, 'FLOP/s')}"
        )
        peaks[dtype] = derived(at_least(peak, "FLOP/s"), note)
    return peaks


def _latency(table: pd.DataFrame, quantity: str) -> dict[str, Any]:
    """Return the least time of the smallest kernel, with a note on how it was launched."""
    row = table[table["quantity"] == quantity].sort_values("value").iloc[0]
    return measured_figure(micro(float(row["value"])), f"{row['pattern']}, one number a kernel or step")


def _highest_clock() -> float | None:
    """Return the highest clock of the units that the driver allows [Hz]; None if it does not report it.

    The board is that of torch's first device, whatever its index in the driver (CUDA_VISIBLE_DEVICES). A part
    of a board (MIG) has its own UUID; it has the boards' clock if they all have the same.
    """
    asked = ["nvidia-smi", "--query-gpu=uuid,clocks.max.sm", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout
        boards = dict(line.split(", ", 1) for line in said.splitlines())
        ours = boards.get(f"GPU-{_uuid()}")
        (stated,) = {ours} if ours else set(boards.values())
        return float(stated) * 1e6
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _uuid() -> str:
    """Return the UUID of torch's first device; empty if this torch does not report it."""
    try:
        return str(load_torch().cuda.get_device_properties(0).uuid)
    except Exception:
        return ""
