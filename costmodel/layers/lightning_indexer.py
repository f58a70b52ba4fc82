"""The lightning indexer of DeepSeek sparse attention: which earlier positions a query attends to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase, Tensors
from costmodel.layers._attention import HQ, B, D, N
from costmodel.layers._indexed import PLACE_BYTES
from costmodel.layers._kernels import gemm, stream
from costmodel.layers._pairs import whole_before
from costmodel.layers._stored import StoredCache
from costmodel.symbols import ceil_div, symbols, tree_depth

K, STRIDE = symbols("top_k stride")


@dataclass(frozen=True, kw_only=True)
class LightningIndexer(StoredCache):
    """I(t, s) = Σ_h w(t, h) · ReLU(q(t, h) · k(s)) for every earlier position s, and the largest `top_k`.

    All heads share one key per position (DeepSeek-V4: per `stride` positions), which is cached. A pair takes
    2·h·d matrix FLOP and 3·h vector FLOP (ReLU, weight, sum), so that the layer is quadratic in the length,
    with one number per pair going through memory in fp32.

    Parameters
    ----------
    decode : bool
        One new token of each sequence, against the cached keys of `seq` positions, its own included.
        Otherwise all tokens of a sequence, each against those before it.
    """

    name: ClassVar[str] = "lightning-indexer"
    family: ClassVar[str] = "sparse attention"
    source: ClassVar[str] = "DeepSeek-AI 2025, DeepSeek-V3.2-Exp, §1, eq. 1; transformers, DeepseekV32Indexer"
    not_counted: ClassVar[str] = (
        "projections, norm and rotation; the Hadamard transform and rounding of queries and keys for FP8; "
        "reading the scores again for each digit of a radix selection; the indexer's own loss"
    )
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "heads", "head_dim")
    defaults: ClassVar[dict[str, str | int]] = {"top_k": 2048, "stride": 1}
    meanings: ClassVar[Mapping[str, str]] = {
        "heads": "heads of the indexer",
        "head_dim": "width of its queries and of its keys, which all heads share",
        "top_k": "keys chosen for a query",
        "stride": "positions of which one key is made; a query sees the keys of complete ones",
    }
    directions: ClassVar[tuple[str, ...]] = ("fwd",)

    decode: bool = False

    # -- counts ----------------------------------------------------------------------------

    @property
    def queries(self) -> sp.Expr:
        """Tokens of a sequence that choose."""
        return ONE if self.decode else N

    @property
    def keys(self) -> sp.Expr:
        """Keys of a sequence: ⌊n/stride⌋."""
        return ceil_div(N - STRIDE + 1, STRIDE)

    @property
    def pairs(self) -> sp.Expr:
        """Pairs of a query with a key of positions up to its own; ``torch`` counts all."""
        if self.decode or self.convention == "torch":
            return self.queries * self.keys
        return whole_before(N + 1, STRIDE)

    @property
    def chosen(self) -> sp.Expr:
        """Most keys chosen for a query."""
        return sp.Min(self.keys, K)

    def forward(self) -> tuple[Phase, ...]:
        """The scores of all earlier positions, summed over heads; then the choice of the largest."""
        return self._scores(), self._choice()

    def _scores(self) -> Phase:
        """One kernel that keeps the scores of single heads on the chip.

        Whole sequences: as a product of all heads' queries, side by side, with as many copies of the keys,
        which has the same arithmetic and the same result; the mean query sees half of the positions.
        """
        if self.decode:
            words = D * self.cached_bytes / self.bytes
            rows = B * sp.Max(ONE, self.keys)
            kernel = stream(self, "index scores", rows=rows, cols=words, reads=1, writes=0)
        else:
            mean = ceil_div(self.keys + 1, sp.Integer(2))
            kernel = gemm(self, "index scores", batch=B, m=N, n=mean, k=HQ * D)
        heads = B * HQ * self.pairs
        # torch sums over heads with a product of its own.
        summed = heads if self.convention == "torch" else ZERO
        return replace(
            kernel,
            name="index scores",
            flops={
                ("matrix", self.dtype): 2 * heads * D + 2 * summed,
                ("vector", self.accumulate): 3 * heads - 2 * summed,
            },
            read=self.tensors().inputs,
            write=self._written(),
            pram_depth=tree_depth(D) + 2 + tree_depth(HQ),
            workspace=self._written(),
        )

    def _choice(self) -> Phase:
        """Read every score; write the places of the largest. At least one comparison per score."""
        rows = B * self.queries
        places = PLACE_BYTES * rows * self.chosen
        mean = sp.Max(ONE, self.pairs / self.queries)  # a short sequence may have no key yet
        wide = self.stat_bytes / self.bytes
        found = stream(
            self, "choice", rows=rows, cols=mean, reads=wide, writes=0, vector=1, depth=tree_depth(self.keys),
            extra_write=places,
        )  # fmt: skip
        return replace(found, flops={("vector", self.accumulate): B * self.pairs}, read=self._written())

    def _written(self) -> sp.Expr:
        """Size of the scores in fp32 [bytes]."""
        return self.stat_bytes * B * self.pairs

    # -- operands --------------------------------------------------------------------------

    def tensors(self) -> Tensors:
        """Queries, keys and the heads' weights (fp32) in; the places of the chosen positions out."""
        rows = B * self.queries
        queries = (self.bytes * D + self.stat_bytes) * rows * HQ
        return Tensors(inputs=queries + self.cache_size(), outputs=PLACE_BYTES * rows * self.chosen)

    def cache_size(self) -> sp.Expr:
        """Size of the keys of all positions [bytes]."""
        return self.cached_bytes * B * self.keys * D

    def backward(self) -> tuple[Phase, ...]:
        """Nothing: the choice has no gradient, and the indexer learns from a loss of its own."""
        return ()

    def kept(self) -> sp.Expr:
        """Nothing; attention keeps the places."""
        return ZERO
