"""Torch's own count of a function's FLOPs, forward and backward."""

import pytest


def flops(run, *inputs):
    """(forward, backward) FLOPs of a function of tensors; skips where there is no torch."""
    FlopCounterMode = pytest.importorskip("torch.utils.flop_counter").FlopCounterMode
    with FlopCounterMode(display=False) as forward:
        result = run(*inputs)
    with FlopCounterMode(display=False) as backward:
        result.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()
