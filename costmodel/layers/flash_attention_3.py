"""FlashAttention-3: the tiles of FlashAttention-2, with the softmax behind the products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from costmodel.errors import unknown_name
from costmodel.layers.tiled_attention import TiledAttention


@dataclass(frozen=True, kw_only=True)
class FlashAttention3(TiledAttention):
    """FlashAttention-3: two warp groups take turns, one's softmax runs while the other multiplies.

    The counts are FlashAttention-2's: what changes is that the engines overlap. The bound takes the
    largest of the engines' times anyway, which only this kernel comes near: without overlap the time
    would be their sum (the terms of `serial_s`). At rungs ``kernel`` and ``calibrated`` products and
    softmax of a step are joined between the two, as rows measured with it on Hopper have it; on
    other architectures, where it does not run, the estimate is of the library that does.
    """

    name: ClassVar[str] = "flash-attention-3"
    source: ClassVar[str] = "Shah et al., arXiv 2407.08608, Algorithms 1 and 2"
    not_counted: ClassVar[str] = (
        "the scaling by 1/√d_h (folded into Q), masks other than causal, dropout; in fp8 the scaling of "
        "blocks and the Hadamard product of Q and K (fused with what comes before)"
    )

    def __post_init__(self) -> None:
        """Refuse the first version's order of loops."""
        super().__post_init__()
        if self.schedule != "fa2":
            raise unknown_name(f"schedule of {self.name}", self.schedule, ("fa2",))
