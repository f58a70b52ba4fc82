"""What no device can be: figures out of physical range, at odds with each other, or sparse.

Works on plain numbers by path, so that it can judge a file of which other parts
are broken, and a what-if.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from costmodel.hardware.tables import Family
from costmodel.hardware.yamlfile import Keys
from costmodel.units import parse, render

Numbers = Mapping[Keys, float]
Problem = tuple[Keys, str]

#: By the last key of a path, or the first for whole sections: dimension, lowest and highest value.
#: Wide on purpose: from a phone's chip to a wafer, so that only slips of a unit fall out.
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
_MAX_UNITS = 1e6

#: Dense matrix rates by dtype, in multiples of the 16-bit rate (most any family has).
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

#: A sparse rate is exactly twice the dense one; clocks explain at most a fifth.
_SPARSE = 1.6


def limits(keys: Keys) -> tuple[str, float, float] | None:
    """Return dimension, lowest and highest value [SI] of the figure at a path, if it has them."""
    for name in (".".join(keys[-2:]), keys[-1], keys[0]):
        if name in _LIMITS:
            dimension, low, high = _LIMITS[name]
            return dimension, parse(low, dimension), parse(high, dimension)
    return None


def impossible(numbers: Numbers) -> Iterator[Problem]:
    """Yield every figure that no device can have, alone or beside the others.

    Parameters
    ----------
    numbers : mapping of path to float
        Figures in SI units, such as ``{("memory", "hbm", "bandwidth"): 4.8e12}``.
    """
    for keys, value in numbers.items():
        yield from _out_of_range(keys, value)
    yield from _out_of_order(numbers)


def _out_of_range(keys: Keys, value: float) -> Iterator[Problem]:
    if keys == ("units", "count"):
        if not 1 <= value <= _MAX_UNITS:
            yield keys, f"impossible value {value:g}: wanted 1 to {_MAX_UNITS:g}"
        return
    known = limits(keys)
    if known is None:
        return
    dimension, low, high = known
    if not low <= value <= high:
        came, least, most = (render(x, dimension) for x in (value, low, high))
        yield keys, f"impossible value {came}: wanted {least} to {most}"


#: (path, path): the first may not be above the second.
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
    """Return the lowest and highest value [SI] of the figure at a path beside the others of its device.

    Parameters
    ----------
    keys : path
        Of a figure that has limits.
    others : mapping of path to float
        Figures that stay as they are, in SI units.

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
    """Yield every rate that looks sparse, or is far from what units × clock allow.

    With the family's FLOP per clock and unit, a matrix rate is held against units ×
    clock × that; without, against the other dtypes of the same device.
    """
    clock = max((v for k, v in numbers.items() if k[0] == "clocks"), default=None)
    count = numbers.get(("units", "count"))
    cycles = clock * count if clock and count else None
    if cycles and family and family.matrix_16bit:
        yield from _above_the_clock(numbers, cycles * family.matrix_16bit)
    # Accelerators that are no GPU have ratios of their own (Gaudi 3: bf16 = fp8 = 4 × tf32).
    elif family is None or family.vendor in ("NVIDIA", "AMD", "any"):
        yield from _odd_ratios(numbers)
    if cycles and family and family.vector_fp32:
        yield from _vector_off(numbers, cycles * family.vector_fp32)


def _above_the_clock(numbers: Numbers, peak_16bit: float) -> Iterator[Problem]:
    for dtype, times in _TIMES_16BIT.items():
        keys = ("compute", "matrix", dtype)
        if keys in numbers and numbers[keys] > _SPARSE * times * peak_16bit:
            came, most = (render(x, "FLOP/s") for x in (numbers[keys], times * peak_16bit))
            message = f"{came} is above the dense {most} of units × clock × FLOP per clock"
            yield keys, f"{message}: a sparse rate? give the dense one"


#: (dtype, dtype, lowest, highest): ratio of their dense matrix rates on any GPU.
_RATIOS = [
    ("fp8", "bf16", 1.9, 2.2),
    ("fp8", "fp16", 1.9, 2.2),
    ("fp16", "bf16", 0.9, 2.2),
    ("bf16", "tf32", 1.8, 2.2),
    ("fp4", "fp8", 1.8, 3.2),
]


def _odd_ratios(numbers: Numbers) -> Iterator[Problem]:
    """Hold dtypes against each other: one sparse figure among dense ones stands out."""
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
