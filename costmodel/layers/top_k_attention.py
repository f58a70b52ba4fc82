"""Attention over positions that something else has chosen for each query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import sympy as sp

from costmodel.cost import Phase
from costmodel.layers import _pairs
from costmodel.layers._attention import DV, HKV, HQ, B, D, N
from costmodel.layers._indexed import PLACE_BYTES, IndexedTensors
from costmodel.layers._masked import BLOCK, _MaskedAttention
from costmodel.layers._pairs import Mask
from costmodel.symbols import ceil_div, symbol

K = symbol("top_k")


@dataclass(frozen=True, kw_only=True)
class TopKAttention(_MaskedAttention):
    """Causal attention of each query over `top_k` chosen positions: linear in the length beyond `top_k`.

    A query with at most `top_k` positions before it sees all of them. The query heads that share a key head
    share the choice, and are the rows of one tile; each query gathers its own keys through the cache.

    Parameters
    ----------
    latent : bool
        Values are the first `value_dim` numbers of the keys, and not read again (DeepSeek's sparse
        attention over the latents of MLA, with `kv_heads` of 1).
    """

    name: ClassVar[str] = "top-k-attention"
    source: ClassVar[str] = "DeepSeek-AI 2025, DeepSeek-V3.2-Exp, §1, eq. 2"
    not_counted: ClassVar[str] = (
        "projections; the scaling by 1/√d_h (folded into Q); the choice of the positions; "
        "in FLOPs, places that the first queries do not fill"
    )
    required: ClassVar[tuple[str, ...]] = (*_MaskedAttention.required, "top_k")
    meanings: ClassVar[Mapping[str, str]] = {
        "top_k": "positions that a query sees, all of them if there are no more",
        "block": "keys of a tile",
    }

    latent: bool = False

    def mask(self) -> Mask:
        """Return min(i, k) pairs for the i-th query; a position may be chosen by all after it."""
        seen = sp.Min(N, K)
        return Mask(_pairs.window_pairs(N, K - 1), ceil_div(seen, BLOCK), seen, seen, N)

    @property
    def pairs(self) -> sp.Expr:
        """Number of (query, chosen key) pairs of one head; ``torch`` counts as many for each query."""
        mask = self.mask()
        return N * mask.met if self.convention == "torch" else mask.pairs

    @property
    def _table(self) -> sp.Expr:
        """Rows of keys."""
        return N

    @property
    def _listed(self) -> sp.Expr:
        """Places in the list of one query."""
        return sp.Min(N, K)

    @property
    def _width(self) -> sp.Expr:
        """Numbers of a position that a head reads."""
        return D if self.latent else D + DV

    @property
    def _gathered(self) -> sp.Expr:
        """Numbers of keys and values that all queries gather."""
        return B * HKV * N * self.mask().met * self._width

    def _keys(self) -> sp.Expr:
        """Size of K and V [bytes]."""
        return self.bytes * B * self._table * HKV * self._width

    def _seldom(self) -> sp.Expr:
        """Size of the keys and values that the data may leave unchosen: all but the first `top_k` [bytes]."""
        return self.bytes * B * (N - sp.Min(N, K)) * HKV * self._width

    def _places(self) -> sp.Expr:
        """Size of the chosen positions' numbers [bytes]."""
        return PLACE_BYTES * B * N * HKV * self._listed

    def forward(self) -> tuple[Phase, ...]:
        """One kernel, as of other masks; every query loads its keys.

        With latents it is the kernel of decoding: each token is a sequence of its own, and its heads the rows
        of a tile (FlashMLA's sparse kernels).
        """
        (phase,) = super().forward()
        if self.latent:
            phase = replace(
                phase,
                kernel="decode",
                op="attention_decode",
                sizes=self._of_single_tokens(),
                options={"dtype": self.dtype},
            )
        gathered = replace(
            phase,
            read=phase.read + self._places(),
            l2=self.bytes * self._gathered,
            workspace=phase.workspace + self._seldom(),
        )
        return (gathered,)

    def _of_single_tokens(self) -> dict[str, sp.Expr]:
        """Arguments of the kernel model of decoding over latents; a list has `_places_of_a_list` places."""
        seen = self.mask().met
        return {
            "batch": B * N,
            "heads": HQ,
            "kv_heads": HKV,
            "seq_kv": seen,
            "head_dim": D / 2,
            "flops": 2 * B * N * HQ * seen * (D + DV),
            "listed": self._places_of_a_list,
            "held": B * self._table,
        }

    @property
    def _places_of_a_list(self) -> sp.Expr:
        """Keys that the kernel steps through for a query, seen or not."""
        return K

    def backward(self) -> tuple[Phase, ...]:
        """Row sums, then one kernel; every query loads its keys, and adds to their gradients in fp32."""
        rows, main = super().backward()
        sums = self.stat_bytes * B * self._table * HKV * self._width
        gathered = replace(
            main,
            read=main.read + self._places(),
            l2=(self.bytes + 2 * self.stat_bytes) * self._gathered,
            workspace=self._statistics() + sums + self._seldom(),
        )
        return rows, gathered

    def tensors(self) -> IndexedTensors:
        """Q, the places, and those of K and V that are read whatever they are; O out, kept for backward."""
        outputs = self.bytes * B * N * HQ * DV
        inputs = self.bytes * B * N * HQ * D + self._keys() - self._seldom()
        return IndexedTensors(inputs=inputs, outputs=outputs, kept_outputs=outputs, indices=self._places())

    def kept(self) -> sp.Expr:
        """Q, K, V, O, the log-sum-exp, and the places."""
        return super().kept() + self._seldom() + self._places()

    def path(self) -> sp.Expr:
        """One step: the first position can be among those chosen for the last."""
        return sp.Integer(1)
