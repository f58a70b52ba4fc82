"""Gated delta net: linear attention whose state forgets, and is corrected instead of added to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.errors import SizeError, unknown_name
from costmodel.layers._base import Layer
from costmodel.layers._scan import scan_phase
from costmodel.symbols import ceil_div, symbols, tree_depth

B, N, HK, HV, D = symbols("batch seq heads kv_heads head_dim")
FORMS = ("chunked", "recurrent")
STATE_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class GatedDeltaNet(Layer):
    """The core of a gated delta net: S ← α S (I − β k kᵀ) + β v kᵀ, o = S q, for each value head.

    `heads` are the query and key heads, `kv_heads` the value heads, each with a
    state of d × d in fp32. Projections, convolution and gates are other layers.

    Parameters
    ----------
    form : str
        ``chunked``: products inside chunks of `chunk` tokens, the state handed
        on from chunk to chunk (training and prefill). ``recurrent``: token by
        token, the state read once a call, kept on the chip, and written once (decoding).
    chunk : int
        Tokens of a chunk.
    """

    name: ClassVar[str] = "gated-delta-net"
    family: ClassVar[str] = "scan"
    source: ClassVar[str] = "Yang et al., arXiv 2412.06464, eq. 8–10; arXiv 2406.06484 (chunked form)"
    not_counted: ClassVar[str] = "projections, convolution, output gate and norm; L2-normalisation of q and k"
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "heads", "head_dim")
    defaults: ClassVar[dict[str, str | int]] = {"kv_heads": "heads"}

    form: str = "chunked"
    chunk: int = 64

    def __post_init__(self) -> None:
        """Check the form."""
        super().__post_init__()
        self.check_options(form=FORMS)
        if self.form == "recurrent" and self.direction != "fwd":
            raise unknown_name(f"direction of {self.name} with form=recurrent", self.direction, ("fwd",))

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Value heads share keys evenly."""
        if np.any(sizes["kv_heads"] % sizes["heads"]):
            raise SizeError(f"{self.name}: kv_heads (value heads) must be a multiple of heads (key heads)")

    def forward(self) -> tuple[Phase, ...]:
        """One kernel, or the few of the chunked form taken as one."""
        chunked = self.form == "chunked"
        heads, c = B * HV, sp.Integer(self.chunk)
        state = heads * D * D * STATE_BYTES
        io = self.tensors()
        if chunked:
            # A token: QKᵀ and KKᵀ 4·C·d; the unit triangular system, 4·C·d for W and U and C²/3
            # for its inverse; A·V 2·C·d; W·S, Q·S and the state's update 6·d².
            flops = {
                ("matrix", self.dtype): heads * N * (10 * c * D + 6 * D**2),
                ("vector", self.accumulate): heads * N * (c**2 / 3 + 2 * c + D),
                ("special", self.accumulate): heads * N,
            }
            steps, read, write = ceil_div(N, c), io.inputs, io.outputs + state
        else:
            # A token: decay d², S k 2d², β(v − Sk) 2d, the outer product added 2d², S q 2d².
            flops = {
                ("vector", self.accumulate): heads * N * (7 * D**2 + 2 * D),
                ("special", self.accumulate): heads * N,
            }
            steps, read, write = N, io.inputs + state, io.outputs + state
        return (
            Phase(
                name="delta rule",
                kernel="delta",
                op="gdn_chunk_prefill" if chunked else "gdn_recurrent_decode",
                sizes={"batch": B, "seq": N, "heads": HK, "value_heads": HV, "head_dim": D},
                options={"dtype": self.dtype, "kernel": "chunked" if chunked else "decode"},
                flops=flops,
                read=read,
                write=write,
                steps=steps,
                pram_depth=steps * 3 * tree_depth(D),
            ),
        )

    def backward(self) -> tuple[Phase, ...]:
        """The kernels of the chunked form taken as one: what was not kept again, and all gradients.

        A token, with chunks of C. Again: KKᵀ, QKᵀ, W and U 8·C·d, W S and the states 4·d², the
        inverse C²/3. Two products for each of forward's, 20·C·d + 12·d²; the inverse's gradient
        −Tᵀ dT Tᵀ, 4·C². Masks of two matrices and of their gradients 4·C; keys weighted again and
        back 2·d, β's gradient 2·d, the decay's, q·dq − k·dk, 4·d.
        """
        heads, c = B * HV, sp.Integer(self.chunk)
        chunks, io = ceil_div(N, c), self.tensors()
        states = 2 * heads * chunks * D * D * STATE_BYTES  # S and dS, from the walk to the rest
        phase = scan_phase(
            self,
            "delta rule, backward",
            chains=heads,
            steps=chunks,
            matrix=heads * N * (28 * c * D + 16 * D**2 + 4 * c**2),
            vector=heads * N * (c**2 / 3 + 4 * c + 8 * D),
            special=heads * N,
            read=io.inputs + io.outputs + states,
            write=io.inputs + states,
            pram_depth=chunks * 3 * tree_depth(D),
            workspace=states,
            blocks=True,
        )
        return (replace(phase, sizes={**phase.sizes, "steps": 2 * chunks}),)  # S, and dS from the end

    def tensors(self) -> Tensors:
        """Q, K, V, the two gates in, O out; the state, updated in place when decoding."""
        tokens = B * N
        state = B * HV * D * D * STATE_BYTES
        return Tensors(
            inputs=self.bytes * tokens * (2 * HK * D + HV * D + 2 * HV),
            outputs=self.bytes * tokens * HV * D,
            updated=ZERO if self.form == "chunked" else state,
        )

    def kept(self) -> sp.Expr:
        """Its inputs: the states at chunk boundaries are computed again."""
        return self.tensors().inputs

    def path(self) -> sp.Expr:
        """Return the number of hand-overs from the first position to the last."""
        return ceil_div(N, sp.Integer(self.chunk)) if self.form == "chunked" else N
