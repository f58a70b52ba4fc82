"""Attention to the nearest of many stored keys, found through an index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import sympy as sp

from costmodel.cost import ONE, ZERO, Phase, Tensors
from costmodel.errors import SizeError
from costmodel.layers._attention import DV, HKV, HQ, B, D, N, check_heads, depth_forward
from costmodel.layers._base import Layer
from costmodel.layers._indexed import PLACE_BYTES
from costmodel.layers._kernels import gemm, stream
from costmodel.symbols import CeilLog2, Distinct, symbols, tree_depth

STORE, TOP, LISTS, PROBES = symbols("store top_k lists probes")
INDEXES = ("flat", "ivf")


@dataclass(frozen=True, kw_only=True)
class RetrievalMemory(Layer):
    """Each query looks up its `top_k` nearest of `store` keys, and attends to those: kNN attention.

    The store is frozen, one for all sequences, with keys and values of every key head: forward only.
    Main memory gives each entry once that some query looks at: as many as are expected where all are as
    likely, S·(1 − (1 − k/S)^queries) of those found. Further looks are re-reads that a cache may serve.

    Parameters
    ----------
    index : str
        ``flat``: the distance to every entry, 2·S·d_h FLOP a query. ``ivf``: entries lie in `lists`
        lists; a query looks into the `probes` lists with the nearest centres, S·probes/lists entries.
    """

    name: ClassVar[str] = "retrieval-memory"
    family: ClassVar[str] = "fewer pairs"
    source: ClassVar[str] = (
        "Wu et al., arXiv 2203.08913 (Memorizing Transformers); Johnson et al., arXiv 1702.08734 (IVF)"
    )
    not_counted: ClassVar[str] = (
        "projections; filling the store and training the index; joining with local attention (a gate)"
    )
    required: ClassVar[tuple[str, ...]] = ("batch", "heads", "seq", "head_dim", "store")
    defaults: ClassVar[dict[str, str | int]] = {
        "kv_heads": "heads",
        "value_dim": "head_dim",
        "top_k": 32,
        "lists": 1024,
        "probes": 32,
    }
    directions: ClassVar[tuple[str, ...]] = ("fwd",)

    index: str = "flat"

    def __post_init__(self) -> None:
        """Check the index."""
        super().__post_init__()
        self.check_options(index=INDEXES)

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """As many entries are looked at as are wanted."""
        check_heads(self.name, sizes)
        seen = sizes["store"]
        if self.index == "ivf":
            if np.any(sizes["probes"] > sizes["lists"]):
                raise SizeError(f"{self.name}: wanted no more probes than lists")
            seen = seen * sizes["probes"] / sizes["lists"]
        if np.any(sizes["top_k"] > seen):
            raise SizeError(f"{self.name}: fewer than top_k entries are looked at; give a larger store")

    # -- what is looked at -----------------------------------------------------------------

    @property
    def queries(self) -> sp.Expr:
        """Queries of all sequences and heads."""
        return B * N * HQ

    @property
    def scanned(self) -> sp.Expr:
        """Entries that a query is compared with."""
        return STORE if self.index == "flat" else STORE * PROBES / LISTS

    def _touched(self, entries: sp.Expr, each: sp.Expr) -> sp.Expr:
        """Return how many entries of a store its queries are expected to look at, so many each."""
        return Distinct(entries, each, self.queries / HKV)

    def _distances(self) -> tuple[Phase, ...]:
        """Return the kernels that compare queries with entries."""
        if self.index == "flat":
            return (self._compare("distances", STORE),)
        chosen = self._select("nearest lists", LISTS, PROBES)
        scan = Phase(
            name="distances in lists",
            kernel="stream",
            op="elementwise_mul",
            borrowed=True,
            sizes={"rows": self.queries * self.scanned, "cols": D, "reads": ONE, "writes": ZERO},
            options={"dtype": self.dtype, "pattern": "elementwise"},
            flops={("matrix", self.dtype): 2 * self.queries * self.scanned * D},
            # A list is read again for every query that looks into it, from the cache where it can be.
            read=self.bytes * (self.queries * D + HKV * D * STORE * self._touched(LISTS, PROBES) / LISTS)
            + PLACE_BYTES * self.queries * PROBES,
            write=self._scores(self.scanned),
            l2=self.bytes * self.queries * self.scanned * D,
            pram_depth=tree_depth(D),
            workspace=self._scores(self.scanned),
        )
        return (self._compare("centres", LISTS), chosen, scan)

    def _compare(self, name: str, entries: sp.Expr) -> Phase:
        """Return the product of all queries with so many keys of their key head."""
        sizes = {"m": B * N, "n": entries, "k": D, "batch": HQ, "b_batch": HKV}
        return gemm(self, name, **sizes, workspace=self._scores(entries))

    def _select(self, name: str, entries: sp.Expr, chosen: sp.Expr) -> Phase:
        """Return one pass over scores that finds the largest: a comparison each, a tree that yields k."""
        numbers = PLACE_BYTES * self.queries * chosen
        return stream(
            self,
            name,
            rows=self.queries,
            cols=entries,
            reads=1,
            writes=0,
            op="softmax",
            borrowed=True,
            pattern="softmax",
            vector=1,
            depth=CeilLog2(entries) + chosen,
            extra_write=numbers,
            workspace=numbers,
        )

    def forward(self) -> tuple[Phase, ...]:
        """Compare; select; attend to what was found, gathered."""
        found, w = self.queries * TOP, self.bytes
        attend = Phase(
            name="attention to what was found",
            kernel="stream",
            op="elementwise_mul",
            borrowed=True,
            sizes={"rows": found, "cols": D + DV, "reads": ONE, "writes": ZERO},
            options={"dtype": self.dtype, "pattern": "elementwise"},
            flops={
                ("matrix", self.dtype): 2 * found * (D + DV),
                ("vector", self.accumulate): 3 * found + self.queries * DV,
                ("special", self.accumulate): found,
            },
            read=w * (self.queries * D + (D + DV) * HKV * self._touched(STORE, TOP)) + PLACE_BYTES * found,
            write=self.tensors().outputs,
            l2=w * found * (D + DV),
            pram_depth=depth_forward(TOP),
            workspace=self._rest_of_store(),
        )
        return (*self._distances(), self._select("selection", self.scanned, TOP), attend)

    def tensors(self) -> Tensors:
        """Queries and outputs; of the store what a query needs, were it the same for all."""
        keys = self.scanned + (LISTS if self.index == "ivf" else ZERO)
        return Tensors(
            inputs=self.bytes * (self.queries * D + HKV * (keys * D + TOP * DV)),
            outputs=self.bytes * self.queries * DV,
        )

    def _rest_of_store(self) -> sp.Expr:
        """Bytes of the store that need not be touched, but are there."""
        return self.bytes * HKV * ((STORE - self.scanned) * D + (STORE - TOP) * DV)

    def _scores(self, entries: sp.Expr) -> sp.Expr:
        """Bytes of one score for every query and entry."""
        return self.bytes * self.queries * entries

    def kept(self) -> sp.Expr:
        """Nothing: the store is not trained through."""
        return ZERO
