"""Find implausible figures of a device: out of physical range, inconsistent, or sparse rates.

The checks work on plain numbers by path, so that they also apply to a file with other faults, and to a
what-if.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from costmodel.hardware.tables import Family
from costmodel.hardware.yamlfile import Keys
from costmodel.units import parse, render

Numbers = Mapping[Keys, float]
Problem = tuple[Keys, str]

#: Dimension, lowest and highest value by the last key of a path, or the first for whole sections. The ranges
#: are wide on purpose, from a phone's chip to a wafer, so that only errors of a unit are outside.
_LIMITS = {
    "hbm.capacity": ("bytes", "256 MB", "16 TB"),
    "hbm.bandwidth": ("bytes/s", "1 GB/s", "100 TB/s"),
    "l2.capacity": ("bytes", "64 kB", "4 GB"),
    "l3.capacity": ("bytes", "256 kB", "8 GB"),
    "shared.capacity": ("bytes", "1 kB", "64 MB"),
    "registers.capacity": ("bytes", "1 kB", "64 MB"),
    "vmem.capacity": ("bytes", "1 MB", "4 GB"),
    "sram.capacity": ("bytes", "1 MB", "64 GB"),
    "bandwidth": ("bytes/s", "10 GB/s", "10 PB/s"),
    "compute": ("FLOP/s", "1 GFLOP/s", "300 PFLOP/s"),
    "clocks": ("Hz", "100 MHz", "10 GHz"),
    "tdp": ("W", "1 W", "30 kW"),
    "launch": ("s", "10 ns", "10 ms"),
    "step": ("s", "10 ns", "10 ms"),
    "oneway": ("bytes/s", "100 MB/s", "20 TB/s"),
    "total": ("bytes/s", "100 MB/s", "40 TB/s"),
}
#: Largest value of each count.
COUNTS: dict[Keys, float] = {("units", "count"): 1e6, ("units", "array"): 4096}

#: Highest dense matrix rate of any family by dtype, in multiples of the 16-bit rate.
_TIMES_16BIT = {
    "fp64": 0.25,
    "fp32": 0.5,
    "tf32": 0.5,
    "bf16": 1,
    "fp16": 1,
    "fp8": 2,
    "int8": 2,
    "fp4": 4,
    "int4": 4,
}

#: Least share of units × clock × FLOP per clock, and the formats it is checked for. Consumer boards do half
#: with fp32 accumulation, one cut for export 0.23 (H20); some have almost no fp64 or integer rate, so these
#: are not checked.
_LEAST_SHARE, _NEVER_CUT = 0.2, ("fp32", "tf32", "bf16", "fp16", "fp8", "fp4")

#: Range of the ratio of both directions of a link to one; vendors round.
_BOTH_WAYS = (1.8, 2.2)
#: PCI Express generation → gigatransfers per second and lane, and the share that is payload (PCI-SIG, Base
#: Specification 1.0 to 6.0: 8b/10b, 128b/130b, flits of 242 in 256 bytes).
_PCIE = {
    "1.0": (2.5, 8 / 10),
    "2.0": (5.0, 8 / 10),
    "3.0": (8.0, 128 / 130),
    "4.0": (16.0, 128 / 130),
    "5.0": (32.0, 128 / 130),
    "6.0": (64.0, 242 / 256),
}
#: Range of stated over computed PCIe bandwidth: some sources exclude packet headers, some include encoding.
_OF_PCIE = (0.7, 1.1)

#: Memory technologies whose bandwidth scales with the number of chips, and the range of times to read such a
#: memory once [s]. Devices take from 8 ms (R9 Fury, HBM) to 80 ms (L4, GDDR6). A figure that is wrong by a
#: factor of ten is outside, by a factor of two mostly not.
_OWN_PINS, _READ_WHOLE = ("HBM", "GDDR"), (5e-3, 0.2)

#: Names of each vendor's units; other vendors may use any.
_KINDS = {"NVIDIA": ("SM",), "AMD": ("CU",), "Google": ("TensorCore",), "Intel": ("MME", "XeCore")}
_FIRST_YEAR = 1990

#: Factor above the dense rate from which a rate counts as sparse: sparse rates are exactly twice the dense
#: ones, and clocks explain at most a fifth.
_SPARSE = 1.6


def limits(keys: Keys) -> tuple[str, float, float] | None:
    """Return dimension, lowest and highest value [SI] of the figure at a path, or None."""
    for name in (".".join(keys[-2:]), keys[-1], keys[0]):
        if name in _LIMITS:
            dimension, low, high = _LIMITS[name]
            return dimension, parse(low, dimension), parse(high, dimension)
    return None


def impossible(numbers: Numbers) -> Iterator[Problem]:
    """Yield every figure that is impossible by itself or together with the others.

    Parameters
    ----------
    numbers : mapping of path to float
        Figures in SI units, such as ``{("memory", "hbm", "bandwidth"): 4.8e12}``.
    """
    for keys, value in numbers.items():
        yield from _out_of_range(keys, value)
    yield from _out_of_order(numbers)
    yield from _not_both_ways(numbers)


def _not_both_ways(numbers: Numbers) -> Iterator[Problem]:
    """Compare both directions of a link with one, to find figures that were swapped."""
    low, high = _BOTH_WAYS
    for keys, total in numbers.items():
        oneway = numbers.get((*keys[:-1], "oneway")) if keys[0] == "links" and keys[-1] == "total" else None
        if oneway and not low <= total / oneway <= high:
            came, one = (render(x, "bytes/s") for x in (total, oneway))
            yield (
                keys,
                f"both directions of {came} are not twice the one of {one}: wanted {low} to {high} times",
            )


def off_the_form(numbers: Numbers, links: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a one-way bandwidth of PCI Express that does not match its generation and lanes (``5.0 x16``)."""
    low, high = _OF_PCIE
    for name, link in links.items():
        form = str(link.get("form", "")) if isinstance(link, dict) else ""
        known = re.fullmatch(r"(\d\.0) x(\d+)", form)
        oneway = numbers.get(("links", name, "oneway"))
        if name.lower() != "pcie" or not known or known[1] not in _PCIE or oneway is None:
            continue
        rate, payload = _PCIE[known[1]]
        gives = rate * 1e9 / 8 * payload * int(known[2])
        if not low * gives <= oneway <= high * gives:
            came, most = (render(x, "bytes/s") for x in (oneway, gives))
            yield ("links", name, "oneway"), f"{came}, where {form} has {most} one way"


