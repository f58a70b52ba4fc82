"""Uncertainty of fitted constants, by refits on resampled shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel.validation.heldout import shapes

#: Number of bootstrap draws, which are always the same.
DRAWS, _SEED = 40, 20250101
#: Ends of the interval [%], which holds 80 % of the refitted values.
_ENDS = (10.0, 90.0)


def intervals(
    rows: pd.DataFrame,
    constants: Mapping[str, float],
    held: Mapping[str, float],
    refit: Callable[[NDArray[np.intp]], Mapping[str, float]],
) -> dict[str, tuple[float, float]]:
    """Return the 80 % bootstrap interval of each fitted constant (Efron 1979).

    As many shapes as there are are drawn with replacement, each with all its rows. The refit on each draw
    starts from the constants. Constants that rows do not determine have wide intervals.

    Parameters
    ----------
    rows : DataFrame
        Rows that the constants were fitted on.
    constants : mapping of str to float
        The fitted values.
    held : mapping of str to float
        Values given to the fit; constants that still have them were not fitted.
    refit : callable
        Function from positions of rows, repeated if a shape was drawn twice, to constants.
    """
    free = [name for name, value in constants.items() if not _equal(held.get(name), value)]
    of_row = shapes(rows)
    count = int(of_row.max()) + 1
    members = [np.flatnonzero(of_row == shape) for shape in range(count)]
    draw = np.random.default_rng(_SEED)
    values = []
    for _ in range(DRAWS):
        taken = np.concatenate([members[shape] for shape in draw.integers(0, count, count)])
        found = refit(taken)
        values.append([found[name] for name in free])
    low, high = np.percentile(np.array(values), _ENDS, axis=0)
    return {
        name: (float(f"{one:.4g}"), float(f"{other:.4g}"))
        for name, one, other in zip(free, low, high, strict=True)
    }


def _equal(one: float | None, other: float) -> bool:
    """Return whether a value is the given one, up to rounding of written digits."""
    return one is not None and bool(np.isclose(one, other, rtol=1e-4, atol=0.0))
