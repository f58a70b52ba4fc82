"""Convolutions over a sequence: standard (grouped, dilated) and separable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ONE, Phase, Tensors
from costmodel.layers._base import Layer
from costmodel.layers._kernels import gemm, gradients
from costmodel.layers._refusal import refuse
from costmodel.layers._scan import scan_phase
from costmodel.symbols import CeilLog, ceil_div, symbols, tree_depth

B, N, I, D, K = symbols("batch seq input d_model k")


def stacked_layers(length: sp.Expr, width: sp.Expr, dilated: bool) -> sp.Expr:
    """Return the number of stacked convolutions after which the first position reaches the last.

    ⌈(n − 1)/(k − 1)⌉ if each sees k neighbours; ⌈log_k n⌉ if layer l sees positions kˡ apart (Vaswani et al.,
    Table 1, maximum path length).
    """
    if dilated:
        return sp.Max(ONE, CeilLog(length, sp.Max(2, width)))
    return sp.Max(ONE, ceil_div(length - 1, sp.Max(ONE, width - 1)))


@dataclass(frozen=True, kw_only=True)
class _Convolution(Layer):
    """A convolution of width `k` from `input` to `d_model` channels, whose output is as long as its input.

    Parameters
    ----------
    dilated : bool
        The layer belongs to a stack whose dilation grows by a factor of k per layer: its arithmetic is the
        same, but the path length is ⌈log_k n⌉ layers instead of ⌈(n − 1)/(k − 1)⌉.
    """

    family: ClassVar[str] = "convolution"
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "d_model")
    defaults: ClassVar[dict[str, str | int]] = {"input": "d_model", "k": 3}
    meanings: ClassVar[Mapping[str, str]] = {
        "d_model": "channels out",
        "input": "channels in",
        "k": "width of the convolution",
    }

    dilated: bool = False

    def tensors(self) -> Tensors:
        """The sequence of `input` channels in and of `d_model` channels out; the weights."""
        tokens = self.bytes * B * N
        return Tensors(inputs=tokens * I, weights=self.bytes * self.parameters(), outputs=tokens * D)

    def path(self) -> sp.Expr:
        """Return the number of stacked layers after which the first position reaches the last."""
        return stacked_layers(N, K, self.dilated)


@dataclass(frozen=True, kw_only=True)
class Conv(_Convolution):
    """Convolution over the sequence as an implicit matrix product: 2·B·n·k·C_in·C_out/G FLOP.

    Parameters
    ----------
    groups : int
        Number of channel groups, G; channels of different groups are independent.
    """

    name: ClassVar[str] = "conv"
    source: ClassVar[str] = "Vaswani et al., arXiv 1706.03762, Table 1; torch.nn.Conv1d"
    not_counted: ClassVar[str] = (
        "bias; work saved at the padded edges; a copy of the input for each tap (im2col), Winograd, FFT"
    )

    groups: int = 1

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Check that the groups are equally wide."""
        for name in ("input", "d_model"):
            wanted = f"input and d_model must be multiples of groups={self.groups}"
            refuse(self, sizes[name] % self.groups, wanted, sizes, name)

    @property
    def _widths(self) -> tuple[sp.Expr, sp.Expr]:
        """Channels per group, in and out."""
        return ceil_div(I, self.groups), ceil_div(D, self.groups)

    def _product(self, name: str, m: sp.Expr, n: sp.Expr, k: sp.Expr, **traffic: sp.Expr) -> Phase:
        """Return one grouped product; its traffic is that of the tensors, not of k shifted copies."""
        product = gemm(self, name, m=m, n=n, k=k, batch=sp.Integer(self.groups))
        return replace(product, borrowed=True, **traffic)

    def forward(self) -> tuple[Phase, ...]:
        """One implicit product per group, of n · B rows and k · C_in/G terms."""
        (into, out), io = self._widths, self.tensors()
        return (
            self._product("convolution", B * N, out, into * K, read=io.inputs + io.weights, write=io.outputs),
        )

    def backward(self) -> tuple[Phase, ...]:
        """Gradients of the input and of the weights, each as large as forward.

        FlopCounterMode counts the weight gradient of groups as a full one: G times as large.
        """
        (into, out), io = self._widths, self.tensors()
        data = self._product(
            "input gradient", B * N, into, out * K, read=io.outputs + io.weights, write=io.inputs
        )
        weights = self._product(
            "weight gradient", out, into * K, B * N, read=io.inputs + io.outputs, write=io.weights
        )
        if self.convention == "torch":
            weights = replace(
                weights, flops={key: count * self.groups for key, count in weights.flops.items()}
            )
        return (data, weights)

    def kept(self) -> sp.Expr:
        """Its input."""
        return self.tensors().inputs

    def parameters(self) -> sp.Expr:
        """k · C_in · C_out / G."""
        return K * self._widths[0] * D


@dataclass(frozen=True, kw_only=True)
class SeparableConv(_Convolution):
    """Depthwise convolution, then a pointwise product over channels: 2·B·n·(k·C_in + C_in·C_out) FLOP.

    The depthwise part has one weight per channel and tap, and runs on the vector engine. FlopCounterMode
    does not distinguish engines and counts it as a matrix product, and so does ``convention="torch"``.
    """

    name: ClassVar[str] = "separable-conv"
    source: ClassVar[str] = "Chollet, arXiv 1610.02357; Vaswani et al., arXiv 1706.03762, §4"
    not_counted: ClassVar[str] = "bias; work saved at the padded edges; an activation in between"

    def _depthwise(self, name: str, *, depth: sp.Expr, times: sp.Expr = ONE, **traffic: sp.Expr) -> Phase:
        """Return one depthwise pass: 2 FLOP per tap, channel and position."""
        engine = "matrix" if self.convention == "torch" else "vector"
        flops = {engine: 2 * B * N * I * K * times}
        return scan_phase(self, name, chains=ONE, pram_depth=tree_depth(depth), **flops, **traffic)

    def forward(self) -> tuple[Phase, ...]:
        """The depthwise pass, then the pointwise product."""
        inner, taps = self._inner(), self.bytes * K * I
        return (
            self._depthwise("depthwise", depth=K, read=inner + taps, write=inner, workspace=inner),
            gemm(self, "pointwise", m=B * N, n=D, k=I),
        )

    def backward(self) -> tuple[Phase, ...]:
        """Two products for the pointwise part, two passes for the depthwise part.

        FlopCounterMode counts the depthwise weight gradient as a full one: C_in times as large.
        """
        inner, taps = self._inner(), self.bytes * K * I
        over = I if self.convention == "torch" else ONE
        return (
            *gradients(self, "pointwise", rows=B * N, inner=I, outer=D, workspace=inner),
            self._depthwise("depthwise, input gradient", depth=K, read=inner + taps, write=inner),
            self._depthwise(
                "depthwise, weight gradient", depth=B * N, times=over, read=2 * inner, write=taps
            ),
        )

    def _inner(self) -> sp.Expr:
        """Size of the sequence between the two parts, which is as wide as the input [bytes]."""
        return self.bytes * B * N * I

    def kept(self) -> sp.Expr:
        """Its input, and the sequence between the two parts."""
        return 2 * self._inner()

    def parameters(self) -> sp.Expr:
        """k · C_in + C_in · C_out."""
        return K * I + I * D
