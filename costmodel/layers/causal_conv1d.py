"""Short causal depthwise convolution, as state-space layers use before their scan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.layers._base import Layer
from costmodel.layers._kernels import stream
from costmodel.layers.conv import stacked_layers
from costmodel.symbols import symbols, tree_depth

B, N, D, K = symbols("batch seq d_model k")


@dataclass(frozen=True, kw_only=True)
class CausalConv1d(Layer):
    """Causal depthwise convolution of width k, y_t = Σ_j w_j ∘ x_{t−j}, in d channels: 2·B·n·d·k FLOP.

    Parameters
    ----------
    decode : bool
        The last k − 1 positions come from a state that is updated in place instead of from the
        sequence, which is the new positions (one per sequence when decoding).
    """

    name: ClassVar[str] = "causal-conv1d"
    family: ClassVar[str] = "convolution"
    source: ClassVar[str] = "Gu & Dao, arXiv 2312.00752, §3.4; Dao-AILab/causal-conv1d"
    not_counted: ClassVar[str] = "the activation that is often fused with it; bias"
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "d_model")
    defaults: ClassVar[dict[str, str | int]] = {"k": 4}

    decode: bool = False

    def __post_init__(self) -> None:
        """Check that decoding is forward only."""
        super().__post_init__()
        self.check_forward_only("decode", chosen=self.decode)

    def _flops(self, passes: sp.Expr | int) -> dict[tuple[str, str], sp.Expr]:
        """Return `passes` × 2 FLOP per tap, channel and position.

        FlopCounterMode does not distinguish engines and counts them as matrix products, and so does
        ``convention="torch"``.
        """
        torch = self.convention == "torch"
        engine = ("matrix", self.dtype) if torch else ("vector", self.accumulate)
        return {engine: 2 * B * N * D * K * passes}

    def forward(self) -> tuple[Phase, ...]:
        """One pass; as it is depthwise, it runs on the vector engine."""
        io = self.tensors()
        return (
            Phase(
                name="convolution",
                kernel="conv",
                op="causal_conv1d_decode" if self.decode else "causal_conv1d_prefill",
                sizes={"batch": B, "seq": N, "channels": D, "width": K},
                options={"dtype": self.dtype, "decode": self.decode},
                flops=self._flops(1),
                read=io.inputs + io.weights + io.updated,
                write=io.outputs + io.updated,
                pram_depth=tree_depth(K),
            ),
        )

    def backward(self) -> tuple[Phase, ...]:
        """One pass for both gradients: dx is a convolution of dy, dw a sum over all positions.

        FlopCounterMode counts dw as the gradient of a full convolution: d times as large.
        """
        weights = self.tensors().weights
        phase = stream(
            self,
            "convolution gradient",
            rows=B * N,
            cols=D,
            reads=2,
            writes=1,
            depth=sp.Max(tree_depth(K), tree_depth(B * N)),
            extra_read=weights,
            extra_write=weights,
        )
        return (replace(phase, flops=self._flops(1 + D if self.convention == "torch" else 2)),)

    def tensors(self) -> Tensors:
        """The sequence in and out; k weights per channel; when decoding, a state of k − 1 positions.

        Kernels that shift the state write all of it. In a ring buffer, which Dao's kernel also supports, new
        positions overwrite the oldest, and the others are not written.
        """
        position = self.bytes * B * D
        state, stays = (K - 1, sp.Max(0, K - 1 - N)) if self.decode else (ZERO, ZERO)
        return Tensors(
            inputs=position * N,
            weights=self.bytes * self.parameters(),
            outputs=position * N,
            updated=position * state,
            unwritten=position * stays,
        )

    def kept(self) -> sp.Expr:
        """Its input."""
        return self.tensors().inputs

    def parameters(self) -> sp.Expr:
        """k weights per channel."""
        return K * D

    def path(self) -> sp.Expr:
        """Return the number of stacked layers after which the first position reaches the last."""
        return stacked_layers(N, K, dilated=False)
