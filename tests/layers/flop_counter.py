"""Torch's own count of the FLOPs of a function, forward and backward."""

import pytest


def flops(run, *inputs):
    """Return (forward, backward) FLOPs of a function of tensors; skip the test without torch."""
    FlopCounterMode = pytest.importorskip("torch.utils.flop_counter").FlopCounterMode
    with FlopCounterMode(display=False) as forward:
        result = run(*inputs)
    with FlopCounterMode(display=False) as backward:
        result.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()
