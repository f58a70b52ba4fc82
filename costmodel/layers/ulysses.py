"""DeepSpeed-Ulysses: from a part of the sequence with all heads to all of it with a part of the heads."""

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
#: Heads of one device: where they do not share out evenly, some are dummies, and where there are fewer
#: than devices, copies.
HEADS, KV_HEADS = ceil_div(HQ, P), ceil_div(HKV, P)


@dataclass(frozen=True, kw_only=True)
class Ulysses(SequenceParallel):
    """All-to-all of Q, K and V, attention over the whole sequence in ⌈h/p⌉ heads, all-to-all of O.

    A device sends (p − 1)/p of what it holds, four times each way: less the more devices there are.
    Nothing hides the transfers. Each tensor is there twice, by positions and by heads.

    Parameters
    ----------
    causal : bool
        Whether a position sees only those before it; all devices do the same work.
    """

    name: ClassVar[str] = "ulysses"
    source: ClassVar[str] = "Jacobs et al., arXiv 2309.14509, §3.1–3.2"
    not_counted: ClassVar[str] = "projections and feed-forward; the copies that order heads for the exchange"

    causal: bool = False

    def forward(self) -> tuple[Phase, ...]:
        """Q, K and V to heads; attention; O to positions."""
        return (*self._arrive(), *self._attention("fwd"), self._turn("outputs", HEADS * DV))

    def backward(self) -> tuple[Phase, ...]:
        """The outputs' gradient to heads; attention's; the gradients of Q, K and V to positions."""
        return (
            self._turn("outputs' gradient", HEADS * DV),
            *self._attention("bwd"),
            *self._arrive("gradient of "),
        )

    def _arrive(self, what: str = "") -> tuple[Phase, ...]:
        widths = {"queries": HEADS * D, "keys": KV_HEADS * D, "values": KV_HEADS * DV}
        return tuple(self._turn(f"{what}{name}", width) for name, width in widths.items())

    def _turn(self, name: str, width: sp.Expr) -> Phase:
        """Return the exchange of a tensor of that width for each position of the whole sequence."""
        size = self.bytes * B * P * CHUNK * width
        return exchange(self, name, "all-to-all", size, workspace=size)

    def _attention(self, direction: str) -> tuple[Phase, ...]:
        tiled = TiledAttention(dtype=self.dtype, convention=self.convention, causal=self.causal)
        phases = tiled.core_forward() if direction == "fwd" else tiled.core_backward()
        return at(phases, {N: P * CHUNK, NKV: P * CHUNK, HQ: HEADS, HKV: KV_HEADS})

    def tensors(self) -> Tensors:
        """Its Q, K and V in, its outputs out; what is kept lies by heads, unless it is alone."""
        found = super().tensors()
        alone = 1 - first(P - 1)
        return replace(found, kept_inputs=alone * found.inputs, kept_outputs=alone * found.outputs)

    def kept(self) -> sp.Expr:
        """Q, K, V and O of its heads, for the whole sequence, and their log-sum-exp."""
        rows = B * P * CHUNK
        return rows * (self.bytes * (HEADS + KV_HEADS) * (D + DV) + self.stat_bytes * HEADS)
