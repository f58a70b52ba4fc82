"""Length from which a linear recurrence is faster than attention: published and predicted crossovers.

The kernels are those of a hybrid model's two kinds of layer, in prefill of one sequence in bf16: causal
attention with 32 query and 8 key heads of 128, and a gated delta net with 8 key and 32 value heads of 128.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from costmodel.layers import get
from costmodel.predict import predict

#: Crossover lengths [tokens] (from, to) from ai-dynamo/aiconfigurator's measured tables, with these heads.
PUBLISHED = {
    "nvidia/h100-sxm": (7500, 8500),
    "nvidia/h200-sxm": (5000, 6000),
    "nvidia/b200-sxm": (8500, 9500),
    "nvidia/l40s": (900, 1100),
    "nvidia/rtx-pro-6000-server": (1, 1000),
}
LENGTHS = np.unique(np.round(np.geomspace(128, 65536, 1000)))


def crossover(device: str, *, rung: str | None = None, framework: str | None = None) -> float:
    """Return the length from which the gated delta net takes less time than attention.

    Parameters
    ----------
    device, rung, framework : see `predict`

    Returns
    -------
    float
        Length [tokens]; NaN if attention is not slower at 65,536.
    """
    same: dict[str, Any] = {"batch": 1, "head_dim": 128, "seq": LENGTHS}
    attention, recurrence = (
        predict(layer, device, {**same, **heads}, rung=rung, framework=framework).seconds
        for layer, heads in (
            (get("tiled-attention")(causal=True), {"heads": 32, "kv_heads": 8}),  # type: ignore[call-arg]
            (get("gated-delta-net")(), {"heads": 8, "kv_heads": 32}),
        )
    )
    slower = np.flatnonzero(recurrence >= attention)
    if len(slower) == 0:
        return float(LENGTHS[0])
    after = int(slower[-1]) + 1
    return float(LENGTHS[after]) if after < len(LENGTHS) else float("nan")