def off_the_memory(numbers: Numbers, technology: object) -> Iterator[Problem]:
    """Yield a bandwidth of HBM or GDDR that does not match the memory's capacity."""
    keys: Keys = ("memory", "hbm", "bandwidth")
    bandwidth, capacity = numbers.get(keys), numbers.get(("memory", "hbm", "capacity"))
    if not bandwidth or not capacity or not str(technology).startswith(_OWN_PINS):
        return
    low, high = _READ_WHOLE
    if not low <= capacity / bandwidth <= high:
        came, size, took = render(bandwidth, "bytes/s"), render(capacity, "bytes"), capacity / bandwidth
        least, most = (render(seconds, "s") for seconds in _READ_WHOLE)
        yield (
            keys,
            f"{came} read {size} in {render(took, 's')}, where {technology} takes {least} to {most}: "
            "a slip of a unit?",
        )


def of_another(content: Mapping[str, Any], family: Family | None) -> Iterator[Problem]:
    """Yield inconsistencies of family, vendor, name and kind of unit, and an impossible year.

    Vendors without a family of their own may name the family that their devices resemble.
    """
    year, last = content.get("year"), datetime.now(UTC).year + 1
    if isinstance(year, int) and not _FIRST_YEAR <= year <= last:
        yield ("year",), f"impossible value {year}: wanted {_FIRST_YEAR} to {last}"
    vendor, name, units = (content.get(key) for key in ("vendor", "name", "units"))
    if family is None or family.vendor == "any" or not isinstance(vendor, str):
        return
    maker = family.vendor if vendor.lower() in (known.lower() for known in _KINDS) else vendor
    if vendor != maker:
        yield ("vendor",), f"wanted {maker}, who makes that family, got {vendor}"
    if isinstance(name, str) and "/" in name and name.partition("/")[0] != _slug(maker):
        yield ("name",), f"wanted {_slug(maker)}/…, as its vendor is called, got {name}"
    kind = units.get("kind") if isinstance(units, dict) else None
    if isinstance(kind, str) and kind not in _KINDS.get(maker, (kind,)):
        yield ("units", "kind"), f"units of {maker} are {' or '.join(_KINDS[maker])}, got {kind}"


def _slug(vendor: str) -> str:
    """Return a vendor's name as used in names of devices."""
    return re.sub(r"[^a-z0-9]+", "-", vendor.lower()).strip("-")


def _out_of_range(keys: Keys, value: float) -> Iterator[Problem]:
    if keys in COUNTS:
        if not 1 <= value <= COUNTS[keys]:
            yield keys, f"impossible value {value:g}: wanted 1 to {COUNTS[keys]:g}"
        return
    known = limits(keys)
    if known is None:
        return
    dimension, low, high = known
    if not low <= value <= high:
        came, least, most = (render(x, dimension) for x in (value, low, high))
        yield keys, f"impossible value {came}: wanted {least} to {most}"


#: Pairs of paths: the first figure may not exceed the second.
_ORDER: list[tuple[Keys, Keys]] = [
    (("clocks", "base"), ("clocks", "boost")),
    (("clocks", "boost"), ("clocks", "max")),
    (("clocks", "matrix"), ("clocks", "max")),
    (("clocks", "vector"), ("clocks", "max")),
    (("memory", "l2", "capacity"), ("memory", "hbm", "capacity")),
    (("memory", "l3", "capacity"), ("memory", "hbm", "capacity")),
    (("memory", "vmem", "capacity"), ("memory", "hbm", "capacity")),
    (("memory", "sram", "capacity"), ("memory", "hbm", "capacity")),
    (("memory", "hbm", "bandwidth"), ("memory", "l2", "bandwidth")),
    (("memory", "hbm", "bandwidth"), ("memory", "l3", "bandwidth")),
]


