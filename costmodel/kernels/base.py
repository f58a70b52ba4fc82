"""What all kernel models share: descriptions of constants, sizes as arrays, and the estimate they return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Constant:
    """A physical constant of a kernel model.

    Attributes
    ----------
    default : float
        Value where neither the device nor a related one has it fitted.
    low, high : float
        The plausible range, which a fit may not leave.
    unit : str
        "1", "s", "cycles", "B", …
    meaning : str
        What it is, in one line.
    """

    default: float
    low: float
    high: float
    unit: str
    meaning: str


def filled(described: Mapping[str, Constant], given: Mapping[str, float]) -> dict[str, float]:
    """Return the value of each of a kernel model's constants: the given one, or its default."""
    return {name: float(given.get(name, constant.default)) for name, constant in described.items()}


def as_arrays(*sizes: ArrayLike) -> tuple[Array, ...]:
    """Return sizes as float64 without broadcasting them, so that a constant size stays a single number."""
    return tuple(np.asarray(size, dtype=np.float64) for size in sizes)


def as_rows(*sizes: ArrayLike) -> tuple[Array, ...]:
    """Return sizes as float64, broadcast against each other."""
    return tuple(np.broadcast_arrays(*as_arrays(*sizes)))


@dataclass(frozen=True)
class Estimate:
    """A kernel model's estimate.

    Attributes
    ----------
    seconds : array
        Estimated time as a measurement would show it [s].
    terms : mapping of str to array
        Its components [s], keyed by the limiting resource (``matrix:bf16``, ``vector:fp32``,
        ``special:fp32``, ``hbm``, ``l2``, ``depth``, ``launch``, ``link``).
    """

    seconds: Array
    terms: Mapping[str, Array]
