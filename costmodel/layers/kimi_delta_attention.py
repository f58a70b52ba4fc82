"""Kimi delta attention: a gated delta net whose state has a decay for each of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from costmodel.cost import Phase
from costmodel.layers._secondary import PIECE, in_rows, squares, timed, triangles
from costmodel.layers.gated_delta_net import DV, HK, HV, B, D, GatedDeltaNet, N
from costmodel.symbols import CeilLog2, tree_depth


@dataclass(frozen=True, kw_only=True)
class KimiDeltaAttention(GatedDeltaNet):
    """The core of Kimi delta attention: S ← (I − β k kᵀ) diag(α) S + β k vᵀ, o = Sᵀ q, for each value head.

    α has a decay for each of the d channels of a key. It is therefore not a mask of the scores, as in a gated
    delta net, but weighs queries and keys, and each value head has scores of its own. Otherwise the products
    are those of a gated delta net.

    Within secondary chunks of 16 tokens, flash-linear-attention takes the exponential of each pair and
    channel, so that none overflows. Those exponentials are timed, but are not part of the FLOPs.
    """

    name: ClassVar[str] = "kimi-delta-attention"
    source: ClassVar[str] = (
        "Kimi team, arXiv 2510.26692, eq. 1 and section 3; kernels: flash-linear-attention, ops/kda"
    )
    not_counted: ClassVar[str] = (
        "projections, convolution, the decays' low-rank product and activation, output gate and norm; "
        "L2-normalisation of q and k; arithmetic of secondary chunks"
    )

    @property
    def decays(self) -> sp.Expr:
        """One for each channel of the keys."""
        return D

    @property
    def _scores(self) -> sp.Expr:
        """KKᵀ below and QKᵀ up to the diagonal, over all value heads [FLOP]."""
        torch = self.convention == "torch"
        return 2 * B * HV * D * (2 * (2 * self.pairs - N) if torch else 2 * self.pairs - N)

    @property
    def _weighing_depth(self) -> sp.Expr:
        """Depth of the weighted keys (running sum, exponential, product), or of the entries of their KKᵀ."""
        longest = sp.Min(self.chunk, N)
        return CeilLog2(longest) + 2 + sp.Min(1, longest - 1) * tree_depth(D)

    @property
    def _backward_depth(self) -> sp.Expr:
        """Depth of the backward pass; after dA come the keys' gradients, their weights and their sum.

        The decays' gradient is k∘dk, less that from q∘dq, summed from the end.
        """
        longest = tree_depth(sp.Min(self.chunk, N))
        wider = sp.Max(tree_depth(D), tree_depth(DV))
        after = tree_depth(DV) + wider + 1 + 2 * longest + longest + 4
        return self._forward_depth + self._walk_depth + after + 2 + CeilLog2(N)

    # -- arithmetic besides the products -----------------------------------------------------

    def _weighing(self) -> tuple[sp.Expr, sp.Expr]:
        """Return the vector FLOP and the exponentials of a value head.

        Per token and channel: the running sum b, β k, and q e^b, β k e^b, k e^−b, k e^(end − b) 2; βV; per
        chunk the state's decay.
        """
        return N * (7 * D + DV) + self.chunks * D * DV, 3 * N * D

    def _weighing_back(self) -> tuple[sp.Expr, sp.Expr]:
        """Return the same of backward.

        All weights again 7·d, and back: dq 1, dk 3 and a factor β 1, added 2; β's gradient 2·d, the decays',
        q∘dq − k∘dk, summed, 4·d; dV and β's from it 3·d_v. Decays of S and dS, and their gradient S∘dS.
        """
        return N * (20 * D + 3 * DV) + self.chunks * 4 * D * DV, 3 * N * D

    # -- what flash-linear-attention's kernels hand on (ops/kda) -----------------------------

    @property
    def _sums(self) -> sp.Expr:
        """Size of the decays' sums in fp32, or of a gradient that wide [bytes]."""
        return self.stat_bytes * B * N * HV * D

    def _in_chunks(self) -> Phase:
        """The kernels' exponentials: of pairs at hand; of others twice; three more for each channel."""
        each = triangles(N, self.chunk) + in_rows(N, self.chunk) + 3 * N
        phase = self._of_kernels(super()._in_chunks(), again=self._handed_on())
        return timed(phase, B * HV * D * each)

    def backward(self) -> tuple[Phase, ...]:
        """The same of backward, which takes whole secondary squares for dQ and for dK; five more."""
        (phase,) = super().backward()
        each = 2 * squares(N, self.chunk) + 2 * in_rows(N, self.chunk) + 5 * N
        return (timed(phase, B * HV * D * each),)

    @property
    def _kept_squares(self) -> sp.Expr:
        """The inverses T, and the scores."""
        return 2 * self._square

    def _handed_on(self) -> sp.Expr:
        """Size of what the kernels of forward write for each other, and read more than once [bytes].

        The decays' sums, which four kernels read; blocks on the diagonal in fp32; scores, zeros and T; W and
        the weighted keys; U and V′; the states. Queries and keys are read by three of them.
        """
        keys, weighted, values = self._row(HK, D), self._row(HV, D), self._row(HV, DV)
        blocks = self.stat_bytes * B * N * HV * sp.Min(PIECE, self.chunk, N)
        squares = 2 * blocks + 5 * self._square
        return 4 * (keys + weighted + values) + 5 * self._sums + squares + 2 * self._chunk_states

    def _handed_on_back(self) -> sp.Expr:
        """Size of the same of backward [bytes].

        Sums, W, U, weighted queries and keys, states and V′ again; dV, thrice; gradients of scores and of T,
        of Q and K (twice) and of the decays (thrice) in fp32, before they are made narrow.
        """
        keys, weighted, values = self._row(HK, D), self._row(HV, D), self._row(HV, DV)
        squares = self._square * (1 + 4 * self.stat_bytes / self.bytes)
        return 4 * keys + 8 * weighted + 12 * values + 18 * self._sums + squares
