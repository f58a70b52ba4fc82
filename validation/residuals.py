"""How far predictions are off on rows that nothing was fitted on, as a calibration states it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from costmodel.calibration import QUANTILES, Spread
from costmodel.errors import TableError

Array = NDArray[np.float64]

#: How much worse than a relative's constants may be those of a device's own.
WORSE = 1.1
#: Median error on held-out rows [%] beyond which constants tell nothing, whatever there would be without.
USELESS_PERCENT = 50.0
#: Held-out rows that a regime of the residuals needs, and how many regimes there may be.
REGIME_ROWS, REGIMES = 15, 4
#: Fewer rows than this have no quantile as far out as 2.5 and 97.5 %: the first of n stands for 1/(n + 1).
_OUTER_ROWS = 39


def errors(predicted: ArrayLike, measured: ArrayLike) -> Array:
    """Return the signed errors [%]."""
    return np.asarray(100.0 * (np.asarray(predicted) / np.asarray(measured) - 1.0), dtype=np.float64)


def checked(predicted: Array, without: Array, measured: Array) -> Array:
    """Return the errors of held-out rows [%]; refuse constants that are useless, or worse than none.

    Useless is a median error above ``USELESS_PERCENT``. Worse is: by ``WORSE``, in the median and in the
    mean. One alone, of a dozen rows, goes either way by chance; between equals, the device's own are taken.

    Raises
    ------
    TableError
        If they are either.
    """
    error, before = (errors(seconds, measured) for seconds in (predicted, without))
    own, other = (float(np.median(np.abs(found))) for found in (error, before))
    if own > WORSE * other and np.mean(np.abs(error)) > WORSE * np.mean(np.abs(before)):
        raise TableError(f"{own:.1f} % off on {len(measured)} held-out rows, {other:.1f} % without it")
    if not own <= USELESS_PERCENT:  # nor is an error that is no number one
        raise TableError(
            f"{own:.1f} % off on {len(measured)} held-out rows: no constants of this kernel model"
        )
    return error


def spread(predicted: Array, measured: Array) -> tuple[Spread, ...]:
    """Return the quantiles of measured over predicted time, by regime of the predicted time.

    As many regimes of equal size as have ``REGIME_ROWS`` rows each, at most ``REGIMES``; one of
    fewer rows if there are no more, none for fewer than 8. The k-th of n ratios stands for the share
    k/(n + 1): that of further rows which is expected below it, so that intervals from few rows are wider.
    Those of 95 % are `opened` beyond the rows where these are too few.
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
    """Return a regime whose outer quantiles are not the extremes of too few rows.

    Of fewer than ``_OUTER_ROWS`` rows the extremes hold (n − 1)/(n + 1): 80 % of further rows for nine, not
    95. Student's t with n − 1 degrees of freedom says how much wider than the 80 % that they do tell an
    interval of 95 is, on the logarithm of the time; the extremes are inside it all the same.
    """
    if regime.rows >= _OUTER_ROWS:
        return regime
    low, inner_low, inner_high, high = regime.q
    wider = stdtrit(regime.rows - 1, 0.975) / stdtrit(regime.rows - 1, 0.90)
    middle, half = np.sqrt(inner_low * inner_high), np.sqrt(inner_high / inner_low)
    outer = (min(low, middle / half**wider), max(high, middle * half**wider))
    low, high = (float(f"{q:.5g}") for q in outer)
    return regime.model_copy(update={"q": (low, inner_low, inner_high, high)})
