"""Powers computed as products against the processor's, and throttling at the power limit against physics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel import hardware
from costmodel.kernels._cache import misses, power, warm_seconds
from costmodel.kernels._power import droop, plain_droop

A100 = hardware.load("nvidia/a100-sxm-80gb")


@pytest.mark.parametrize("order", [0.85, 1.0, 2.0, 2.5, 3.7, 4.0, 6.0, 8.0, 10.0, 12.0, 20.0, 31.5])
def test_powers_by_products_equal_numpys(order):
    base = np.geomspace(1e-8, 1e6, 1001)
    assert np.allclose(power(base, order), base**order, rtol=1e-13, atol=0)
    # A product's rounding error is at most 2⁻⁵³ of its value, and no order here takes more than nine.
    assert np.allclose(misses(base, 1.0, order), 1 / (1 + base**-order), rtol=1e-13, atol=0)


def test_powers_of_two_are_exact():
    assert power(np.array([2.0]), 31.0)[0] == 2**31
    assert power(np.array([4.0]), 2.5)[0] == 32


def test_tensor_cores_throttle_by_the_cube_root_of_power_over_the_limit():
    """Power is ∝ V² f and V follows the clock: at 8 or 27 times the limit, half or a third of the clock."""
    found = droop(A100, np.array([0.0, 0.3, 8.0, 27.0]) * A100.tdp_w)
    assert found == pytest.approx([0.0, 0.0, 1.0, 2.0], abs=1e-3)


def test_cuda_cores_throttle_in_proportion_to_power_down_to_the_base_clock():
    """At the lowest voltage power is ∝ f; A100's datasheet states 1,410 MHz of boost and a base of 1,275."""
    limit = A100.tdp_w - 25  # a board at full clocks draws 25 W without arithmetic
    base = A100.spec.clocks.base.si
    assert plain_droop(A100, 0.9 * limit) == 0
    assert plain_droop(A100, 1.05 * limit) == pytest.approx(0.05)
    assert plain_droop(A100, 9 * limit) == pytest.approx(A100.clock_hz / base - 1)


def test_where_no_limit_is_known_nothing_slows():
    tpu = hardware.load("google/tpu-v5e")
    assert tpu.tdp_w is None
    assert droop(tpu, np.array([1.0, 1e5])).tolist() == [0.0, 0.0]
    assert plain_droop(tpu, 1e5) == 0


def test_a_board_leaves_half_of_a_low_limit_to_arithmetic():
    assert plain_droop(A100.replace(power="40 W"), 1.05 * 20) == pytest.approx(0.05)


def test_misses_step_from_none_to_all_at_the_capacity():
    """A half there; at the default order below 0.4 % at half of it, as its description says, and not 0.3."""
    half, at, twice, far = misses(np.array([0.5, 1.0, 2.0, 1e300]), 1.0)
    assert 0.003 < half < 0.004
    assert (at, far) == (0.5, 1.0)
    assert half + twice == pytest.approx(1)
    assert misses(np.array([0.0, 1e-3]), 0.0).tolist() == [1.0, 1.0]
    assert misses(np.array([1e-9]), 0.5)[0] < 1e-9  # a cache of half a byte is one


def test_all_of_a_working_set_passes_the_cache_and_memory_serves_the_rest():
    memory, cache = warm_seconds(
        np.array([1.0, 1e9]), np.array([10.0, 3e9]), capacity=1e3, bandwidth=1e9, cache_bandwidth=5e9
    )
    assert memory == pytest.approx([0.0, 3.0], abs=1e-12)
    assert cache == pytest.approx([2e-9, 0.6])


@given(watts=st.floats(1, 5000), limit=st.floats(10, 2000), more=st.floats(1, 10))
def test_throttling_never_grows_with_the_limit_nor_falls_with_the_draw(watts, limit, more):
    near, far = (A100.replace(power=f"{w!r} W") for w in (limit, min(more * limit, 2000.0)))
    for slowed in (plain_droop, droop):
        assert 0 <= slowed(far, watts) <= slowed(near, watts) <= slowed(near, more * watts)
