"""The scan itself: every state of a first-order linear recurrence, by the algorithm of choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.layers._base import Layer
from costmodel.layers._scan import COMBINE_DEPTH, SCANS, scan_phase
from costmodel.symbols import symbols

B, T, H, C = symbols("batch seq hidden block")


@dataclass(frozen=True, kw_only=True)
class Scan(Layer):
    """h_t = a_t ∘ h_{t−1} + b_t for all t, from h_0 = 0, in `hidden` lanes of every sequence.

    Parameters
    ----------
    algorithm : str
        ``sequential``: T − 1 steps of 2 FLOP. ``kogge-stone``: T log₂ T − T + 1 combines of 3
        FLOP, log₂ T deep. ``blelloch``: 2(T − 1), 2 log₂ T deep. ``brent-kung``: 2T − 2 − log₂ T,
        2 log₂ T − 1 deep. ``chunked``, by chunks of C = `block`: 2T + T/C, C + T/C deep, least
        at C = √T.
    fused : bool
        One kernel, intermediate states on the chip. Otherwise each level is a kernel that reads
        and writes them in memory, as a framework does without a kernel for it.
    """

    name: ClassVar[str] = "scan"
    family: ClassVar[str] = "scan"
    source: ClassVar[str] = (
        "Blelloch 1990, CMU-CS-90-190, §1.4; Kogge & Stone 1973, doi 10.1109/TC.1973.5009159; "
        "Hillis & Steele 1986; Brent & Kung 1982"
    )
    not_counted: ClassVar[str] = (
        "how a and b are made; what an exclusive scan needs to become inclusive; bank conflicts, padding"
    )
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "hidden")
    defaults: ClassVar[dict[str, str | int]] = {"block": 64}

    algorithm: str = "sequential"
    fused: bool = True

    def __post_init__(self) -> None:
        """Check the algorithm."""
        super().__post_init__()
        self.check_options(algorithm=SCANS)

    def _scan(self, name: str, *, reads: int, writes: int, vector: int, after: int) -> Phase:
        """Return the scan over arrays of which so many are read and written, and pointwise work after."""
        scan, lanes = SCANS[self.algorithm], B * H
        depth = scan.depth(T, C)
        read, write, launches, workspace = reads * T, writes * T, sp.Integer(1), ZERO
        if not self.fused:
            # a and b are copied once, then combined in place: two pairs in, one out. A step has no
            # pair to write, but reads a, b and the state.
            one_in, one_out = (3, 1) if self.algorithm == "sequential" else (4, 2)
            read += 2 * T + one_in * scan.combines(T, C)
            write += 2 * T + one_out * scan.combines(T, C)
            launches, workspace = 1 + depth, 2 * self.bytes * lanes * T
        return scan_phase(
            self,
            name,
            chains=lanes,
            steps=depth,
            vector=lanes * (scan.flops(T, C) + vector * T),
            read=self.bytes * lanes * read,
            write=self.bytes * lanes * write,
            pram_depth=COMBINE_DEPTH * depth + after,
            workspace=workspace,
            launches=launches,
        )

    def forward(self) -> tuple[Phase, ...]:
        """One scan over a and b."""
        return (self._scan(f"{self.algorithm} scan", reads=2, writes=1, vector=0, after=0),)

    def backward(self) -> tuple[Phase, ...]:
        """The scan of the gradient from the end, g_t = dh_t + a_{t+1} g_{t+1}; da_t = g_t h_{t−1}; db = g."""
        return (self._scan(f"{self.algorithm} scan, backward", reads=3, writes=2, vector=1, after=1),)

    def tensors(self) -> Tensors:
        """a and b in, h out."""
        elements = self.bytes * B * T * H
        return Tensors(inputs=2 * elements, outputs=elements)

    def kept(self) -> sp.Expr:
        """a and h: the gradient needs no b."""
        return 2 * self.bytes * B * T * H

    def path(self) -> sp.Expr:
        """Return the combines between the first position and the last."""
        return SCANS[self.algorithm].depth(T, C)
