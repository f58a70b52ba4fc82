"""Attention of one sequence cut over devices: blocks of queries and keys, rounds, what is merged and sent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.layers._attention import DV, HKV, HQ, NKV, B, D, N, check_heads
from costmodel.layers._base import Layer
from costmodel.layers._devices import NODE, P, exchange
from costmodel.layers._kernels import stream
from costmodel.layers._phases import at, times
from costmodel.layers.tiled_attention import TiledAttention
from costmodel.symbols import ceil_div

#: Positions of the sequence that one device holds: the sequence is padded to a multiple of the devices.
CHUNK = ceil_div(N, P)

__all__ = ["CHUNK", "DV", "HKV", "HQ", "NODE", "B", "D", "P", "SequenceParallel"]


@dataclass(frozen=True, kw_only=True)
class SequenceParallel(Layer):
    """Softmax attention between the parts of a sequence that `devices` hold, ⌈n/p⌉ positions each.

    Every count is of one device, the one that does most; `seq` and `heads` are those of all together.
    """

    family: ClassVar[str] = "many devices"
    required: ClassVar[tuple[str, ...]] = ("batch", "heads", "seq", "head_dim", "devices")
    defaults: ClassVar[dict[str, str | int]] = {
        "kv_heads": "heads",
        "value_dim": "head_dim",
        "node": "devices",
    }

    def check_sizes(self, sizes: Any) -> None:
        """Heads share keys evenly."""
        check_heads(self.name, sizes)

    # -- what a device holds [bytes] -------------------------------------------------------

    @property
    def queries(self) -> sp.Expr:
        """Its queries (or their gradients)."""
        return self.bytes * B * CHUNK * HQ * D

    @property
    def keys(self) -> sp.Expr:
        """Its keys."""
        return self.bytes * B * CHUNK * HKV * D

    @property
    def values(self) -> sp.Expr:
        """Its values."""
        return self.bytes * B * CHUNK * HKV * DV

    @property
    def outputs(self) -> sp.Expr:
        """Its queries' outputs."""
        return self.bytes * B * CHUNK * HQ * DV

    @property
    def statistics(self) -> sp.Expr:
        """Its queries' log-sum-exp, or another statistic of each."""
        return self.stat_bytes * B * CHUNK * HQ

    def tensors(self) -> Tensors:
        """Its Q, K and V in, its outputs, which are kept, out."""
        inputs = self.queries + self.keys + self.values
        return Tensors(inputs=inputs, outputs=self.outputs, kept_outputs=self.outputs)

    def kept(self) -> sp.Expr:
        """Its Q, K, V, outputs and log-sum-exp: nothing grows with the square of the length."""
        return self.queries + self.keys + self.values + self.outputs + self.statistics

    # -- kernels ---------------------------------------------------------------------------

    def blocks(self, direction: str, *, causal: bool) -> tuple[tuple[Phase, ...], tuple[Phase, ...]]:
        """Return tiled attention of one device's queries with its own keys, and with another's.

        Only the own block is masked; both are of one library, and have the same constants. What the own
        block's kernels work in, the others' do in turn.
        """
        own, other = (self._block(direction, masked) for masked in (causal, False))
        pairs = zip(other, own, strict=True)
        return own, tuple(
            replace(phase, op=same.op, borrowed=phase.borrowed or phase.op != same.op, workspace=ZERO)
            for phase, same in pairs
        )

    def _send(
        self, name: str, size: sp.Expr, repeats: sp.Expr, *, overlaps: bool = True, workspace: sp.Expr = ZERO
    ) -> Phase:
        """Return what each device sends to another, behind the phase before it; see `exchange`."""
        return exchange(
            self, name, "send-receive", size, repeats=repeats, overlaps=overlaps, workspace=workspace
        )

    def _block(self, direction: str, causal: bool) -> tuple[Phase, ...]:
        tiled = TiledAttention(dtype=self.dtype, convention=self.convention, causal=causal)
        phases = tiled.core_forward() if direction == "fwd" else tiled.core_backward()
        return at(phases, {N: CHUNK, NKV: CHUNK})

    def merge(self, repeats: sp.Expr) -> Phase:
        """Return O += (O′ − O)·σ(LSE′ − LSE), a block's outputs put to those so far, kept in fp32.

        3 FLOP an element; σ and the new LSE are one a row, and left out.
        """
        wide = self.stat_bytes / self.bytes
        phase = stream(
            self,
            "merge",
            rows=B * HQ * CHUNK,
            cols=DV,
            reads=1 + wide,
            writes=wide,
            vector=3,
            depth=6,
            extra_read=2 * self.statistics,
            extra_write=self.statistics,
            workspace=self.stat_bytes * B * HQ * CHUNK * DV,
        )
        return times((phase,), repeats)[0]

    def add(self, name: str, cols: sp.Expr, heads: sp.Expr, repeats: sp.Expr) -> Phase:
        """Return a block's gradient added to the sum so far, kept in fp32."""
        wide = self.stat_bytes / self.bytes
        rows = B * heads * CHUNK
        phase = stream(
            self,
            name,
            rows=rows,
            cols=cols,
            reads=1 + wide,
            writes=wide,
            vector=1,
            workspace=self.stat_bytes * rows * cols,
        )
        return times((phase,), repeats)[0]


def first(rounds: sp.Expr) -> sp.Expr:
    """Return 1 if there are rounds after a device's own block, else 0."""
    return sp.Min(rounds, 1)


def middle(rounds: sp.Expr) -> sp.Expr:
    """Return the rounds beyond one: those during which both the next and the last round's data travel."""
    return rounds - first(rounds)
