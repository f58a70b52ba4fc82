"""What there is memory for: the longest sequence and the largest batch of a layout, and how to find them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from costmodel.arguments import typed
from costmodel.errors import CostmodelError, SizeError
from costmodel.parallel.training import Training

#: Part of the memory that allocators lose, or that is not the model's (context, buffers of collectives).
MARGIN = 0.08
#: Nothing is looked for beyond this length or batch.
UNLIMITED = 2**30


def check_margin(margin: float) -> None:
    """Refuse what is no part of a memory.

    Raises
    ------
    SizeError
        If it is not at least 0 and below 1.
    """
    if not 0 <= margin < 1:
        raise SizeError(f"margin: wanted a part of the memory, at least 0 and below 1, got {margin!r}")


def fits(training: Training, margin: float = MARGIN) -> bool:
    """Return whether the fullest device has room for a step, less a margin."""
    check_margin(margin)
    return bool((training.memory_bytes <= (1 - margin) * training.capacity).all())


@typed
def longest_sequence(training: Training, *, margin: float = MARGIN) -> int:
    """Return the longest sequence [tokens] that there is memory for, all else as it is.

    Parameters
    ----------
    training : Training
        A step in one layout; its own length does not matter.
    margin : float
        Part of the memory that is not the model's to use.

    Raises
    ------
    CostmodelError
        If not even one token fits, with how much is missing.
    """
    return _largest(lambda n: replace(training, seq=n), margin)


@typed
def largest_batch(training: Training, *, margin: float = MARGIN) -> int:
    """Return the largest micro-batch [sequences] that there is memory for, all else as it is.

    The batch of the step grows with it, so that the number of micro-batches stays.

    Parameters
    ----------
    training : Training
        A step in one layout; its own batch says how many micro-batches there are.
    margin : float
        Part of the memory that is not the model's to use.

    Raises
    ------
    CostmodelError
        If not even one sequence fits, with how much is missing.
    """
    steps = int(training.micro_batches) * int(training.layout.numbers.data)

    def wider(n: int) -> Training:
        return replace(training, batch=n * steps, layout=replace(training.layout, micro_batch=n))

    return _largest(wider, margin)


def _largest(at: Callable[[int], Training], margin: float) -> int:
    found = largest(lambda n: fits(at(n), margin))
    if not found:
        short = float(at(1).memory_bytes - (1 - margin) * at(1).capacity)
        raise CostmodelError(f"even 1 does not fit: {short / 1e9:.1f} GB a device are missing")
    return found


def largest(fitting: Callable[[int], bool]) -> int:
    """Return the largest number that fits, found by halving, as memory grows with it.

    0 where 1 does not, ``UNLIMITED`` where that does.
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
