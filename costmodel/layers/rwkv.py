"""RWKV's time mixing: an exponentially decaying average of values, weighted by their keys."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import sympy as sp

from costmodel.cost import Phase, Tensors
from costmodel.layers._base import Layer
from costmodel.layers._scan import scan_phase
from costmodel.symbols import symbols

B, N, D = symbols("batch seq d_model")


@dataclass(frozen=True, kw_only=True)
class RWKV(Layer):
    """RWKV-4's time mixing: a decaying average of values v_i, weighted by keys k_i, in d channels.

    wkv_t = (Σ_{i<t} e^{(t−1−i) w + k_i} v_i + e^{u + k_t} v_t) / (the same without v). One thread per channel
    carries the numerator, the denominator and their common exponent from token to token: 19 FLOP and 4 exps
    per token and channel, O(n·d) in all.
    """

    name: ClassVar[str] = "rwkv"
    family: ClassVar[str] = "scan"
    source: ClassVar[str] = "Peng et al., arXiv 2305.13048 (RWKV-4), eq. 16; BlinkDL/RWKV-LM, wkv_cuda.cu"
    not_counted: ClassVar[str] = "projections, token shift, the receptance's gate, channel mixing; exp of w"
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "d_model")

    def forward(self) -> tuple[Phase, ...]:
        """One kernel that walks the sequence.

        Per token and channel, the output takes 10 FLOP: u + k, the maximum, two differences and exps, sums in
        numerator and denominator 5, the division. The state takes 9: w + o, the maximum, two differences and
        exps, sums 5.
        """
        io = self.tensors()
        return (
            self._walk(
                "wkv", 1, after=5, vector=19, special=4, read=io.inputs + io.weights, write=io.outputs
            ),
        )

    def backward(self) -> tuple[Phase, ...]:
        """Forward again, with the gradients of w and u; then a walk from the end, with those of k and v.

        The first walk stores two fp32 values per token and channel for the second.
        """
        io, left = self.tensors(), 2 * self.stat_bytes * B * N * D
        phase = self._walk(
            "wkv, backward",
            2,
            after=7,
            vector=51,
            special=8,
            read=io.inputs + io.weights + 2 * io.outputs + left,
            write=io.inputs + B * io.weights + left,
        )
        return (replace(phase, workspace=left),)

    def _walk(
        self, name: str, walks: int, *, after: int, vector: int, special: int, read: sp.Expr, write: sp.Expr
    ) -> Phase:
        lanes = B * D
        return scan_phase(
            self,
            name,
            chains=lanes,
            steps=walks * N,
            vector=lanes * N * vector,
            special=lanes * N * special,
            read=read,
            write=write,
            pram_depth=walks * 2 * N + after,  # the exponent's w + o and maximum, or the sums
        )

    def tensors(self) -> Tensors:
        """k and v in, wkv out, which is kept for backward; w and u."""
        tokens = self.bytes * B * N * D
        weights = self.bytes * self.parameters()
        return Tensors(inputs=2 * tokens, weights=weights, outputs=tokens, kept_outputs=tokens)

    def kept(self) -> sp.Expr:
        """k, v and wkv."""
        return 3 * self.bytes * B * N * D

    def parameters(self) -> sp.Expr:
        """w and u of each channel."""
        return 2 * D

    def path(self) -> sp.Expr:
        """Return n: the first position reaches the last through every step."""
        return N
