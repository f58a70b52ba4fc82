"""Latent attention as vLLM runs it, one module at a time, compared with what others posted.

The rows are whole modules (``DeepseekV2MLAAttention``) with a share of a model's heads: projections, norms,
rotation, the indexer of sparse attention, writes to caches, attention and the output projection, replayed as
one CUDA graph. The collector runs the module without torch.compile, so that rotations and more are torch's
separate kernels (`costmodel.models._eager`); what a compiled model runs is `costmodel.models._latent`. Other
rows are of an attention kernel alone: over all cached positions (``latent_core``), or over a list of them for
each token of a prompt (``latent_sparse``).

``validation/posted/latent_fitted.csv`` has the rows that the facts of `costmodel.kernels._flash_latent` were
found on: those of A100, B200 and H200 whose shapes `costmodel.validation.heldout` does not hold out.
``latent.csv`` has the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from costmodel.cost import ZERO
from costmodel.layers import Layer
from costmodel.layers.lightning_indexer import LightningIndexer
from costmodel.layers.matmul import Matmul
from costmodel.layers.top_k_attention import TopKAttention
from costmodel.models._blocks import Use
from costmodel.models._decoding import LatentCore
from costmodel.models._eager import EagerIndexer, EagerRotation
from costmodel.models._latent import Indexer, Latent, latent_attention
from costmodel.models._model import Model
from costmodel.models._part import Part
from costmodel.predict import predict
from costmodel.validation.residuals import errors

#: Attention of the models whose modules were posted (their config.json).
V3 = Latent(heads=128, d_model=7168, q_rank=1536, kv_rank=512, nope=128, rope=64, value_dim=128)
MODELS = {
    "deepseek-v3": V3,
    "deepseek-v3.2": replace(V3, sparse=Indexer(heads=64, width=128, top_k=2048)),
    "glm-5": Latent(
        heads=64, d_model=6144, q_rank=2048, kv_rank=512, nope=192, rope=64, value_dim=256,
        sparse=Indexer(heads=32, width=128, top_k=2048),
    ),
}  # fmt: skip
DECODE, PREFILL, CORE, SPARSE = "latent_decode", "latent_prefill", "latent_core", "latent_sparse"
#: Time that a token adds to the posted modules beyond their kernels' [s]: on A100, H200 and B200, decoding
#: and prefill, whatever the heads and formats (median of ``latent_fitted.csv``; the reason is not known).
TOKEN_S = 9e-8
#: Columns that decide which module runs.
_MODULE = ["gpu", "op", "model", "products", "cache", "heads_q"]


def module(model: str, op: str, heads: int, products: str, cache: str) -> Model:
    """Return a model's latent attention with that many heads.

    Parameters
    ----------
    model : str
        One of `MODELS`.
    op : str
        ``latent_decode`` or ``latent_prefill``.
    heads : int
        Heads of one device's share.
    products, cache : str
        Formats of the products with weights and of the cache (``bf16`` or ``fp8``).
    """
    use = Use("decode" if op == DECODE else "prefill", products)
    attention = replace(MODELS[model], heads=heads)
    parts = tuple(_served(part, use, cache, attention.sparse) for part in latent_attention(use, attention))
    return Model(title=f"{model}-{heads}", parts=parts, inputs=ZERO, outputs=ZERO, dtype=products)


def _served(part: Part, use: Use, cache: str, chosen: Indexer | None) -> Part:
    """Return a part of the model as the posted module runs it.

    An indexer's keys are in FP8 whatever the format of the latents.
    """
    layer = part.layer
    if part.name == "rotary":
        sizes = dict(part.sizes)
        eager = EagerRotation(dtype=layer.dtype)
        return Part.of("rotary", eager, batch=use.rows, heads=sizes["heads"], head_dim=sizes["head_dim"])
    if part.name == "index rotary" and chosen is not None:
        width = dict(part.sizes)["head_dim"]
        given = {"heads": chosen.heads, "head_dim": chosen.width, "rope_dim": width, "top_k": chosen.top_k}
        return Part.of("around the indexer", EagerIndexer(dtype=layer.dtype), batch=use.rows, **given)
    if isinstance(layer, LightningIndexer):
        return replace(part, layer=replace(layer, cache="fp8"))
    if isinstance(layer, Matmul) and layer.dtype == "fp8":
        return replace(part, layer=replace(layer, quantise=True))
    if isinstance(layer, LatentCore) and cache != layer.dtype:
        return replace(part, layer=replace(layer, cache=cache))
    return part


def predicted(rows: pd.DataFrame) -> pd.DataFrame:
    """Return posted modules with ``seconds`` and ``lower_s`` [s] and the ``error`` [%] of the prediction."""
    return pd.concat(list(_predicted(rows)), ignore_index=True)


def _predicted(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for _, told in rows.groupby(_MODULE, sort=True):
        one = told.iloc[0]
        layer, sizes, beside = _ASKED.get(one["op"], _module)(told)
        found = predict(layer, one["gpu"], sizes)
        seconds = np.asarray(found.seconds) + beside
        yield told.assign(
            seconds=seconds,
            lower_s=np.asarray(found.lower_s),
            constants_from=found.constants_from,
            error=errors(seconds, told["latency_s"]),
        )


#: A layer, its sizes, and the time that passes beside its kernels [s].
_Asked = tuple[Layer, Mapping[str, ArrayLike], ArrayLike]


def _module(rows: pd.DataFrame) -> _Asked:
    """Return a module with the sizes of its rows."""
    model, op, products, cache = (str(rows.iloc[0][name]) for name in ("model", "op", "products", "cache"))
    length = "seq_kv" if op == DECODE else "seq"
    sizes = {"batch": rows["batch"].to_numpy(), length: rows["seq_kv"].to_numpy()}
    tokens = rows["batch"].to_numpy() * rows["seq_q"].to_numpy()
    return module(model, op, int(rows.iloc[0]["heads_q"]), products, cache), sizes, TOKEN_S * tokens


def _core(rows: pd.DataFrame) -> _Asked:
    """Return the attention kernel alone: the heads of a sequence's new tokens share its keys."""
    sizes = {"batch": rows["batch"].to_numpy(), "seq_kv": rows["seq_kv"].to_numpy()}
    heads = rows["heads_q"].to_numpy() * rows["seq_q"].to_numpy()
    widths = {"kv_rank": V3.kv_rank, "rope_dim": V3.rope}
    return LatentCore(dtype="bf16"), {**sizes, "heads": heads, **widths}, 0.0


def _sparse(rows: pd.DataFrame) -> _Asked:
    """Return the attention kernel over a list of positions for each token of prompts."""
    attention = MODELS[str(rows.iloc[0]["model"])]
    assert attention.sparse is not None
    sizes: dict[str, ArrayLike] = {
        "batch": rows["batch"].to_numpy(),
        "seq": rows["seq_q"].to_numpy(),
        "heads": rows["heads_q"].to_numpy(),
        "kv_heads": 1,
        "head_dim": attention.kv_rank + attention.rope,
        "value_dim": attention.kv_rank,
        "top_k": attention.sparse.top_k,
    }
    return TopKAttention(dtype="bf16", latent=True), sizes, 0.0


#: What is asked for rows that are not modules.
_ASKED: dict[str, Callable[[pd.DataFrame], _Asked]] = {CORE: _core, SPARSE: _sparse}
