"""Quantities with units: conversion of text such as ``"4.8 TB/s"`` to SI numbers, and back.

The grammar is a number, one space or none, and a unit with an SI or binary
prefix. It is implemented here because importing pint takes half
a second; the tests check every unit against pint.
"""

from __future__ import annotations

import math
import re

from costmodel.errors import CostmodelError

#: SI prefixes. ``K`` is accepted for bytes only (``KB``, ``KiB``), as vendors write it.
_SI = {
    "": 1.0,
    "n": 1e-9,
    "u": 1e-6,
    "µ": 1e-6,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}

#: base unit → (dimension, scale, prefixes that it can have)
_BASES = {
    "B/s": ("bytes/s", 1.0, "kMGTP"),
    "B": ("bytes", 1.0, "kMGTP"),
    "FLOP/s": ("FLOP/s", 1.0, "kMGTP"),
    "OP/s": ("FLOP/s", 1.0, "kMGTP"),
    "FLOP": ("FLOP", 1.0, "kMGTP"),
    "Hz": ("Hz", 1.0, "kMGTP"),
    "W": ("W", 1.0, "nuµmkM"),
    "s": ("s", 1.0, "nuµm"),
}


def _units() -> dict[str, tuple[str, float]]:
    table = {}
    for base, (dimension, scale, prefixes) in _BASES.items():
        for prefix in ["", *prefixes]:
            table[prefix + base] = (dimension, scale * _SI[prefix])
        if base.startswith("B"):
            table["K" + base] = (dimension, 1e3)
            for prefix, factor in _BINARY.items():
                table[prefix + base] = (dimension, factor)
    return table


UNITS = _units()
_QUANTITY = re.compile(r"\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-zµ/]*)\s*\Z")


def parse(text: object, dimension: str) -> float:
    """Return a quantity in SI units.

    Parameters
    ----------
    text : str
        A number with a unit, such as ``"989.4 TFLOP/s"``.
    dimension : str
        The required dimension: ``bytes``, ``bytes/s``, ``FLOP/s``, ``FLOP``, ``Hz``,
        ``W`` or ``s``.

    Raises
    ------
    CostmodelError
        If the text is not a quantity, has no unit, or has another dimension.
    """
    wanted = f"a quantity in {dimension}, such as {_example(dimension)!r}"
    if not isinstance(text, str):
        raise CostmodelError(f"wanted {wanted}, got {text!r} without a unit")
    match = _QUANTITY.match(text)
    if not match:
        raise CostmodelError(f"wanted {wanted}, got {text!r}")
    number, unit = match.groups()
    if not unit:
        raise CostmodelError(f"wanted {wanted}, got {text!r} without a unit")
    if unit not in UNITS:
        raise CostmodelError(f"wanted {wanted}, got {text!r}: unknown unit {unit!r}")
    found, scale = UNITS[unit]
    if found != dimension:
        raise CostmodelError(f"wanted {wanted}, got {text!r}, which is in {found}")
    value = float(number.replace("_", "")) * scale
    if not math.isfinite(value):
        raise CostmodelError(f"wanted {wanted}, got {text!r}, which is too large")
    return value


def _example(dimension: str) -> str:
    return {
        "bytes": "80 GB",
        "bytes/s": "4.8 TB/s",
        "FLOP/s": "989.4 TFLOP/s",
        "FLOP": "1.5 TFLOP",
        "Hz": "1.83 GHz",
        "W": "700 W",
        "s": "3 us",
    }[dimension]


def render(value: float, dimension: str, digits: int = 4) -> str:
    """Return a number in SI units as text with a suitable prefix: ``4.8e12 → "4.8 TB/s"``."""
    base = {"bytes": "B", "bytes/s": "B/s"}.get(dimension, dimension)
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {base}"
    scales = [("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0)]
    if dimension in ("s", "W"):
        scales = [("", 1.0), ("m", 1e-3), ("µ", 1e-6), ("n", 1e-9)]
    # The rounded number has the prefix: 999.7 µs to three digits are 1 ms, not 1e+03 µs.
    rounded = float(f"{value:.{digits}g}")
    prefix, scale = next((s for s in scales if abs(rounded) >= s[1] * (1 - 1e-12)), scales[-1])
    # Above the largest prefix numbers are written in full, as an exponent beside a prefix is hard to read.
    large = abs(rounded / scale) >= 10**digits
    return f"{value / scale:,.0f} {prefix}{base}" if large else f"{value / scale:.{digits}g} {prefix}{base}"


def in_full(value: float) -> str:
    """Return a number with all its digits, for sizes: ``1048577.0 → "1048577"``."""
    number = float(value)
    # Above 2⁵³ a float represents several integers: its last digits would be made up.
    return f"{number:.0f}" if number.is_integer() and abs(number) <= 2**53 else str(number)
