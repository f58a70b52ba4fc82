"""Intervals by linear refits, against known statistics and against full refits."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from costmodel import hardware
from costmodel.kernels import stream
from costmodel.validation import log_fit
from costmodel.validation.linear_refit import linear_refit
from costmodel.validation.uncertainty import intervals

V100 = hardware.load("nvidia/v100-pcie-32gb")
FREE, GIVEN = ("bandwidth_share", "start_s"), {"warm_share": 0.0}
TRUTH = {**GIVEN, "bandwidth_share": 0.73, "start_s": 4e-6}
NOISE, COUNT = 0.02, 200


@dataclass
class Passes:
    """Passes over `least` and more rows, measured with random errors drawn from a seed."""

    least: float
    seed: int

    def __post_init__(self):
        self.rows = pd.DataFrame({"m": np.geomspace(self.least, 1e7, COUNT), "n": 1024.0})
        errors = np.random.default_rng(self.seed).normal(0.0, NOISE, COUNT)
        self.measured = self.predict(TRUTH) * np.exp(errors)

    def predict(self, constants):
        return stream.seconds(V100, constants, rows=self.rows["m"], cols=1024.0).seconds

    def fit(self, taken):
        return log_fit.least_log_error(
            lambda constants: self.predict(constants)[taken],
            self.measured[taken],
            stream.CONSTANTS,
            FREE,
            [{**GIVEN, "bandwidth_share": 0.7, "start_s": 3e-6}],
        )[1]

    def linear(self):
        constants = self.fit(np.arange(COUNT))
        refit = linear_refit(self.predict, self.measured, stream.CONSTANTS, constants, FREE)
        return intervals(self.rows, constants, GIVEN, refit)


def test_intervals_hold_the_truth_in_80_per_cent_of_draws():
    hits = [
        low <= TRUTH[name] <= high
        for seed in range(60)
        for name, (low, high) in Passes(1, seed).linear().items()
    ]
    assert 0.7 <= np.mean(hits) <= 0.9


def test_linear_refits_give_intervals_as_wide_as_full_refits():
    passes = Passes(1, 0)
    linear = passes.linear()
    anew = intervals(passes.rows, passes.fit(np.arange(COUNT)), GIVEN, passes.fit)
    for name in FREE:
        assert np.ptp(np.log(linear[name])) == pytest.approx(np.ptp(np.log(anew[name])), rel=0.3)


def test_constant_that_rows_do_not_determine_has_a_wide_interval():
    """Passes of milliseconds determine the bandwidth, to 2 %/√200, and not the start."""
    found = Passes(1e6, 0).linear()
    assert np.ptp(np.log(found["bandwidth_share"])) == pytest.approx(2 * 1.2816 * NOISE / COUNT**0.5, rel=0.3)
    assert np.ptp(np.log(found["start_s"])) > 1
