"""Convolutions of any rank, stride, dilation and padding, as implicit products that state their bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase, Tensors
from costmodel.layers._base import Layer
from costmodel.layers._kernels import gemm, stream
from costmodel.layers._refusal import refuse
from costmodel.symbols import symbols, tree_depth

G, M, N, K, TAPS = symbols("batch m n k taps")
READ, WRITTEN, LEAST = symbols("read_bytes written_bytes least_bytes")

#: How channels are grouped: not at all, in several groups, or one channel per group.
GROUPINGS = ("none", "grouped", "depthwise")


class _Stated(Tensors):
    """Operands whose bytes are stated for the direction that is meant."""

    def compulsory(self, direction: str) -> sp.Expr:  # noqa: ARG002 - stated for one direction
        """Return what has to be read, and the results [bytes]."""
        return self.inputs + self.outputs


@dataclass(frozen=True, kw_only=True)
class ImplicitConv(Layer):
    """A convolution over m positions, in 1, 2 or 3 dimensions: 2·G·m·n·k·taps FLOP for each product.

    A position is a place of the window: an element of the output of one channel of one image, and of a
    transposed convolution an element of its input. The lower bound has 2·G·m·n·k FLOP for each product, one
    multiplication for each position and pair of channels, whatever the size of the window: Winograd's
    algorithms for m outputs and r taps multiply m + r − 1 times, so no fewer than m times, and an FFT no less
    often. Forward, input gradient and weight gradient are one trilinear form, and need equally many. Products
    over channels are those of `matmul`, without Strassen's savings.

    Parameters
    ----------
    grouping : str
        ``none``; ``grouped``, in `batch` groups of channels; ``depthwise``, where each group reads a single
        channel: one pass on the vector engine.
    transposed : bool
        Whether it scatters positions over windows, as the input gradient of a convolution does.
    """

    name: ClassVar[str] = "implicit-conv"
    family: ClassVar[str] = "convolution"
    source: ClassVar[str] = (
        "torch.nn.functional.conv1d, conv2d, conv3d; least multiplications: Winograd, Arithmetic Complexity "
        "of Computations (1980); Lavin & Gray, arXiv 1509.09308"
    )
    not_counted: ClassVar[str] = "bias; work saved at the padded edges; im2col copies; transforms of Winograd"
    required: ClassVar[tuple[str, ...]] = ("m", "n", "k", "read_bytes", "written_bytes")
    defaults: ClassVar[dict[str, str | int]] = {"batch": 1, "taps": 1, "least_bytes": "read_bytes"}
    meanings: ClassVar[Mapping[str, str]] = {
        "batch": "groups of channels",
        "m": "positions of the window, over all images",
        "n": "channels of a group at a position: out, if transposed in",
        "k": "channels of a group under the window: in, if transposed out",
        "read_bytes": "bytes that it reads",
        "written_bytes": "bytes that it writes",
        "least_bytes": "bytes that it reads in any case: a stride may step over inputs",
    }
    directions: ClassVar[tuple[str, ...]] = ("fwd", "bwd", "bwd_data", "bwd_weights")

    grouping: str = "none"
    transposed: bool = False

    def __post_init__(self) -> None:
        """Check the grouping."""
        super().__post_init__()
        self.check_options(grouping=GROUPINGS)

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Check that the least bytes are at most the bytes read, and that groups fit the grouping."""
        wanted = "least_bytes must be no more than read_bytes"
        refuse(self, sizes["least_bytes"] > sizes["read_bytes"], wanted, sizes, "least_bytes", "read_bytes")
        if self.grouping == "none":
            wanted = "with grouping=none, batch (its groups) must be 1"
            refuse(self, sizes["batch"] > 1, wanted, sizes, "batch")
        if self.grouping == "depthwise":
            wanted = "with grouping=depthwise, k (channels of a group) must be 1"
            refuse(self, sizes["k"] > 1, wanted, sizes, "k")

    @property
    def _groups(self) -> sp.Expr:
        return ONE if self.grouping == "none" else G

    @property
    def _under(self) -> sp.Expr:
        """Channels of a group under the window."""
        return ONE if self.grouping == "depthwise" else K

    def _product(
        self, name: str, rows: sp.Expr, cols: sp.Expr, inner: sp.Expr, read: sp.Expr, write: sp.Expr
    ) -> Phase:
        """Return one product with its bytes: rows × cols results, each a sum of `inner` terms."""
        if self.grouping == "depthwise":
            table = self.bytes * M * G * N
            pass_ = stream(self, name, rows=M, cols=G * N, reads=read / table, writes=write / table)
            one, key = replace(pass_, pram_depth=tree_depth(inner)), ("vector", self.accumulate)
        else:
            product = gemm(self, name, m=rows, n=cols, k=inner, batch=self._groups)
            one, key = replace(product, borrowed=True), ("matrix", self.dtype)
        least = 2 * self._groups * M * N * self._under
        flops = {key: least * TAPS}
        return replace(one, flops=flops, spared={key: least * (TAPS - 1)}, read=read, write=write)

    def _gather(self, name: str, read: sp.Expr, write: sp.Expr) -> Phase:
        """Return the product that sums a window for each position."""
        return self._product(name, M, N, self._under * TAPS, read, write)

    def _scatter(self, name: str, read: sp.Expr, write: sp.Expr) -> Phase:
        """Return the product that adds each position to the places of its window."""
        return self._product(name, M, self._under, N * TAPS, read, write)

    def phases(self) -> tuple[Phase, ...]:
        """Return the products of the direction."""
        if self.direction == "fwd":
            return self.forward()
        return tuple(replace(one, direction="bwd") for one in self.backward())

    def forward(self) -> tuple[Phase, ...]:
        """One implicit product."""
        return ((self._scatter if self.transposed else self._gather)("convolution", READ, WRITTEN),)

    def backward(self) -> tuple[Phase, ...]:
        """Gradients of the input, of the weights, or of both: a product as large as forward for each."""
        of_input = self._gather if self.transposed else self._scatter
        if self.direction == "bwd_data":
            return (of_input("input gradient", READ, WRITTEN),)
        if self.direction == "bwd_weights":
            return (self._weight_gradient(READ, WRITTEN),)
        weights, position = self.bytes * self.parameters(), self.bytes * self._groups * M * N
        # Both products read the output's gradient: at the positions, of a transposed one under the windows.
        grad = sp.Max(READ - weights - position, ZERO) if self.transposed else position
        return (
            of_input("input gradient", grad + weights, WRITTEN - weights),
            self._weight_gradient(READ - weights, weights),
        )

    def _weight_gradient(self, read: sp.Expr, write: sp.Expr) -> Phase:
        return self._product("weight gradient", N, self._under * TAPS, M, read, write)

    def tensors(self) -> Tensors:
        """The bytes that it reads at least, and those that it writes."""
        return _Stated(inputs=LEAST, outputs=WRITTEN)

    def kept(self) -> sp.Expr:
        """Nothing: what is kept is stated, too."""
        return ZERO

    def parameters(self) -> sp.Expr:
        """Channels × channels × taps, for each group."""
        return self._groups * N * self._under * TAPS
