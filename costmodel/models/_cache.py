"""What a sequence leaves in memory for its next token: keys and values, latents, recurrent states."""

from __future__ import annotations

from collections.abc import Iterable

import sympy as sp

from costmodel.cost import ZERO
from costmodel.layers._stored import StoredCache
from costmodel.models._part import Part


def cached(parts: Iterable[Part]) -> sp.Expr:
    """Return the keys and values, or latents, and whatever else decoding reads of earlier steps [bytes]."""
    found = ZERO
    for part in parts:
        sizes = dict(part.sizes)
        found += part.repeats * part.layer.bytes * part.cached
        if not isinstance(part.layer, StoredCache):
            continue
        if part.layer.name == "decode-attention":
            width = sizes["kv_heads"] * (sizes["head_dim"] + sizes["value_dim"])
        else:
            width = sizes["kv_rank"] + sizes["rope_dim"]
        found += part.repeats * part.layer.cached_bytes * sizes["batch"] * sizes["seq_kv"] * width
    return found


def states(parts: Iterable[Part]) -> sp.Expr:
    """Return the recurrent states that decoding updates in place [bytes]."""
    return sp.Add(*(part.expression(part.layer.tensors().updated) * part.repeats for part in parts))
