"""Attention without softmax: every head has a state S ← decay · S + k vᵀ, read by q.

The base of linear attention, RetNet, GLA, Mamba-2 and mLSTM. The chunked form computes attention
scores within chunks of C tokens and passes a state from chunk to chunk: one kernel walks the chunks
and writes the states, another computes the outputs of all chunks at once. Backward walks them again,
in fp32, instead of keeping the states, as flash-linear-attention and mamba_ssm do. The recurrent form
(generation) reads and writes the state at every token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.layers._decay import C, N, _Decaying
from costmodel.layers._kernels import stream
from costmodel.layers._scan import scan_phase
from costmodel.layers._states import KeptState, update_phase
from costmodel.symbols import CeilLog2, ChunkPairs, symbols, tree_depth

B, H = symbols("batch heads")


@dataclass(frozen=True, kw_only=True)
class _MatrixState(_Decaying, KeptState):
    """Linear attention with a matrix-valued state.

    Parameters
    ----------
    form : str
        ``chunked``: matrix products within chunks of `block` tokens, and a state passed from chunk to
        chunk (training and prefill). ``recurrent``: token by token, reading and writing the state
        each time (generation; forward only).
    """

    family: ClassVar[str] = "linear attention"
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "heads", "head_dim")
    defaults: ClassVar[dict[str, str | int]] = {"value_dim": "head_dim", "block": 64}

    #: Whether forward keeps the states of chunks in the layer's format, as flash-linear-attention does.
    narrow_states: ClassVar[bool] = False

    # -- sizes -----------------------------------------------------------------------------

    @property
    def key_heads(self) -> sp.Expr:
        """Number of heads that have their own queries and keys."""
        return H

    @property
    def gates(self) -> sp.Expr:
        """Number of gate values per token and head."""
        width = {"none": ZERO, "fixed": ZERO, "scalar": sp.Integer(1), "vector": self.key_dim}[self.decay]
        return width + int(self.gated_keys)

    @property
    def pairs(self) -> sp.Expr:
        """Number of (query, key) pairs within the chunks of one head; ``torch`` does not halve them."""
        pairs = ChunkPairs(N, C)
        return 2 * pairs - N if self.convention == "torch" else pairs

    @property
    def _entries(self) -> sp.Expr:
        """Numbers of the states at the ends of all chunks, with the sums that normalise."""
        return B * H * self.chunks * self.key_dim * (self.value_width + int(self.normalised))

    @property
    def _states(self) -> sp.Expr:
        """Size of the states that forward passes on [bytes]."""
        return (self.bytes if self.narrow_states else self.stat_bytes) * self._entries

    @property
    def _states_back(self) -> sp.Expr:
        """Size of the states that backward computes again, and of their gradients, in fp32 [bytes]."""
        return self.stat_bytes * self._entries

    def _sequence(self, heads: sp.Expr, width: sp.Expr) -> sp.Expr:
        """Size of one sequence tensor: queries, keys, values or gates [bytes]."""
        return self.bytes * B * N * heads * width

    def _queries(self) -> sp.Expr:
        return self._sequence(self.key_heads, self.key_dim)

    def _values(self) -> sp.Expr:
        return self._sequence(H, self.value_width)

    def _gates(self) -> sp.Expr:
        return self._sequence(H, self.gates)

    # -- chunks, forward -------------------------------------------------------------------

    def forward(self) -> tuple[Phase, ...]:
        """The core in the chosen form."""
        return (self._token_by_token(),) if self.by_token else self.core_forward()

    def core_forward(self) -> tuple[Phase, ...]:
        """The states of all chunks, in turn; then the outputs of all chunks, at once."""
        return (self._chunk_states(), self._chunk_outputs())

    def _chunk_states(self) -> Phase:
        """S ← decay · S + Kᵀ V, chunk by chunk."""
        return self._walk("chunk states", self._states)

    def _walk(self, name: str, states: sp.Expr, *, matrix: sp.Expr | None = None) -> Phase:
        """Return the kernel that walks the chunks and writes their states."""
        keys, (forget, exps, chain) = self._weighted_keys(), self._forgetting()
        sums = self.key_dim if self.normalised else ZERO
        products = 2 * B * H * N * self.key_dim * self.value_width
        return scan_phase(
            self,
            name,
            chains=B * H,
            steps=self.chunks,
            matrix=products if matrix is None else matrix,
            vector=B * H * (N * (keys.vector + sums) + forget),
            special=B * H * (N * keys.special + exps),
            read=self._queries() + self._values() + self._gates(),
            write=states,
            pram_depth=keys.depth + tree_depth(self.longest) + chain,
            workspace=states,
            blocks=True,
        )

    def _chunk_outputs(self) -> Phase:
        """(QKᵀ ∘ mask) V and Q S, for all chunks at once."""
        dk, dv, heads = self.key_dim, self.value_width, B * H
        queries, mask = self._weighted_queries(), self._mask()
        vector = heads * (N * queries.vector + self.pairs * mask.vector)
        special = heads * (N * queries.special + self.pairs * mask.special)
        # The masked scores times the values; weighted queries times the state are as deep.
        depth = int(mask.vector != 0) + tree_depth(self.longest) + 1
        if self.decay == "scalar":
            depth += sp.Max(tree_depth(dk) + self.gate_depth, mask.depth)
        else:
            depth += tree_depth(dk)
        if self.decay == "vector":
            # Keys weighted back to the beginning of the chunk, k ∘ exp(−b).
            vector, special, depth = vector + heads * N * dk, special + heads * N * dk, depth + queries.depth
        if self.normalised:
            # Row sums of the scores, q·z, their sum, and the division.
            vector += heads * (self.pairs + N * (2 * dk + 1 + dv))
            depth += 1
        return scan_phase(
            self,
            "chunk outputs",
            chains=heads * self.chunks,
            matrix=2 * B * self.pairs * (self.key_heads * dk + H * dv) + 2 * heads * N * dk * dv,
            vector=vector,
            special=special,
            read=self._queries() + self._states,
            write=self._values(),
            again=self._handed_on(),
            pram_depth=depth,
            launches=sp.Integer(self._launched[0]),
            blocks=True,
        )

    @property
    def _launched(self) -> tuple[int, int]:
        """Number of kernels besides those that walk the chunks, forward and backward."""
        return 1, 2

    def _handed_on(self) -> sp.Expr:
        """Size of what forward's kernels write for each other and read more than once, without states."""
        return self._queries() + self._values() + self._gates()

    def _handed_on_back(self) -> sp.Expr:
        """The same of backward; the gradients of the states are read by two kernels."""
        return 4 * self._queries() + 3 * self._values() + self._gates() + self._states_back

    # -- chunks, backward ------------------------------------------------------------------

    def backward(self) -> tuple[Phase, ...]:
        """The core's backward pass."""
        return self.core_backward()

    def core_backward(self) -> tuple[Phase, ...]:
        """The states again; their gradients, from the last chunk to the first; those of all operands."""
        before = (self._division_gradient(),) if self.normalised else ()
        return (*before, self._states_again(), self._state_gradients(), self._operand_gradients())

    def _states_again(self) -> Phase:
        """Return the forward pass's walk over the chunks, with states in fp32 (torch keeps them)."""
        matrix = ZERO if self.convention == "torch" else None
        return self._walk("chunk states again", self._states_back, matrix=matrix)

    def _row_statistic(self) -> sp.Expr:
        """Size of one fp32 value per token and head [bytes]."""
        return self.stat_bytes * B * H * N

    def _division_gradient(self) -> Phase:
        """The gradient of the normalisation: dO over O's divisor, and the row sums of dO∘O."""
        return stream(
            self,
            "normalisation gradient",
            rows=B * H * N,
            cols=self.value_width,
            reads=2,
            writes=1,
            vector=3,
            depth=1 + tree_depth(self.value_width),
            extra_read=self._row_statistic(),
            extra_write=self._row_statistic(),
        )

    def _state_gradients(self) -> Phase:
        """dS ← decay · dS + Qᵀ dO, from the last chunk."""
        queries, (forget, exps, chain) = self._weighted_queries(), self._forgetting()
        sums, statistic = (2 * self.key_dim, self._row_statistic()) if self.normalised else (ZERO, ZERO)
        return scan_phase(
            self,
            "chunk state gradients",
            chains=B * H,
            steps=self.chunks,
            matrix=2 * B * H * N * self.key_dim * self.value_width,
            vector=B * H * (N * (queries.vector + sums) + forget),
            special=B * H * (N * queries.special + exps),
            read=self._queries() + self._values() + statistic,
            write=self._states_back,
            again=self._gates(),
            pram_depth=queries.depth + tree_depth(self.longest) + chain,
            workspace=self._states_back,
            blocks=True,
        )

    def _operand_gradients(self) -> Phase:
        """dQ, dK and the gate gradients, for all chunks at once; then dV, from the same operands but V and S.

        The scores are computed again.
        """
        dk, dv, heads = self.key_dim, self.value_width, B * H
        # QKᵀ is recomputed (torch keeps it); dA and dV are per head, dQ and dK per key head.
        of_keys = 2 if self.convention == "torch" else 3
        intra = 2 * B * self.pairs * (of_keys * self.key_heads * dk + 2 * H * dv)
        vector, special, depth = self._gradient_work()
        statistic = self._row_statistic() if self.normalised else ZERO
        return scan_phase(
            self,
            "operand gradients",
            chains=heads * self.chunks,
            matrix=intra + 6 * heads * N * dk * dv,
            vector=vector,
            special=special,
            read=2 * self._states_back,
            write=2 * self._queries() + self._values() + self._gates(),
            again=self._handed_on_back() + statistic,
            pram_depth=depth,
            launches=sp.Integer(self._launched[1]),
            blocks=True,
        )

    def _gradient_work(self) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
        """Vector FLOP, exps and depth of the operand gradients, without the products."""
        dk, heads = self.key_dim, B * H
        keys, queries, mask = self._weighted_keys(), self._weighted_queries(), self._mask()
        # The mask multiplies the scores and their gradient; its factors are computed once.
        pairs = mask.vector + int(mask.vector != 0)
        tokens, exps = ZERO, keys.special + queries.special
        if self.decay in ("fixed", "scalar"):
            # dO Sᵀ and V dSᵀ are weighted and added 4, K is weighted for dV 1.
            tokens += 5 * dk
        if self.decay == "scalar":
            # Running sum and distances from the end; q·dq − k·dk per token, summed from the end.
            tokens += 2 + int(self.gated_keys) + 4 * dk + 2
        if self.decay == "vector":
            # Running sum 1; q e^b, k e^−b 2, k e^(end − b) 2; dQ 1, dK 3; q∘dq − k∘dk summed from the end 4.
            tokens, exps = 13 * dk, 3 * dk
        if self.normalised:
            pairs += 1  # dA less the row's sum
            tokens += 3 * dk  # z times it added to dQ; dz added to dK
        vector = heads * (N * tokens + self.pairs * pairs)
        return vector, heads * (N * exps + self.pairs * mask.special), self._gradient_depth()

    def _gradient_depth(self) -> sp.Expr:
        """Depth of the longest chain: dV through recomputed scores, or dQ, dK and the gates after them."""
        queries, mask = self._weighted_queries(), self._mask()
        scores = tree_depth(self.key_dim)
        given = tree_depth(self.value_width) + int(self.normalised)
        inside = int(mask.vector != 0) + tree_depth(self.longest) + 1
        if self.decay == "vector":
            gates = sp.Max(given, queries.depth) + 3 + CeilLog2(N)
            return inside + sp.Max(queries.depth + scores, gates)
        if self.decay == "scalar":
            return inside + sp.Max(given, mask.depth) + scores + 1 + CeilLog2(N)
        return inside + sp.Max(given, scores)

    # -- token by token --------------------------------------------------------------------

    def _token_by_token(self) -> Phase:
        """Decay, update and read the state, token by token: too narrow for the matrix engine."""
        dk, dv, io = self.key_dim, self.value_width, self.tensors()
        decayed = 0 if self.decay == "none" else 1
        vector = (4 + decayed) * dk * dv
        special = {"scalar": sp.Integer(1), "vector": dk}.get(self.decay, ZERO)
        if self.gated_keys:
            vector, special = vector + dk, special + 1
        if self.normalised:
            vector += (3 + decayed) * dk + dv
        # Before the steps: k vᵀ, or the gate's exp; with gated keys exp, k·i and k vᵀ, less the first decay.
        before = {"none": 1, "fixed": 0}.get(self.decay, 1 + self.gate_depth + int(self.gated_keys))
        return update_phase(
            self,
            "recurrence",
            states=io.updated,
            steps=N,
            vector=B * H * N * vector,
            special=B * H * N * special,
            read=self._operands() + io.weights + io.updated,
            write=io.outputs + io.updated,
            pram_depth=before + N * (1 + decayed) + tree_depth(dk) + int(self.normalised),
        )

    # -- operands --------------------------------------------------------------------------

    def _operands(self) -> sp.Expr:
        """Size of the core's inputs: Q, K, V and the gates [bytes]."""
        return 2 * self._queries() + self._values() + self._gates()

    def tensors(self) -> Tensors:
        """Q, K, V and the gates in, O out; in recurrent form also the state, updated in place."""
        state = self.state_bytes * B * H * self.key_dim * (self.value_width + int(self.normalised))
        return Tensors(
            inputs=self._operands(),
            weights=self.bytes * self.parameters(),
            outputs=self._values(),
            kept_outputs=self._values() if self.normalised else ZERO,
            updated=state if self.by_token else ZERO,
        )

    def kept(self) -> sp.Expr:
        """The inputs; if normalised, also O and its divisors."""
        if self.by_token:
            return ZERO
        divided = self._values() + self._row_statistic() if self.normalised else ZERO
        return self.tensors().inputs + divided

    def path(self) -> sp.Expr:
        """Return how often the state is passed on between the first and the last position."""
        return N if self.by_token else self.chunks
