"""Gated delta net: linear attention with a decaying state that is updated by the delta rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase, Tensors
from costmodel.layers._refusal import refuse
from costmodel.layers._states import KeptState, update_phase
from costmodel.symbols import CeilLog2, ChunkPairs, ceil_div, symbols, tree_depth

B, N, HK, HV, D, DV = symbols("batch seq heads kv_heads head_dim value_dim")
#: The kernels of flash-linear-attention, the one library that has a backward pass.
CHUNKED = "chunk_gated_delta_rule"


@dataclass(frozen=True, kw_only=True)
class GatedDeltaNet(KeptState):
    """The core of a gated delta net: S ← α S (I − β k kᵀ) + β v kᵀ, o = S q, for each value head.

    `heads` is the number of query and key heads, `kv_heads` that of value heads, each of which has a
    d_v × d state in fp32. Projections, convolution and gates are other layers.

    In chunks of c_i tokens there are P = Σ c_i(c_i + 1)/2 pairs of a token with itself or an earlier one, and
    P − n below the diagonal. KKᵀ and QKᵀ take 2(2P − n)·d FLOP per key head; per value head, W and U take
    2(P − n)·(d + d_v), A·V takes 2P·d_v, and the products with the state 6·n·d·d_v. Kernels compute whole
    chunks.

    Parameters
    ----------
    form : str
        ``chunked``: matrix products within chunks of `chunk` tokens, and a state passed
        from chunk to chunk (training and prefill). ``recurrent``: token by
        token; the state is read once per call, kept on chip, and written once (decoding).
    chunk : int
        Tokens per chunk.
    """

    name: ClassVar[str] = "gated-delta-net"
    family: ClassVar[str] = "scan"
    source: ClassVar[str] = "Yang et al., arXiv 2412.06464, eq. 8–10; arXiv 2406.06484 (chunked form)"
    not_counted: ClassVar[str] = "projections, convolution, output gate and norm; L2-normalisation of q and k"
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "heads", "head_dim")
    defaults: ClassVar[dict[str, str | int]] = {"kv_heads": "heads", "value_dim": "head_dim"}
    meanings: ClassVar[Mapping[str, str]] = {
        "heads": "query and key heads",
        "kv_heads": "value heads, a multiple of heads",
    }

    chunk: int = 64

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Check that the key heads divide the value heads."""
        wanted = "kv_heads (value heads) must be a multiple of heads (key heads)"
        refuse(self, sizes["kv_heads"] % sizes["heads"], wanted, sizes, "kv_heads", "heads")

    # -- sizes -----------------------------------------------------------------------------

    @property
    def decays(self) -> sp.Expr:
        """Number of decays for each token and value head."""
        return ONE

    def _row(self, heads: sp.Expr, width: sp.Expr) -> sp.Expr:
        """Size of a row of that width for each token and head, in the layer's format [bytes]."""
        return self.bytes * B * N * heads * width

    @property
    def _state(self) -> sp.Expr:
        """Size of the states of all value heads [bytes]."""
        return self.state_bytes * B * HV * D * DV

    @property
    def _sizes(self) -> dict[str, sp.Expr]:
        """Sizes of a pass over all chunks, as the kernel model names them."""
        return {"batch": B, "seq": N, "heads": HK, "value_heads": HV, "head_dim": D, "value_dim": DV}

    # -- chunks ----------------------------------------------------------------------------

    @property
    def chunks(self) -> sp.Expr:
        """Number of chunks, ⌈n/C⌉; the last one holds the remaining tokens."""
        return ceil_div(N, sp.Integer(self.chunk))

    @property
    def pairs(self) -> sp.Expr:
        """Pairs of a token with itself or an earlier one in its chunk, for one head: Σ c_i(c_i + 1)/2."""
        return ChunkPairs(N, sp.Integer(self.chunk))

    @property
    def _cubes(self) -> sp.Expr:
        """Σ c_i³ over the chunks of one head."""
        return (self.chunks - 1) * sp.Integer(self.chunk) ** 3 + self._last**3

    @property
    def _inverse(self) -> sp.Expr:
        """Inverting the unit triangular systems to T, by substitution: Σ c_i(c_i − 1)(c_i − 2)/3 [FLOP]."""
        return (self._cubes - 3 * (2 * self.pairs - N) + 2 * N) / 3

    @property
    def _scores(self) -> sp.Expr:
        """KKᵀ below and QKᵀ up to the diagonal, over all key heads [FLOP]; ``torch`` counts full squares."""
        torch = self.convention == "torch"
        return 2 * B * HK * D * (2 * (2 * self.pairs - N) if torch else 2 * self.pairs - N)

    @property
    def _solved(self) -> sp.Expr:
        """W = T(βK) and U = T(βV) over all value heads; T's diagonal is 1 [FLOP]. ``torch``: full squares."""
        torch = self.convention == "torch"
        return 2 * B * HV * (D + DV) * (2 * self.pairs - N if torch else self.pairs - N)

    @property
    def _products(self) -> sp.Expr:
        """Products of the chunked form [FLOP]: scores, W and U, A·V, W·S, Q·S, the state update."""
        seen = 2 * self.pairs - N if self.convention == "torch" else self.pairs
        return self._scores + self._solved + 2 * B * HV * DV * seen + 6 * B * HV * N * D * DV

    @property
    def _last(self) -> sp.Expr:
        """Number of tokens of the last chunk."""
        c = sp.Integer(self.chunk)
        return sp.Min(c, N - c * (self.chunks - 1))  # never more than c: the minimum bounds its growth

    @property
    def _walk_depth(self) -> sp.Expr:
        """Depth of the walk over the chunks: W S, U minus that, Kᵀ times it, added to the decayed state."""
        before = (self.chunks - 1) * (tree_depth(D) + tree_depth(sp.Integer(self.chunk)) + 2)
        return before + tree_depth(D) + tree_depth(self._last) + 2

    @property
    def _forward_depth(self) -> sp.Expr:
        """Depth of the forward pass.

        Chunked: W and U of all chunks at once, then the walk. W needs βK times Kᵀ or, if deeper, the gates'
        running sum, a difference and its exp; their product; the rows of T, each a multiply and an add after
        the row before; and T times the weighted keys. Recurrent, per token: αS, S k, v minus that, times β,
        the outer product, the sum; after the last token S q.
        """
        if self.by_token:
            return 1 + N * (5 + tree_depth(D)) + tree_depth(D)
        longest = sp.Min(self.chunk, N)
        rows = 2 * sp.Max(0, longest - 2)
        return self._weighing_depth + rows + tree_depth(longest) + self._walk_depth

    @property
    def _weighing_depth(self) -> sp.Expr:
        """Depth of the weighted keys, or of the entries of KKᵀ, whose mask is of the gates."""
        longest = sp.Min(self.chunk, N)
        gates = CeilLog2(longest) + 2
        entries = sp.Min(1, longest - 1) * (sp.Max(1 + tree_depth(D), gates) + 1)
        return sp.Max(gates, entries)

    @property
    def _backward_depth(self) -> sp.Expr:
        """Depth of the backward pass: forward again, a walk from the end, and the kernels after it, in turn.

        dV′ and dS are chained as S is. After them come dW, dT (two products, a sum), −Tᵀ dT Tᵀ, its mask,
        dK (a product and a sum), and the decay's gradient: q·dq − k·dk, summed from the end.
        """
        longest = tree_depth(sp.Min(self.chunk, N))
        wider = sp.Max(tree_depth(D), tree_depth(DV))
        after = tree_depth(DV) + wider + 1 + 2 * longest + 1 + longest + 1
        gates = tree_depth(D) + 1 + CeilLog2(N)
        return self._forward_depth + self._walk_depth + after + gates

    # -- forward ---------------------------------------------------------------------------

    def forward(self) -> tuple[Phase, ...]:
        """One kernel; for the chunked form, it stands for the few that run."""
        return (self._token_by_token() if self.by_token else self._in_chunks(),)

    def _in_chunks(self) -> Phase:
        """The products; the inverse, and the weights of all operands."""
        io, (vector, special) = self.tensors(), self._weighing()
        return self._over_chunks(
            "delta rule",
            matrix=self._products,
            vector=vector,
            special=special,
            read=io.inputs,
            write=io.outputs + self._state,
            pram_depth=self._forward_depth,
        )

    def _over_chunks(
        self,
        name: str,
        *,
        matrix: sp.Expr,
        vector: sp.Expr,
        special: sp.Expr,
        read: sp.Expr,
        write: sp.Expr,
        pram_depth: sp.Expr,
    ) -> Phase:
        """Return a pass over all chunks; `vector` and `special` are of one value head [FLOP]."""
        heads = B * HV
        return Phase(
            name=name,
            kernel="delta",
            op="gdn_chunk_prefill",
            sizes=self._sizes,
            options={"dtype": self.dtype, "kernel": "chunked"},
            flops={
                ("matrix", self.dtype): matrix,
                ("vector", self.accumulate): heads * (self._inverse + vector),
                ("special", self.accumulate): heads * special,
            },
            read=read,
            write=write,
            steps=self.chunks,
            pram_depth=pram_depth,
        )

    def _weighing(self) -> tuple[sp.Expr, sp.Expr]:
        """Return the vector FLOP and the exponentials of a value head: masks of two matrices, β K."""
        return 2 * self.pairs + N * D, N

    def _token_by_token(self) -> Phase:
        """Per token: decay d·d_v, S k twice that, β(v − Sk) 2d_v, the outer product added and S q, 4d·d_v."""
        io = self.tensors()
        return update_phase(
            self,
            "delta rule",
            op="gdn_recurrent_decode",
            states=self._state,
            steps=N,
            vector=B * HV * N * (7 * D * DV + 2 * DV),
            special=B * HV * N * self.decays,
            read=io.inputs + self._state,
            write=io.outputs + self._state,
            pram_depth=self._forward_depth,
        )

    # -- backward --------------------------------------------------------------------------

    def backward(self) -> tuple[Phase, ...]:
        """One phase for the eight kernels of flash-linear-attention: recomputation, and all gradients.

        What they hand to each other passes through memory. Recomputed are KKᵀ, QKᵀ, W and U; W S and the
        states, 4·d·d_v per token; and the inverse. Each forward product has two gradient products; the
        inverse's gradient −Tᵀ dT Tᵀ takes 2(c³ − c)/3 per chunk below the diagonal. ``torch`` keeps what is
        recomputed here, and counts full squares.
        """
        heads, io, (vector, special) = B * HV, self.tensors(), self._weighing_back()
        states = 2 * self._chunk_states  # S and dS, from the walk to the kernels after it
        again = self._scores + self._solved + 4 * heads * N * D * DV
        of_inverse = heads * 2 * (self._cubes - N) / 3
        if self.convention == "torch":
            again, of_inverse = ZERO, heads * 4 * self._cubes
        phase = self._over_chunks(
            "delta rule, backward",
            matrix=2 * self._products + again + of_inverse,
            vector=vector,
            special=special,
            read=io.inputs + io.outputs + self._kept_squares + states,
            write=io.inputs + states,
            pram_depth=self._backward_depth,
        )
        phase = replace(phase, workspace=states, launches=sp.Integer(8))
        # S is walked again, then dS.
        return (self._of_kernels(phase, again=self._handed_on_back(), walks=2),)

    def _of_kernels(self, phase: Phase, *, again: sp.Expr, walks: int = 1) -> Phase:
        """Return a pass of flash-linear-attention's kernels, with what they write for each other [bytes].

        Their constants are fitted on the forward pass with one decay for a head.
        """
        work = phase.flops["matrix", self.dtype] / self._products
        more = {"walks": sp.Integer(walks), "work": work, "traffic": phase.read + phase.write + again}
        sizes = {**phase.sizes, **more}
        return replace(phase, sizes=sizes, l2=again, library=CHUNKED, borrowed=True)

    def _weighing_back(self) -> tuple[sp.Expr, sp.Expr]:
        """Return the same of backward: two masks and their gradients; weighted keys again and back 2·d.

        β's gradient takes 2·d, the decay's, q·dq − k·dk, 4·d.
        """
        return 4 * self.pairs + 8 * N * D, N

    @property
    def _square(self) -> sp.Expr:
        """Size of T, or of scores: one row of a chunk per token and value head [bytes]."""
        return self._row(HV, sp.Min(self.chunk, N))

    @property
    def _kept_squares(self) -> sp.Expr:
        """Size of what is kept of the chunks' squares: the inverses T [bytes]."""
        return self._square

    @property
    def _chunk_states(self) -> sp.Expr:
        """Size of the states at the ends of all chunks, in the layer's format [bytes]."""
        return self.bytes * B * HV * self.chunks * D * DV

    def _handed_on_back(self) -> sp.Expr:
        """Size of what the kernels of backward write for each other, and read more than once [bytes].

        W and U; the states and V′; dV within chunks; dS and dV; dQ, dK, dW; the gradients through T; the sum
        of both parts of dK. Keys are read by six of them, queries and dO by three, V and T by two.
        """
        return 11 * self._row(HK, D) + 6 * self._row(HV, D) + 12 * self._row(HV, DV) + self._square

    # -- operands --------------------------------------------------------------------------

    def tensors(self) -> Tensors:
        """Q, K, V, the decays and β in, O out; when decoding, the state, updated in place."""
        return Tensors(
            inputs=2 * self._row(HK, D) + self._row(HV, DV) + self._row(HV, self.decays + 1),
            outputs=self._row(HV, DV),
            updated=self._state if self.by_token else ZERO,
        )

    def kept(self) -> sp.Expr:
        """Its inputs and what it keeps of squares: the states at chunk boundaries are recomputed."""
        return self.tensors().inputs + (ZERO if self.by_token else self._kept_squares)

    def path(self) -> sp.Expr:
        """Return how often the state is passed on between the first and the last position."""
        return N if self.by_token else self.chunks
