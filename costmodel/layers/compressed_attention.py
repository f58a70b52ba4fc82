"""DeepSeek-V4's attention: to near positions, and to entries that each stand for several earlier ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from costmodel.cost import ZERO
from costmodel.layers import _pairs
from costmodel.layers._attention import HKV, B, N
from costmodel.layers._masked import BLOCK, _MaskedAttention
from costmodel.layers._pairs import Mask
from costmodel.layers.top_k_attention import TopKAttention
from costmodel.symbols import ceil_div, symbols

K, W, STRIDE = symbols("top_k window stride")


@dataclass(frozen=True, kw_only=True)
class CompressedAttention(TopKAttention):
    """Causal attention to a window of positions and to compressed entries, one per `stride` positions.

    The i-th query sees min(i, w) positions and min(⌊i/m⌋, k) entries, in one softmax. All ⌊i/m⌋ entries are
    seen by default (heavily compressed attention); with `listed`, `top_k` of them that an indexer chose
    (compressed sparse attention). Keys are values too, and all heads share them with `kv_heads` of 1.

    Parameters
    ----------
    latent : bool
        Values are the first `value_dim` numbers of the keys, and not read again.
    listed : bool
        Whether a list says which entries a query sees.
    """

    name: ClassVar[str] = "compressed-attention"
    source: ClassVar[str] = "DeepSeek-AI 2026, DeepSeek-V4, §2.3; transformers, modeling_deepseek_v4.py"
    not_counted: ClassVar[str] = (
        "projections; the scaling by 1/√d_h (folded into Q); making the entries; the choice among them; sinks"
    )
    required: ClassVar[tuple[str, ...]] = (*_MaskedAttention.required, "window", "stride")
    defaults: ClassVar[dict[str, str | int]] = {**_MaskedAttention.defaults, "top_k": "seq"}
    meanings: ClassVar[Mapping[str, str]] = {
        "top_k": "entries that a query sees, all of them if there are no more",
        "stride": "positions that an entry stands for",
        "block": "keys of a tile",
    }

    latent: bool = True
    listed: bool = False

    @property
    def entries(self) -> sp.Expr:
        """Entries of a sequence: ⌊n/m⌋."""
        return ceil_div(N - STRIDE + 1, STRIDE)

    def mask(self) -> Mask:
        """Return the positions and entries that the queries see, and their mean for one query."""
        filling = sp.Min(N, K * STRIDE)  # queries that see all entries before them
        seen = _pairs.whole_before(filling + 1, STRIDE) + K * (N - filling)
        pairs = _pairs.window_pairs(N, W - 1) + seen
        longest = sp.Min(N, W) + sp.Min(self.entries, K)
        return Mask(pairs, ceil_div(pairs / N, BLOCK), pairs / N, longest, N)

    @property
    def _table(self) -> sp.Expr:
        """Rows of keys: positions and entries."""
        return N + self.entries

    @property
    def _listed(self) -> sp.Expr:
        """Places in the list of one query."""
        return sp.Min(self.entries, K) if self.listed else ZERO

    @property
    def _places_of_a_list(self) -> sp.Expr:
        """Keys that the kernel steps through for a query: the whole window and list, or all that are seen."""
        return W + K if self.listed else self.mask().met

    def _seldom(self) -> sp.Expr:
        """Size of the entries that the data may leave unchosen [bytes]."""
        if not self.listed:
            return ZERO
        return self.bytes * B * (self.entries - sp.Min(self.entries, K)) * HKV * self._width
