"""Intervals by linear refits, against statistics, and against fits that are done anew."""

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
    """Passes over so many rows and more, measured with errors that a seed draws."""

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


def test_intervals_hold_the_truth_as_often_as_they_say():
    hits = [
        low <= TRUTH[name] <= high
        for seed in range(60)
        for name, (low, high) in Passes(1, seed).linear().items()
    ]
    assert 0.7 <= np.mean(hits) <= 0.9


def test_they_are_as_wide_as_those_of_fits_done_anew():
    passes = Passes(1, 0)
    linear = passes.linear()
    anew = intervals(passes.rows, passes.fit(np.arange(COUNT)), GIVEN, passes.fit)
    for name in FREE:
        assert np.ptp(np.log(linear[name])) == pytest.approx(np.ptp(np.log(anew[name])), rel=0.3)


def test_what_rows_do_not_tell_has_much_of_its_plausible_range():
    """Passes of milliseconds tell the bandwidth, to 2 % over the root of 200, and nothing of a start."""
    found = Passes(1e6, 0).linear()
    assert np.ptp(np.log(found["bandwidth_share"])) == pytest.approx(2 * 1.2816 * NOISE / COUNT**0.5, rel=0.3)
    assert np.ptp(np.log(found["start_s"])) > 1
