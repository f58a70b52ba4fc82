"""A fit on other rows without fitting: one step of Newton from the constants that were found.

A fit of a GPU's kernel takes seconds, and forty on shapes drawn anew too long for 200 cells. Near the
constants, though, the logarithm of a predicted time is nearly linear in those of the constants, so that one
linear system says where a fit on the drawn rows would go. What rows do not tell has no place to go, and would
seem sure: so each draw also begins anew within the plausible range, and stays there as far as rows allow.

Sources: the bootstrap, Efron, 1979; slope and curvature of a robust loss, Huber, 1981, Robust Statistics, on
M-estimates; beginnings drawn anew, Bardsley et al., 2014, "Randomize-then-optimize", SIAM J. Sci. Comput. 36.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from costmodel.kernels.base import Constant
from costmodel.validation.log_fit import SCALE, plausible

Array = NDArray[np.float64]

#: Half the step of the differences that slopes are taken from, in factors of e: wide enough that a choice of
#: tile which turns for one row in a hundred does not stand for all.
_STEP = 0.02
#: Median of the absolute error over the standard deviation, of the normal distribution.
_MEDIAN = 0.6745
_SEED = 20250102


def linear_refit(
    predict: Callable[[Mapping[str, float]], Array],
    measured: Array,
    described: Mapping[str, Constant],
    constants: Mapping[str, float],
    free: Sequence[str],
) -> Callable[[NDArray[np.intp]], dict[str, float]]:
    """Return what gives the constants of a fit on some of the rows, as `uncertainty.intervals` wants it.

    Parameters
    ----------
    predict : callable
        Constants to seconds, of the shape of ``measured``.
    measured : array, shape (rows,)
        Measured seconds.
    described : mapping of str to Constant
        Plausible ranges of the kernel model's constants.
    constants : mapping of str to float
        As they were fitted on all rows.
    free : sequence of str
        Which of them were; none is 0.

    Notes
    -----
    Rows count by the slope and the curvature of the fit's loss (soft-L1); errors vary as their median says.
    What is expected of a constant is its plausible range, uniformly on a logarithmic scale: to that
    deviation beginnings are drawn.
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
    """Return by how much the logarithm of each time goes with that of a constant."""
    more, less = (predict({**constants, name: constants[name] * np.exp(way * _STEP)}) for way in (1, -1))
    return np.asarray(np.log(more / less) / (2 * _STEP))
