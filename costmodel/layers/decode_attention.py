"""Attention of one new token over a cache of keys and values: contiguous, paged, or split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.layers._attention import DV, HKV, HQ, NKV, B, D, check_heads, depth_forward
from costmodel.layers._indexed import PLACE_BYTES
from costmodel.layers._refusal import refuse
from costmodel.layers._stored import StoredCache
from costmodel.symbols import CeilLog2, ceil_div, symbols

PAGE, SPLITS = symbols("block splits")


@dataclass(frozen=True, kw_only=True)
class DecodeAttention(StoredCache):
    """Decode attention: one query per sequence attends to `seq_kv` cached keys, including its own.

    It takes 4·B·h·s·d FLOP over 2·B·h_kv·s·d elements: h/h_kv FLOP per byte in 16 bits,
    whatever the length. The cache is split along its length between compute units, and
    the partial results are merged by their log-sum-exp (FlashDecoding).

    Parameters
    ----------
    paged : bool
        The cache is stored in pages of `block` positions: the kernel reads a table of ⌈s/b⌉ page numbers
        per sequence, and the unused rest of the last page is occupied (Kwon et al., arXiv 2309.06180).
    """

    name: ClassVar[str] = "decode-attention"
    family: ClassVar[str] = "attention"
    source: ClassVar[str] = (
        "Dao et al. 2023, Flash-Decoding; Shazeer, arXiv 1911.02150 (decode traffic); "
        "Kwon et al., arXiv 2309.06180 (pages)"
    )
    not_counted: ClassVar[str] = "writing the new token's key and value; partial results of the splits"
    required: ClassVar[tuple[str, ...]] = ("batch", "heads", "seq_kv", "head_dim")
    defaults: ClassVar[dict[str, str | int]] = {"kv_heads": "heads", "value_dim": "head_dim", "block": 16}
    meanings: ClassVar[Mapping[str, str]] = {"block": "positions per page of the cache, if it is paged"}
    directions: ClassVar[tuple[str, ...]] = ("fwd",)

    paged: bool = False

    check_sizes = check_heads

    def forward(self) -> tuple[Phase, ...]:
        """One kernel, which includes the merge of its splits."""
        scores = B * HQ * NKV
        tensors = self.tensors()
        return (
            Phase(
                name="decode attention",
                kernel="decode",
                op="attention_decode",
                # The kernel model takes one width for both: half of a position's d + d_v numbers.
                sizes={"batch": B, "heads": HQ, "kv_heads": HKV, "seq_kv": NKV, "head_dim": (D + DV) / 2},
                options={"dtype": self.dtype, **self.cache_options()},
                flops={
                    ("matrix", self.dtype): 2 * scores * (D + DV),
                    ("vector", self.accumulate): 3 * scores + B * HQ * DV,
                    ("special", self.accumulate): scores,
                },
                read=tensors.inputs + self._table(),
                write=tensors.outputs,
                pram_depth=depth_forward(NKV),
                workspace=self._table() + self._unused_pages(),
            ),
        )

    def tensors(self) -> Tensors:
        """Queries and the cache in; one output row per head."""
        return Tensors(inputs=self.bytes * B * HQ * D + self.cache_size(), outputs=self.bytes * B * HQ * DV)

    def kept(self) -> sp.Expr:
        """Nothing: decoding has no backward pass."""
        return ZERO

    def cache_size(self) -> sp.Expr:
        """Size of the keys and values of all positions [bytes]."""
        return self._cache(NKV)

    def _cache(self, positions: sp.Expr) -> sp.Expr:
        """Size of the keys and values of this many positions [bytes]."""
        return self.cached_bytes * B * positions * HKV * (D + DV)

    def _table(self) -> sp.Expr:
        """Size of the page table [bytes]."""
        return PLACE_BYTES * B * ceil_div(NKV, PAGE) if self.paged else ZERO

    def _unused_pages(self) -> sp.Expr:
        """Unused size of the last pages (internal fragmentation) [bytes]."""
        return self._cache(PAGE * ceil_div(NKV, PAGE) - NKV) if self.paged else ZERO


@dataclass(frozen=True, kw_only=True)
class SplitKV(DecodeAttention):
    """Decode attention over `splits` parts of the cache with partial outputs, merged by a second kernel.

    Each part's output and log-sum-exp are written and read back in fp32; the merge is a tree of
    ⌈log₂ S⌉ levels.
    """

    name: ClassVar[str] = "split-kv"
    source: ClassVar[str] = "Dao, Haziza, Massa & Sizov 2023, Flash-Decoding for long-context inference"
    not_counted: ClassVar[str] = "writing the new token's key and value"
    defaults: ClassVar[dict[str, str | int]] = {**DecodeAttention.defaults, "splits": 8}

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Check that every part has at least one key."""
        super().check_sizes(sizes)
        wanted = "a part needs a key: give no more splits than seq_kv"
        refuse(self, sizes["splits"] > sizes["seq_kv"], wanted, sizes, "splits", "seq_kv")

    def forward(self) -> tuple[Phase, ...]:
        """The parts, computed as B·S short sequences; then their merge."""
        (whole,) = super().forward()
        longest, rows = ceil_div(NKV, SPLITS), B * HQ
        partial = self.stat_bytes * rows * SPLITS * (DV + 1)
        vector, special = ("vector", self.accumulate), ("special", self.accumulate)
        parts = replace(
            whole,
            name="decode attention, splits",
            sizes={**whole.sizes, "batch": B * SPLITS, "seq_kv": longest},
            flops={**whole.flops, vector: rows * (3 * NKV + SPLITS * DV)},
            write=partial,
            pram_depth=depth_forward(longest),
            workspace=whole.workspace + partial,
        )
        levels = CeilLog2(SPLITS)
        merge = Phase(
            name="merge",
            kernel="stream",
            op="elementwise_add",
            borrowed=True,
            sizes={"rows": rows, "cols": SPLITS * DV, "reads": sp.Integer(1), "writes": 1 / SPLITS},
            options={"dtype": self.accumulate, "pattern": "elementwise"},
            flops={
                # For the log-sum-exps: maximum, subtract, sum; for the outputs: scale, sum, divide.
                vector: rows * (3 * SPLITS + 2 * SPLITS * DV + DV),
                special: rows * SPLITS,
            },
            read=partial,
            write=self.tensors().outputs,
            pram_depth=2 * levels + 4,
        )
        return parts, merge
