"""Linear attention with decay: RetNet, GLA, Mamba-2 (state-space duality), mLSTM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase
from costmodel.errors import CostmodelError
from costmodel.layers._decay import C, N
from costmodel.layers._linear import B, H, _MatrixState
from costmodel.layers._refusal import refuse
from costmodel.layers._secondary import between, in_rows, squares, timed
from costmodel.symbols import CeilLog2, ChunkPairs, symbol

STATE = symbol("state")
P = symbol("head_dim")


@dataclass(frozen=True, kw_only=True)
class RetNet(_MatrixState):
    """Retention, S ← γ S + k vᵀ, o = q S, with one constant γ per head."""

    name: ClassVar[str] = "retnet"
    source: ClassVar[str] = "Sun et al., arXiv 2307.08621, eq. 6 (recurrent) and 7 (chunkwise)"
    not_counted: ClassVar[str] = "projections, rotation of q and k, group norm, output gate; powers of γ"
    defaults: ClassVar[dict[str, str | int]] = {"value_dim": "2*head_dim", "block": 64}
    decay: ClassVar[str] = "fixed"
    narrow_states: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class GLA(_MatrixState):
    """Gated linear attention, S ← diag(α_t) S + k vᵀ, o = q S, with one gate per row of the state.

    Exponentials of its secondary chunks are timed, but are not part of the FLOPs.

    A gate on both sides, α βᵀ ∘ S, as in the paper's eq. 3 before β is set to 1, would take d_k·d_v
    FLOP more per token.
    """

    name: ClassVar[str] = "gla"
    source: ClassVar[str] = "Yang et al., arXiv 2312.06635, eq. 3–6"
    not_counted: ClassVar[str] = (
        "projections, the gates' low-rank product, norm, output gate; arithmetic of secondary chunks"
    )
    defaults: ClassVar[dict[str, str | int]] = {"value_dim": "2*head_dim", "block": 64}
    decay: ClassVar[str] = "vector"
    narrow_states: ClassVar[bool] = True

    @property
    def _launched(self) -> tuple[int, int]:
        return 4, 8

    @property
    def _scores(self) -> sp.Expr:
        """Size of a row of a chunk's scores for each token and head, in fp32 [bytes]."""
        return self.stat_bytes * B * H * N * self.longest

    @property
    def _sums(self) -> sp.Expr:
        """Size of the gates' sums in fp32, or of a gradient that wide [bytes]."""
        return self.stat_bytes * B * H * N * self.key_dim

    def core_forward(self) -> tuple[Phase, ...]:
        """The states; then the outputs, after kernels for scores, which take squares within pieces of 16."""
        states, outputs = super().core_forward()
        each = squares(N, C) + between(N, C)
        return states, timed(outputs, B * H * self.key_dim * each)

    def core_backward(self) -> tuple[Phase, ...]:
        """The gradients of the scores take squares for dQ and for dK."""
        *before, operands = super().core_backward()
        each = 2 * squares(N, C) + 2 * in_rows(N, C)
        return *before, timed(operands, B * H * self.key_dim * each)

    def _handed_on(self) -> sp.Expr:
        """Add the gates' sums, which four kernels read, and the scores, which two kernels make."""
        return 4 * self._queries() + self._values() + 5 * self._sums + 2 * self._scores

    def _handed_on_back(self) -> sp.Expr:
        """Add the sums again, the scores and their gradients; dQ and dK in fp32, twice, and the gates'."""
        operands = 5 * self._queries() + 5 * self._values()
        wide = (6 + 2 * 4 + 2) * self._sums
        return operands + wide + 3 * self._scores + self._states_back

    def kept(self) -> sp.Expr:
        """Its inputs, and the scores of the chunks."""
        return super().kept() + (ZERO if self.by_token else self._scores)


