"""Hyper-connections: several residual streams that each half of a layer collapses, and adds to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.layers._base import Layer
from costmodel.layers._kernels import gemm, gradients, stream
from costmodel.symbols import CeilLog2, symbols

B, N, DM, S = symbols("batch seq d_model streams")


@dataclass(frozen=True, kw_only=True)
class HyperConnection(Layer):
    """The residual connection around half a layer, with s streams instead of one.

    A product makes s² + 2s weights of a token from its normalised streams, with which they are collapsed to
    the input of the half, mixed with one another, and added to its result: X ← Mᵀ X + p ⊗ f(w · X). It takes
    2·s·d·(s² + 2s) matrix FLOP per token, and moves about 4·s·d numbers where a plain residual moves 3·d.
    Streams that are not mixed need 2s weights.

    Parameters
    ----------
    outward : bool
        Whether a result is added to the streams. Otherwise they are only collapsed, behind the last layer,
        with s weights.
    mixes : bool
        Whether streams are mixed with one another; otherwise M is the identity (Hy4).
    """

    name: ClassVar[str] = "hyper-connection"
    family: ClassVar[str] = "memory-bound"
    source: ClassVar[str] = (
        "Xie et al. 2025, arXiv 2512.24880 (mHC); DeepSeek-AI 2026, DeepSeek-V4, §2.2; transformers, "
        "HYV4HyperConnection"
    )
    not_counted: ClassVar[str] = (
        "the sigmoids, softmax and Sinkhorn iterations that turn a token's numbers into weights"
    )
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "d_model", "streams")
    meanings: ClassVar[Mapping[str, str]] = {"streams": "residual streams of a token"}

    outward: bool = True
    mixes: bool = True

    @property
    def weighted(self) -> sp.Expr:
        """Weights of a token."""
        if not self.outward:
            return S
        return S * (S + 2) if self.mixes else 2 * S

    def _passes(self, vector: int, *, reads: sp.Expr, writes: sp.Expr, name: str) -> Phase:
        """Return a pass over the streams, `reads` and `writes` in streams' rows."""
        return stream(
            self, name, rows=B * N, cols=S * DM, reads=reads / S, writes=writes / S, vector=vector,
            depth=CeilLog2(S) + 1,
        )  # fmt: skip

    def forward(self) -> tuple[Phase, ...]:
        """The product, the norm's scale with it; the collapse; mixing and adding."""
        weights = gemm(self, "weights", m=B * N, n=self.weighted, k=S * DM)
        collapse = self._passes(4, reads=S, writes=sp.Integer(1), name="collapse")  # squares summed, weighted
        if not self.outward:
            return weights, collapse
        return weights, collapse, self._adding()

    def _adding(self) -> Phase:
        """Return the pass that mixes the streams and adds the result to each; torch mixes with a product."""
        if not self.mixes:
            return self._passes(2, reads=S + 1, writes=S, name="adding")
        mixed = self._passes(2, reads=S + 1, writes=S, name="mixing")
        products, engine = 2 * B * N * S**2 * DM, ("vector", self.accumulate)
        more = ("matrix", self.dtype) if self.convention == "torch" else engine
        return replace(mixed, flops={**mixed.flops, more: mixed.flops.get(more, ZERO) + products})

    def backward(self) -> tuple[Phase, ...]:
        """Gradients of the product's operands; passes that read what forward read, and the gradients."""
        products = gradients(self, "weights", rows=B * N, inner=S * DM, outer=self.weighted)
        collapse = self._passes(8, reads=S + 1, writes=S, name="collapse, backward")
        if not self.outward:
            return (*products, collapse)
        if self.mixes:
            added = self._passes(4, reads=2 * S + 1, writes=S + 1, name="mixing, backward")
        else:  # the streams' own gradients pass unchanged
            added = self._passes(4, reads=S + 1, writes=sp.Integer(1), name="adding, backward")
        return (*products, added, collapse)

    def tensors(self) -> Tensors:
        """The streams and the half's result in; its input and the streams out."""
        row = self.bytes * B * N * DM
        inward, out = (S + 1, S + 1) if self.outward else (S, sp.Integer(1))
        return Tensors(inputs=row * inward, outputs=row * out, weights=self.bytes * self.parameters())

    def kept(self) -> sp.Expr:
        """The streams, and the half's result."""
        return self.tensors().inputs

    def parameters(self) -> sp.Expr:
        """The product's weights."""
        return self.weighted * S * DM
