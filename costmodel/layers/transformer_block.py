"""A Transformer layer: attention and feed-forward, each with a norm and a residual addition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.layers._attention import _Attention
from costmodel.layers._base import Layer
from costmodel.layers._kernels import NORMS, POINTWISE, addition, norm
from costmodel.layers._phases import of_forward, times
from costmodel.layers._recompute import RECOMPUTE, check_recompute
from costmodel.layers.dense_attention import DenseAttention
from costmodel.layers.dropout import dropout
from costmodel.layers.feed_forward import FeedForward
from costmodel.layers.rotary import Rotary
from costmodel.layers.swiglu import SwiGLU
from costmodel.layers.tiled_attention import TiledAttention
from costmodel.symbols import symbols

B, N, D, L = symbols("batch seq d_model num_layers")

ATTENTION: dict[str, type[_Attention]] = {"tiled": TiledAttention, "dense": DenseAttention}


@dataclass(frozen=True, kw_only=True)
class TransformerBlock(Layer):
    """`num_layers` Transformer layers: norm, self-attention, add, norm, feed-forward, add.

    With d_ff = 4d, a layer takes 24·B·n·d² + 4·B·n²·d matrix FLOP.

    Parameters
    ----------
    attention : str
        ``tiled`` (FlashAttention-2) or ``dense`` (materialised scores).
    causal : bool
        Whether a position attends only to itself and the positions before it.
    activation : str
        Activation of the feed-forward layer.
    norm : str
        ``layer`` or ``rms``.
    gated : bool
        Whether the feed-forward layer has a third product as its gate (SwiGLU, with activation=silu).
    rotary : bool
        Whether queries and keys are rotated by their positions (rotary embedding).
    dropout : bool
        Dropout of both halves' outputs, with a mask of one byte per value, and of dense attention's
        probabilities; tiled attention draws its mask again and keeps none.
    recompute : str
        What backward recomputes instead of keeping (Korthikanti et al.): ``none``; ``selective``,
        dense attention between its projections; ``full``, the whole layer from its input.
    """

    name: ClassVar[str] = "transformer-block"
    family: ClassVar[str] = "transformer"
    source: ClassVar[str] = (
        "Vaswani et al., arXiv 1706.03762, §3; Xiong et al., arXiv 2002.04745 (norm first); "
        "Korthikanti et al., arXiv 2205.05198, §4 and 5 (what is kept, recomputation)"
    )
    not_counted: ClassVar[str] = (
        "biases, embeddings and logits, random numbers, dropout inside tiled attention"
    )
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "d_model", "heads")
    defaults: ClassVar[dict[str, str | int]] = {
        "head_dim": "d_model/heads",
        "value_dim": "head_dim",
        "kv_heads": "heads",
        "d_ff": "4*d_model",
        "seq_kv": "seq",
        "num_layers": 1,
    }

    attention: str = "tiled"
    causal: bool = False
    activation: str = "gelu"
    norm: str = "layer"
    gated: bool = False
    rotary: bool = False
    dropout: bool = False
    recompute: str = "none"

    def __post_init__(self) -> None:
        """Check the options and their combination."""
        super().__post_init__()
        self.check_options(attention=ATTENTION, activation=POINTWISE, norm=NORMS, recompute=RECOMPUTE)
        check_recompute(self.name, self.recompute, self.attention)

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Check that `kv_heads` divides `heads`, and that a causal query has its own key."""
        self._attention().check_sizes(sizes)

    # -- parts -----------------------------------------------------------------------------

    @property
    def _shared(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "convention": self.convention}

    def _attention(self) -> _Attention:
        more: dict[str, Any] = {"dropout": True} if self.dropout and self.attention == "dense" else {}
        return ATTENTION[self.attention](**self._shared, causal=self.causal, projections=True, **more)

    def _feed_forward(self) -> FeedForward | SwiGLU:
        part: type[FeedForward | SwiGLU] = SwiGLU if self.gated else FeedForward
        return part(**self._shared, activation=self.activation)

    def _rotation(self, direction: str) -> tuple[Phase, ...]:
        """Return the rotation of queries and keys, or of their gradients."""
        return Rotary(**self._shared, direction=direction).phases() if self.rotary else ()

    def _output_kernels(self, direction: str) -> tuple[Phase, ...]:
        """Return the kernels after each half: dropout, and the residual addition."""
        add = addition(self, "residual", rows=B * N, cols=D)
        if not self.dropout:
            return (add,)
        return (dropout(self, direction, rows=B * N, cols=D), add)

    # -- one layer, and the stack ----------------------------------------------------------

    def _layer_forward(self) -> tuple[Phase, ...]:
        normed = norm(self, self.norm, "fwd", rows=B * N, cols=D)
        query, keys, *core = self._attention().forward()
        heads = (normed, query, keys, *self._rotation("fwd"), *core, *self._output_kernels("fwd"))
        return (*heads, normed, *self._feed_forward().forward(), *self._output_kernels("fwd"))

    def _layer_backward(self) -> tuple[Phase, ...]:
        normed = norm(self, self.norm, "bwd", rows=B * N, cols=D)
        *drop, add = self._output_kernels("bwd")
        heads = self._attention().backward()
        core, projections = heads[:-5], heads[-5:]  # two products each for Q, and K and V; their sum
        inner = (*drop, *self._feed_forward().backward(), normed, add)
        return (*inner, *drop, *core, *self._rotation("bwd"), *projections, normed, add)

    def _recomputed(self) -> tuple[Phase, ...]:
        """Return the forward kernels that backward runs again."""
        if self.recompute == "none":
            return ()
        return self._attention().core_forward() if self.recompute == "selective" else self._layer_forward()

    def forward(self) -> tuple[Phase, ...]:
        """Norm, attention, add, norm, feed-forward, add: L times."""
        return times(self._layer_forward(), L)

    def backward(self) -> tuple[Phase, ...]:
        """Recomputation, then the layer in reverse; the gradient of a residual addition is one addition."""
        return times((*of_forward(self._recomputed()), *self._layer_backward()), L)

    def tensors(self) -> Tensors:
        """The sequence in and out; all weights (and a cached prefix of keys, if there is one)."""
        sequence = self.bytes * B * N * D
        prefix = self._attention().tensors().inputs - sequence
        offsets = self.bytes * L * 2 * (NORMS[self.norm][2] - 1) * D
        return Tensors(
            inputs=sequence + L * prefix,
            kept_inputs=sequence if self.recompute == "full" else None,
            weights=self.bytes * self.parameters() - offsets,
            offsets=offsets,
            outputs=sequence,
        )

    def kept(self) -> sp.Expr:
        """What each part keeps in every layer, with the norms' inputs and the dropout masks.

        In 16 bits, with dense attention, dropout and d_ff = 4d, this is B·n·d·(34 + 5·h·n/d); without
        the scores 34·B·n·d; with full recomputation the layer's input, 2·B·n·d.
        """
        sequence = self.bytes * B * N * D
        if self.recompute == "full":
            return L * sequence
        attention = self._attention()
        heads = _Attention.kept(attention) if self.recompute == "selective" else attention.kept()
        masks = 2 * B * N * D if self.dropout else ZERO
        return L * (heads + self._feed_forward().kept() + 2 * sequence + masks)

    def passes(self) -> sp.Expr:
        """L: the layers run in turn."""
        return L

    def parameters(self) -> sp.Expr:
        """Weights of attention's projections and of the feed-forward layer, and two norms."""
        gains = 2 * NORMS[self.norm][2] * D
        return L * (self._attention().parameters() + self._feed_forward().parameters() + gains)
