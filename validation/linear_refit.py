"""Approximate refits on resampled rows by one Newton step from the fitted constants.

A fit of a GPU kernel takes seconds, so forty refits on resampled shapes would take too long for 200 cells.
Near the fitted constants, however, the logarithm of a predicted time is nearly linear in the logarithms of
the constants, so that one linear system gives the result of a refit. Constants that rows do not determine
would not move, and would seem certain. Each draw therefore also starts from a random point of the plausible
range, and stays there as far as the rows allow.

Sources: the bootstrap, Efron, 1979; slope and curvature of a robust loss, Huber, 1981, Robust Statistics, on
M-estimates; random starting points, Bardsley et al., 2014, "Randomize-then-optimize", SIAM J. Sci. Comput.
36.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from costmodel.kernels.base import Constant
from costmodel.validation.log_fit import SCALE, plausible

Array = NDArray[np.float64]

#: Half the step of the finite differences for slopes, in natural logarithms. It is large enough that a change
#: of tile in one row of a hundred does not dominate.
_STEP = 0.02
#: Ratio of median absolute error to standard deviation for the normal distribution.
_MEDIAN = 0.6745
_SEED = 20250102


def linear_refit(
    predict: Callable[[Mapping[str, float]], Array],
    measured: Array,
    described: Mapping[str, Constant],
    constants: Mapping[str, float],
    free: Sequence[str],
) -> Callable[[NDArray[np.intp]], dict[str, float]]:
    """Return a function from row positions to refitted constants, for `uncertainty.intervals`.

    Parameters
    ----------
    predict : callable
        Function from constants to times [s], of the shape of ``measured``.
    measured : array, shape (rows,)
        Measured seconds.
    described : mapping of str to Constant
        Plausible ranges of the kernel model's constants.
    constants : mapping of str to float
        Constants fitted on all rows.
    free : sequence of str
        Names of the fitted ones; none is 0.

    Notes
    -----
    Rows are weighted by the slope and curvature of the fit's loss (soft-L1); the standard
    deviation of errors follows from their median. The prior of a constant is uniform over its plausible range
    on a logarithmic scale; starting points are drawn with its standard deviation.
    """
    error = np.log(predict(constants) / measured)
    slopes = np.stack([_slope(predict, constants, name) for name in free], axis=1)
    pull = error / np.sqrt(1 + (error / SCALE) ** 2)
    bend = (1 + (error / SCALE) ** 2) ** -1.5
    deviation = max(float(np.median(np.abs(error))) / _MEDIAN, 1e-6)
    low, high = np.array([plausible(described[name]) for name in free]).T
    width = (high - low) / np.sqrt(12)
    hold = np.diag((deviation / width) ** 2)
    found = np.log([constants[name] for name in free])
    whole = slopes.T @ pull
    draw = np.random.default_rng(_SEED)

    def refit(taken: NDArray[np.intp]) -> dict[str, float]:
        count = np.bincount(taken, minlength=len(measured))
        pulled = whole - slopes.T @ (count * pull) + hold @ (width * draw.standard_normal(len(width)))
        step = np.linalg.solve((slopes.T * (count * bend)) @ slopes + hold, pulled)
        moved = np.exp(np.clip(found + step, low, high))
        return {**constants, **dict(zip(free, moved.tolist(), strict=True))}

    return refit


def _slope(
    predict: Callable[[Mapping[str, float]], Array], constants: Mapping[str, float], name: str
) -> Array:
    """Return the derivative of the logarithm of each time with respect to that of a constant."""
    more, less = (predict({**constants, name: constants[name] * np.exp(way * _STEP)}) for way in (1, -1))
    return np.asarray(np.log(more / less) / (2 * _STEP))
