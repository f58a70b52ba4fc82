"""The one way in which constants are fitted: bounded least squares on the logarithm of time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from costmodel.kernels.base import Constant

#: Relative error from which on a row counts linearly, not by its square.
_SCALE = 0.03
#: Constants whose range begins at 0 are fitted down to this share of its other end.
_FLOOR = 1e-5
#: A prior weak enough to change no fit that rows determine: 0.01 % of mean error for a factor of e.
PRIOR = 1e-4


def least_log_error(
    predict: Callable[[Mapping[str, float]], NDArray[np.float64]],
    measured: NDArray[np.float64],
    described: Mapping[str, Constant],
    free: Sequence[str],
    start: Mapping[str, float],
    *,
    evaluations: int = 100,
    prior: float = 0.0,
) -> tuple[float, dict[str, float]]:
    """Return the loss, and the constants that minimise it within their plausible ranges.

    Parameters
    ----------
    predict : callable
        Constants to seconds, of the shape of ``measured``.
    measured : array, shape (rows,)
        Measured seconds.
    described : mapping of str to Constant
        Ranges and defaults of the kernel model's constants.
    free : sequence of str
        Which are fitted, on a logarithmic scale.
    start : mapping of str to float
        Where they begin; values of constants that are not free stay as given, other names are left out.
    evaluations : int
        At most this many evaluations of the Jacobian.
    prior : float
        How much of the mean relative error a constant has to mend to leave its default by a factor of e:
        those that the rows say nothing of stay there, and mean the same on another device.
    """
    known = {name: value for name, value in start.items() if name in described}
    low = np.log([max(described[n].low, _FLOOR * described[n].high) for n in free])
    high = np.log([described[n].high for n in free])
    begin = np.array([start.get(n) or described[n].default or described[n].high / 10 for n in free])
    margin = 1e-6 * (high - low)
    begin = np.clip(np.log(begin), low + margin, high - margin)
    target = np.log(measured)

    def constants(x: NDArray[np.float64]) -> dict[str, float]:
        return {**known, **dict(zip(free, np.exp(x).tolist(), strict=True))}

    centre = np.clip(np.log([described[n].default or described[n].high / 10 for n in free]), low, high)
    weight = prior * len(measured)

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([np.log(predict(constants(x))) - target, weight * (x - centre)])

    found = least_squares(
        residuals,
        begin,
        bounds=(low, high),
        loss="soft_l1",
        f_scale=_SCALE,
        max_nfev=evaluations,
    )
    return float(found.cost), constants(found.x)
