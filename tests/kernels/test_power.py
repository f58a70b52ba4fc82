"""Powers made of products are the processor's powers, to rounding."""

import numpy as np
import pytest

from costmodel.kernels._cache import misses, power


@pytest.mark.parametrize("order", [0.85, 1.0, 2.0, 2.5, 3.7, 4.0, 6.0, 8.0, 10.0, 12.0, 20.0, 31.5])
def test_a_power_is_a_power(order):
    base = np.geomspace(1e-8, 1e6, 1001)
    assert np.allclose(power(base, order), base**order, rtol=1e-13, atol=0)
    # One product rounds by at most 2⁻⁵³ of its value, and no order here takes more than nine.
    assert np.allclose(misses(base, 1.0, order), 1 / (1 + base**-order), rtol=1e-13, atol=0)


def test_powers_of_two_are_exact():
    assert power(np.array([2.0]), 31.0)[0] == 2**31
    assert power(np.array([4.0]), 2.5)[0] == 32
