"""The gated feed-forward layer of Llama and its kin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from costmodel.cost import Phase, Tensors
from costmodel.layers import _ffn
from costmodel.layers._base import Layer
from costmodel.layers._kernels import POINTWISE
from costmodel.symbols import symbols

B, N, D, F = symbols("batch seq d_model d_ff")


@dataclass(frozen=True, kw_only=True)
class SwiGLU(Layer):
    """Three products, y = (f(x W_gate) ∘ x W_up) W_down: 6·B·n·d·d_ff FLOP.

    Parameters
    ----------
    activation : str
        f: ``silu`` is SwiGLU, ``gelu`` and ``gelu-tanh`` GEGLU, ``relu`` ReGLU, ``sigmoid`` GLU;
        ``tanh``.
    fused : bool
        W_gate and W_up lie side by side, and one product makes both parts, as inference engines have
        it; otherwise each has a product of its own, as the models' own code does.
    """

    name: ClassVar[str] = "swiglu"
    family: ClassVar[str] = "feed-forward"
    source: ClassVar[str] = "Shazeer, arXiv 2002.05202, eq. 6"
    not_counted: ClassVar[str] = "biases, dropout"
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "d_model")
    defaults: ClassVar[dict[str, str | int]] = {"d_ff": "4*d_model"}

    activation: str = "silu"
    fused: bool = True

    def __post_init__(self) -> None:
        """Check the activation."""
        super().__post_init__()
        self.check_options(activation=POINTWISE)

    @property
    def _form(self) -> _ffn.Form:
        return _ffn.Form(self.activation, gated=True, fused=self.fused)

    def forward(self) -> tuple[Phase, ...]:
        """Gate and up, f(gate) · up, down."""
        return _ffn.forward(self, _SHAPE, self._form)

    def backward(self) -> tuple[Phase, ...]:
        """Two products for each product forward, and the gate's derivative."""
        return _ffn.backward(self, _SHAPE, self._form)

    def tensors(self) -> Tensors:
        """The sequence in and out; the three weights."""
        sequence = self.bytes * B * N * D
        return Tensors(inputs=sequence, weights=self.bytes * self.parameters(), outputs=sequence)

    def kept(self) -> sp.Expr:
        """The input, both parts before their product, and the product."""
        return self.bytes * B * N * D + _ffn.kept(self, _SHAPE, self._form)

    def parameters(self) -> sp.Expr:
        """W_gate, W_up and W_down."""
        return _ffn.parameters(_SHAPE, self._form)


_SHAPE = _ffn.Shape(rows=B * N, width=D, inner=F)
