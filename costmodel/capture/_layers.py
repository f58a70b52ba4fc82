"""Layers that occur only in captured modules: recorded memory passes and convolutions of any shape.

Their sizes are expressions in the model's own symbols: they have no sizes to fill in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase, Tensors
from costmodel.layers._base import Layer
from costmodel.symbols import tree_depth


@dataclass(frozen=True, kw_only=True)
class _Found(Layer):
    """A kernel with recorded traffic.

    Parameters
    ----------
    title : str
        The operations that it runs.
    read, write : Expr
        Traffic with main memory [bytes].
    torch_factor : Expr
        Factor by which FlopCounterMode overcounts it (a grouped weight gradient: as if for one group).
    """

    family: ClassVar[str] = "captured"
    required: ClassVar[tuple[str, ...]] = ()

    title: str
    read: sp.Expr
    write: sp.Expr
    torch_factor: sp.Expr = ONE

    @property
    def _times(self) -> sp.Expr:
        return self.torch_factor if self.convention == "torch" else ONE

    def backward(self) -> tuple[Phase, ...]:
        """Nothing: the gradients' kernels are recorded, not derived."""
        return ()

    def tensors(self) -> Tensors:
        """What it reads, and what it writes."""
        return Tensors(inputs=self.read, outputs=self.write)

    def kept(self) -> sp.Expr:
        """Nothing: what is kept is recorded, too."""
        return ZERO


@dataclass(frozen=True, kw_only=True)
class Pass(_Found):
    """One memory-bound kernel over a rows × cols table.

    Parameters
    ----------
    op : str
        Operation under its name in the measurements.
    borrowed : bool
        Whether `op` names another operation, whose constants are borrowed.
    pattern : str
        How rows are laid out and reduced, see ``costmodel.kernels.stream``.
    rows, cols : Expr
        Sizes of the table.
    vector, special : Expr
        Arithmetic of the whole table [FLOP].
    """

    name: ClassVar[str] = "captured-pass"
    source: ClassVar[str] = "the operations of the module, as torch ran them"
    not_counted: ClassVar[str] = "random numbers; atomic additions that collide"

    op: str = "elementwise_add"
    borrowed: bool = False
    pattern: str = "elementwise"
    rows: sp.Expr
    cols: sp.Expr
    vector: sp.Expr = ZERO
    special: sp.Expr = ZERO

    def forward(self) -> tuple[Phase, ...]:
        """One pass."""
        table = self.bytes * self.rows * self.cols
        flops = {
            ("vector", self.accumulate): self.vector * self._times,
            ("special", self.accumulate): self.special,
        }
        return (
            Phase(
                name=self.title,
                kernel="stream",
                op=self.op,
                borrowed=self.borrowed,
                # An operation that was measured on its own is timed as such in a backward pass, too.
                direction="" if self.borrowed else "fwd",
                sizes={
                    "rows": self.rows,
                    "cols": self.cols,
                    "reads": sp.expand(self.read / table),
                    "writes": sp.expand(self.write / table),
                },
                options={"dtype": self.dtype, "pattern": self.pattern},
                flops={key: count for key, count in flops.items() if count != 0},
                read=self.read,
                write=self.write,
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Convolution(_Found):
    """A convolution of any rank, stride and dilation as an implicit product: `groups` times m × n × k.

    Parameters
    ----------
    groups, m, n, k : Expr
        Number of groups, and the product of one group: positions × channels out, with channels in × taps
        summed.
    """

    name: ClassVar[str] = "captured-convolution"
    source: ClassVar[str] = "torch.nn.functional.conv1d, conv2d, conv3d; 1 MAC = 2 FLOP"
    not_counted: ClassVar[str] = "bias; less arithmetic at the padded ends; im2col copies, Winograd, FFT"

    groups: sp.Expr = ONE
    m: sp.Expr
    n: sp.Expr
    k: sp.Expr

    def forward(self) -> tuple[Phase, ...]:
        """One implicit product."""
        count = 2 * self.groups * self.m * self.n * self.k * self._times
        return (
            Phase(
                name=self.title,
                kernel="gemm",
                op="gemm" if self.groups == ONE else "bmm",
                borrowed=True,
                sizes={"batch": self.groups, "m": self.m, "n": self.n, "k": self.k},
                options={"dtype": self.dtype},
                flops={("matrix", self.dtype): count},
                read=self.read,
                write=self.write,
                pram_depth=tree_depth(self.k),
            ),
        )
