"""Ring Attention: keys and values go round the devices while each computes a block with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from costmodel.cost import Phase
from costmodel.layers._blockwise import CHUNK, DV, HKV, HQ, B, D, P, SequenceParallel, first, middle
from costmodel.layers._phases import times


@dataclass(frozen=True, kw_only=True)
class RingAttention(SequenceParallel):
    """Tiled attention in p rounds; after each, every device passes a block of K and V to its neighbour.

    A round's transfer hides behind its arithmetic: a round takes as long as the longer of the two.
    While a device computes with one block of K and V it receives another: with Q and O six blocks of
    b·c·h numbers, c = ⌈n/p⌉ (§3). Its own block's place is among them, so that a device that needs its own
    keys afterwards has two blocks more.
    Backward the blocks go round again, and the gradients of K and V with them, one round behind, added
    up on the way in fp32, which are received beside those sent; in the end they come home, and nothing
    hides that.

    Parameters
    ----------
    causal : bool
        Devices skip blocks that only hold later positions, but the ring waits for the last device, which
        has none to skip: (p² − p)/(2p²) of all time slots are idle.
    """

    name: ClassVar[str] = "ring-attention"
    source: ClassVar[str] = "Liu, Zaharia & Abbeel, arXiv 2310.01889, Algorithm 1"
    not_counted: ClassVar[str] = (
        "projections and feed-forward; one-a-row arithmetic of merging; conversion of fp32 sums at the end"
    )

    causal: bool = False

    def forward(self) -> tuple[Phase, ...]:
        """A device's own block, then p − 1 of the others', each sent on while one is computed."""
        rounds = P - 1
        own, other = self.blocks("fwd", causal=self.causal)
        keys = self.keys + self.values
        return (
            *own,
            self._send("keys and values", keys, first(rounds), workspace=keys),
            *times(other, middle(rounds)),
            self._send("keys and values", keys, middle(rounds)),
            *times(other, first(rounds)),
            self.merge(rounds),
        )

    def backward(self) -> tuple[Phase, ...]:
        """Row sums once; the same rounds; gradients of K and V follow, p times sent."""
        rounds = P - 1
        (sums, own), (_, other) = self.blocks("bwd", causal=self.causal)
        keys = self.keys + self.values
        gradients = self.stat_bytes * B * CHUNK * HKV * (D + DV)
        return (
            sums,
            own,
            self._send("keys and values", keys, first(rounds), workspace=keys),
            *times((other,), middle(rounds)),
            self._send("keys, values and their gradients", keys + gradients, middle(rounds)),
            *times((other,), first(rounds)),
            self._send("gradients of keys and values", gradients, first(rounds), workspace=gradients),
            self.add("query gradient", D, HQ, rounds),
            self.add("key and value gradient", D + DV, HKV, rounds),
            self._send("gradients of keys and values, home", gradients, first(rounds), overlaps=False),
        )
