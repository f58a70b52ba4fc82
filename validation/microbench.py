"""Microbenchmarks for a spec: bandwidth by working set, peaks, launch and step latency.

Each measures one quantity in the simplest way: copies and sums over working sets from the first cache to well
beyond the last; the fastest square product; multiply-adds in registers; consecutive tiny kernels; the same
with each call depending on the previous one; and dependent steps inside one kernel.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from costmodel import dtypes
from costmodel.errors import first_line
from costmodel.validation import timing
from costmodel.validation.persistent import persistent_steps
from costmodel.validation.torch_env import Machine, load_torch, math_mode, torch_dtype

#: Ratio of working set to the largest cache from which main memory is what is measured.
BEYOND_CACHE = 6
#: Sides of the square products by kind of device; the fastest product gives the peak.
_SIDES = {"cpu": (256, 512, 1024, 1536), "cuda": (2048, 4096, 8192)}
_DTYPES = {"cpu": ("fp32", "fp64"), "cuda": ("fp32", "tf32", "bf16", "fp16")}
#: Formats in which vector units are measured; a CPU's products run on them and give their peak.
_VECTOR = {"cpu": (), "cuda": ("fp64", "fp32", "bf16", "fp16")}
#: Multiply-adds of a chain, and concurrent numbers per unit; this takes a few milliseconds.
_STEPS, _NUMBERS = 8192, 4096


def microbenchmarks(machine: Machine, *, budget_s: float = 20.0) -> pd.DataFrame:
    """Measure the figures of a spec, and their dependence on the working set.

    Parameters
    ----------
    machine : Machine
        The machine to measure.
    budget_s : float
        Approximate time budget of all of them [s].

    Returns
    -------
    DataFrame
        ``quantity`` (``bandwidth``, ``matmul``, ``vector``, ``launch``, ``step``), ``pattern`` (or dtype),
        ``bytes`` (the working set), ``value``, ``best`` (the largest rate or shortest time seen), ``unit``
        (B/s, FLOP/s, s), ``samples``. Measurements that Triton cannot compile here are left out with a
        warning.
    """
    torch = load_torch()
    watch = timing.stopwatch(machine.kind, machine.cache_at_most)
    sets = working_sets(machine)
    products = len(_SIDES[machine.kind]) * len(_DTYPES[machine.kind])
    share = budget_s / (len(sets) * 3 + products + len(_VECTOR[machine.kind]) + 3)
    with torch.inference_mode():
        rows = [
            *_bandwidths(torch, machine, watch, sets, share),
            *_products(torch, machine, watch, share),
            *_where_triton_works("vector units", lambda: _vector(torch, machine, watch, share)),
            *_latencies(torch, machine, watch, share),
            *_where_triton_works("steps inside a kernel", lambda: _inside(machine, watch, share)),
        ]
    return pd.DataFrame(rows)


def working_sets(machine: Machine) -> list[int]:
    """Return working sets [bytes]: powers of two from 16 KiB (CUDA: 1 MiB) to well beyond the last cache."""
    cache = machine.cache_at_most
    first = 14 if machine.kind == "cpu" else 20
    last = (BEYOND_CACHE * cache - 1).bit_length()
    largest = machine.memory_bytes // 4 if machine.memory_bytes else 2**last
    return [2**power for power in range(first, last + 1) if 2**power <= largest]


def _rate(
    quantity: str, pattern: str, size: int, amount: float, unit: str, taken: timing.Timing
) -> dict[str, Any]:
    """Return a row with the rate of an amount per second."""
    return _row(quantity, pattern, size, (amount / taken.median_s, amount / taken.min_s), unit, taken.samples)


def _time(quantity: str, pattern: str, taken: timing.Timing) -> dict[str, Any]:
    """Return a row with the time of a kernel on a single number."""
    return _row(quantity, pattern, 4, (taken.median_s, taken.min_s), "s", taken.samples)


def _row(
    quantity: str, pattern: str, size: int, found: tuple[float, float], unit: str, samples: int
) -> dict[str, Any]:
    names = ("quantity", "pattern", "bytes", "value", "best", "unit", "samples")
    return dict(zip(names, (quantity, pattern, size, *found, unit, samples), strict=True))


def _bandwidths(
    torch: Any, machine: Machine, watch: timing.Stopwatch, sets: Sequence[int], share: float
) -> list[dict[str, Any]]:
    rows = []
    for size in sets:
        one = torch.ones(size // 4, device=machine.kind)  # zeros may all map to one page
        half, other = one[: size // 8], one[size // 8 : size // 4]
        patterns: dict[str, Callable[[], object]] = {
            "copy": lambda half=half, other=other: half.copy_(other),  # type: ignore[misc]
            "sum": lambda one=one: one.sum(),  # type: ignore[misc]
            "scale": lambda one=one: one.mul_(1.0),  # type: ignore[misc]
        }
        moved = {"copy": size, "sum": size, "scale": 2 * size}
        for pattern, call in patterns.items():
            taken = timing.measure_warm(watch, call, share)
            rows.append(_rate("bandwidth", pattern, size, moved[pattern], "B/s", taken))
    return rows


def _products(torch: Any, machine: Machine, watch: timing.Stopwatch, share: float) -> list[dict[str, Any]]:
    rows = []
    for dtype in _DTYPES[machine.kind]:
        for side in _SIDES[machine.kind]:
            one = torch.randn(side, side, device=machine.kind).to(torch_dtype(dtype))
            size = int(3 * side * side * dtypes.dtype(dtype).bytes)
            with math_mode(dtype):
                taken = timing.measure_warm(watch, lambda one=one: one @ one, share)  # type: ignore[misc]
            rows.append(_rate("matmul", dtype, size, 2.0 * side**3, "FLOP/s", taken))
    return rows


def _where_triton_works(what: str, measure: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the measurements by Triton kernels; empty if Triton is missing or cannot compile them."""
    try:
        return measure()
    except ImportError:
        return []
    except Exception as fault:  # no C compiler, no assembler, …: Triton's errors have no other base class
        why = first_line(fault)[:200]
        warnings.warn(f"{what}: not measured, as Triton failed: {why}", stacklevel=2)
        return []


