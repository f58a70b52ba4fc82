"""Multiply-adds in registers in Triton: the peak of the vector units without memory traffic.

The module imports Triton, and is imported only when that peak is measured.
"""

# Triton has no type stubs, and interprets annotations of its kernels' parameters itself.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

#: Numbers per block; independent chains per number; FLOP per step and number.
BLOCK, CHAINS = 512, 4
STEP_FLOPS = 2 * CHAINS


@triton.jit
def _chains(values, results, steps, BLOCK: tl.constexpr):
    """Iterate a ← a·x + x from four initial values, which hide each other's latency."""
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
    """Return a call with ``STEP_FLOPS`` × steps FLOP per number.

    Parameters
    ----------
    values, results : Tensor, shape (n,), n a multiple of ``BLOCK``
        Initial values, below 1; output for their sums.
    steps : int
        Multiply-adds of a chain.
    """

    def call() -> None:
        _chains[(values.numel() // BLOCK,)](values, results, steps, BLOCK=BLOCK)

    return call
