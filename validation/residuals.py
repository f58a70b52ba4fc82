"""Residuals of held-out rows, as calibrations state them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from costmodel.calibration import QUANTILES, Spread
from costmodel.errors import TableError

Array = NDArray[np.float64]

#: Factor by which a device's own constants may be worse than a relative's.
WORSE = 1.1
#: Median error on held-out rows [%] beyond which constants are useless, whatever the alternative.
USELESS_PERCENT = 50.0
#: Least number of held-out rows per regime of residuals, and largest number of regimes.
REGIME_ROWS, REGIMES = 15, 4
#: Least number of rows with quantiles of 2.5 and 97.5 %: the first of n is the quantile 1/(n + 1).
_OUTER_ROWS = 39


def errors(predicted: ArrayLike, measured: ArrayLike) -> Array:
    """Return the signed errors [%]."""
    return np.asarray(100.0 * (np.asarray(predicted) / np.asarray(measured) - 1.0), dtype=np.float64)


def checked(predicted: Array, without: Array, measured: Array) -> Array:
    """Return the errors of held-out rows [%]; refuse constants that are useless or worse than without them.

    Constants are useless if the median error exceeds ``USELESS_PERCENT``. They are worse if both the median
    and the mean error are larger by the factor ``WORSE``, because with a dozen rows either alone differs by
    chance. If both are about equal, the device's own are kept.

    Raises
    ------
    TableError
        If they are either.
    """
    error, before = (errors(seconds, measured) for seconds in (predicted, without))
    own, other = (float(np.median(np.abs(found))) for found in (error, before))
    if own > WORSE * other and np.mean(np.abs(error)) > WORSE * np.mean(np.abs(before)):
        raise TableError(f"{own:.1f} % off on {len(measured)} held-out rows, {other:.1f} % without it")
    if not own <= USELESS_PERCENT:  # also if it is NaN
        raise TableError(
            f"{own:.1f} % off on {len(measured)} held-out rows: no constants of this kernel model"
        )
    return error


def spread(predicted: Array, measured: Array) -> tuple[Spread, ...]:
    """Return the quantiles of measured over predicted time, by regime of the predicted time.

    There are as many regimes of equal size as have ``REGIME_ROWS`` rows each, at most ``REGIMES``. With fewer
    rows there is one regime, and with fewer than 8 rows none. The k-th of n ratios is the quantile k/(n + 1),
    the expected share of further rows below it, so that intervals from few rows are wider. Intervals of 95 %
    from too few rows are widened beyond them (`opened`).
    """
    if len(predicted) < 8:
        return ()
    count = int(np.clip(len(predicted) // REGIME_ROWS, 1, REGIMES))
    order = np.argsort(predicted, kind="stable")
    answer = []
    for number, places in enumerate(np.array_split(order, count)):
        quantiles = np.percentile(measured[places] / predicted[places], QUANTILES, method="weibull")
        low, inner_low, inner_high, high = (float(f"{q:.5g}") for q in quantiles)
        above = float(f"{predicted[places].min():.5g}") if number else 0.0
        answer.append(opened(Spread(above=above, rows=len(places), q=(low, inner_low, inner_high, high))))
    return tuple(answer)


def opened(regime: Spread) -> Spread:
    """Return a regime with outer quantiles widened beyond the extremes of too few rows.

    The extremes of n rows cover (n − 1)/(n + 1) of further rows: with nine rows 80 %, not 95 %. With fewer
    than ``_OUTER_ROWS`` rows the 95 % interval is therefore scaled from the 80 % interval, on the logarithm
    of the time, by Student's t with n − 1 degrees of freedom. It always includes the extremes.
    """
    if regime.rows >= _OUTER_ROWS:
        return regime
    low, inner_low, inner_high, high = regime.q
    wider = stdtrit(regime.rows - 1, 0.975) / stdtrit(regime.rows - 1, 0.90)
    middle, half = np.sqrt(inner_low * inner_high), np.sqrt(inner_high / inner_low)
    outer = (min(low, middle / half**wider), max(high, middle * half**wider))
    low, high = (float(f"{q:.5g}") for q in outer)
    return regime.model_copy(update={"q": (low, inner_low, inner_high, high)})
