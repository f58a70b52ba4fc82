"""Kernels that only decoding has: attention to latents or chosen positions, updates of a recurrent state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase, Tensors
from costmodel.layers import Layer
from costmodel.layers._indexed import PLACE_BYTES
from costmodel.layers._kernels import stream
from costmodel.layers._stored import StoredCache
from costmodel.layers.decode_attention import DecodeAttention
from costmodel.layers.mla import MLA
from costmodel.symbols import symbols

B, N, H, NKV, C, R, TOP = symbols("batch seq hidden seq_kv kv_rank rope_dim top_k")
STATE_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class LatentCore(StoredCache):
    """The core of absorbed latent attention for one new token: `mla` without its projections."""

    name: ClassVar[str] = "mla-core"
    family: ClassVar[str] = "attention"
    source: ClassVar[str] = MLA.source
    not_counted: ClassVar[str] = MLA.not_counted
    required: ClassVar[tuple[str, ...]] = ("batch", "heads", "seq_kv", "kv_rank", "rope_dim")
    directions: ClassVar[tuple[str, ...]] = ("fwd",)

    def forward(self) -> tuple[Phase, ...]:
        """Return the attention kernel of `mla`, without its products."""
        whole = MLA(dtype=self.dtype, convention=self.convention, absorbed=True)
        (core,) = (phase for phase in whole.forward() if phase.kernel == "decode")
        read = core.read - whole.cached * B * NKV + self.cache_size()
        core = replace(core, options={**core.options, **self.cache_options()}, read=read)
        return (core.at({N: ONE}),)

    def cache_size(self) -> sp.Expr:
        """Return the size of all positions' latents and rotated keys [bytes]."""
        return self.cached_bytes * B * NKV * (C + R)

    def tensors(self) -> Tensors:
        """Return the operands: queries and the cache in, one latent per head out."""
        (core,) = self.forward()
        return Tensors(inputs=core.read, outputs=core.write)

    def kept(self) -> sp.Expr:
        """Return 0: decoding is not trained."""
        return ZERO


@dataclass(frozen=True, kw_only=True)
class SparseLatentCore(LatentCore):
    """The same over at most `top_k` positions, of which a list is read; the cache has all of them."""

    name: ClassVar[str] = "sparse-mla-core"
    source: ClassVar[str] = "DeepSeek-AI 2025, DeepSeek-V3.2-Exp, §1, eq. 2 (the form with shared latents)"
    required: ClassVar[tuple[str, ...]] = (*LatentCore.required, "top_k")

    def forward(self) -> tuple[Phase, ...]:
        """Return the kernel of so many positions, with the list."""
        (whole,) = super().forward()
        seen = sp.Min(NKV, TOP)
        core = whole.at({NKV: seen})
        sizes = {**core.sizes, "listed": TOP}
        return (replace(core, read=core.read + PLACE_BYTES * B * seen, sizes=sizes),)

    def passed_over(self) -> sp.Expr:
        """Return the size of the latents and rotated keys that are not chosen [bytes]."""
        return self.cached_bytes * B * (NKV - sp.Min(NKV, TOP)) * (C + R)


@dataclass(frozen=True, kw_only=True)
class SparseCore(DecodeAttention):
    """Attention to at most `top_k` positions, of which a list is read; the cache has all of them."""

    name: ClassVar[str] = "sparse-decode-attention"
    source: ClassVar[str] = "DeepSeek-AI 2025, DeepSeek-V3.2-Exp, §1, eq. 2"
    required: ClassVar[tuple[str, ...]] = (*DecodeAttention.required, "top_k")

    def forward(self) -> tuple[Phase, ...]:
        """Return the kernel of so many positions, with the list."""
        (whole,) = super().forward()
        seen = sp.Min(NKV, TOP)
        core = whole.at({NKV: seen})
        return (replace(core, read=core.read + PLACE_BYTES * B * seen),)

    def passed_over(self) -> sp.Expr:
        """Return the size of the keys and values that are not chosen [bytes]."""
        return self._cache(NKV - sp.Min(NKV, TOP))


@dataclass(frozen=True, kw_only=True)
class StateUpdate(Layer):
    """A state of `hidden` fp32 numbers per sequence that a step reads and writes in place.

    Only its traffic is counted; the arithmetic belongs to the layer that has the state.
    """

    name: ClassVar[str] = "state-update"
    family: ClassVar[str] = "scan"
    source: ClassVar[str] = "first principles: the state is read and written once"
    not_counted: ClassVar[str] = "arithmetic"
    required: ClassVar[tuple[str, ...]] = ("batch", "hidden")
    directions: ClassVar[tuple[str, ...]] = ("fwd",)

    def forward(self) -> tuple[Phase, ...]:
        """Return the kernel that reads and writes the state once."""
        copied = stream(self, "state", op="elementwise_copy", rows=B, cols=H, reads=1, writes=1, depth=0)
        wide = {**copied.options, "dtype": "fp32"}
        size = STATE_BYTES * B * H
        return (replace(copied, read=size, write=size, options=wide),)

    def tensors(self) -> Tensors:
        """Return the operands: the state, updated in place."""
        return Tensors(inputs=ZERO, outputs=ZERO, updated=STATE_BYTES * B * H)

    def kept(self) -> sp.Expr:
        """Return 0: decoding is not trained."""
        return ZERO
