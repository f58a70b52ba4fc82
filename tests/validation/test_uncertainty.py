"""Bootstrap intervals of constants, checked on a mean, whose distribution is known."""

import numpy as np
import pandas as pd
import pytest

from costmodel.validation.heldout import shapes
from costmodel.validation.uncertainty import intervals


def interval_of_a_mean(count, seed, repeats=1):
    draw = np.random.default_rng(seed)
    values = np.repeat(draw.normal(10.0, 2.0, count), repeats)
    rows = pd.DataFrame({"m": np.repeat(np.arange(1.0, count + 1), repeats)})
    return intervals(
        rows, {"mean": 1.0, "held": 5.0}, {"held": 5.0}, lambda drawn: {"mean": values[drawn].mean()}
    )


def test_width_is_that_of_the_normal_distribution():
    """The mean of 400 values of deviation 2 has deviation 0.1; 80 % lie within ±1.2816 deviations."""
    found = [interval_of_a_mean(400, seed)["mean"] for seed in range(10)]
    assert np.mean([high - low for low, high in found]) == pytest.approx(2 * 1.2816 * 0.1, rel=0.15)


def test_rows_of_one_shape_are_no_further_evidence():
    one, thrice = (interval_of_a_mean(100, 3, repeats=n)["mean"] for n in (1, 3))
    assert thrice == pytest.approx(one)


def test_given_constants_have_no_interval_and_draws_are_reproducible():
    assert set(interval_of_a_mean(50, 1)) == {"mean"}
    assert interval_of_a_mean(50, 1) == interval_of_a_mean(50, 1)


def test_shapes_differ_if_any_size_does():
    rows = pd.DataFrame(
        {"m": [1.0, 1.0, 2.0, 1.0], "n": [5.0, 6.0, 5.0, 5.0], "latency_s": [1.0, 2.0, 3.0, 4.0]}
    )
    got = shapes(rows)
    assert got[0] == got[3]
    assert len(set(got)) == 3
