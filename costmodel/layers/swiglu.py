"""The gated feed-forward layer of Llama and similar models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from costmodel.layers import _ffn
from costmodel.layers.feed_forward import FeedForward


@dataclass(frozen=True, kw_only=True)
class SwiGLU(FeedForward):
    """Three products, y = (f(x W_gate) ∘ x W_up) W_down: 6·B·n·d·d_ff FLOP.

    Parameters
    ----------
    activation : str
        f: ``silu`` is SwiGLU, ``gelu`` and ``gelu-tanh`` GEGLU, ``relu`` ReGLU, ``sigmoid`` GLU;
        ``relu2``, ``xielu`` and ``tanh`` are possible too.
    fused : bool
        W_gate and W_up are stored side by side and one product computes both parts, as in inference
        engines; otherwise each has its own product, as in the models' own code.
    """

    name: ClassVar[str] = "swiglu"
    source: ClassVar[str] = "Shazeer, arXiv 2002.05202, eq. 6"

    activation: str = "silu"
    fused: bool = True

    @property
    def _form(self) -> _ffn.Form:
        return _ffn.Form(self.activation, gated=True, fused=self.fused)
