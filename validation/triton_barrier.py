"""A sequence of grid-wide barriers in Triton: the steps of a persistent kernel without its arithmetic.

The module imports Triton, and is imported only when a step is measured.
"""

# Triton has no type stubs, and interprets annotations of its kernels' parameters itself.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl


@triton.jit
def _barriers(counter, steps, blocks):
    """Arrive, and wait until every block has arrived equally often."""
    for step in range(0, steps):
        tl.debug_barrier()
        arrived = tl.atomic_add(counter, 1, sem="acq_rel") + 1
        while arrived < (step + 1) * blocks:
            arrived = tl.atomic_add(counter, 0, sem="acquire")
        tl.debug_barrier()


def chain(counter: Any, blocks: int, steps: int) -> Callable[[], object]:
    """Return a call that runs `steps` barriers with `blocks` blocks.

    Parameters
    ----------
    counter : Tensor, shape (1,), int32
        Counts arrivals; every call sets it to 0.
    blocks : int
        Number of blocks; no more than can be resident at the same time, or they wait for ever.
    steps : int
        Consecutive barriers.
    """

    def call() -> None:
        counter.zero_()
        _barriers[(blocks,)](counter, steps, blocks, num_warps=1)

    return call
