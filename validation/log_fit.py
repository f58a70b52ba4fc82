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
#: What a constant costs that is at the other end of its plausible range than expected: error of every row.
_PULL = 3e-3


def least_log_error(
    predict: Callable[[Mapping[str, float]], NDArray[np.float64]],
    measured: NDArray[np.float64],
    described: Mapping[str, Constant],
    free: Sequence[str],
    start: Mapping[str, float],
    *,
    expected: Mapping[str, float] | None = None,
    evaluations: int = 100,
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
    expected : mapping of str to float, optional
        What constants are where rows do not say. To be elsewhere must make up for ``_PULL`` of error in
        every row, for the whole of the plausible range (on the logarithm), less for less of it.
    evaluations : int
        At most this many evaluations of the Jacobian.
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

    held = [place for place, name in enumerate(free) if name in (expected or {})]
    home = np.log([(expected or {})[free[place]] for place in held])

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        away = _PULL * len(target) * (x[held] - home) / (high - low)[held]
        return np.concatenate([np.log(predict(constants(x))) - target, away])

    found = least_squares(
        residuals,
        begin,
        bounds=(low, high),
        loss="soft_l1",
        f_scale=_SCALE,
        max_nfev=evaluations,
    )
    return float(found.cost), constants(found.x)
