"""Native sparse attention: compressed blocks, selected blocks and a window, mixed by gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase, Tensors
from costmodel.layers._attention import (
    DV,
    HKV,
    HQ,
    NKV,
    B,
    D,
    N,
    check_heads,
    depth_backward,
    depth_forward,
    gradient_row_sums,
)
from costmodel.layers._base import Layer
from costmodel.layers._indexed import PLACE_BYTES, IndexedTensors
from costmodel.layers._kernels import gemm, multiplied_out, stream
from costmodel.layers._refusal import refuse
from costmodel.layers._scan import scan_phase
from costmodel.symbols import CausalTiles, CeilLog2, Distinct, ceil_div, symbols, tree_depth

LENGTH, STRIDE, BLOCK, TOP, WINDOW = symbols("summary stride block top_k window")
BRANCHES = 3
#: Positions at which a compressed block may end; a sequence shorter than a block is padded to one.
ENDS = sp.Max(ONE, NKV - LENGTH + 1)
#: Compressed keys; those that the new queries' positions complete.
COMPRESSED = ceil_div(ENDS, STRIDE)
NEW = sp.Min(COMPRESSED, ceil_div(N, STRIDE))
#: Blocks to select from.
BLOCKS = ceil_div(NKV, BLOCK)


def seen(width: sp.Expr) -> sp.Expr:
    """Return Σ min(t, width) over the last n of n_kv positions t: pairs with `width` keys per query."""
    most = sp.Min(width, NKV)
    short = sp.Max(0, most - (NKV - N))
    return N * most - short * (short - 1) / 2


@dataclass(frozen=True, kw_only=True)
class NativeSparseAttention(Layer):
    """NSA: o = Σ g_c·o_c over attention to compressed blocks, to selected blocks and to a window.

    A query at position t sees ⌊(t − l)/d⌋ + 1 compressed keys of l = `summary` positions each, d = `stride`
    apart; `top_k` selected blocks of `block` positions; and the last `window` positions: 4·d_h FLOP per key
    and head. Each branch has keys and values of its own. The heads of a group share them and the selection,
    which is by the sum of their compressed scores. If `seq_kv` > `seq`, the positions before the queries are
    cached. Blocks are taken to be equally likely, so that the expected number of distinct ones is read.

    Parameters
    ----------
    decode : bool
        The queries are new positions, one per sequence when decoding, in kernels for decoding. Such a step
        completes a compressed block, as only one step in `stride` does.
    """

    name: ClassVar[str] = "native-sparse-attention"
    family: ClassVar[str] = "sparse attention"
    source: ClassVar[str] = (
        "Yuan et al., arXiv 2502.11089, §3.2–3.4 and Table 4; "
        "XunhaoLai/native-sparse-attention-triton (linear compression)"
    )
    not_counted: ClassVar[str] = (
        "projections, also those of the gates; positions within a compressed block; that keys after a query "
        "in its own block are masked; that the first and the nearest blocks are always selected; "
        "in times, that each query gathers its own keys"
    )
    required: ClassVar[tuple[str, ...]] = ("batch", "heads", "seq", "head_dim")
    defaults: ClassVar[dict[str, str | int]] = {
        "seq_kv": "seq",
        "kv_heads": "heads",
        "value_dim": "head_dim",
        "summary": 32,
        "stride": 16,
        "block": 64,
        "top_k": 16,
        "window": 512,
    }
    meanings: ClassVar[Mapping[str, str]] = {
        "summary": "positions of a compressed block",
        "stride": "distance between compressed blocks",
        "block": "positions of a block that may be selected",
        "top_k": "blocks selected for a query",
    }

    decode: bool = False

    def __post_init__(self) -> None:
        """Check that decoding is forward only."""
        super().__post_init__()
        self.check_forward_only("decode", chosen=self.decode)

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Check that heads share keys evenly, and that the queries' own keys are among the keys."""
        check_heads(self, sizes)
        wanted = "wanted seq_kv of at least seq: the queries' own keys count"
        refuse(self, sizes["seq_kv"] < sizes["seq"], wanted, sizes, "seq_kv", "seq")

    # -- counts ----------------------------------------------------------------------------

    @property
    def _queries(self) -> sp.Expr:
        """Number of queries of all heads."""
        return B * HQ * N

    def _keys(self, positions: sp.Expr) -> sp.Expr:
        """Size of the keys and values of one branch [bytes]."""
        return self.bytes * B * HKV * positions * (D + DV)

    def _outputs(self) -> sp.Expr:
        """Size of the results of one branch [bytes]."""
        return self.bytes * self._queries * DV

    def _statistics(self) -> sp.Expr:
        """Size of one statistic per query [bytes]."""
        return self.stat_bytes * self._queries

    def _chosen(self) -> sp.Expr:
        """Size of the numbers of the selected blocks [bytes]."""
        return PLACE_BYTES * B * HKV * N * TOP

    #: Pairs of one head with compressed keys, selected keys, keys of the window, and blocks to select from.
    compressed: ClassVar[sp.Expr] = CausalTiles(sp.Min(N, ENDS), ENDS, STRIDE)
    selected: ClassVar[sp.Expr] = seen(TOP * BLOCK)
    near: ClassVar[sp.Expr] = seen(WINDOW)
    candidates: ClassVar[sp.Expr] = CausalTiles(N, NKV, BLOCK)
    #: Positions that are read: for compressed blocks that end anew, in windows, and at least as selected.
    source_positions: ClassVar[sp.Expr] = sp.Min(NKV, N + LENGTH - 1)
    window_positions: ClassVar[sp.Expr] = sp.Min(NKV, N + WINDOW - 1)
    selected_positions: ClassVar[sp.Expr] = sp.Max(N, sp.Min(TOP * BLOCK, NKV))

    def tensors(self) -> Tensors:
        """Q, gates, and K and V of each branch: those of compressed blocks, selected ones, the window; O.

        Most steps of decoding complete no compressed block, and need neither its keys nor the maps.
        """
        weights = self.bytes * self.parameters()
        source = ZERO if self.decode else self.source_positions
        cached = COMPRESSED - NEW + self.selected_positions + self.window_positions
        return IndexedTensors(
            inputs=self.bytes * self._queries * (D + BRANCHES) + self._keys(source + cached),
            weights=ZERO if self.decode else weights,
            outputs=self._outputs(),
            unread=weights if self.decode else ZERO,
        )

    def parameters(self) -> sp.Expr:
        """A linear map of a block's keys to one key for each key head, and one of its values."""
        return HKV * LENGTH * (D**2 + DV**2)

    def kept(self) -> sp.Expr:
        """The inputs, compressed keys and values, the selection, and each branch's result and log-sum-exp."""
        results = BRANCHES * (self._outputs() + self._statistics())
        return self.tensors().inputs + self._keys(NEW) + self._chosen() + results

    # -- kernels ---------------------------------------------------------------------------

    def _compress(self, name: str, width: sp.Expr) -> Phase:
        """Return the product of blocks of keys or values with their map; blocks overlap."""
        plain = gemm(self, name, m=B * NEW, n=width, k=LENGTH * width, batch=HKV)
        source = self.bytes * B * HKV * self.source_positions * width
        weights = self.bytes * HKV * LENGTH * width**2
        return replace(
            plain,
            read=source + weights,
            l2=self.bytes * B * HKV * NEW * LENGTH * width,
            workspace=plain.write,
            spared=plain.flops if self.decode else {},
        )

    def _attention(self, name: str, pairs: sp.Expr, positions: sp.Expr, most: sp.Expr) -> Phase:
        """Return attention of all queries to `positions` keys, of which they see `pairs`, as one kernel."""
        heads, options = B * HQ, {"dtype": self.dtype}
        return Phase(
            name=name,
            kernel="decode" if self.decode else "attention",
            op="attention_decode" if self.decode else "attention_prefill_noncausal",
            borrowed=True,
            sizes=self._sizes(pairs),
            options=options if self.decode else {**options, "causal": False, "direction": "fwd"},
            flops=self._flops(pairs, 2 * (D + DV)),
            read=self.bytes * self._queries * D + self._keys(positions),
            write=self._outputs() + self._statistics(),
            l2=self.bytes * heads * pairs * (D + DV) / BLOCK,
            pram_depth=depth_forward(most),
            workspace=self._outputs() + self._statistics(),
        )

    def _flops(self, pairs: sp.Expr, matrix: sp.Expr) -> dict[tuple[str, str], sp.Expr]:
        """Return the arithmetic of attention: per pair maximum, subtract, sum, exp; or exp, dS."""
        heads = B * HQ
        return {
            ("matrix", self.dtype): heads * pairs * matrix,
            ("vector", self.accumulate): 3 * heads * pairs,
            ("special", self.accumulate): heads * pairs,
        }

    def _sizes(self, pairs: sp.Expr) -> dict[str, sp.Expr]:
        """Return the arguments of the kernel model: each query with the mean number of its keys."""
        sizes = {"heads": HQ, "kv_heads": HKV, "seq_kv": pairs / N}
        if self.decode:  # its model takes one query per sequence, and one width for keys and values
            return {**sizes, "batch": B * N, "head_dim": (D + DV) / 2}
        return {**sizes, "batch": B, "seq": N, "held": N, "head_dim": D, "value_dim": DV}

    def _select(self) -> tuple[Phase, ...]:
        """Return the kernels that score blocks, from the compressed scores of all heads, and choose."""
        heads, each = B * HQ, ceil_div(LENGTH, STRIDE)
        scores = self.stat_bytes * B * HKV * self.candidates
        score = scan_phase(
            self,
            "scores of blocks",
            chains=heads * N,
            matrix=2 * heads * self.compressed * D,
            # exp(S − LSE); the sum over a group's heads; the sums over the compressed blocks in a block.
            vector=2 * heads * self.compressed + B * HKV * self.compressed * each,
            special=heads * self.compressed,
            read=self.bytes * (self._queries * D + B * HKV * COMPRESSED * D) + self._statistics(),
            write=scores,
            pram_depth=tree_depth(D) + 2 + CeilLog2(HQ / HKV) + CeilLog2(ceil_div(BLOCK, STRIDE) + each),
            workspace=scores,
        )
        choose = stream(
            self, "selection", rows=B * HKV * N, cols=self.candidates / N, reads=self.stat_bytes / self.bytes,
            writes=0, op="softmax", borrowed=True, pattern="softmax", vector=1,
            depth=CeilLog2(BLOCKS) + TOP, extra_write=self._chosen(), workspace=self._chosen(),
        )  # fmt: skip
        # The compressed attention has these scores already.
        return replace(score, spared=score.flops), multiplied_out(choose)

    def _distinct(self) -> sp.Expr:
        """Positions of the distinct blocks that are expected to be selected."""
        blocks = Distinct(BLOCKS, sp.Min(TOP, BLOCKS), N)
        return sp.Min(NKV, BLOCK * blocks)

    def _gathered(self, phase: Phase, matrix: sp.Expr, *, times: int) -> Phase:
        """Return attention to selected blocks: each group of heads reads those of its query, `times` over."""
        # Of the own block, a query sees no more than the positions up to its own.
        own = B * HQ * sp.Min(N, sp.Max(0, NKV - TOP * BLOCK)) * (BLOCK - 1)
        per_pair = {"matrix": matrix, "vector": sp.Integer(3), "special": ONE}
        return replace(
            phase,
            read=phase.read + self._chosen(),
            l2=times * self._keys(self.selected),
            spared={key: own * per_pair[key[0]] for key in phase.flops},
        )

    def forward(self) -> tuple[Phase, ...]:
        """Compress; attend to compressed keys; select; attend to selected blocks and to the window; mix."""
        most = sp.Min(TOP * BLOCK, NKV)
        plain = self._attention("selected attention", self.selected, self._distinct(), most)
        unread = self._keys(NKV - self.selected_positions)
        chosen = replace(self._gathered(plain, 2 * (D + DV), times=1), workspace=plain.workspace + unread)
        gates = self.bytes * BRANCHES * self._queries
        mix = stream(
            self, "gated sum", rows=self._queries, cols=DV, reads=BRANCHES, writes=1, vector=2 * BRANCHES,
            depth=2 + CeilLog2(BRANCHES), extra_read=gates,
        )  # fmt: skip
        return (
            self._compress("compression of keys", D),
            replace(self._compress("compression of values", DV), beside=True),
            self._attention("compressed attention", self.compressed, COMPRESSED, COMPRESSED),
            *self._select(),
            chosen,
            replace(
                self._attention("window attention", self.near, self.window_positions, sp.Min(WINDOW, NKV)),
                beside=True,
            ),
            mix,
        )

    def backward(self) -> tuple[Phase, ...]:
        """The gates and dO of each branch; each branch's kernels; the maps. The selection has no gradient."""
        gates = self.bytes * BRANCHES * self._queries
        # g·dO; dO·o of each branch, which also is its row sum of dO∘O up to the gate.
        mix = stream(
            self, "gated sum, gradients", rows=self._queries, cols=DV, reads=1 + BRANCHES, writes=BRANCHES,
            vector=3 * BRANCHES, depth=tree_depth(DV), extra_read=gates, extra_write=gates,
            workspace=BRANCHES * self._outputs(),
        )  # fmt: skip
        plain = self._attention_backward("selected attention, backward", self.selected, self._distinct())
        chosen = self._gathered(plain, 6 * D + 4 * DV, times=2)
        return (
            mix,
            gradient_row_sums(self),
            self._attention_backward("window attention, backward", self.near, self.window_positions),
            gradient_row_sums(self),
            chosen,
            gradient_row_sums(self),
            self._attention_backward("compressed attention, backward", self.compressed, COMPRESSED),
            *self._decompress("keys", D),
            *self._decompress("values", DV),
            stream(self, "sum of query gradients", rows=self._queries, cols=D, reads=BRANCHES, writes=1,
                   vector=BRANCHES - 1, depth=CeilLog2(BRANCHES)),
        )  # fmt: skip

    def _attention_backward(self, name: str, pairs: sp.Expr, positions: sp.Expr) -> Phase:
        """Return the gradients of a branch: the scores again, dV, dP, dQ and dK."""
        keys, queries = self._keys(positions), self.bytes * self._queries
        return Phase(
            name=name,
            kernel="attention",
            op="attention_prefill_noncausal",
            borrowed=True,
            sizes=self._sizes(pairs),
            options={"dtype": self.dtype, "causal": False, "direction": "bwd"},
            flops=self._flops(pairs, 6 * D + 4 * DV),
            read=keys + queries * (D + DV) + 2 * self._statistics(),
            write=keys + queries * D,
            l2=2 * self.bytes * B * HQ * pairs * (D + DV) / BLOCK,
            pram_depth=depth_backward(N),
            workspace=self._statistics() + queries * D,
        )

    def _decompress(self, name: str, width: sp.Expr) -> tuple[Phase, Phase]:
        """Return the gradients of blocks of keys or values, which overlap, and of their map."""
        rows, source = B * NEW, self.bytes * B * HKV * self.source_positions * width
        again = self.bytes * B * HKV * NEW * LENGTH * width
        data = gemm(
            self, f"compression of {name}, input gradient", m=rows, n=LENGTH * width, k=width, batch=HKV
        )
        weights = gemm(
            self, f"compression of {name}, weight gradient", m=LENGTH * width, n=width, k=rows, batch=HKV
        )
        made = self.bytes * HKV * rows * width
        return replace(data, write=source, l2=again), replace(weights, read=source + made, l2=again)
