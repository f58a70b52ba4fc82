"""Tiled attention in Triton with selectable tiles, to test the traffic model on its own schedules."""

from __future__ import annotations

import importlib
from typing import Any

from costmodel.errors import UnavailableError
from costmodel.layers.tiled_attention import TiledAttention
from costmodel.validation.bench_attention import exact_attention
from costmodel.validation.case import Case
from costmodel.validation.registry import Maker, Work, bench


def _layer(case: Case) -> TiledAttention:
    return TiledAttention(
        dtype=case.dtype,
        causal=bool(case.option("causal", False)),
        schedule=str(case.option("schedule", "fa2")),
        tile=(int(case.option("tile_rows", 64)), int(case.option("tile_cols", 64))),
    )


def _op(case: Case) -> str:
    return "attention_prefill" if case.option("causal", False) else "attention_prefill_noncausal"


@bench(
    "triton-attention", kernel="triton tiled", op=_op, layer=_layer, devices=("cuda",), directions=("fwd",)
)
def tiled(case: Case, make: Maker) -> Work:
    """FA-1 or FA-2 with the tile sizes of the case.

    Raises
    ------
    UnavailableError
        If Triton cannot be imported (it comes with torch for CUDA on Linux).
    """
    try:
        kernels = importlib.import_module("costmodel.validation.triton_attention")
    except ImportError as error:
        raise UnavailableError(f"the hand-written kernels need Triton: {error}; pip install triton") from None
    layer = _layer(case)
    shape = (case["batch"], case["heads"], case["seq"], case["head_dim"])
    shared = (case["batch"], case.get("kv_heads", case["heads"]), case["seq"], case["head_dim"])

    def call(q: Any, k: Any, v: Any) -> Any:
        return kernels.attention(
            q,
            k,
            v,
            schedule=layer.schedule,
            tile=layer.tile,
            causal=layer.causal,
            precision="tf32" if case.dtype == "tf32" else "ieee",
        )

    def exact(q: Any, k: Any, v: Any) -> Any:
        return exact_attention(make.torch, q, k, v, causal=layer.causal)

    return Work((make(*shape), make(*shared), make(*shared)), call, exact)