@dataclass(frozen=True, kw_only=True)
class MLSTM(_MatrixState):
    """Matrix memory of the xLSTM, C ← f C + i v kᵀ, n ← f n + i k, h = C q / (n·q), with gates per head."""

    name: ClassVar[str] = "mlstm"
    source: ClassVar[str] = "Beck et al., arXiv 2405.04517, eq. 19–27"
    not_counted: ClassVar[str] = (
        "projections, convolution, output gate, norm; log σ of the forget gate, the stabiliser's "
        "running maximum and the lower limit of the divisor (a few operations per token and head)"
    )
    decay: ClassVar[str] = "scalar"
    gated_keys: ClassVar[bool] = True
    normalised: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Mamba2(_MatrixState):
    """State-space duality: S ← exp(Δ A) S + Δ B xᵀ, y = C S + D x, for each head of P = `head_dim` channels.

    B and C, of width `state`, are the keys and queries, shared by the heads of a group; x are the values.
    Per token and head: 2·Q·N_s (shared within a group) + 2·Q·P + 4·P·N_s FLOP for chunks of Q = `block`; the
    first two terms are halved here, as only pairs that the causal mask leaves are counted.

    The kernels are mamba_ssm's, whose traffic with each other counts as read again: sums of Δ A, a chunk's
    states and passing them on; scores of a group, which its heads read; outputs.

    Parameters
    ----------
    groups : int
        Number of groups of heads, each with its own B and C.
    fused : bool
        Whether scores and what is passed on stay on the chip (forward only; vLLM's pull request 27299).
    """

    name: ClassVar[str] = "mamba-2"
    family: ClassVar[str] = "scan"
    source: ClassVar[str] = "Dao & Gu, arXiv 2405.21060, §6 and Listing 1"
    not_counted: ClassVar[str] = (
        "projections, convolution, gate and norm; softplus of Δ; sums over the heads of a group"
    )
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "heads")
    defaults: ClassVar[dict[str, str | int]] = {"head_dim": 64, "state": 128, "block": 256}
    meanings: ClassVar[Mapping[str, str]] = {"heads": "heads, of head_dim channels each"}
    decay: ClassVar[str] = "scalar"
    gate_depth: ClassVar[int] = 1

    groups: int = 1
    fused: bool = False

    def __post_init__(self) -> None:
        """Check that what is fused goes forward."""
        super().__post_init__()
        self.check_forward_only("fused=true", chosen=self.fused)
        if self.fused and self.by_token:
            raise CostmodelError(
                f"fused of {self.name}: applies to form=chunked; leave out fused=true, or form={self.form}"
            )

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Check that `groups` divides `heads`."""
        wanted = f"heads must be a multiple of groups={self.groups}"
        refuse(self, sizes["heads"] % self.groups, wanted, sizes, "heads")

    @property
    def key_dim(self) -> sp.Expr:
        """Width of B and C, N_s."""
        return STATE

    @property
    def value_width(self) -> sp.Expr:
        """Channels per head, P."""
        return P

    @property
    def key_heads(self) -> sp.Expr:
        """One key head per group."""
        return sp.Integer(self.groups)

    def parameters(self) -> sp.Expr:
        """A and D of each head."""
        return 2 * H

    # -- what mamba_ssm's kernels hand on (ops/triton/ssd_combined.py) -----------------------

    @property
    def _launched(self) -> tuple[int, int]:
        return (1, 2) if self.fused else (4, 12)

    @property
    def _for_each_head(self) -> sp.Expr:
        """Size of B, or of C, as the heads of a group read it [bytes]."""
        return self.bytes * B * N * H * STATE

    @property
    def _scores(self) -> sp.Expr:
        """Size of the scores of all groups, whole squares in fp32 [bytes]."""
        return self.stat_bytes * B * N * self.longest * self.key_heads

    @property
    def _scores_for_each_head(self) -> sp.Expr:
        """Size of the scores up to the diagonal, as the heads of a group read them [bytes]."""
        return self.stat_bytes * B * H * ChunkPairs(N, C)

    @property
    def _narrow_states(self) -> sp.Expr:
        """Size of the states of all chunks in the layer's format [bytes]."""
        return self._states * self.bytes / self.stat_bytes

    def _handed_on(self) -> sp.Expr:
        """Δ and the sums of Δ A in fp32; x again; B and C for each head; narrow states; scores."""
        if self.fused:
            return super()._handed_on()
        scores = self._scores + self._scores_for_each_head
        rows = 6 * self._row_statistic()
        return rows + self._values() + 2 * self._for_each_head + 2 * self._narrow_states + scores

    def _handed_on_back(self) -> sp.Expr:
        """The same, made again; gradients of states and scores; those of B and C in fp32, before the sums."""
        scores = 4 * self._scores + 2 * self._scores_for_each_head
        states = 2 * self._states_back + 5 * self._narrow_states
        wide = 4 * self._queries() * self.stat_bytes / self.bytes
        operands = 2 * self._queries() + 8 * self._values() + self._gates() + 5 * self._for_each_head
        return 24 * self._row_statistic() + scores + states + wide + operands

    def _with(self, phase: Phase, *, channel: int, token: int = 1, depth: sp.Expr | int = 0) -> Phase:
        """Return a kernel with additional vector FLOP per channel and per head of each token."""
        vector = ("vector", self.accumulate)
        more = B * H * N * (channel * P + token)
        weights = self.bytes * self.parameters()
        return replace(
            phase,
            flops={**phase.flops, vector: phase.flops[vector] + more},
            sizes={
                **phase.sizes,
                "vector_flops": phase.sizes["vector_flops"] + more,
                "traffic": phase.sizes["traffic"] + weights,
            },
            pram_depth=phase.pram_depth + depth,
            read=phase.read + weights,
        )

    def core_forward(self) -> tuple[Phase, ...]:
        """The states, including Δ A and Δ x; then the outputs, including both again and D x."""
        states, outputs = super().core_forward()
        return self._with(states, channel=1), self._with(outputs, channel=3, depth=1)

    def core_backward(self) -> tuple[Phase, ...]:
        """Δ A and Δ x again; dx = Δ dx̄ + D dy 3; dΔ = x·dx̄ 2, and A times its gate's 2; dA 2; dD 2."""
        again, states, operands = super().core_backward()
        last = sp.Max(2, 1 + CeilLog2(B * N))  # dΔ; or dA, summed over all tokens
        operands = self._with(operands, channel=8, token=5, depth=last)
        weights = self.bytes * self.parameters()
        sizes = {**operands.sizes, "traffic": operands.sizes["traffic"] + weights}
        written = replace(operands, write=operands.write + weights, sizes=sizes)
        return self._with(again, channel=1), self._with(states, channel=0), written

    def _token_by_token(self) -> Phase:
        phase, weights = super()._token_by_token(), self.bytes * self.parameters()
        phase = self._with(phase, channel=3, depth=1)
        sizes = {**phase.sizes, "traffic": phase.sizes["traffic"] - weights}
        return replace(phase, read=phase.read - weights, sizes=sizes)  # the parameters are read once
