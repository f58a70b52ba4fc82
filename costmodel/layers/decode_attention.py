"""Attention of one new token over a cache of keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.layers._attention import DV, HKV, HQ, NKV, B, D, check_heads
from costmodel.layers._base import Layer
from costmodel.symbols import CeilLog2, tree_depth


@dataclass(frozen=True, kw_only=True)
class DecodeAttention(Layer):
    """One query a sequence attends to `seq_kv` cached keys, its own included.

    4·B·h·s·d FLOP over 2·B·h_kv·s·d elements: h/h_kv FLOP a byte in 16 bits,
    whatever the length. The cache is split between units along its length, and
    the parts are merged by their log-sum-exp (FlashDecoding).
    """

    name: ClassVar[str] = "decode-attention"
    family: ClassVar[str] = "attention"
    source: ClassVar[str] = "Dao et al. 2023, Flash-Decoding; Shazeer, arXiv 1911.02150 (decode traffic)"
    not_counted: ClassVar[str] = "writing the new token's key and value; partial results of the splits"
    required: ClassVar[tuple[str, ...]] = ("batch", "heads", "seq_kv", "head_dim")
    defaults: ClassVar[dict[str, str | int]] = {"kv_heads": "heads", "value_dim": "head_dim"}
    directions: ClassVar[tuple[str, ...]] = ("fwd",)

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Heads share keys evenly."""
        check_heads(self.name, sizes)

    def forward(self) -> tuple[Phase, ...]:
        """One kernel (a merge of its splits included)."""
        scores = B * HQ * NKV
        tensors = self.tensors()
        return (
            Phase(
                name="decode attention",
                kernel="decode",
                op="attention_decode",
                sizes={"batch": B, "heads": HQ, "kv_heads": HKV, "seq_kv": NKV, "head_dim": D},
                options={"dtype": self.dtype},
                flops={
                    ("matrix", self.dtype): 2 * scores * (D + DV),
                    ("vector", self.accumulate): 3 * scores + B * HQ * DV,
                    ("special", self.accumulate): scores,
                },
                read=tensors.inputs,
                write=tensors.outputs,
                pram_depth=tree_depth(D) + 2 * CeilLog2(NKV) + 3 + tree_depth(NKV),
            ),
        )

    def tensors(self) -> Tensors:
        """Queries and the cache in; one row a head out."""
        cache = B * NKV * HKV * (D + DV)
        return Tensors(inputs=self.bytes * (B * HQ * D + cache), outputs=self.bytes * B * HQ * DV)

    def kept(self) -> sp.Expr:
        """Nothing: decoding is not trained."""
        return ZERO
