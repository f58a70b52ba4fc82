"""Hyena: gates and long convolutions in turn, with filters that a small network makes from positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import Phase, Tensors
from costmodel.layers._base import Layer
from costmodel.layers._kernels import gemm, gradients, stream
from costmodel.layers._phases import at, leaving, times
from costmodel.layers.causal_conv1d import CausalConv1d
from costmodel.layers.long_convolution import LongConvolution
from costmodel.symbols import symbols

B, N, D, W, E, K = symbols("batch seq d_model hidden input k")
#: Layers of the network between its first and its last.
INNER = 2


@dataclass(frozen=True, kw_only=True)
class Hyena(Layer):
    """Hyena of order N: z ← x_i ∘ (h_i ∗ z) for i = 1 … N from z = v, between two projections.

    v and all x_i are projections of the input, each after a causal convolution of width `k`. The N filters
    of n taps per channel come from a network of sines on `input` features of a position, times a window
    exp(−α·t) + s. They are made anew in each pass, once for the whole batch: sequences share them.

    Parameters
    ----------
    order : int
        Number N of gates and long convolutions. The implementation in safari has one convolution fewer for
        the same `order`: its first gate comes before the first convolution.
    fused : bool
        Long convolutions as FlashFFTConv computes them (see `long-convolution`).
    """

    name: ClassVar[str] = "hyena"
    family: ClassVar[str] = "convolution"
    source: ClassVar[str] = (
        "Poli et al., arXiv 2302.10866, Definition 3.1, §3.3, Algorithms 1–3; HyenaFilter and HyenaOperator "
        "in HazyResearch/safari (widths)"
    )
    not_counted: ClassVar[str] = (
        "biases and the skip connection of a convolution; gradients of frequencies, features and windows; "
        "filters that inference makes once and keeps"
    )
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "d_model")
    defaults: ClassVar[dict[str, str | int]] = {"k": 3, "hidden": 64, "input": 3, "block": 32768}
    meanings: ClassVar[Mapping[str, str]] = {
        "k": "width of the short convolution",
        "hidden": "width of the network that makes the filters",
        "input": "features of a position",
        "block": LongConvolution.meanings["block"],
    }

    order: int = 2
    fused: bool = False

    # -- parts -----------------------------------------------------------------------------

    @property
    def _wide(self) -> sp.Expr:
        """Width of v and all x_i together."""
        return (self.order + 1) * D

    @property
    def _filters(self) -> sp.Expr:
        """Channels of all filters together."""
        return self.order * D

    def _tokens(self, width: sp.Expr) -> sp.Expr:
        """Size of a sequence of this width [bytes]."""
        return self.bytes * B * N * width

    def _short(self, direction: str) -> tuple[Phase, ...]:
        layer = CausalConv1d(dtype=self.dtype, convention=self.convention)
        found = at(layer.forward() if direction == "fwd" else layer.backward(), {D: self._wide})
        return leaving(found, self._tokens(self._wide))

    @property
    def _long(self) -> LongConvolution:
        return LongConvolution(dtype=self.dtype, convention=self.convention, fused=self.fused)

    def _network(self) -> tuple[tuple[str, sp.Expr, sp.Expr], ...]:
        """(name, input width, output width) of each product of the network."""
        inner = tuple((f"filters: layer {i + 2}", W, W) for i in range(INNER))
        return (("filters: layer 1", E, W), *inner, ("filters: last layer", W, self._filters))

    def _pass(self, name: str, cols: sp.Expr, *, rows: sp.Expr = N, **counts: Any) -> Phase:
        """Return an elementwise pass whose results are intermediates."""
        return stream(
            self, name, rows=rows, cols=cols, workspace=self.bytes * rows * cols * counts["writes"], **counts
        )

    def _make_filters(self) -> tuple[Phase, ...]:
        """Products with sines in between, and the window."""
        found: list[Phase] = []
        for name, inner, outer in self._network():
            if found:
                found.append(self._pass("filters: sines", W, reads=1, writes=1, vector=1, special=1, depth=2))
            found.append(gemm(self, name, m=N, n=outer, k=inner, workspace=self.bytes * N * outer))
        counts: dict[str, Any] = {"vector": 3, "special": 1, "depth": 4}  # −α·t, exp, + s, product
        return (*found, self._pass("filters: window", self._filters, reads=1, writes=1, **counts))

    def _filter_gradients(self) -> tuple[Phase, ...]:
        """From the last product to the first, whose input has no gradient; windows and cosines again."""
        counts: dict[str, Any] = {"vector": 3, "special": 1, "depth": 4}
        found = [self._pass("filters: window, gradient", self._filters, reads=1, writes=1, **counts)]
        for name, inner, outer in reversed(self._network()):
            room = self.bytes * N * inner
            pair = gradients(self, name, rows=N, inner=inner, outer=outer, workspace=room)
            found += pair[1:] if inner == E else pair
            if inner != E:
                # g · f · cos(f·x)
                found.append(
                    self._pass("filters: cosines", W, reads=2, writes=1, vector=3, special=1, depth=4)
                )
        return tuple(found)

    # -- the layer -------------------------------------------------------------------------

    def forward(self) -> tuple[Phase, ...]:
        """In; short convolution; filters; N long convolutions, each with its gate; out."""
        into = gemm(self, "input projection", m=B * N, n=self._wide, k=D, workspace=self._tokens(self._wide))
        gate = self._pass("gate", D, rows=B * N, op="elementwise_mul", reads=2, writes=1, vector=1)
        long = leaving(self._long.forward(), self._tokens(D))
        return (
            into,
            *self._short("fwd"),
            *self._make_filters(),
            *times((*long, gate), sp.Integer(self.order)),
            gemm(self, "output projection", m=B * N, n=D, k=D),
        )

    def backward(self) -> tuple[Phase, ...]:
        """The same in reverse; a gate has two gradients, x_i ∘ dz and (h_i ∗ z) ∘ dz."""
        outs = gradients(self, "output projection", rows=B * N, inner=D, outer=D, workspace=self._tokens(D))
        gate = self._pass("gate, gradients", D, rows=B * N, reads=3, writes=2, vector=2)
        long = leaving(self._long.backward(), self._tokens(D) + self.bytes * N * D)
        ins = gradients(self, "input projection", rows=B * N, inner=D, outer=self._wide)
        return (
            *outs,
            *times((gate, *long), sp.Integer(self.order)),
            *self._filter_gradients(),
            *self._short("bwd"),
            *ins,
        )

    def tensors(self) -> Tensors:
        """The sequence in and out, and all weights; backward does not read those on the network's input."""
        x, first = self._tokens(D), self.bytes * E * W
        return Tensors(inputs=x, weights=self.bytes * self.parameters() - first, offsets=first, outputs=x)

    def parameters(self) -> sp.Expr:
        """Both projections, the short convolution, and the network."""
        network = sp.Add(*(inner * outer for _, inner, outer in self._network()))
        return D * self._wide + K * self._wide + network + D**2

    def kept(self) -> sp.Expr:
        """The operands of every product, convolution and gate, and those of the sines."""
        outside = self._tokens(D + self._wide + D)  # the input, before the short convolution, the last z
        gates = 2 * self.order * self._tokens(D)  # x_i and h_i ∗ z
        network = self.bytes * N * (E + 2 * (INNER + 1) * W)
        return outside + gates + self.order * self._long.kept() + network
