"""Short causal convolution of each channel on its own, as state-space layers use before their scan."""

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
    """y_t = Σ_j w_j ∘ x_{t−j} over the last k positions, for each of d channels: 2·B·n·d·k FLOP.

    Parameters
    ----------
    decode : bool
        The last k − 1 positions come from a state that is updated in place
        (one new position a sequence), not from the sequence.
    """

    name: ClassVar[str] = "causal-conv1d"
    family: ClassVar[str] = "convolution"
    source: ClassVar[str] = "Gu & Dao, arXiv 2312.00752, §3.4; Dao-AILab/causal-conv1d"
    not_counted: ClassVar[str] = "the activation that is often fused with it; bias"
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "d_model")
    defaults: ClassVar[dict[str, str | int]] = {"k": 4}

    decode: bool = False

    def __post_init__(self) -> None:
        """Check that what is decoded is not trained."""
        super().__post_init__()
        self.check_forward_only("decode", chosen=self.decode)

    def _flops(self, passes: sp.Expr | int) -> dict[tuple[str, str], sp.Expr]:
        """Return so many times 2 FLOP for each tap of each channel and position.

        FlopCounterMode, which knows no engines, adds them up with products: so does ``convention="torch"``.
        """
        torch = self.convention == "torch"
        engine = ("matrix", self.dtype) if torch else ("vector", self.accumulate)
        return {engine: 2 * B * N * D * K * passes}

    def forward(self) -> tuple[Phase, ...]:
        """One pass; depthwise, so it runs on the vector engine."""
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
        """One pass for both gradients: dx as wide a convolution of dy, dw sums over all positions.

        FlopCounterMode takes dw for the gradient of a full convolution: d times as large.
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
        """The sequence in and out; k weights a channel; when decoding, k − 1 positions of state.

        Kernels that shift the state write all of it; in a ring buffer, which Dao's kernel takes too, new
        positions go to the places of the oldest, and the others stay.
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
        """k weights a channel."""
        return K * D

    def path(self) -> sp.Expr:
        """Return the layers that have to be stacked until the first position reaches the last."""
        return stacked_layers(N, K, dilated=False)
