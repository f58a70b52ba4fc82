"""FlashAttention-3: FlashAttention-2's tiles, with the softmax overlapped with the products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from costmodel.errors import unknown_name
from costmodel.layers.tiled_attention import TiledAttention


@dataclass(frozen=True, kw_only=True)
class FlashAttention3(TiledAttention):
    """FlashAttention-3: two warp groups alternate, so that one's softmax overlaps with the other's products.

    The counts are those of FlashAttention-2; what changes is that the engines overlap. The bound always takes
    the largest of the engines' times, which only this kernel comes near: without overlap, the times would
    add up (the terms of `serial_s`). At rungs ``kernel`` and ``calibrated``, a step's products and
    softmax overlap as far as measurements of it on Hopper show; on other architectures,
    where it does not run, the estimate is that of the library that does.
    """

    name: ClassVar[str] = "flash-attention-3"
    source: ClassVar[str] = "Shah et al., arXiv 2407.08608, Algorithms 1 and 2"
    not_counted: ClassVar[str] = (
        "the scaling by 1/√d_h (folded into Q), masks other than causal, dropout; in fp8 the scaling of "
        "blocks and the Hadamard product of Q and K (fused with what comes before)"
    )

    def __post_init__(self) -> None:
        """Refuse FlashAttention-1's loop order."""
        super().__post_init__()
        if self.schedule != "fa2":
            raise unknown_name(f"schedule of {self.name}", self.schedule, ("fa2",))