def bounds(keys: Keys, others: Numbers) -> tuple[float, float]:
    """Return the lowest and highest possible value [SI] of a figure, given the others of its device.

    Parameters
    ----------
    keys : path
        Path of a figure that has limits.
    others : mapping of path to float
        The other figures, in SI units.

    Raises
    ------
    KeyError
        If the figure has no limits.
    """
    known = limits(keys)
    if known is None:
        raise KeyError(keys)
    _, low, high = known
    above = [others[larger] for smaller, larger in _ORDER if smaller == keys and larger in others]
    below = [others[smaller] for smaller, larger in _ORDER if larger == keys and smaller in others]
    return max([low, *below]), min([high, *above])


def _out_of_order(numbers: Numbers) -> Iterator[Problem]:
    boost = numbers.get(("clocks", "boost"))
    known = dict(numbers)
    if boost is not None:
        known.setdefault(("clocks", "max"), boost)
    for smaller, larger in _ORDER:
        if smaller in known and larger in known and known[smaller] > known[larger]:
            keys = smaller if smaller in numbers else larger
            yield keys, f"{_show(smaller, known)} is above {_show(larger, known)}"


def _show(keys: Keys, numbers: Numbers) -> str:
    known = limits(keys)
    value = render(numbers[keys], known[0]) if known else f"{numbers[keys]:g}"
    return f"{'.'.join(keys)} of {value}"


def not_dense(numbers: Numbers, family: Family | None) -> Iterator[Problem]:
    """Yield every rate that looks sparse, or is far from what units × clock give.

    If the family's FLOP per clock and unit are known, matrix rates are compared with units × clock × that
    number; otherwise with each other.
    """
    clock = max((v for k, v in numbers.items() if k[0] == "clocks"), default=None)
    count = numbers.get(("units", "count"))
    cycles = clock * count if clock and count else None
    if cycles and family and family.matrix_16bit:
        yield from _off_the_clock(numbers, cycles * family.matrix_16bit)
    # Accelerators other than GPUs have other ratios (Gaudi 3: bf16 = fp8 = 4 × tf32).
    elif family is None or family.vendor in ("NVIDIA", "AMD", "any"):
        yield from _odd_ratios(numbers)
    if cycles and family and family.vector_fp32:
        yield from _vector_off(numbers, cycles * family.vector_fp32)


def _off_the_clock(numbers: Numbers, peak_16bit: float) -> Iterator[Problem]:
    for dtype, times in _TIMES_16BIT.items():
        keys = ("compute", "matrix", dtype)
        if keys not in numbers:
            continue
        came, most = (render(x, "FLOP/s") for x in (numbers[keys], times * peak_16bit))
        if numbers[keys] > _SPARSE * times * peak_16bit:
            message = f"{came} is above the dense {most} of units × clock × FLOP per clock"
            yield keys, f"{message}: a sparse rate? give the dense one"
        if dtype in _NEVER_CUT and numbers[keys] < _LEAST_SHARE * times * peak_16bit:
            yield keys, f"{came} is far below the dense {most} of units × clock × FLOP per clock"


#: (dtype, dtype, lowest, highest): ratio of their dense matrix rates on any GPU.
_RATIOS = [
    ("fp8", "bf16", 1.9, 2.2),
    ("fp8", "fp16", 1.9, 2.2),
    ("fp16", "bf16", 0.9, 2.2),
    ("bf16", "tf32", 1.8, 2.2),
    ("fp4", "fp8", 1.8, 3.2),
]


def _odd_ratios(numbers: Numbers) -> Iterator[Problem]:
    """Compare the rates of dtypes, to find a sparse figure among dense ones."""
    for upper, lower, low, high in _RATIOS:
        rate, base = numbers.get(("compute", "matrix", upper)), numbers.get(("compute", "matrix", lower))
        if not rate or not base or low <= rate / base <= high:
            continue
        suspect = upper if rate / base > high else lower
        message = f"{upper} is {rate / base:.2g} × {lower}, where dense rates have {low:g} to {high:g}"
        yield ("compute", "matrix", suspect), f"{message}: a sparse rate? give the dense one"


def _vector_off(numbers: Numbers, peak_fp32: float) -> Iterator[Problem]:
    keys = ("compute", "vector", "fp32")
    if keys in numbers and not peak_fp32 / 4 <= numbers[keys] <= 4 * peak_fp32:
        came, derived = (render(x, "FLOP/s") for x in (numbers[keys], peak_fp32))
        yield keys, f"{came}, where units × clock × FLOP per clock is {derived}"
