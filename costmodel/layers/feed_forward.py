"""The position-wise feed-forward layer of a Transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from costmodel.cost import Phase, Tensors
from costmodel.layers import _ffn
from costmodel.layers._kernels import POINTWISE
from costmodel.layers._stored import StoredWeights
from costmodel.symbols import symbols

B, N, D, F = symbols("batch seq d_model d_ff")


@dataclass(frozen=True, kw_only=True)
class FeedForward(StoredWeights):
    """Two products around an activation, y = f(x W₁) W₂: 4·B·n·d·d_ff FLOP.

    Parameters
    ----------
    activation : str
        ``relu``, ``relu2`` (squared), ``gelu``, ``gelu-tanh``, ``silu``, ``xielu`` (Huang & Schlag, arXiv
        2411.13010), ``tanh`` or ``sigmoid``; it runs as a separate kernel.
    """

    name: ClassVar[str] = "feed-forward"
    family: ClassVar[str] = "feed-forward"
    source: ClassVar[str] = "Vaswani et al., arXiv 1706.03762, eq. 2"
    not_counted: ClassVar[str] = "biases, dropout"
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "d_model")
    defaults: ClassVar[dict[str, str | int]] = {"d_ff": "4*d_model"}

    activation: str = "relu"

    def __post_init__(self) -> None:
        """Check the activation."""
        super().__post_init__()
        self.check_options(activation=POINTWISE)

    @property
    def _form(self) -> _ffn.Form:
        return _ffn.Form(self.activation)

    def forward(self) -> tuple[Phase, ...]:
        """The up (and gate) projection, the activation, the down projection."""
        return _ffn.forward(self, _SHAPE, self._form)

    def backward(self) -> tuple[Phase, ...]:
        """Two products for each forward product, and the activation's gradient."""
        return _ffn.backward(self, _SHAPE, self._form)

    def tensors(self) -> Tensors:
        """The sequence in and out; the weights."""
        sequence = self.bytes * B * N * D
        return Tensors(inputs=sequence, weights=_ffn.held(self, _SHAPE, self._form), outputs=sequence)

    def kept(self) -> sp.Expr:
        """The input and the activation's output; also the activation's input if its gradient needs it."""
        return self.bytes * B * N * D + _ffn.kept(self, _SHAPE, self._form)

    def parameters(self) -> sp.Expr:
        """W₁ and W₂, and the gate's weights if there is a gate."""
        return _ffn.parameters(_SHAPE, self._form)


_SHAPE = _ffn.Shape(rows=B * N, width=D, inner=F)
