"""Ring Attention: keys and values circulate among devices while each computes with a block of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from costmodel.cost import Phase
from costmodel.layers._blockwise import CHUNK, DV, HKV, HQ, B, D, P, SequenceParallel, first, middle
from costmodel.layers._phases import times


@dataclass(frozen=True, kw_only=True)
class RingAttention(SequenceParallel):
    """Ring Attention: tiled attention in p rounds; after each, a device's block of K and V moves on.

    Every device sends its block to the next one. Transfers hide behind the arithmetic: a round takes as
    long as the longer of the two. A device receives one block of K and V while it computes with another:
    with Q and O, it holds six blocks of b·c·h numbers, c = ⌈n/p⌉ (§3). These include the place of its own
    block, so a device that needs its own keys afterwards holds two blocks more. Backward, the blocks
    circulate again, followed one round later by the gradients of K and V, which are accumulated in fp32 and
    received in buffers besides those sent. At the end the gradients return to their devices, and nothing
    hides that transfer.

    Parameters
    ----------
    causal : bool
        Devices skip blocks that hold only later positions, but each round waits for the last device, which
        has none to skip: (p² − p)/(2p²) of all time slots are idle.
    """

    name: ClassVar[str] = "ring-attention"
    source: ClassVar[str] = "Liu, Zaharia & Abbeel, arXiv 2310.01889, Algorithm 1"
    not_counted: ClassVar[str] = (
        "projections and feed-forward; per-row arithmetic of the merge; conversion of fp32 sums at the end"
    )

    causal: bool = False

    def forward(self) -> tuple[Phase, ...]:
        """The device's own block, then the p − 1 others; each is sent on while it is computed with."""
        rounds = P - 1
        own, other = self.blocks("fwd", causal=self.causal)
        keys = self.keys + self.values
        return (
            *own,
            self._send("key and value transfer", keys, first(rounds), workspace=keys),
            *times(other, middle(rounds)),
            self._send("key and value transfer", keys, middle(rounds)),
            *times(other, first(rounds)),
            self.merge(rounds),
        )

    def backward(self) -> tuple[Phase, ...]:
        """Row sums; the same rounds; the gradients of K and V follow, and are sent p times."""
        rounds = P - 1
        (sums, own), (_, other) = self.blocks("bwd", causal=self.causal)
        keys = self.keys + self.values
        gradients = self.stat_bytes * B * CHUNK * HKV * (D + DV)
        return (
            sums,
            own,
            self._send("key and value transfer", keys, first(rounds), workspace=keys),
            *times((other,), middle(rounds)),
            self._send("key, value and gradient transfer", keys + gradients, middle(rounds)),
            *times((other,), first(rounds)),
            self._send("key and value gradient transfer", gradients, first(rounds), workspace=gradients),
            self.add("query gradient accumulation", D, HQ, rounds),
            self.add("key and value gradient accumulation", D + DV, HKV, rounds),
            self._send(
                "key and value gradient transfer to the owner", gradients, first(rounds), overlaps=False
            ),
        )
