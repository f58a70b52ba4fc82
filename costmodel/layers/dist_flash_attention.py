"""DistFlashAttn: causal attention over devices, with the idle ones helping those with a long past."""

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
    """Tiled causal attention in ⌊p/2⌋ + 1 rounds (unbalanced: p), transfers behind the arithmetic.

    Device i needs the keys of devices 0 … i. Round 0 is its own block; in round t it fetches the keys of
    device i − t. A device with no keys left to fetch (i < t) takes the queries of device i + p − t
    instead, computes their block with its own keys, and sends outputs and log-sum-exp back. While it
    computes with what it fetched, the next round's arrives beside it (§3.2), and results of help; its own
    keys stay, as others fetch them.

    Parameters
    ----------
    balanced : bool
        Whether idle devices help so; otherwise they wait for the last one.
    checkpoint : str
        What forward leaves for backward. ``none``: everything is kept. ``layer``: nothing is, and forward
        runs again before backward (a checkpoint at each layer's input). ``attention``: the attention's
        outputs and log-sum-exp are, so that Q, K and V are made again but attention is not
        (rematerialisation-aware).
    """

    name: ClassVar[str] = "dist-flash-attention"
    source: ClassVar[str] = "Li et al., arXiv 2310.03294, §3.1–3.3, Algorithms 1 and 2"
    not_counted: ClassVar[str] = (
        "projections and feed-forward; one-a-row arithmetic of merging; conversion of fp32 sums at the end"
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
        """Rounds after a device's own block: ⌊p/2⌋, or p − 1 where nobody helps."""
        return ceil_div(P - 1, 2) if self.balanced else P - 1

    @property
    def helped(self) -> sp.Expr:
        """Rounds in which someone is helped: all; but with p even not the last, half of it done twice."""
        return ceil_div(P, 2) - 1 if self.balanced else ZERO

    @property
    def _helped_last(self) -> sp.Expr:
        """1 if someone is helped in the last round (p odd), else 0."""
        return self.helped - middle(self.rounds)

    # -- kernels ---------------------------------------------------------------------------

    def forward(self) -> tuple[Phase, ...]:
        """The own block; rounds, with the next keys and the last help's outputs on the way; merging.

        A transfer is that of the device that sends most: keys and values, and outputs if it helped; or,
        with fewer heads of keys, the queries of one that asks for help. Of p = 2 none does.
        """
        keys = self.keys + self.values
        own, other = self.blocks("fwd", causal=True)
        if not self.balanced:
            return self._timeline(own, other, keys, keys, ZERO, (self.merge(P - 1),))
        outputs = self.outputs + self.statistics
        late = self._send("help's outputs, last round", outputs, self._helped_last, overlaps=False)
        start = sp.Max(keys, first(self.helped) * self.queries)
        on_the_way = sp.Max(keys + outputs, self.queries)
        results = first(self.helped) * outputs
        return self._timeline(own, other, start, on_the_way, results, (late, self.merge(P - 1)))

    def backward(self) -> tuple[Phase, ...]:
        """Forward again, where it was not kept; row sums once; the same rounds, with gradients sent back.

        A device sends keys, and returns gradients of keys (it had fetched them) or of queries (it had
        helped); or it returns those of keys and asks for help, with queries, the outputs' gradient and
        two statistics of each, which is most.
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
            self._send("gradients, last round", last, first(self.rounds), overlaps=False),
            self.add("query gradient", D, HQ, P - 1),
            self.add("key and value gradient", D + DV, HKV, P - 1),
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
        """Return the own block and the rounds, each hiding the transfers for the next; what comes last.

        Operands are received for this round and, if there is one, for the next; results for both.
        """
        rounds = self.rounds
        room = (1 + first(middle(rounds))) * start + results
        return (
            *own,
            self._send("first round's operands", start, first(rounds), workspace=room),
            *times(other, middle(rounds)),
            self._send("next round's operands, last round's results", on_the_way, middle(rounds)),
            *times(other, first(rounds)),
            *end,
        )

    def tensors(self) -> Tensors:
        """Its Q, K and V in, its outputs out; kept as the checkpoint has it."""
        found = super().tensors()
        if self.checkpoint == "none":
            return found
        outputs = self.outputs if self.checkpoint == "attention" else ZERO
        return replace(found, kept_inputs=ZERO, kept_outputs=outputs)

    def kept(self) -> sp.Expr:
        """Everything; nothing but what the layer before keeps; or the outputs and their statistics."""
        if self.checkpoint == "layer":
            return ZERO
        return super().kept() if self.checkpoint == "none" else self.outputs + self.statistics
