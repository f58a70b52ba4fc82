"""How sure fitted constants are: refitted on shapes drawn anew from those they were fitted on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel.validation.heldout import shapes

#: How often shapes are drawn anew, with the same draws for everyone.
DRAWS, _SEED = 40, 20250101
#: Ends of the interval [%]: it holds 80 % of the refitted values.
_ENDS = (10.0, 90.0)


def intervals(
    rows: pd.DataFrame,
    constants: Mapping[str, float],
    held: Mapping[str, float],
    refit: Callable[[NDArray[np.intp]], Mapping[str, float]],
) -> dict[str, tuple[float, float]]:
    """Return the 80 % interval of each constant that was fitted (the bootstrap; Efron 1979).

    Shapes are drawn with replacement, all rows of a shape together, as many shapes as there are; a
    robust fit on each draw begins at the constants. What rows do not determine has a wide interval.

    Parameters
    ----------
    rows : DataFrame
        What the constants were fitted on.
    constants : mapping of str to float
        The fitted values.
    held : mapping of str to float
        Values that were given to the fit: constants that are still as given were not fitted.
    refit : callable
        Positions among the rows, repeated where a shape was drawn twice, to constants.
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
    """Return whether a value is the one given, but for the digits that are written."""
    return one is not None and bool(np.isclose(one, other, rtol=1e-4, atol=0.0))
