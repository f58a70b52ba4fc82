"""Attention over a sequence that is split across devices: blocks, rounds, merging and transfers."""

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

#: Positions per device: the sequence is padded to a multiple of the number of devices.
CHUNK = ceil_div(N, P)

__all__ = ["CHUNK", "DV", "HKV", "HQ", "NODE", "B", "D", "P", "SequenceParallel"]


@dataclass(frozen=True, kw_only=True)
class SequenceParallel(Layer):
    """Softmax attention over a sequence that is split across `devices`, ⌈n/p⌉ positions on each.

    All counts are per device, of the one that does the most work; `seq` and `heads` are global sizes.
    """

    family: ClassVar[str] = "distributed"
    required: ClassVar[tuple[str, ...]] = ("batch", "heads", "seq", "head_dim", "devices")
    defaults: ClassVar[dict[str, str | int]] = {
        "kv_heads": "heads",
        "value_dim": "head_dim",
        "node": "devices",
    }

    def check_sizes(self, sizes: Any) -> None:
        """Check that `kv_heads` divides `heads`."""
        check_heads(self, sizes)

    # -- what a device holds [bytes] -------------------------------------------------------

    @property
    def queries(self) -> sp.Expr:
        """Size of the device's queries, or of their gradients [bytes]."""
        return self.bytes * B * CHUNK * HQ * D

    @property
    def keys(self) -> sp.Expr:
        """Size of the device's keys [bytes]."""
        return self.bytes * B * CHUNK * HKV * D

    @property
    def values(self) -> sp.Expr:
        """Size of the device's values [bytes]."""
        return self.bytes * B * CHUNK * HKV * DV

    @property
    def outputs(self) -> sp.Expr:
        """Size of the outputs of the device's queries [bytes]."""
        return self.bytes * B * CHUNK * HQ * DV

    @property
    def statistics(self) -> sp.Expr:
        """Size of one statistic per query of the device, such as the log-sum-exp [bytes]."""
        return self.stat_bytes * B * CHUNK * HQ

    def tensors(self) -> Tensors:
        """The device's Q, K and V in, its outputs out; the outputs are kept for backward."""
        inputs = self.queries + self.keys + self.values
        return Tensors(inputs=inputs, outputs=self.outputs, kept_outputs=self.outputs)

    def kept(self) -> sp.Expr:
        """The device's Q, K, V, outputs and log-sum-exp: nothing grows quadratically with the length."""
        return self.queries + self.keys + self.values + self.outputs + self.statistics

    # -- kernels ---------------------------------------------------------------------------

    def blocks(self, direction: str, *, causal: bool) -> tuple[tuple[Phase, ...], tuple[Phase, ...]]:
        """Return tiled attention of a device's queries with its own block of keys, and with another's.

        Only the own block is masked. Both run the same library, and so use the same fitted constants. The
        workspace of the own block's kernels is reused for the other blocks.
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
        """Return a send-receive that each device makes, hidden behind the phase before it; see `exchange`."""
        return exchange(
            self, name, "send-receive", size, repeats=repeats, overlaps=overlaps, workspace=workspace
        )

    def _block(self, direction: str, causal: bool) -> tuple[Phase, ...]:
        tiled = TiledAttention(dtype=self.dtype, convention=self.convention, causal=causal)
        phases = tiled.core_forward() if direction == "fwd" else tiled.core_backward()
        return at(phases, {N: CHUNK, NKV: CHUNK})

    def merge(self, repeats: sp.Expr) -> Phase:
        """Return the merge of a block's outputs into the running ones, O += (O′ − O)·σ(LSE′ − LSE), in fp32.

        It counts 3 FLOP per element; σ and the new LSE are per row, and are left out.
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
        """Return the addition of a block's gradient to the running sum, which is kept in fp32."""
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
    """Return 1 if any round follows a device's own block, else 0."""
    return sp.Min(rounds, 1)


def middle(rounds: sp.Expr) -> sp.Expr:
    """Return the rounds after the first one, in which both the next and the last round's data travel."""
    return rounds - first(rounds)
