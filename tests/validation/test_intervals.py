"""Intervals judged on rows that they were not taken from, with noise whose quantiles are known."""

import numpy as np
import pandas as pd
import pytest

from costmodel.calibration import LEVELS, Spread
from costmodel.validation import intervals, residuals
from costmodel.validation.heldout import SHARE, held_out, second_half
from costmodel.validation.residuals import spread


def _products(rows, noise):
    """Return products of random sizes with `noise` as measured over predicted time."""
    sizes = np.random.default_rng(1).integers(1, 20_000, size=(rows, 3))
    frame = pd.DataFrame(sizes, columns=["m", "n", "k"])
    return frame.assign(
        **{"gpu": "t4", "op": "gemm", "dtype": "fp32", "framework": "pytorch", "timer": "", "kernel": ""},
        seconds=1e-4 * np.arange(1, rows + 1),
        latency_s=1e-4 * np.arange(1, rows + 1) * noise,
    )


def test_halves_go_by_shape_and_are_independent_of_held_out():
    frame = _products(4000, 1.0)
    second, out = second_half(frame), held_out(frame)
    assert second.mean() == pytest.approx(0.5, abs=0.03)
    assert second[out].mean() == pytest.approx(0.5, abs=0.05)
    assert out.mean() == pytest.approx(SHARE, abs=0.03)
    again = frame.assign(op="bmm", gpu="v100-pcie-32gb", latency_s=0.0)
    assert (second_half(again) == second).all()


@pytest.mark.parametrize("rows", [9, 24, 60])
def test_quantiles_of_few_rows_hold_what_they_promise(rows):
    """The k-th of n values is expected to have k/(n + 1) of further ones below it (Weibull 1939).

    The extremes of nine rows hold 80 % of further rows, and of 24 rows 92: an interval of 95 % has to be
    wider.
    """
    rng = np.random.default_rng(rows)
    held = []
    for _ in range(400):
        taken = spread(np.full(rows, 1e-3), 1e-3 * rng.lognormal(0, 0.1, rows))
        further = rng.lognormal(0, 0.1, 200)
        low, inner_low, inner_high, high = taken[0].q
        inner = np.mean((further >= inner_low) & (further <= inner_high))
        held.append((inner, np.mean((further >= low) & (further <= high))))
    inner, outer = np.mean(held, axis=0)
    assert inner == pytest.approx(0.80, abs=0.015)
    assert outer == pytest.approx(0.95, abs=0.015)


def test_intervals_of_few_rows_are_widened_once_and_never_narrowed():
    """39 rows suffice for the quantiles; an extreme beyond the expected one stays."""
    few = Spread(above=0.0, rows=9, q=(0.985, 0.99, 1.01, 3.0))
    once = residuals.opened(few)
    assert once.q[0] < 0.985
    assert once.q[1:] == few.q[1:]
    assert residuals.opened(once) == once
    # Student's t with 9 degrees of freedom: 1.383 for 80 %, 2.262 for 95.
    ten = residuals.opened(Spread(above=0.0, rows=10, q=(1 / 1.1, 1 / 1.1, 1.1, 1.1)))
    assert (ten.q[0], ten.q[3]) == pytest.approx((1.1 ** (-2.262 / 1.383), 1.1 ** (2.262 / 1.383)), rel=1e-4)
    enough = few.model_copy(update={"rows": 39})
    assert residuals.opened(enough) == enough


def test_coverage_and_width_are_those_of_the_noise():
    noise = np.random.default_rng(2).lognormal(0, 0.2, 3000)
    rows = intervals.judged(_products(3000, noise))
    found = intervals.coverage(rows, ["gpu"]).loc["t4"]
    assert found["judged"] == 3000
    assert found["covered_80"] == pytest.approx(80, abs=2.5)
    assert found["covered_95"] == pytest.approx(95, abs=1.5)
    # ±1.2816 standard deviations hold 80 %, ±1.96 hold 95 %.
    assert found["width_80"] == pytest.approx(np.exp(2 * 1.2816 * 0.2), rel=0.06)
    assert found["width_95"] == pytest.approx(np.exp(2 * 1.9600 * 0.2), rel=0.08)


def test_rows_are_judged_by_intervals_of_other_shapes():
    """A shape that is off by a factor of 100 must lie outside, as it did not widen its own interval."""
    frame = _products(60, np.random.default_rng(3).lognormal(0, 0.05, 60))
    odd = frame.index[30]
    frame.loc[odd, "latency_s"] *= 100
    rows = intervals.judged(frame)
    # An interval that the row itself had widened would end at the row, not at a hundredth of it.
    assert rows.loc[odd, "latency_s"] > 10 * rows.loc[odd, "hi95_s"]
    assert sorted(rows.index) == list(frame.index)


def test_rows_without_an_interval_are_not_counted_as_outside():
    frame = _products(6, 1.0)
    for level in LEVELS:
        for end, share in (("lo", 0.9), ("hi", 1.1)):
            frame[f"{end}{level}_s"] = share * frame["latency_s"].where(frame.index > 2)
    assert intervals.coverage(frame, ["gpu"])["covered_80"].item() == 100.0
    without = intervals.coverage(frame.loc[:2], ["gpu"])
    assert without[["covered_80", "width_80", "covered_95", "width_95"]].isna().all(axis=None)


def test_cell_of_few_rows_is_left_out():
    assert intervals.judged(_products(10, 1.0)).empty


def test_regimes_go_by_the_predicted_time():
    rows = pd.DataFrame({"seconds": [1e-6, 9.9e-6, 1e-5, 9.9e-5, 1e-4, 9.9e-4, 1e-3, 1.0]})
    under, tens, tenths, more = ("under 10 µs", "10–100 µs", "0.1–1 ms", "1 ms and more")
    assert list(intervals.regime(rows["seconds"])) == [under, under, tens, tens, tenths, tenths, more, more]


def test_coverage_is_stated_for_the_kernels_and_regimes_that_occur():
    """Two models, each in one regime: no row for another pair, and every row of the table in one of them."""
    frame = pd.concat([_products(9, 1.0)[:5], _products(40, 1.0)[20:].assign(op="softmax")])
    for level in LEVELS:
        frame = frame.assign(
            **{f"lo{level}_s": 0.9 * frame["latency_s"], f"hi{level}_s": 1.1 * frame["latency_s"]}
        )
    found = intervals.by_regime(frame)
    said = found[["kernel", "regime", "judged"]].astype({"regime": str}).to_numpy().tolist()
    assert said == [["gemm", "0.1–1 ms", 5], ["stream", "1 ms and more", 20]]
    assert (found["covered_80"] == 100).all()
    assert found["width_95"].to_numpy() == pytest.approx(1.1 / 0.9)
