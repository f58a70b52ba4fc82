"""A grid-wide barrier in Triton, many in a row: the steps of a persistent kernel without its arithmetic.

It imports Triton, and is itself imported when a step is to be measured.
"""

# Triton has no types, and reads those of its kernels' parameters as its own.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl


@triton.jit
def _barriers(counter, steps, blocks):
    """Arrive, and wait until every block has arrived as often."""
    for step in range(0, steps):
        tl.debug_barrier()
        arrived = tl.atomic_add(counter, 1, sem="acq_rel") + 1
        while arrived < (step + 1) * blocks:
            arrived = tl.atomic_add(counter, 0, sem="acquire")
        tl.debug_barrier()


def chain(counter: Any, blocks: int, steps: int) -> Callable[[], object]:
    """Return a call that walks that many steps with that many blocks.

    Parameters
    ----------
    counter : Tensor, shape (1,), int32
        Where blocks arrive; set to 0 by every call.
    blocks : int
        Blocks that meet; at most as many as are resident at once, or they wait for ever.
    steps : int
        Barriers in a row.
    """

    def call() -> None:
        counter.zero_()
        _barriers[(blocks,)](counter, steps, blocks, num_warps=1)

    return call
