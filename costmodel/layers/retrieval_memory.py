"""Attention to the nearest of many stored keys, found through an index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase, Tensors
from costmodel.layers._attention import DV, HKV, HQ, B, D, N, check_heads, depth_forward
from costmodel.layers._base import Layer
from costmodel.layers._indexed import PLACE_BYTES
from costmodel.layers._kernels import gemm, stream
from costmodel.layers._refusal import refuse
from costmodel.symbols import CeilLog2, Distinct, symbols, tree_depth

STORE, TOP, LISTS, PROBES = symbols("store top_k lists probes")
INDEXES = ("flat", "ivf")


@dataclass(frozen=True, kw_only=True)
class RetrievalMemory(Layer):
    """kNN attention: each query finds its `top_k` nearest of `store` keys, and attends to those.

    The store is frozen and shared by all sequences, with keys and values for every key head: forward only.
    Each entry that any query looks at is read from main memory once. If all entries are equally likely,
    S·(1 − (1 − k/S)^queries) of them are expected to be found. Further reads may be served by a cache.

    Parameters
    ----------
    index : str
        ``flat``: the distance to every entry, 2·S·d_h FLOP per query. ``ivf``: entries are grouped into
        `lists` lists; a query searches the `probes` lists with the nearest centroids, S·probes/lists entries.
    """

    name: ClassVar[str] = "retrieval-memory"
    family: ClassVar[str] = "sparse attention"
    source: ClassVar[str] = (
        "Wu et al., arXiv 2203.08913 (Memorizing Transformers); Johnson et al., arXiv 1702.08734 (IVF)"
    )
    not_counted: ClassVar[str] = (
        "projections; filling the store and training the index; combining with local attention (a gate)"
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
        """Check that at least `top_k` entries are searched."""
        check_heads(self, sizes)
        names: tuple[str, ...] = ("top_k", "store")
        least, most = sizes["top_k"], sizes["store"]
        if self.index == "ivf":
            wanted = "wanted no more probes than lists"
            refuse(self, sizes["probes"] > sizes["lists"], wanted, sizes, "probes", "lists")
            least, most = least * sizes["lists"], most * sizes["probes"]
            names = (*names, "probes", "lists")
        wanted = "fewer than top_k entries are searched; give a larger store"
        refuse(self, least > most, wanted, sizes, *names)

    # -- searched entries ------------------------------------------------------------------

    @property
    def queries(self) -> sp.Expr:
        """Number of queries of all sequences and heads."""
        return B * N * HQ

    @property
    def scanned(self) -> sp.Expr:
        """Number of entries that a query is compared with."""
        return STORE if self.index == "flat" else STORE * PROBES / LISTS

    def _touched(self, entries: sp.Expr, each: sp.Expr) -> sp.Expr:
        """Return the expected number of `entries` touched by a key head's queries, with `each` per query."""
        return Distinct(entries, each, self.queries / HKV)

    def _distances(self) -> tuple[Phase, ...]:
        """Return the kernels that compare queries with entries."""
        if self.index == "flat":
            return (self._compare("distances", STORE),)
        chosen = self._select("list selection", LISTS, PROBES)
        scan = Phase(
            name="distances in the searched lists",
            kernel="stream",
            op="elementwise_mul",
            borrowed=True,
            sizes={"rows": self.queries * self.scanned, "cols": D, "reads": ONE, "writes": ZERO},
            options={"dtype": self.dtype, "pattern": "elementwise"},
            flops={("matrix", self.dtype): 2 * self.queries * self.scanned * D},
            # A list is read again for every query that searches it, from the cache if possible.
            read=self.bytes * (self.queries * D + HKV * D * STORE * self._touched(LISTS, PROBES) / LISTS)
            + PLACE_BYTES * self.queries * PROBES,
            write=self._scores(self.scanned),
            l2=self.bytes * self.queries * self.scanned * D,
            pram_depth=tree_depth(D),
            workspace=self._scores(self.scanned),
        )
        return (self._compare("centroid distances", LISTS), chosen, scan)

    def _compare(self, name: str, entries: sp.Expr) -> Phase:
        """Return the product of all queries with `entries` keys of their key head."""
        sizes = {"m": B * N, "n": entries, "k": D, "batch": HQ, "b_batch": HKV}
        return gemm(self, name, **sizes, workspace=self._scores(entries))

    def _select(self, name: str, entries: sp.Expr, chosen: sp.Expr) -> Phase:
        """Return a pass over scores that selects the largest: a comparison each, and a tree that yields k."""
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
        """Compare; select; attend to the gathered entries."""
        found, w = self.queries * TOP, self.bytes
        attend = Phase(
            name="attention over retrieved entries",
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
        return (*self._distances(), self._select("top-k selection", self.scanned, TOP), attend)

    def tensors(self) -> Tensors:
        """Queries and outputs; of the store, what is needed if all queries search the same entries."""
        keys = self.scanned + (LISTS if self.index == "ivf" else ZERO)
        return Tensors(
            inputs=self.bytes * (self.queries * D + HKV * (keys * D + TOP * DV)),
            outputs=self.bytes * self.queries * DV,
        )

    def _rest_of_store(self) -> sp.Expr:
        """Size of the rest of the store, which is in memory but need not be read [bytes]."""
        return self.bytes * HKV * ((STORE - self.scanned) * D + (STORE - TOP) * DV)

    def _scores(self, entries: sp.Expr) -> sp.Expr:
        """Size of one score per query and entry [bytes]."""
        return self.bytes * self.queries * entries

    def kept(self) -> sp.Expr:
        """Nothing: there is no backward pass."""
        return ZERO
