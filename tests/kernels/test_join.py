"""Combining times that overlap, and the share of bytes that a replay misses in the cache, against algebra."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel import hardware
from costmodel.kernels._join import byte_time, joined, miss_share, norm

A100 = hardware.load("nvidia/a100-sxm-80gb")
times = st.floats(1e-9, 1e3)


@given(one=times, other=times, order=st.floats(1, 12))
def test_overlapping_times_are_between_the_longest_and_their_sum(one, other, order):
    for found in (norm(order, one, other), joined(order, np.array(one), np.array(other))):
        assert found == pytest.approx((one**order + other**order) ** (1 / order))
        assert max(one, other) * (1 - 1e-12) <= found <= (one + other) * (1 + 1e-12)


def test_a_working_set_as_large_as_the_cache_share_misses_half():
    """One of half that size misses next to nothing, one of twice the size nearly everything."""
    sizes = np.array([0.5, 1.0, 2.0]) * 0.6 * A100.llc_distinct
    assert miss_share(A100, 0.6, sizes) == pytest.approx([0, 0.5, 1], abs=0.02)


@pytest.mark.parametrize(("unit_bytes", "faster"), [(4.0, False), (40.0, True)])
def test_hits_come_at_the_cache_rate_but_never_slower_than_memory(unit_bytes, faster):
    memory = 0.8 * A100.hbm_bandwidth
    cache = unit_bytes * 108 * 1.41e9
    assert (cache > memory) == faster
    found = byte_time(A100, {"bandwidth_share": 0.8, "l2_unit_bytes": unit_bytes}, np.array([0.0, 0.25, 1.0]))
    hit = memory / max(cache, memory)
    assert found * memory == pytest.approx([hit, 0.25 + 0.75 * hit, 1])
