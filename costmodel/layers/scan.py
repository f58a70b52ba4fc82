"""The scan as a layer: all states of a first-order linear recurrence, by a choice of algorithm."""

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
    """All states of h_t = a_t ∘ h_{t−1} + b_t, from h_0 = 0, in `hidden` lanes of every sequence.

    Parameters
    ----------
    algorithm : str
        ``sequential``: T − 1 steps of 2 FLOP. ``kogge-stone``: T log₂ T − T + 1 combines of 3
        FLOP, log₂ T deep. ``blelloch``: 2(T − 1) combines, 2 log₂ T deep. ``brent-kung``:
        2T − 2 − log₂ T combines, 2 log₂ T − 1 deep. ``chunked``, in chunks of C = `block`: 2T + T/C
        combines, C + T/C deep, which is least at C = √T.
    fused : bool
        One kernel, with intermediate states on chip. Otherwise each level is a kernel that reads
        and writes them in memory, as in a framework without a scan kernel.
    """

    name: ClassVar[str] = "scan"
    family: ClassVar[str] = "scan"
    source: ClassVar[str] = (
        "Blelloch 1990, CMU-CS-90-190, §1.4; Kogge & Stone 1973, doi 10.1109/TC.1973.5009159; "
        "Hillis & Steele 1986; Brent & Kung 1982"
    )
    not_counted: ClassVar[str] = (
        "computing a and b; making an exclusive scan inclusive; bank conflicts, padding"
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
        """Return the scan over `reads` input and `writes` output arrays, with pointwise work after it."""
        scan, lanes = SCANS[self.algorithm], B * H
        depth = scan.depth(T, C)
        read, write, launches, workspace = reads * T, writes * T, sp.Integer(1), ZERO
        if not self.fused:
            # a and b are copied once, then combined in place: two pairs in, one out. A sequential step reads
            # a, b and the state, and writes the state only.
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
        """The gradient's scan from the end, g_t = dh_t + a_{t+1} g_{t+1}; da_t = g_t h_{t−1}; db = g."""
        return (self._scan(f"{self.algorithm} scan, backward", reads=3, writes=2, vector=1, after=1),)

    def tensors(self) -> Tensors:
        """a and b in, h out."""
        elements = self.bytes * B * T * H
        return Tensors(inputs=2 * elements, outputs=elements)

    def kept(self) -> sp.Expr:
        """a and h: the gradient does not need b."""
        return 2 * self.bytes * B * T * H

    def path(self) -> sp.Expr:
        """Return the number of combines between the first and the last position."""
        return SCANS[self.algorithm].depth(T, C)
