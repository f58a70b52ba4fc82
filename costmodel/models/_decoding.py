"""Kernels that only decoding has: attention on cached latents, and a recurrent state in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase, Tensors
from costmodel.layers import Layer
from costmodel.layers._kernels import stream
from costmodel.layers._stored import StoredCache
from costmodel.layers.mla import MLA
from costmodel.symbols import symbols

B, N, H, NKV, C, R = symbols("batch seq hidden seq_kv kv_rank rope_dim")
STATE_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class LatentCore(StoredCache):
    """The core of absorbed latent attention alone: `mla` without its projections, one new token."""

    name: ClassVar[str] = "mla-core"
    family: ClassVar[str] = "attention"
    source: ClassVar[str] = MLA.source
    not_counted: ClassVar[str] = MLA.not_counted
    required: ClassVar[tuple[str, ...]] = ("batch", "heads", "seq_kv", "kv_rank", "rope_dim")
    directions: ClassVar[tuple[str, ...]] = ("fwd",)

    def forward(self) -> tuple[Phase, ...]:
        """The kernel that `mla` has between its products."""
        whole = MLA(dtype=self.dtype, convention=self.convention, absorbed=True)
        (core,) = (phase for phase in whole.forward() if phase.kernel == "decode")
        read = core.read - whole.cached * B * NKV + self.cache_size()
        core = replace(core, options={**core.options, **self.cache_options()}, read=read)
        return (core.at({N: ONE}),)

    def cache_size(self) -> sp.Expr:
        """The latent and the rotated key of all positions."""
        return self.cached_bytes * B * NKV * (C + R)

    def tensors(self) -> Tensors:
        """Queries and the cache in; a latent for each head out."""
        (core,) = self.forward()
        return Tensors(inputs=core.read, outputs=core.write)

    def kept(self) -> sp.Expr:
        """Nothing: decoding is not trained."""
        return ZERO


@dataclass(frozen=True, kw_only=True)
class StateUpdate(Layer):
    """A state of `hidden` numbers a sequence, in fp32, that a step reads and writes in place.

    Only its traffic: the arithmetic is that of the layer whose state it is.
    """

    name: ClassVar[str] = "state-update"
    family: ClassVar[str] = "scan"
    source: ClassVar[str] = "first principles: once in, once out"
    not_counted: ClassVar[str] = "arithmetic"
    required: ClassVar[tuple[str, ...]] = ("batch", "hidden")
    directions: ClassVar[tuple[str, ...]] = ("fwd",)

    def forward(self) -> tuple[Phase, ...]:
        """One pass."""
        copied = stream(self, "state", op="elementwise_copy", rows=B, cols=H, reads=1, writes=1, depth=0)
        wide = {**copied.options, "dtype": "fp32"}
        size = STATE_BYTES * B * H
        return (replace(copied, read=size, write=size, options=wide),)

    def tensors(self) -> Tensors:
        """The state, updated in place."""
        return Tensors(inputs=ZERO, outputs=ZERO, updated=STATE_BYTES * B * H)

    def kept(self) -> sp.Expr:
        """Nothing: decoding is not trained."""
        return ZERO
