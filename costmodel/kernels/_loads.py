"""The number of experts that work, and of blocks of rows that they fill, by how tokens choose experts."""

from __future__ import annotations

import numpy as np

from costmodel.kernels.base import Array

#: Quantiles of a power law's loads at which it is evaluated.
_PLACES = (np.arange(128) + 0.5) / 128
#: Most over least load: relative to the tokens where there are more choices than experts, else 2 over 0.01.
_MOST_OF_TOKENS, _OF_FEW = 0.8, 200.0


def working_and_blocks(
    loads: str, *, working: Array, held: Array, choices: Array, tokens: Array, rows: Array
) -> tuple[Array, Array]:
    """Return the number of experts that work, and of blocks of rows that their tokens fill.

    Parameters
    ----------
    loads : {"random", "balanced", "power-law"}
        How tokens choose. At random, half a block of each expert is empty on average. With equal loads, all
        blocks of an expert but the last are full.
    working : array
        Number of experts that work, at random or with equal loads.
    held, choices, tokens : array
        Experts of the device, choices that it runs, tokens of the call.
    rows : array
        Rows of a block.
    """
    if loads == "power-law":
        return _of_power_law(held, choices, tokens, rows)
    each = choices / working / rows
    blocks = np.ceil(each) if loads == "balanced" else np.maximum(1.0, each + 0.5)
    return working, working * blocks


def _of_power_law(held: Array, choices: Array, tokens: Array, rows: Array) -> tuple[Array, Array]:
    """Return the same for loads whose logarithms are uniform, a power law of exponent 1.

    The range of loads is that of aiconfigurator's benchmark (``sample_power_law``): from 1 to 0.8 times the
    tokens, or narrower if there are fewer choices than experts. Loads are rounded to whole numbers; the
    remaining choices go to idle experts, one each, and then to whole blocks.
    """
    most = np.where(choices > held, _MOST_OF_TOKENS * tokens, _OF_FEW)
    drawn = most ** _PLACES.reshape(-1, *([1] * np.ndim(tokens)))
    share = drawn / drawn.mean(axis=0)
    each = np.minimum(np.round(share * choices / held), tokens)
    left = np.maximum(choices / held - each.mean(axis=0), 0.0)
    idle = (each == 0).mean(axis=0)
    late = np.minimum(left, idle)
    blocks = np.ceil(each / rows).mean(axis=0) + late + (left - late) / rows
    return held * (1 - idle + late), held * blocks
