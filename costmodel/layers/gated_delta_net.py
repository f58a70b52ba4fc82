"""Gated delta net: linear attention with a decaying state that is updated by the delta rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.layers._refusal import refuse
from costmodel.layers._scan import scan_phase
from costmodel.layers._states import KeptState, update_phase
from costmodel.symbols import CeilLog2, ChunkPairs, ceil_div, symbols, tree_depth

B, N, HK, HV, D, DV = symbols("batch seq heads kv_heads head_dim value_dim")


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
        gates = CeilLog2(longest) + 2
        entries = sp.Min(1, longest - 1) * (sp.Max(1 + tree_depth(D), gates) + 1)
        rows = 2 * sp.Max(0, longest - 2)
        return sp.Max(gates, entries) + rows + tree_depth(longest) + self._walk_depth

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

    def forward(self) -> tuple[Phase, ...]:
        """One kernel; for the chunked form, it stands for the few that run."""
        return (self._token_by_token() if self.by_token else self._in_chunks(),)

    def _in_chunks(self) -> Phase:
        """The inverse; the masks of two matrices; the weighted keys; the products."""
        heads, io = B * HV, self.tensors()
        return Phase(
            name="delta rule",
            kernel="delta",
            op="gdn_chunk_prefill",
            sizes={"batch": B, "seq": N, "heads": HK, "value_heads": HV, "head_dim": D, "value_dim": DV},
            options={"dtype": self.dtype, "kernel": "chunked"},
            flops={
                ("matrix", self.dtype): self._products,
                ("vector", self.accumulate): heads * (self._inverse + 2 * self.pairs + N * D),
                ("special", self.accumulate): heads * N,
            },
            read=io.inputs,
            write=io.outputs + self._state,
            steps=self.chunks,
            pram_depth=self._forward_depth,
        )

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
            special=B * HV * N,
            read=io.inputs + self._state,
            write=io.outputs + self._state,
            pram_depth=self._forward_depth,
        )

    @property
    def _state(self) -> sp.Expr:
        """Size of the states of all value heads [bytes]."""
        return self.state_bytes * B * HV * D * DV

    def backward(self) -> tuple[Phase, ...]:
        """One phase for the eight kernels of flash-linear-attention: recomputation, and all gradients.

        What they hand to each other passes through memory. Recomputed are KKᵀ, QKᵀ, W and U; W S and the
        states, 4·d·d_v per token; and the inverse. Each forward product has two gradient products; the
        inverse's gradient −Tᵀ dT Tᵀ takes 2(c³ − c)/3 per chunk below the diagonal. Two matrices and their
        gradients are masked. Per token, weighting the keys again and back takes 2·d, β's gradient 2·d, the
        decay's, q·dq − k·dk, 4·d. ``torch`` keeps what is recomputed here, and counts full squares.
        """
        heads, io = B * HV, self.tensors()
        chunks, cubes = self.chunks, self._cubes
        states = 2 * self.bytes * heads * chunks * D * DV  # S and dS, from the walk to the kernels after it
        again = self._scores + self._solved + 4 * heads * N * D * DV
        of_inverse = heads * 2 * (cubes - N) / 3
        if self.convention == "torch":
            again, of_inverse = ZERO, heads * 4 * cubes
        phase = scan_phase(
            self,
            "delta rule, backward",
            chains=heads,
            steps=chunks,
            matrix=2 * self._products + again + of_inverse,
            vector=heads * (self._inverse + 4 * self.pairs + 8 * N * D),
            special=heads * N,
            read=io.inputs + io.outputs + self._inverses + states,
            write=io.inputs + states,
            again=self._handed_on(),
            pram_depth=self._backward_depth,
            workspace=states,
            launches=sp.Integer(8),
            blocks=True,
        )
        return (replace(phase, sizes={**phase.sizes, "steps": 2 * chunks}),)  # two walks: S, then dS

    @property
    def _inverses(self) -> sp.Expr:
        """Size of T, one row of a chunk per token and value head [bytes]."""
        return self.bytes * B * N * HV * sp.Min(self.chunk, N)

    def _handed_on(self) -> sp.Expr:
        """Size of what the kernels of backward write for each other, and read more than once [bytes].

        W and U; the states and V′; dV within chunks; dS and dV; dQ, dK, dW; the gradients through T; the sum
        of both parts of dK. Keys are read by six of them, queries and dO by three, V and T by two.
        """
        keys, weighted, values = (self.bytes * B * N * width for width in (HK * D, HV * D, HV * DV))
        return 11 * keys + 6 * weighted + 12 * values + self._inverses

    def tensors(self) -> Tensors:
        """Q, K, V and the two gates in, O out; when decoding, the state, updated in place."""
        tokens = B * N
        return Tensors(
            inputs=self.bytes * tokens * (2 * HK * D + HV * DV + 2 * HV),
            outputs=self.bytes * tokens * HV * DV,
            updated=self._state if self.by_token else ZERO,
        )

    def kept(self) -> sp.Expr:
        """Its inputs and the inverses T: the states at chunk boundaries are recomputed."""
        return self.tensors().inputs + (ZERO if self.by_token else self._inverses)

    def path(self) -> sp.Expr:
        """Return how often the state is passed on between the first and the last position."""
        return N if self.by_token else self.chunks
