"""Multiply-adds in registers, in Triton: the peak of the vector units, with no memory in the way.

It imports Triton, and is itself imported when that peak is to be measured.
"""

# Triton has no types, and reads those of its kernels' parameters as its own.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

#: Numbers of one block; chains of each, independent of one another; FLOP of a step of one number.
BLOCK, CHAINS = 512, 4
STEP_FLOPS = 2 * CHAINS


@triton.jit
def _chains(values, results, steps, BLOCK: tl.constexpr):
    """Walk a ← a·x + x, from four beginnings: what each waits for, the others fill."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(values + lane)
    a, b, c, d = x, x + x, x * x, x - x
    for _ in range(0, steps):
        a = a * x + x
        b = b * x + x
        c = c * x + x
        d = d * x + x
    tl.store(results + lane, (a + b) + (c + d))


def multiply_adds(values: Any, results: Any, steps: int) -> Callable[[], object]:
    """Return a call of ``STEP_FLOPS`` × steps FLOP for each number.

    Parameters
    ----------
    values, results : Tensor, shape (n,), n a multiple of ``BLOCK``
        Where they begin, below 1, and where their sums go.
    steps : int
        Multiply-adds of a chain.
    """

    def call() -> None:
        _chains[(values.numel() // BLOCK,)](values, results, steps, BLOCK=BLOCK)

    return call
