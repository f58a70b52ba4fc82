"""Multi-head latent attention: the keys and values of all heads come from one short vector per token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.layers._attention import DM, DV, HKV, HQ, NKV, B, D, N, causal_pairs, depth_forward
from costmodel.layers._base import Layer
from costmodel.layers._kernels import gemm, gradient_sum, gradients
from costmodel.layers._phases import at, leaving
from costmodel.layers._refusal import refuse
from costmodel.layers.tiled_attention import TiledAttention
from costmodel.symbols import symbols

Q, C, R = symbols("q_rank kv_rank rope_dim")


@dataclass(frozen=True, kw_only=True)
class MLA(Layer):
    """Multi-head latent attention (DeepSeek-V2), with its projections.

    Each token caches c + d_r numbers: a latent of c for the keys and values of all heads, and a rotated
    key of d_r that the heads share; for c = 512 and d_r = 64, 1152 bytes per layer in 16 bits. Queries and
    keys of a head have width d_n + d_r, where d_n is `head_dim`. Per token, the projections take
    2[d·q + q·h(d_n + d_r) + d(c + d_r) + c·h(d_n + d_v) + h·d_v·d] FLOP, the core 2·n·h(d_n + d_r + d_v).

    Parameters
    ----------
    causal : bool
        Each query attends to the keys up to its own position.
    absorbed : bool
        Queries are projected to the latent's width (W_UK absorbed), and the heads' outputs back from it
        (W_UV): the core works on the cache itself, with 2·s·h(2c + d_r) FLOP per token, and makes no keys or
        values. For decoding: forward only. Otherwise the keys and values of all heads are computed from the
        latents, including those of a cached prefix.
    """

    name: ClassVar[str] = "mla"
    family: ClassVar[str] = "attention"
    source: ClassVar[str] = "DeepSeek-AI, arXiv 2405.04434, §2.1, eq. 9–19, Appendix C"
    not_counted: ClassVar[str] = (
        "norms of the latents, rotation, the scaling of the scores, the write to the cache; concatenating "
        "the rotated key with each head's, and the sum of its gradients over heads. Of decoding, FLOPs and "
        "bytes leave out tiles that heads do not fill and putting queries together; times have both"
    )
    required: ClassVar[tuple[str, ...]] = ("batch", "heads", "seq", "head_dim")
    defaults: ClassVar[dict[str, str | int]] = {
        "seq_kv": "seq",
        "value_dim": "head_dim",
        "d_model": "heads*head_dim",
        "q_rank": "12*head_dim",
        "kv_rank": "4*head_dim",
        "rope_dim": "head_dim/2",
    }

    causal: bool = False
    absorbed: bool = False

    def __post_init__(self) -> None:
        """Check that the absorbed form is forward only."""
        super().__post_init__()
        self.check_forward_only("absorbed=true", chosen=self.absorbed)

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Check that the queries' own keys are among the keys."""
        wanted = "needs seq_kv of at least seq: the queries' own keys count"
        refuse(self, sizes["seq_kv"] < sizes["seq"], wanted, sizes, "seq_kv", "seq")

    @property
    def cached(self) -> sp.Expr:
        """Size of one token's entry in the cache of a layer: the latent and the rotated key [bytes]."""
        return self.bytes * (C + R)

    # -- products --------------------------------------------------------------------------

    def _projections(self) -> tuple[tuple[str, sp.Expr, sp.Expr, sp.Expr], ...]:
        """(name, rows, input width, output width) of each projection."""
        return (
            ("query down-projection", B * N, DM, Q),
            ("query up-projection", B * N, Q, HQ * (D + R)),
            ("latent down-projection", B * N, DM, C + R),
            ("key and value up-projection", B * NKV, C, HQ * (D + DV)),
            ("output projection", B * N, HQ * DV, DM),
        )

    def _project(self, name: str, rows: sp.Expr, inner: sp.Expr, outer: sp.Expr) -> Phase:
        intermediate = 0 if name == "output projection" else self.bytes * rows * outer
        return gemm(self, name, m=rows, n=outer, k=inner, workspace=sp.sympify(intermediate))

    def _per_head(self, name: str, inner: sp.Expr, outer: sp.Expr) -> Phase:
        """Return the product of every token with a matrix of its own for each head."""
        sizes = {"m": B * N, "n": outer, "k": inner, "batch": HQ}
        return gemm(self, name, **sizes, workspace=self.bytes * B * N * HQ * outer)

    # -- the core --------------------------------------------------------------------------

    @property
    def _tiled(self) -> TiledAttention:
        return TiledAttention(dtype=self.dtype, convention=self.convention, causal=self.causal)

    def _core(self, phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
        """Return tiled attention's kernels for keys of width d_n + d_r, with separate keys per head."""
        return at(phases, {D: D + R, HKV: HQ})

    def _latent_core(self) -> Phase:
        """Attention of all heads' queries to one latent per token, which is read once for all of them."""
        pairs = N * NKV
        if self.causal and self.convention != "torch":
            pairs = causal_pairs(N, NKV)
        scores, rows = B * HQ * pairs, B * HQ * N
        return Phase(
            name="attention over latents",
            kernel="decode",
            op="attention_decode",
            # FLOPs tell the kernel model that keys and values are the same numbers (`kernels._latent`), of
            # which a position has twice the width. They are those of whole rows of keys, masked ones too.
            sizes={"batch": B, "heads": HQ * N, "kv_heads": sp.Integer(1), "seq_kv": NKV,
                   "head_dim": (C + R) / 2, "flops": 2 * B * HQ * N * NKV * (2 * C + R)},
            options={"dtype": self.dtype},
            flops={
                ("matrix", self.dtype): 2 * scores * (2 * C + R),
                ("vector", self.accumulate): 3 * scores + rows * C,
                ("special", self.accumulate): scores,
            },
            read=self.cached * B * NKV + self.bytes * rows * (C + R),
            write=self.bytes * rows * C,
            pram_depth=depth_forward(NKV, C + R),
            workspace=self.bytes * rows * C,
        )  # fmt: skip

    # -- the layer -------------------------------------------------------------------------

    def forward(self) -> tuple[Phase, ...]:
        """The down and up projections of queries and latents; the core; the output projection."""
        down, up, latent, values, out = (self._project(*p) for p in self._projections())
        latent, values = (replace(phase, beside=True) for phase in (latent, values))
        if not self.absorbed:
            core = leaving(self._core(self._tiled.core_forward()), self.bytes * B * N * HQ * DV)
            return (down, latent, up, values, *core, out)
        into, back = (
            self._per_head("query to latent (W_UK)", D, C),
            self._per_head("latent to value (W_UV)", C, DV),
        )
        return (down, latent, up, into, self._latent_core(), back, out)

    def backward(self) -> tuple[Phase, ...]:
        """Two products per projection (input gradient, weight gradient), around the core's backward kernels.

        The sequence is projected down to queries and to latents: its two gradients are added.
        """
        products: list[Phase] = []
        for name, rows, inner, outer in self._projections():
            # Input gradients are intermediates, except the first of the two that are added for the sequence.
            room = ZERO if name == "query down-projection" else self.bytes * rows * inner
            products += gradients(self, name, rows=rows, inner=inner, outer=outer, workspace=room)
        added = gradient_sum(self, rows=B * N, cols=DM)
        heads = self.bytes * B * HQ * (N * (D + R) + NKV * (D + R + DV))  # dQ, dK and dV
        core = leaving(self._core(self._tiled.core_backward()), heads)
        return (*products[8:], *core, *products[:8], added)

    def tensors(self) -> Tensors:
        """The sequence in and out, the prefix's latents, the weights."""
        sequence = self.bytes * B * N * DM
        return Tensors(
            inputs=sequence + self.cached * B * (NKV - N),
            weights=self.bytes * self.parameters(),
            outputs=sequence,
        )

    def kept(self) -> sp.Expr:
        """The input, both latents, Q, K, V, the heads' outputs and their log-sum-exp; nothing if absorbed."""
        if self.absorbed:
            return sp.Integer(0)
        tokens = B * N * (DM + Q + HQ * (D + R + DV))
        keys = B * NKV * (C + R + HQ * (D + R + DV))
        return self.bytes * (tokens + keys) + self.stat_bytes * B * N * HQ

    def parameters(self) -> sp.Expr:
        """Weights of the five projections."""
        return sp.Add(*(inner * outer for _, _, inner, outer in self._projections()))
