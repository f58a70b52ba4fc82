"""DeepSpeed-Ulysses: exchange a part of the sequence with all heads for all of it with some heads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import sympy as sp

from costmodel.cost import Phase, Tensors
from costmodel.layers._attention import NKV
from costmodel.layers._blockwise import CHUNK, DV, HKV, HQ, B, D, P, SequenceParallel, first
from costmodel.layers._devices import exchange
from costmodel.layers._phases import at
from costmodel.layers.tiled_attention import TiledAttention
from costmodel.symbols import ceil_div, symbols

(N,) = symbols("seq")
#: Heads per device: if they do not divide evenly, some are dummies; if there are fewer heads than
#: devices, some are copies.
HEADS, KV_HEADS = ceil_div(HQ, P), ceil_div(HKV, P)


@dataclass(frozen=True, kw_only=True)
class Ulysses(SequenceParallel):
    """DeepSpeed-Ulysses: all-to-all of Q, K and V, attention in ⌈h/p⌉ heads, all-to-all of O.

    Attention covers the whole sequence. In each pass a device sends (p − 1)/p of four tensors that it holds:
    the more devices, the less. Nothing hides the transfers. Each tensor is in memory twice, split by
    positions and by heads.

    Parameters
    ----------
    causal : bool
        Whether a position attends only to itself and the positions before it; all devices do the same work.
    """

    name: ClassVar[str] = "ulysses"
    source: ClassVar[str] = "Jacobs et al., arXiv 2309.14509, §3.1–3.2"
    not_counted: ClassVar[str] = "projections and feed-forward; copies that reorder heads for the exchange"

    causal: bool = False

    def forward(self) -> tuple[Phase, ...]:
        """Q, K and V to heads; attention; O to positions."""
        return (*self._exchange_inputs(), *self._attention("fwd"), self._all_to_all("output", HEADS * DV))

    def backward(self) -> tuple[Phase, ...]:
        """The outputs' gradient to heads; attention's gradients; those of Q, K and V to positions."""
        return (
            self._all_to_all("output gradient", HEADS * DV),
            *self._attention("bwd"),
            *self._exchange_inputs(" gradient"),
        )

    def _exchange_inputs(self, suffix: str = "") -> tuple[Phase, ...]:
        widths = {"query": HEADS * D, "key": KV_HEADS * D, "value": KV_HEADS * DV}
        return tuple(self._all_to_all(f"{name}{suffix}", width) for name, width in widths.items())

    def _all_to_all(self, name: str, width: sp.Expr) -> Phase:
        """Return the all-to-all of a tensor with `width` numbers per position of the whole sequence."""
        size = self.bytes * B * P * CHUNK * width
        return exchange(self, f"{name} all-to-all", "all-to-all", size, workspace=size)

    def _attention(self, direction: str) -> tuple[Phase, ...]:
        tiled = TiledAttention(dtype=self.dtype, convention=self.convention, causal=self.causal)
        phases = tiled.core_forward() if direction == "fwd" else tiled.core_backward()
        return at(phases, {N: P * CHUNK, NKV: P * CHUNK, HQ: HEADS, HKV: KV_HEADS})

    def tensors(self) -> Tensors:
        """The device's Q, K and V in, its outputs out; with other devices, copies split by heads are kept."""
        found = super().tensors()
        alone = 1 - first(P - 1)
        return replace(found, kept_inputs=alone * found.inputs, kept_outputs=alone * found.outputs)

    def kept(self) -> sp.Expr:
        """Q, K, V and O of the device's heads, for the whole sequence, and their log-sum-exp."""
        rows = B * P * CHUNK
        return rows * (self.bytes * (HEADS + KV_HEADS) * (D + DV) + self.stat_bytes * HEADS)
