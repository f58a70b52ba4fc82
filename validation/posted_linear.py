"""Posted times of linear attention in chunks, delta nets and Mamba-2, and their predictions.

The rows (``validation/posted/linear.csv``) are forward passes and training passes (``fwd+bwd``) of
flash-linear-attention's kernels, as the Helion project timed them, and Mamba-2's of vLLM, whose kernels are
mamba_ssm's (``mamba_ssm``) or one of a pull request (``fused``). Left out by rule: two shapes, 4 × 2,048
tokens with 16 heads and 8 × 1,024 with 8, because their calls take as long as the host needs to launch them;
and training passes of linear attention with heads of 256 on B200, which take 7 to 8 times as long as on H100
(an artifact of Triton there, as their author thinks). ``linear_fitted.csv`` has the rows that two constants
of `costmodel.kernels.scan` were fitted on. ``clock`` is that at which a device was locked, if it was.

Gated delta nets by ``flashinfer`` are its kernel for Blackwell, with one length for all sequences; posts have
flash-linear-attention's times beside them, which are left out, because most are the host's.
``mamba_2_update`` is the update of Mamba-2's states by a token (``_fp16``: states in that format), by
mamba_ssm's Triton kernel with the best tile of several, as vLLM's tuning found it, replayed from a graph. The
posts give batch times heads, which are here sequences of 128 heads, or one of fewer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from costmodel import hardware
from costmodel.layers import Layer
from costmodel.layers.gated_delta_net import GatedDeltaNet
from costmodel.layers.gated_linear import GLA, Mamba2, RetNet
from costmodel.layers.kimi_delta_attention import KimiDeltaAttention
from costmodel.predict import predict
from costmodel.validation.residuals import errors

FOLDER = Path(__file__).parent / "posted"
#: Rows that constants are fitted on.
FITTED = FOLDER / "linear_fitted.csv"
#: Columns of a table.
CELL = ["gpu", "op", "direction", "framework", "source"]
#: Layers with the kernels of the posted operations. Linear attention without a map or a divisor has those of
#: retention without its constant decay, and `simple_gla` has one gate per token and head besides.
LAYERS: dict[str, Callable[..., Layer]] = {
    "linear_attention": RetNet,
    "retention": RetNet,
    "simple_gla": RetNet,
    "gla": GLA,
    "gated_delta": GatedDeltaNet,
    "kimi_delta": KimiDeltaAttention,
    "mamba_2": Mamba2,
    "mamba_2_update": partial(Mamba2, form="recurrent", groups=8),
    "mamba_2_update_fp16": partial(Mamba2, form="recurrent", groups=8, state_dtype="fp16"),
}


def judged() -> pd.DataFrame:
    """Return the rows that nothing was fitted on, with predictions."""
    return predicted(pd.read_csv(FOLDER / "linear.csv"))


def predicted(told: pd.DataFrame) -> pd.DataFrame:
    """Return posted rows with predictions: ``seconds``, ``lower_s`` [s], ``error`` [%]."""
    told = told.assign(clock=told["clock"].fillna("") if "clock" in told else "")
    cells = told.groupby(["gpu", "op", "direction", "dtype", "framework", "clock"], sort=True)
    return pd.concat([_predicted(rows) for _, rows in cells], ignore_index=True)


def _predicted(rows: pd.DataFrame) -> pd.DataFrame:
    one = rows.iloc[0]
    options = {"fused": True} if one["framework"] == "fused" else {}
    layer = LAYERS[one["op"]](dtype=one["dtype"], direction=one["direction"], **options)
    sizes = {
        "batch": rows["batch"],
        "seq": rows["seq"],
        "heads": rows["heads_q"],
        "head_dim": rows["head_dim"],
    }
    if not isinstance(layer, Mamba2):
        sizes["value_dim"] = rows["head_dim"]
    kernel = None
    if one["framework"] == "flashinfer":
        kernel, sizes["kv_heads"] = "flashinfer", rows["heads_kv"]
    arguments = {name: size.to_numpy() for name, size in sizes.items()}
    device = hardware.load(one["gpu"])
    if one["clock"]:
        device = device.replace(clock=one["clock"])
    found = predict(layer, device, arguments, kernel=kernel)
    error = errors(found.seconds, rows["latency_s"])
    return rows.assign(seconds=found.seconds, lower_s=found.lower_s, error=error)
