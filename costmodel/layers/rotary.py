"""Rotary position embedding: pairs of query and key entries are rotated by position-dependent angles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import Phase, Tensors
from costmodel.layers._attention import check_heads
from costmodel.layers._base import Layer
from costmodel.layers._kernels import stream
from costmodel.symbols import symbols

B, N, HQ, HKV, D = symbols("batch seq heads kv_heads head_dim")


@dataclass(frozen=True, kw_only=True)
class Rotary(Layer):
    """Rotate each pair of entries of Q and K in place: 3 FLOP per entry (4 products, 2 sums per pair).

    One pass over Q and K, which reads a table of n × d_h sines and cosines; backward is the same pass with
    the opposite angles. If only a part of each head is rotated, head_dim is the width of that part.
    """

    name: ClassVar[str] = "rotary"
    family: ClassVar[str] = "memory-bound"
    source: ClassVar[str] = "Su et al., arXiv 2104.09864, eq. 34"
    not_counted: ClassVar[str] = "computing the table of sines and cosines"
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "heads", "head_dim")
    defaults: ClassVar[dict[str, str | int]] = {"kv_heads": "heads"}

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Check that `kv_heads` divides `heads`; in a model, 0 of them mean that only Q is rotated."""
        if not (isinstance(sizes["kv_heads"], int | float) and sizes["kv_heads"] == 0):
            check_heads(self, sizes)

    @property
    def _vectors(self) -> sp.Expr:
        """Number of rotated vectors."""
        return B * N * (HQ + HKV)

    def _rotate(self, name: str) -> tuple[Phase, ...]:
        table = self.bytes * N * D
        turned = stream(
            self,
            name,
            rows=self._vectors,
            cols=D,
            reads=1,
            writes=1,
            vector=3,
            depth=2,
            extra_read=table,
        )
        return (replace(turned, l2=table * (B * (HQ + HKV) - 1)),)

    def forward(self) -> tuple[Phase, ...]:
        """One pass."""
        return self._rotate("rotation")

    def backward(self) -> tuple[Phase, ...]:
        """One pass, with the opposite angles."""
        return self._rotate("rotation gradient")

    def tensors(self) -> Tensors:
        """Q and K in and out; the angles are no operand, as the kernel could compute them."""
        vectors = self.bytes * self._vectors * D
        return Tensors(inputs=vectors, outputs=vectors, linear=True)

    def kept(self) -> sp.Expr:
        """Nothing: the angles follow from the positions."""
        return sp.Integer(0)
