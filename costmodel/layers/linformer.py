"""Linformer: softmax attention over a fixed number of mixtures of keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.layers._base import Layer
from costmodel.layers._kernels import gemm, gradient_sum, softmax
from costmodel.symbols import symbols

B, N, H, D, DV, R = symbols("batch seq heads head_dim value_dim rank")
#: Sharing of the projections → number of k × n matrices of the layer.
SHARING = {"none": 2 * H, "heads": sp.Integer(2), "keys-and-values": sp.Integer(1)}


@dataclass(frozen=True, kw_only=True)
class Linformer(Layer):
    """Linformer: softmax(Q (E K)ᵀ) (F V), with k × n matrices E and F: 8·n·k·d_h FLOP per head.

    Half of them project K and V, half attend; k is `rank`. The matrices fix the length of the sequence, and
    their rows mix all positions: there is no causal form.

    Parameters
    ----------
    sharing : str
        ``none``: one E and one F per head; ``heads``: one E and one F for all heads;
        ``keys-and-values``: one matrix for both.
    """

    name: ClassVar[str] = "linformer"
    family: ClassVar[str] = "linear attention"
    source: ClassVar[str] = "Wang et al., arXiv 2006.04768, eq. 7 and §4 (sharing)"
    not_counted: ClassVar[str] = "projections to Q, K, V and of the output; the scaling by 1/√d_h; dropout"
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "heads", "head_dim")
    defaults: ClassVar[dict[str, str | int]] = {"value_dim": "head_dim", "rank": 256}

    sharing: str = "heads"

    def __post_init__(self) -> None:
        """Check the sharing."""
        super().__post_init__()
        self.check_options(sharing=SHARING)

    @property
    def _matrices(self) -> sp.Expr:
        """Number of k × n matrices that each of the two projections reads."""
        return H if self.sharing == "none" else sp.Integer(1)

    def forward(self) -> tuple[Phase, ...]:
        """E K; F V; scores; softmax; values."""
        heads, e, w = B * H, self._matrices, self.bytes
        scores = w * heads * N * R
        mixed = {"batch": heads, "m": R, "k": N, "a_batch": e}
        return (
            gemm(self, "key projection", n=D, workspace=w * heads * R * D, **mixed),
            gemm(self, "value projection", n=DV, workspace=w * heads * R * DV, **mixed),
            gemm(self, "scores", m=N, n=R, k=D, batch=heads, workspace=scores),
            softmax(self, "softmax", "fwd", rows=heads * N, cols=R, workspace=scores),
            gemm(self, "values", m=N, n=DV, k=R, batch=heads),
        )

    def backward(self) -> tuple[Phase, ...]:
        """Two products per forward product, and the softmax's gradient; if E is F, a sum of two gradients."""
        heads, e, w = B * H, self._matrices, self.bytes
        scores = w * heads * N * R
        mixed = {"batch": heads, "m": N, "k": R, "a_batch": e}
        shared = self.sharing == "keys-and-values"
        partial = w * R * N if shared else ZERO
        added = (gradient_sum(self, rows=R, cols=N),) if shared else ()
        return (
            gemm(self, "projected value gradient", m=R, n=DV, k=N, batch=heads, workspace=w * heads * R * DV),
            gemm(self, "probability gradient", m=N, n=R, k=DV, batch=heads, workspace=scores),
            softmax(self, "softmax gradient", "bwd", rows=heads * N, cols=R, workspace=scores),
            gemm(self, "query gradient", m=N, n=D, k=R, batch=heads),
            gemm(self, "projected key gradient", m=R, n=D, k=N, batch=heads, workspace=w * heads * R * D),
            gemm(self, "key gradient", n=D, **mixed),
            gemm(self, "value gradient", n=DV, **mixed),
            gemm(self, "key projection gradient", m=R, n=N, k=D, batch=heads, out_batch=e),
            gemm(
                self, "value projection gradient", m=R, n=N, k=DV, batch=heads, out_batch=e, workspace=partial
            ),
            *added,
        )

    def tensors(self) -> Tensors:
        """Q, K and V in, O out; the matrices that mix positions."""
        tokens = self.bytes * B * N * H
        return Tensors(
            inputs=tokens * (2 * D + DV), weights=self.bytes * self.parameters(), outputs=tokens * DV
        )

    def kept(self) -> sp.Expr:
        """Q, K, V, the mixed keys and values, and the probabilities."""
        return self.tensors().inputs + self.bytes * B * H * R * (D + DV + N)

    def parameters(self) -> sp.Expr:
        """k · n per matrix."""
        return SHARING[self.sharing] * R * N