def _vector(torch: Any, machine: Machine, watch: timing.Stopwatch, share: float) -> list[dict[str, Any]]:
    """Time multiply-adds on numbers in registers."""
    if not _VECTOR[machine.kind]:
        return []
    arithmetic = importlib.import_module("costmodel.validation.triton_arithmetic")
    rows = []
    for dtype in _VECTOR[machine.kind]:
        values = torch.full((machine.units * _NUMBERS,), 0.5, device=machine.kind).to(torch_dtype(dtype))
        call = arithmetic.multiply_adds(values, torch.empty_like(values), _STEPS)
        taken = timing.measure_warm(watch, call, share)
        flops = float(values.numel() * _STEPS * arithmetic.STEP_FLOPS)
        rows.append(_rate("vector", dtype, 0, flops, "FLOP/s", taken))
    return rows


def _latencies(torch: Any, machine: Machine, watch: timing.Stopwatch, share: float) -> list[dict[str, Any]]:
    """Time the smallest kernel: independent calls, and a chain in which each depends on the previous one.

    On CUDA both are also captured in a graph, which excludes the host's part.
    """
    apart = [torch.zeros(1, device=machine.kind) for _ in range(8)]
    chained = torch.zeros(1, device=machine.kind)

    def independent() -> None:
        for one in apart:
            one.add_(1.0)

    def dependent() -> None:
        for _ in range(8):
            chained.add_(1.0)

    rows = []
    for quantity, call in (("launch", independent), ("step", dependent)):
        taken = timing.measure_warm(watch, call, share, per_call=8)
        rows.append(_time(quantity, "eager", taken))
        if machine.kind == "cuda":
            replay = timing.captured(call, torch.inference_mode())
            taken = timing.measure_warm(watch, replay, share, per_call=8 * timing.GRAPH_CALLS)
            rows.append(_time(quantity, "graph", taken))
    return rows


def _inside(machine: Machine, watch: timing.Stopwatch, share: float) -> list[dict[str, Any]]:
    """Time steps inside one kernel; see `costmodel.validation.persistent`."""
    steps = persistent_steps(machine, watch, share)
    return [_time("step", f"persistent, {name}", taken) for name, taken in steps]
