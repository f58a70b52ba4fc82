"""Matrix products on a matrix core: n and k are padded to the array, m to its row granularity.

Memory and the array work at the same time, block by block. What precedes the first block's arithmetic and
follows the last one's is hidden by nothing: of a product that fits in half of the memory on the chip (blocks
are held twice), all of the shorter of the two times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from costmodel import dtypes
from costmodel.hardware import Device
from costmodel.kernels._operands import stored_bytes
from costmodel.kernels._systolic import CONSTANTS, ROWS, padded, roofline
from costmodel.kernels.base import Estimate, as_arrays

__all__ = ["CONSTANTS", "seconds"]

#: Copies of a block's operands and results on the chip: one that is computed, and one that is moved.
_COPIES = 2.0


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    batch: ArrayLike = 1.0,
    dtype: str = "bf16",
    weights: str | None = None,
    group: int | None = None,
    quantise: bool = False,
) -> Estimate:
    """Return the time of out[batch, m, n] = A[batch, m, k] · B[batch, k, n].

    Parameters
    ----------
    m, n, k, batch : array_like
        Sizes.
    dtype : str
        Format of the operands.
    weights, group : str, int, optional
        Format that B is stored in, and numbers per scale, where it is widened on the way.
    quantise : bool
        Whether A arrives in 16 bits and is quantised on the way.

    Returns
    -------
    Estimate
        Terms ``matrix:<dtype>``, ``hbm``, ``launch``.
    """
    m, n, k, batch = as_arrays(m, n, k, batch)
    kind = dtypes.dtype(dtype)
    width = kind.bytes
    side = device.array_side
    flops = 2 * batch * padded(m, ROWS) * padded(n, side) * padded(k, side)
    rounding = 2 * m * k if quantise else 0.0
    stored = width if weights is None else stored_bytes(k, weights, group)
    moved = batch * (width * (m * k + m * n) + stored * k * n + rounding)
    found = roofline(device, constants, dtype, flops, moved)
    shorter = np.minimum(found.terms[f"matrix:{kind.name}"], found.terms["hbm"])
    held = np.minimum(device.onchip_capacity / _COPIES / moved, 1.0)
    return replace(found, seconds=found.seconds + shorter * held)
