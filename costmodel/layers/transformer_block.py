"""A Transformer layer: attention and feed-forward, each normalised and added to its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import Phase, Tensors
from costmodel.errors import unknown_name
from costmodel.layers._attention import _Attention
from costmodel.layers._base import Layer
from costmodel.layers._kernels import NORMS, POINTWISE, norm, stream
from costmodel.layers.dense_attention import DenseAttention
from costmodel.layers.feed_forward import FeedForward
from costmodel.layers.tiled_attention import TiledAttention
from costmodel.symbols import symbols

B, N, D, L = symbols("batch seq d_model num_layers")

ATTENTION: dict[str, type[_Attention]] = {"tiled": TiledAttention, "dense": DenseAttention}


@dataclass(frozen=True, kw_only=True)
class TransformerBlock(Layer):
    """`num_layers` Transformer layers: norm, self-attention, add, norm, feed-forward, add.

    With d_ff = 4d: 24·B·n·d² + 4·B·n²·d matrix FLOP a layer.

    Parameters
    ----------
    attention : str
        ``tiled`` (FlashAttention-2) or ``dense`` (materialised scores).
    causal : bool
        Whether a position sees only those before it.
    activation : str
        Of the feed-forward layer.
    norm : str
        ``layer`` or ``rms``.
    """

    name: ClassVar[str] = "transformer-block"
    family: ClassVar[str] = "transformer"
    source: ClassVar[str] = (
        "Vaswani et al., arXiv 1706.03762, §3; Xiong et al., arXiv 2002.04745 (norm first)"
    )
    not_counted: ClassVar[str] = "biases, dropout, rotary embedding, embeddings and logits"
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

    def __post_init__(self) -> None:
        """Check the parts' options."""
        super().__post_init__()
        for option, value, known in (
            ("attention", self.attention, ATTENTION),
            ("activation", self.activation, POINTWISE),
            ("norm", self.norm, NORMS),
        ):
            if value not in known:
                raise unknown_name(f"{option} of {self.name}", value, known)

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Heads share keys evenly, and a causal query needs its own key."""
        self._attention().check_sizes(sizes)

    # -- parts -----------------------------------------------------------------------------

    def _attention(self) -> _Attention:
        part = ATTENTION[self.attention]
        return part(dtype=self.dtype, convention=self.convention, causal=self.causal, projections=True)

    def _feed_forward(self) -> FeedForward:
        return FeedForward(dtype=self.dtype, convention=self.convention, activation=self.activation)

    def _add(self) -> Phase:
        """Return one residual addition."""
        return stream(self, "residual", rows=B * N, cols=D, reads=2, writes=1, vector=1)

    # -- the stack -------------------------------------------------------------------------

    def forward(self) -> tuple[Phase, ...]:
        """Norm, attention, add, norm, feed-forward, add: L times."""
        normed = norm(self, self.norm, "fwd", rows=B * N, cols=D)
        one = (
            normed,
            *self._attention().forward(),
            self._add(),
            normed,
            *self._feed_forward().forward(),
            self._add(),
        )
        return tuple(replace(phase, repeats=phase.repeats * L) for phase in one)

    def backward(self) -> tuple[Phase, ...]:
        """The same backwards; an addition's gradient is one addition."""
        normed = norm(self, self.norm, "bwd", rows=B * N, cols=D)
        one = (
            *self._feed_forward().backward(),
            normed,
            self._add(),
            *self._attention().backward(),
            normed,
            self._add(),
        )
        return tuple(replace(phase, repeats=phase.repeats * L) for phase in one)

    def tensors(self) -> Tensors:
        """The sequence in and out; all weights (and a cached prefix of keys, where there is one)."""
        sequence = self.bytes * B * N * D
        prefix = self._attention().tensors().inputs - sequence
        offsets = self.bytes * L * 2 * (NORMS[self.norm][2] - 1) * D
        return Tensors(
            inputs=sequence + L * prefix,
            weights=self.bytes * self.parameters() - offsets,
            offsets=offsets,
            outputs=sequence,
        )

    def kept(self) -> sp.Expr:
        """What each part keeps (a norm its input), in every layer."""
        norms = 2 * self.bytes * B * N * D
        return L * (self._attention().kept() + self._feed_forward().kept() + norms)

    def passes(self) -> sp.Expr:
        """L, one layer after the other."""
        return L

    def parameters(self) -> sp.Expr:
        """Attention's four products, feed-forward's two, two norms."""
        gains = 2 * NORMS[self.norm][2] * D
        return L * (self._attention().parameters() + self._feed_forward().parameters() + gains)
