"""What surrounds latent attention as torch's separate kernels, as models run without torch.compile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.layers import Layer
from costmodel.layers._kernels import stream
from costmodel.symbols import symbols

TOKENS, HEADS, WIDTH, ROPE, TOP = symbols("batch heads head_dim rope_dim top_k")


@dataclass(frozen=True, kw_only=True)
class EagerRotation(Layer):
    """Rotation of queries and the shared key as torch's separate kernels, and the write to the cache.

    ``forward_native`` of vLLM's ``DeepseekScalingRotaryEmbedding`` launches, for queries and for the key: a
    change of sign, a ``stack``, two products and a sum; for both together, the look-up of cosines and sines
    and two repetitions of them. Then the queries are copied back, and ``concat_and_cache_mla`` writes a row.
    """

    name: ClassVar[str] = "eager-rotation"
    family: ClassVar[str] = "memory-bound"
    source: ClassVar[str] = "vllm-project/vllm, deepseek_scaling_rope.py, mla_attention.py"
    not_counted: ClassVar[str] = "arithmetic"
    required: ClassVar[tuple[str, ...]] = ("batch", "heads", "head_dim")
    directions: ClassVar[tuple[str, ...]] = ("fwd",)

    #: Kernels over queries (those above and the copy), and over one key per token.
    of_queries: ClassVar[int] = 6
    of_keys: ClassVar[int] = 9

    def forward(self) -> tuple[Phase, ...]:
        """Return the kernels over all heads' queries, and those over one key per token."""
        return (
            self._passes("queries", TOKENS * HEADS, self.of_queries),
            self._passes("key, angles and cache", TOKENS, self.of_keys),
        )

    def _passes(self, name: str, rows: sp.Expr, kernels: int) -> Phase:
        one = stream(self, name, op="elementwise_mul", rows=rows, cols=WIDTH, reads=1, writes=1, vector=0)
        return replace(one, repeats=sp.Integer(kernels))

    def tensors(self) -> Tensors:
        """Return the operands: queries and keys, rotated in place."""
        size = self.bytes * TOKENS * (HEADS + 1) * WIDTH
        return Tensors(inputs=size, outputs=size)

    def kept(self) -> sp.Expr:
        """Return 0: serving keeps nothing for backward."""
        return ZERO


@dataclass(frozen=True, kw_only=True)
class EagerIndexer(Layer):
    """What surrounds a lightning indexer's products, its norm, scores and choice, as separate kernels.

    The rotation of its queries and its key (`EagerRotation`, without the write). In ``Indexer.forward`` of
    vLLM's DeepSeek-V3.2: a ``cat`` of the rotated and the other part of queries and of the key, rounding of
    queries to FP8, three products for the weights of the heads, and two conversions around the norm in fp32.
    The key is rounded while it is written to the cache; the list is set to −1 before the choice, and its
    positions become places in the cache after it.
    """

    name: ClassVar[str] = "eager-indexer"
    family: ClassVar[str] = "memory-bound"
    source: ClassVar[str] = "vllm-project/vllm, deepseek_v2.py (Indexer), sparse_attn_indexer.py"
    not_counted: ClassVar[str] = "arithmetic"
    required: ClassVar[tuple[str, ...]] = ("batch", "heads", "head_dim", "rope_dim", "top_k")
    directions: ClassVar[tuple[str, ...]] = ("fwd",)

    def forward(self) -> tuple[Phase, ...]:
        """Return the kernels by what they go over."""
        return (
            self._passes("rotation of queries", HEADS * ROPE, EagerRotation.of_queries),
            self._passes("rotation of the key, angles", ROPE, EagerRotation.of_keys - 1),
            self._passes("queries", HEADS * WIDTH, 2),
            self._passes("weights of heads", HEADS, 3),
            self._passes("key", WIDTH, 4),
            self._passes("list", 2 * TOP, 2),
        )

    def _passes(self, name: str, cols: sp.Expr, kernels: int) -> Phase:
        one = stream(self, name, op="elementwise_mul", rows=TOKENS, cols=cols, reads=1, writes=1, vector=0)
        return replace(one, repeats=sp.Integer(kernels))

    def tensors(self) -> Tensors:
        """Return the operands: queries, key and weights in, the same and the list out."""
        size = self.bytes * TOKENS * ((HEADS + 1) * WIDTH + HEADS)
        return Tensors(inputs=size, outputs=size + 2 * self.bytes * TOKENS * TOP)

    def kept(self) -> sp.Expr:
        """Return 0: serving keeps nothing for backward."""
        return ZERO
