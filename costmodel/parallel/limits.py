"""Memory limits: the longest sequence and the largest batch that fit in a layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from costmodel.arguments import typed
from costmodel.errors import CostmodelError, SizeError
from costmodel.parallel.training import Training

#: Share of the memory that is lost to allocators or not the model's (context, buffers of collectives).
MARGIN = 0.08
#: Largest length or batch that is searched.
UNLIMITED = 2**30


def check_margin(margin: float) -> None:
    """Refuse a margin that is not a share of the memory.

    Raises
    ------
    SizeError
        If it is not at least 0 and below 1.
    """
    if not 0 <= margin < 1:
        raise SizeError(f"margin: wanted a part of the memory, at least 0 and below 1, got {margin!r}")


def fits(training: Training, margin: float = MARGIN) -> bool:
    """Return whether a training step, plus a margin, fits into the fullest device."""
    check_margin(margin)
    return bool((training.memory_bytes <= (1 - margin) * training.capacity).all())


@typed
def longest_sequence(training: Training, *, margin: float = MARGIN) -> int:
    """Return the longest sequence that fits into memory [tokens], everything else unchanged.

    Parameters
    ----------
    training : Training
        A step in one layout; its own length is ignored.
    margin : float
        Share of the memory that the model must leave free.

    Raises
    ------
    CostmodelError
        If not even one token fits; the message says how much memory is missing.
    """
    return _largest_step(lambda n: replace(training, seq=n), margin, "token")


@typed
def largest_batch(training: Training, *, margin: float = MARGIN) -> int:
    """Return the largest micro-batch that fits into memory [sequences], everything else unchanged.

    The batch grows with it, so that the number of micro-batches stays the same.

    Parameters
    ----------
    training : Training
        A step in one layout; its own batch determines the number of micro-batches.
    margin : float
        Share of the memory that the model must leave free.

    Raises
    ------
    CostmodelError
        If not even one sequence fits; the message says how much memory is missing.
    """
    steps = int(training.micro_batches) * int(training.layout.numbers.data)

    def wider(n: int) -> Training:
        return replace(training, batch=n * steps, layout=replace(training.layout, micro_batch=n))

    return _largest_step(wider, margin, "sequence")


def _largest_step(at: Callable[[int], Training], margin: float, of: str) -> int:
    """Return the largest number of tokens or sequences (`of`) with which a step fits."""
    found = largest(lambda n: fits(at(n), margin))
    if not found:
        short = float(at(1).memory_bytes - (1 - margin) * at(1).capacity)
        raise CostmodelError(f"not even 1 {of} fits: the step needs {short / 1e9:.1f} GB more per device")
    return found


def largest(fitting: Callable[[int], bool]) -> int:
    """Return the largest number that fits, by bisection: memory grows with the number.

    The result is 0 if 1 does not fit, and ``UNLIMITED`` if that fits.
    """
    low, high = 0, 1
    while fitting(high):
        if high == UNLIMITED:
            return high
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fitting(middle) else (low, middle)
    return low
