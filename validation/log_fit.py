"""The one way in which constants are fitted: bounded least squares on the logarithm of time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from costmodel.errors import TableError
from costmodel.kernels.base import Constant

#: Relative error from which on a row counts linearly, not by its square.
SCALE = 0.03
#: Constants whose range begins at 0 are fitted down to this share of its other end.
_FLOOR = 1e-5
#: How much error of every row it costs to leave what is expected: by a factor of e, where that is a default,
#: so little that no fit changes which rows determine; by the whole plausible range, where it is known better.
_WEAK, _STRONG = 1e-4, 3e-3
#: What a constant is where rows do not say, and how much of the mean relative error it must mend to leave
#: that by a factor of e.
Expected = tuple[float, float]


def defaults(described: Mapping[str, Constant], names: Sequence[str]) -> dict[str, Expected]:
    """Return that constants are expected at their defaults, where they mean the same on every device."""
    return {name: (_default(described[name]), _WEAK) for name in names}


def known(
    described: Mapping[str, Constant], values: Mapping[str, float], *, sure: float = 1.0
) -> dict[str, Expected]:
    """Return that constants are expected at these values, which other devices have shown.

    Parameters
    ----------
    described : mapping of str to Constant
        Ranges of the kernel model's constants.
    values : mapping of str to float
        What is expected.
    sure : float
        Less than 1 where devices differ more than their rows leave open.
    """
    return {
        name: (value, sure * _STRONG / float(np.diff(plausible(described[name]))[0]))
        for name, value in values.items()
    }


def _default(constant: Constant) -> float:
    return constant.default or constant.high / 10


def plausible(constant: Constant) -> tuple[float, float]:
    """Return the logarithms of the ends of the plausible range."""
    return float(np.log(max(constant.low, _FLOOR * constant.high))), float(np.log(constant.high))


def on_ticks(
    smooth: Mapping[str, float], tick: float, start: str, a_tick: float
) -> Iterator[dict[str, float]]:
    """Yield where to begin a fit with ticks: in each of their steps the loss has valleys of its own.

    Parameters
    ----------
    smooth : mapping of str to float
        Constants fitted without ticks.
    tick : float
        How long one is [s].
    start : str
        Which of the constants is how a call starts and ends.
    a_tick : float
        By how much it is more, where a replay is a tick longer, in its unit.
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
    """Return the loss, and the constants that minimise it within their plausible ranges.

    The loss may have several valleys: of the fits from each start, the best is returned.

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
    starts : iterable of mapping of str to float
        Where they begin; values of constants that are not free stay as given, other names are left out.
    expected : mapping of str to Expected, optional
        Of constants that are free: what they are where rows do not say (`defaults`, `known`).
    evaluations : int
        At most this many evaluations of the Jacobian from each start.

    Raises
    ------
    TableError
        If a row has no predicted time where the fit begins: constants cannot mend that.
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
    """Return the loss and the constants of the valley that a fit from one start ends in."""
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
