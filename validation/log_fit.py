"""Fit constants by bounded robust least squares on the logarithm of time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from costmodel.errors import TableError
from costmodel.kernels.base import Constant

#: Relative error from which a row's loss is linear instead of quadratic.
SCALE = 0.03
#: Lower limit of a constant whose range begins at 0, relative to the upper end of the range.
_FLOOR = 1e-5
#: Weights of priors, as an error of every row. For a default, it is the cost of a factor of e, so small that
#: it does not affect constants that rows determine. For a known value, it is the cost of the whole plausible
#: range.
_WEAK, _STRONG = 1e-4, 3e-3
#: Prior of a constant: its value, and by how much the mean relative error has to improve for a change by a
#: factor of e.
Expected = tuple[float, float]


def defaults(described: Mapping[str, Constant], names: Sequence[str]) -> dict[str, Expected]:
    """Return weak priors at the defaults, for constants that mean the same on every device."""
    return {name: (_default(described[name]), _WEAK) for name in names}


def known(
    described: Mapping[str, Constant], values: Mapping[str, float], *, sure: float = 1.0
) -> dict[str, Expected]:
    """Return priors at given values, which are known from other devices.

    Parameters
    ----------
    described : mapping of str to Constant
        Ranges of the kernel model's constants.
    values : mapping of str to float
        Prior values.
    sure : float
        Factor of the weight; less than 1 if devices differ more than the uncertainty of their fits.
    """
    return {
        name: (value, sure * _STRONG / float(np.diff(plausible(described[name]))[0]))
        for name, value in values.items()
    }


def _default(constant: Constant) -> float:
    return constant.default or constant.high / 10


def plausible(constant: Constant) -> tuple[float, float]:
    """Return the logarithms of the ends of a constant's plausible range."""
    return float(np.log(max(constant.low, _FLOOR * constant.high))), float(np.log(constant.high))


def on_ticks(
    smooth: Mapping[str, float], tick: float, start: str, a_tick: float
) -> Iterator[dict[str, float]]:
    """Yield initial values of a fit with ticks, because the loss has valleys in each step of a tick.

    Parameters
    ----------
    smooth : mapping of str to float
        Constants fitted without ticks.
    tick : float
        Length of a tick [s].
    start : str
        The constant for the start and end of a call.
    a_tick : float
        Increase of that constant, in its unit, that makes a replay one tick longer.
    """
    for phase, shift in itertools.product((0.1, 0.35), (-0.5, -0.25, 0.0, 0.25)):
        yield {**smooth, "tick_s": tick, "phase_s": phase * tick, start: smooth[start] + shift * a_tick}


def least_log_error(
    predict: Callable[[Mapping[str, float]], NDArray[np.float64]],
    measured: NDArray[np.float64],
    described: Mapping[str, Constant],
    free: Sequence[str],
    starts: Iterable[Mapping[str, float]],
    *,
    expected: Mapping[str, Expected] | None = None,
    evaluations: int = 100,
) -> tuple[float, dict[str, float]]:
    """Return the least loss, and the constants that reach it within their plausible ranges.

    The loss may have several minima: the best of the fits from all starts is returned.

    Parameters
    ----------
    predict : callable
        Function from constants to times [s], of the shape of ``measured``.
    measured : array, shape (rows,)
        Measured seconds.
    described : mapping of str to Constant
        Ranges and defaults of the kernel model's constants.
    free : sequence of str
        Constants to fit, on a logarithmic scale.
    starts : iterable of mapping of str to float
        Initial values; constants that are not free keep them, and other names are ignored.
    expected : mapping of str to Expected, optional
        Priors of free constants (`defaults`, `known`).
    evaluations : int
        Largest number of evaluations of the Jacobian per start.

    Raises
    ------
    TableError
        If a row has no finite predicted time at the initial values, which constants cannot correct.
    """
    tries = [
        _descend(predict, measured, described, free, start, expected or {}, evaluations) for start in starts
    ]
    return min(tries, key=lambda found: found[0])


def _descend(
    predict: Callable[[Mapping[str, float]], NDArray[np.float64]],
    measured: NDArray[np.float64],
    described: Mapping[str, Constant],
    free: Sequence[str],
    start: Mapping[str, float],
    expected: Mapping[str, Expected],
    evaluations: int,
) -> tuple[float, dict[str, float]]:
    """Return the loss and the constants of the local minimum reached from one start."""
    fixed = {name: value for name, value in start.items() if name in described}
    low, high = np.array([plausible(described[name]) for name in free]).T
    begin = np.array([start.get(name) or _default(described[name]) for name in free])
    margin = 1e-6 * (high - low)
    begin = np.clip(np.log(begin), low + margin, high - margin)
    target = np.log(measured)

    def constants(x: NDArray[np.float64]) -> dict[str, float]:
        return {**fixed, **dict(zip(free, np.exp(x).tolist(), strict=True))}

    held = [place for place, name in enumerate(free) if name in expected]
    pairs = np.array([expected[free[place]] for place in held]).reshape(-1, 2)
    home, pull = np.clip(np.log(pairs[:, 0]), low[held], high[held]), pairs[:, 1] * len(target)

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([np.log(predict(constants(x))) - target, pull * (x[held] - home)])

    lost = int((~np.isfinite(residuals(begin))).sum())
    if lost:
        raise TableError(f"{lost} of {len(target)} rows to fit on have no predicted or no measured time")
    found = least_squares(
        residuals, begin, bounds=(low, high), loss="soft_l1", f_scale=SCALE, max_nfev=evaluations
    )
    return float(found.cost), constants(found.x)
