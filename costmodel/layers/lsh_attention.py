"""Reformer's attention among positions whose vectors hash alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase, Tensors
from costmodel.layers._attention import DV, HQ, B, D, N
from costmodel.layers._base import Layer
from costmodel.layers._indexed import TOKEN_BYTES
from costmodel.layers._kernels import addition, gemm, multiplied_out, softmax, stream
from costmodel.layers._scan import scan_phase
from costmodel.symbols import CeilLog, CeilLog2, Factors, ceil_div, symbols

M, BUCKETS, ROUNDS = symbols("block lists rounds")
#: Bits that a pass of a radix sort orders (CUB's and torch's).
DIGIT = sp.Integer(8)
#: Sequences of all heads.
ROWS = B * HQ
#: Chunks of a round, which pads the sequence to whole ones; chunks of all rounds and heads.
CHUNKS = ceil_div(N, M)
ALL_CHUNKS = ROWS * ROUNDS * CHUNKS
#: Positions of all rounds, and of their padded, sorted copies.
HASHED = ROWS * ROUNDS * N
SORTED = ALL_CHUNKS * M


@dataclass(frozen=True, kw_only=True)
class LSHAttention(Layer):
    """Reformer's attention: positions sorted by hash, in chunks that see themselves and the chunk before.

    In each of `rounds` rounds every query sees 2·m keys, those of its own chunk of m = `block` positions and
    of the chunk before: 8·m·n·d_h FLOP per round and head. Queries are also keys, divided by their length. A
    hash is the largest entry of [xR; −xR] for a random rotation R of `lists`/2 columns, the number of its
    bucket. The sort by bucket and position takes O(n·log n) comparisons; a framework sorts by digits of 8
    bits. The rounds' results are averaged by the sums of their softmax.

    Parameters
    ----------
    factors : int
        Number of rotations per hash. Each has the columns of one factor of the number of buckets, their most
        even factorisation: 2 for long sequences in trax. With one, as in the paper, hashing takes
        n·d_h·`lists` FLOP per round, and O(n²·d_h/m) if there are as many buckets as chunks.
    """

    name: ClassVar[str] = "lsh-attention"
    family: ClassVar[str] = "sparse attention"
    source: ClassVar[str] = (
        "Kitaev et al., arXiv 2001.04451, §2 and eq. 1–4; lucidrains/reformer-pytorch (kernels); "
        "LSHSelfAttention in google/trax (two factors); Liu et al., ICLR 2022, Table 1 (path)"
    )
    not_counted: ClassVar[str] = (
        "projections; drawing the rotations; arithmetic on bucket numbers; causal masks, which save no work; "
        "weights of pairs that several rounds find; reversible layers"
    )
    required: ClassVar[tuple[str, ...]] = ("batch", "heads", "seq", "head_dim")
    defaults: ClassVar[dict[str, str | int]] = {
        "value_dim": "head_dim",
        "block": 64,
        "rounds": 8,
        "lists": "(seq + block - 1)//block",
    }
    meanings: ClassVar[Mapping[str, str]] = {"block": "positions of a chunk", "lists": "buckets of a hash"}

    factors: int = 2

    # -- counts ----------------------------------------------------------------------------

    @property
    def _buckets(self) -> sp.Expr:
        """Number of buckets, of which each factor has at least two."""
        return sp.Max(BUCKETS, 2**self.factors)

    @property
    def _columns(self) -> sp.Expr:
        """Columns of all rotations of a hash: half of each factor."""
        return Factors(self._buckets, sp.Integer(self.factors)) / 2

    def _size(self, rows: sp.Expr, width: sp.Expr) -> sp.Expr:
        """Size of a table [bytes]."""
        return self.bytes * rows * width

    def tensors(self) -> Tensors:
        """Shared queries and keys, and values, in; outputs out."""
        return Tensors(
            inputs=self._size(ROWS * N, D + DV), outputs=self._size(ROWS * N, DV), kept_inputs=ZERO
        )

    def kept(self) -> sp.Expr:
        """Sorted queries; keys and values of chunks; P; results and weights of rounds; both orders."""
        tables = self._size(SORTED, D + 2 * (D + DV) + 2 * M) + self._size(HASHED, DV)
        return tables + self.stat_bytes * HASHED + TOKEN_BYTES * (SORTED + HASHED)

    def path(self) -> sp.Expr:
        """⌈log_2m n⌉ layers, each of which reaches 2m positions from every position reached before."""
        return sp.Max(ONE, CeilLog(N, 2 * M))

    # -- kernels ---------------------------------------------------------------------------

    def _hash(self) -> tuple[Phase, ...]:
        """Rotate; find the largest entry; sort by bucket and position; sort back, for the inverse order."""
        columns = self._columns
        rotate = gemm(
            self, "rotations", m=N, n=ROUNDS * columns, k=D, batch=ROWS, b_batch=HQ,
            workspace=self._size(HASHED, columns),
        )  # fmt: skip
        choose = stream(
            self, "hashes", rows=HASHED, cols=columns, reads=1, writes=0, op="softmax", borrowed=True,
            pattern="softmax", vector=2, depth=ceil_div(CeilLog2(self._buckets), sp.Integer(self.factors)),
            extra_write=TOKEN_BYTES * HASHED, workspace=TOKEN_BYTES * HASHED,
        )  # fmt: skip
        return (
            replace(rotate, spared=rotate.flops),  # rotations that are products of sparse ones need fewer
            choose,
            self._sort("sort by bucket", ROUNDS * self._buckets * N),
            self._sort("inverse of the order", ROUNDS * N),
        )

    def _sort(self, name: str, largest: sp.Expr) -> Phase:
        """Return a radix sort of keys below `largest` with their places, 8 bytes each.

        Given enough processors, each key is compared with all others at once, and its rank is their sum.
        """
        levels, passes = CeilLog2(ROUNDS * N), ceil_div(CeilLog2(largest), DIGIT)
        moved = 2 * TOKEN_BYTES * HASHED
        phase = scan_phase(
            self,
            name,
            chains=ROWS,
            vector=HASHED * levels,
            read=moved * passes,
            write=moved * passes,
            pram_depth=1 + levels,
            workspace=moved,
            launches=passes,
        )
        return replace(phase, spared=phase.flops)  # digits are counted, not compared

    def _move(self, name: str, rows: sp.Expr, cols: sp.Expr, **more: Any) -> Phase:
        """Return a copy of rows to other places, read from a list of 8 bytes each."""
        extra = more.pop("extra_read", ZERO) + TOKEN_BYTES * rows
        counts: dict[str, Any] = {"reads": 1, "writes": 1, "op": "elementwise_copy", "borrowed": True}
        counts |= {"depth": ZERO, "workspace": self._size(rows, cols), **more}
        return stream(self, name, rows=rows, cols=cols, extra_read=extra, **counts)

    def _product(self, name: str, m: sp.Expr, n: sp.Expr, k: sp.Expr) -> Phase:
        """Return one product for every chunk; the least work is that of queries with their own chunk."""
        plain = gemm(self, name, m=m, n=n, k=k, batch=ALL_CHUNKS, workspace=self._size(ALL_CHUNKS, m * n))
        pairs = HASHED * sp.Min(N, M)
        width = DV if DV in (m, n, k) else D
        return replace(plain, spared={key: flops - 2 * pairs * width for key, flops in plain.flops.items()})

    def _scores(self, name: str) -> Phase:
        """Return the pass over the scores that replaces those of a query with itself."""
        return stream(self, name, rows=SORTED, cols=2 * M, reads=1, writes=1, vector=1)

    def _attend(self) -> tuple[Phase, ...]:
        """Gather; keys of unit length; chunks and the last ones side by side; attention among them."""
        gather, stat = self._move("gather", SORTED, D + DV), self.stat_bytes * SORTED
        distinct = self._size(ROWS * N, D + DV)
        again = self._size(SORTED, D + DV) - distinct
        side_by_side = stream(
            self, "chunks with the last", rows=SORTED, cols=D + DV, reads=1, writes=2, op="elementwise_copy",
            borrowed=True, depth=ZERO, workspace=self._size(SORTED, 2 * (D + DV)),
        )  # fmt: skip
        return (
            replace(gather, read=gather.read - again, l2=again),
            stream(
                self, "keys of unit length", rows=SORTED, cols=D, reads=1, writes=1, op="rmsnorm",
                borrowed=True, pattern="rmsnorm", vector=3, depth=CeilLog2(D) + 3,
                workspace=self._size(SORTED, D),
            ),
            replace(side_by_side, l2=self._size(SORTED, D + DV)),
            self._product("scores", M, 2 * M, D),
            self._scores("mask of own keys"),
            softmax(
                self, "softmax", "fwd", rows=SORTED, cols=2 * M, extra_write=stat,
                workspace=self._size(SORTED, 2 * M) + stat,
            ),
            self._product("values", M, DV, 2 * M),
        )  # fmt: skip

    def forward(self) -> tuple[Phase, ...]:
        """Hash and sort; attention within chunks; back to the order of positions; average of the rounds."""
        stat = self.stat_bytes * HASHED
        back = self._move(
            "unsort", HASHED, DV, extra_read=stat, extra_write=stat, workspace=self._size(HASHED, DV) + stat
        )
        # For each row a softmax over the rounds; for each element a weighted sum.
        average = stream(
            self, "average of rounds", rows=ROWS * N, cols=DV, reads=ROUNDS, writes=1,
            vector=2 * ROUNDS + 4 * ROUNDS / DV, special=ROUNDS / DV, depth=3 * CeilLog2(ROUNDS) + 4,
            extra_read=stat,
        )  # fmt: skip
        return (*self._hash(), *self._attend(), back, multiplied_out(average))

    def backward(self) -> tuple[Phase, ...]:
        """The same in reverse; hashes and orders have no gradient, and the orders are kept."""
        stat, sorted_stat = self.stat_bytes * HASHED, self.stat_bytes * SORTED
        # dO times each weight; dO·O of each round; the softmax's gradient for each row.
        average = stream(
            self, "average of rounds, gradient", rows=ROWS * N, cols=DV, reads=ROUNDS + 1, writes=ROUNDS,
            vector=3 * ROUNDS + 4 * ROUNDS / DV, depth=CeilLog2(DV) + CeilLog2(ROUNDS) + 4, extra_read=stat,
            extra_write=stat, workspace=self._size(HASHED, DV) + stat,
        )  # fmt: skip
        sort = self._move(
            "sort of gradients", SORTED, DV, extra_read=sorted_stat, extra_write=sorted_stat,
            workspace=self._size(SORTED, DV) + sorted_stat,
        )  # fmt: skip
        # |q| and k again; dq + (dk − k (k·dk))/|q|.
        unit = stream(
            self, "keys of unit length, gradient", rows=SORTED, cols=D, reads=3, writes=1, op="rmsnorm",
            borrowed=True, pattern="rmsnorm", vector=9, depth=2 * CeilLog2(D) + 8,
            workspace=self._size(SORTED, D),
        )  # fmt: skip
        scores = self._size(SORTED, 2 * M)
        return (
            multiplied_out(average),
            sort,
            self._product("value gradient", 2 * M, DV, M),
            self._product("probability gradient", M, 2 * M, DV),
            softmax(
                self, "softmax gradient", "bwd", rows=SORTED, cols=2 * M, extra_read=sorted_stat,
                workspace=scores,
            ),
            self._scores("mask gradient"),
            self._product("query gradient", M, D, 2 * M),
            self._product("key gradient", 2 * M, D, M),
            replace(
                addition(self, "sum of chunks' gradients", rows=SORTED, cols=D + DV),
                workspace=self._size(SORTED, D + DV),
            ),
            unit,
            self._move(
                "sum over rounds", ROWS * N, D + DV, reads=ROUNDS, vector=ROUNDS, depth=CeilLog2(ROUNDS),
                extra_read=TOKEN_BYTES * (HASHED - ROWS * N), workspace=ZERO,
            ),
        )  # fmt: skip
