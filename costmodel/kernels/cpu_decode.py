"""Attention of one new token over a KV cache on a CPU: `cpu_attention` with a single query.

Every query head reads its own keys and values, so heads that share them read them repeatedly.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel.errors import UnavailableError
from costmodel.hardware import Device
from costmodel.kernels import cpu_attention
from costmodel.kernels.base import Estimate

CONSTANTS = cpu_attention.CONSTANTS
HARNESS = cpu_attention.HARNESS


def check(_: Device, *, kv_dtype: str | None = None, **__: object) -> None:
    """Refuse a cache in a format other than the queries'.

    Raises
    ------
    UnavailableError
        If the cache has its own format.
    """
    if kv_dtype:
        raise UnavailableError(
            f"cache in {kv_dtype}: no model of decoding that widens it on a CPU; rung bound would do"
        )


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    batch: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    seq_kv: ArrayLike,
    head_dim: ArrayLike,
    flops: ArrayLike | None = None,
    held: ArrayLike | None = None,
    dtype: str = "fp32",
) -> Estimate:
    """Return the time of one decoding step's attention; see `cpu_attention.seconds`.

    If keys and values are the same numbers, `flops` gives the arithmetic of both products, and the heads'
    width follows from it, because arithmetic limits a core long before bytes do. With `held`, the keys from
    which all queries choose theirs, the queries are those of one sequence.
    """
    if flops is not None:
        head_dim = np.asarray(flops) / (4.0 * np.asarray(batch) * np.asarray(heads) * np.asarray(seq_kv))
    return cpu_attention.seconds(
        device,
        constants,
        batch=batch if held is None else 1.0,
        heads=heads,
        kv_heads=kv_heads,
        seq=1.0 if held is None else batch,
        seq_kv=seq_kv,
        held=held,
        head_dim=head_dim,
        dtype=dtype,
    )
