"""DistFlashAttn: causal attention across devices, where idle devices help those with more past keys."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.layers._blockwise import DV, HKV, HQ, D, P, SequenceParallel, first, middle
from costmodel.layers._phases import of_forward, times
from costmodel.symbols import ceil_div

CHECKPOINTS = ("none", "layer", "attention")


@dataclass(frozen=True, kw_only=True)
class DistFlashAttention(SequenceParallel):
    """DistFlashAttn: tiled causal attention across devices in ⌊p/2⌋ + 1 rounds (p if not balanced).

    Device i needs the keys of devices 0 … i. In round 0 it computes its own block; in round t it fetches the
    keys of device i − t. A device with no keys left to fetch (i < t) helps instead: it takes the queries of
    device i + p − t, computes their block with its own keys, and sends outputs and log-sum-exp back. During
    each round, the next round's operands and the last round's help results are transferred, hidden behind the
    arithmetic (§3.2). A device keeps its own keys, because others fetch them.

    Parameters
    ----------
    balanced : bool
        Whether idle devices help in this way; otherwise they wait for the last one.
    checkpoint : str
        What forward keeps for backward. ``none``: everything. ``layer``: nothing, and forward runs again
        before backward (a checkpoint at each layer's input). ``attention``: the attention outputs and their
        log-sum-exp, so that Q, K and V are recomputed but attention is not (rematerialisation-aware
        checkpointing).
    """

    name: ClassVar[str] = "dist-flash-attention"
    source: ClassVar[str] = "Li et al., arXiv 2310.03294, §3.1–3.3, Algorithms 1 and 2"
    not_counted: ClassVar[str] = (
        "projections and feed-forward; per-row arithmetic of the merge; conversion of fp32 sums at the end"
    )

    balanced: bool = True
    checkpoint: str = "none"

    def __post_init__(self) -> None:
        """Check the checkpoint."""
        super().__post_init__()
        self.check_options(checkpoint=CHECKPOINTS)

    # -- the schedule ----------------------------------------------------------------------

    @property
    def rounds(self) -> sp.Expr:
        """Number of rounds after a device's own block: ⌊p/2⌋, or p − 1 if nobody helps."""
        return ceil_div(P - 1, 2) if self.balanced else P - 1

    @property
    def helped(self) -> sp.Expr:
        """Number of rounds with help: all; for even p all but the last, where blocks would be done twice."""
        return ceil_div(P, 2) - 1 if self.balanced else ZERO

    @property
    def _helped_last(self) -> sp.Expr:
        """1 if there is help in the last round (odd p), else 0."""
        return self.helped - middle(self.rounds)

    # -- kernels ---------------------------------------------------------------------------

    def forward(self) -> tuple[Phase, ...]:
        """The own block; the rounds, with the next keys and the last help results in transfer; the merge.

        A transfer is counted for the device that sends the most: keys and values, plus outputs if it helped;
        or, if there are few key heads, the queries of a device that asks for help. With p = 2 nobody does.
        """
        keys = self.keys + self.values
        own, other = self.blocks("fwd", causal=True)
        if not self.balanced:
            return self._timeline(own, other, keys, keys, ZERO, (self.merge(P - 1),))
        outputs = self.outputs + self.statistics
        late = self._send("helper output transfer, last round", outputs, self._helped_last, overlaps=False)
        start = sp.Max(keys, first(self.helped) * self.queries)
        on_the_way = sp.Max(keys + outputs, self.queries)
        results = first(self.helped) * outputs
        return self._timeline(own, other, start, on_the_way, results, (late, self.merge(P - 1)))

    def backward(self) -> tuple[Phase, ...]:
        """Forward again if it was not kept; the row sums; then the same rounds, with gradients sent back.

        A device sends keys, and returns gradients of the keys it had fetched or of the queries it had helped
        with; or it returns gradients of keys and asks for help, sending queries, the gradient of the outputs
        and two statistics per query, which is the most.
        """
        keys = self.keys + self.values
        (sums, own), (_, other) = self.blocks("bwd", causal=True)
        start, on_the_way, last, results = keys, 2 * keys, keys, keys
        if self.balanced:
            asked = self.queries + self.outputs + 2 * self.statistics
            start = sp.Max(keys, first(self.helped) * asked)
            on_the_way = keys + asked
            last = sp.Max(keys, self._helped_last * self.queries)
            results = sp.Max(keys, first(self.helped) * self.queries)
        end = (
            self._send("gradient transfer, last round", last, first(self.rounds), overlaps=False),
            self.add("query gradient accumulation", D, HQ, P - 1),
            self.add("key and value gradient accumulation", D + DV, HKV, P - 1),
        )
        again = of_forward(self.forward()) if self.checkpoint == "layer" else ()
        return (*again, sums, *self._timeline((own,), (other,), start, on_the_way, results, end))

    def _timeline(
        self,
        own: tuple[Phase, ...],
        other: tuple[Phase, ...],
        start: sp.Expr,
        on_the_way: sp.Expr,
        results: sp.Expr,
        end: tuple[Phase, ...],
    ) -> tuple[Phase, ...]:
        """Return the own block, the rounds, each hiding the next one's transfers, and the last kernels.

        Receive buffers hold the operands of this round and, if there is one, of the next; and help results.
        """
        rounds = self.rounds
        room = (1 + first(middle(rounds))) * start + results
        return (
            *own,
            self._send("operand transfer, first round", start, first(rounds), workspace=room),
            *times(other, middle(rounds)),
            self._send("operand and result transfer, later rounds", on_the_way, middle(rounds)),
            *times(other, first(rounds)),
            *end,
        )

    def tensors(self) -> Tensors:
        """The device's Q, K and V in, its outputs out; the checkpoint determines which of them are kept."""
        found = super().tensors()
        if self.checkpoint == "none":
            return found
        outputs = self.outputs if self.checkpoint == "attention" else ZERO
        return replace(found, kept_inputs=ZERO, kept_outputs=outputs)

    def kept(self) -> sp.Expr:
        """Everything; or nothing besides the previous layer's output; or the outputs and their statistics."""
        if self.checkpoint == "layer":
            return ZERO
        return super().kept() if self.checkpoint == "none" else self.outputs + self.statistics
