"""Mamba's selective state space (S6): a diagonal recurrence with input-dependent coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.errors import CostmodelError
from costmodel.layers._kernels import gemm, gradient_sum, gradients
from costmodel.layers._options import option_text
from costmodel.layers._phases import at
from costmodel.layers._scan import COMBINE_DEPTH, SCANS, recurrence, scan_phase
from costmodel.layers._states import RECURRENT, KeptState, update_phase
from costmodel.layers.causal_conv1d import CausalConv1d
from costmodel.symbols import CeilLog2, symbols, tree_depth

B, N, D, E, S, R, K, C = symbols("batch seq d_model hidden state rank k block")


@dataclass(frozen=True, kw_only=True)
class Mamba(KeptState):
    """Selective state space: h ← exp(Δ A) h + Δ B x, y = C·h + D x, out = y ∘ SiLU(z), in E channels.

    E is `hidden`, and each channel has N_s = `state` states. Per token and channel, exp(ΔA) takes N_s FLOP
    and N_s exps, ΔBx 2·N_s FLOP, the recurrence 2·N_s (sequential), C·h 2·N_s, D x 2, the gate 3 and an exp.

    Parameters
    ----------
    form : str
        ``scan``: a sequence, from a state of zeros (training and prefill). ``recurrent``: token by token,
        from a state in memory that is read once per call and written once (generation; forward only).
    projections : bool
        Include the projections (d to 2·E; E to Δ's rank, B and C; Δ's rank to E; E to d) and the
        convolution of width `k`: the whole layer.
    fused : bool
        One kernel, which keeps the states on chip and recomputes them backward. Otherwise one kernel per
        operation, as a framework runs it: exp(ΔA), ΔBx and h, B·n·E·N_s values each, go through memory.
    algorithm : str
        Scan algorithm: ``sequential``, ``kogge-stone``, ``blelloch``, ``brent-kung``, ``chunked``.
    """

    name: ClassVar[str] = "mamba"
    family: ClassVar[str] = "scan"
    forms: ClassVar[tuple[str, ...]] = ("scan", RECURRENT)
    source: ClassVar[str] = "Gu & Dao, arXiv 2312.00752, Algorithm 2 and §3.3.2; reference selective_scan_ref"
    not_counted: ClassVar[str] = (
        "softplus and bias of Δ, the activation after the convolution; further passes of an unfused "
        "parallel scan"
    )
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "d_model")
    defaults: ClassVar[dict[str, str | int]] = {
        "hidden": "2*d_model",
        "state": 16,
        "rank": "(d_model + 15)//16",
        "k": 4,
        "block": 64,
    }
    meanings: ClassVar[Mapping[str, str]] = {"hidden": "channels, each with its own states"}

    form: str = "scan"
    projections: bool = False
    fused: bool = True
    algorithm: str = "sequential"

    def __post_init__(self) -> None:
        """Check the algorithm, which a scan has and single tokens have not."""
        super().__post_init__()
        self.check_options(algorithm=SCANS)
        self.check_forward_only("fused=false", chosen=not self.fused)
        for option in ("fused", "algorithm"):
            value = getattr(self, option)
            if self.by_token and value != getattr(Mamba, option):
                raise CostmodelError(
                    f"form={RECURRENT} of {self.name} is one kernel that takes token after token; leave out "
                    f"{option}={option_text(value)}"
                )

    # -- operands --------------------------------------------------------------------------

    def _tokens(self, width: sp.Expr) -> sp.Expr:
        """Size of a sequence of this width [bytes]."""
        return self.bytes * B * N * width

    @property
    def _core_inputs(self) -> sp.Expr:
        """Size of x, Δ, z, B and C [bytes]."""
        return self._tokens(3 * E + 2 * S)

    @property
    def _core_weights(self) -> sp.Expr:
        """A and D [elements]."""
        return E * S + E

    def tensors(self) -> Tensors:
        """x, Δ, z, B and C in, y out, and A and D; or the layer's sequence in and out, and all weights."""
        weights, state = self.bytes * self.parameters(), self._state if self.by_token else ZERO
        if not self.projections:
            return Tensors(inputs=self._core_inputs, weights=weights, outputs=self._tokens(E), updated=state)
        window = self._convolution().tensors()
        held, stays = (size.xreplace({D: E}) for size in (window.updated, window.unwritten))
        rows = self._tokens(D)
        return Tensors(inputs=rows, weights=weights, outputs=rows, updated=state + held, unwritten=stays)

    @property
    def _state(self) -> sp.Expr:
        """Size of the states of all channels [bytes]."""
        return self.state_bytes * B * E * S

    def parameters(self) -> sp.Expr:
        """A and D; with projections also the projection and convolution weights."""
        outer = 2 * D * E + K * E + E * (R + 2 * S) + R * E + E * D
        return self._core_weights + (outer if self.projections else ZERO)

    def kept(self) -> sp.Expr:
        """The core's inputs; with projections also the layer's, x before the convolution, Δ's rank and y."""
        if self.by_token:
            return ZERO
        outside = self._tokens(D + E + R + E) if self.projections else ZERO
        return self._core_inputs + outside

    def path(self) -> sp.Expr:
        """Return n: the first position reaches the last through every step of the recurrence."""
        return N

    # -- core ------------------------------------------------------------------------------

    def _scan(self) -> tuple[sp.Expr, sp.Expr]:
        """Vector FLOP per lane of the scan, and the number of its steps."""
        return recurrence(self.algorithm, N, C)

    def core_forward(self) -> tuple[Phase, ...]:
        """The selective scan in one kernel, or as a chain of kernels."""
        if not self.fused:
            return self._chained()
        flops, steps = self._scan()
        channels, operands = B * E, self._core_inputs + self.bytes * self._core_weights
        work = {
            "steps": steps,
            "vector": channels * (S * (5 * N + flops) + 5 * N),
            "special": channels * N * (S + 1),
            # Δ A and exp; the scan; C·h, + D x, gate.
            "pram_depth": 2 + COMBINE_DEPTH * steps + tree_depth(S) + 2,
        }
        name, y, state = "selective scan", self._tokens(E), self._state
        if self.by_token:
            moved = {"read": operands + state, "write": y + state}
            return (update_phase(self, name, states=state, **moved, **work),)
        return (scan_phase(self, name, chains=channels * S, read=operands, write=y, **work),)

    def _chained(self) -> tuple[Phase, ...]:
        """exp(ΔA); ΔBx; scan; C·h; + D x; gate: one kernel each, through memory."""
        flops, steps = self._scan()
        channels, x = B * E, self._tokens(E)
        lanes, wide = channels * S, self._tokens(E * S)

        def kernel(
            name: str, read: sp.Expr, write: sp.Expr, pram_depth: sp.Expr | int, **more: sp.Expr
        ) -> Phase:
            counts = {"chains": lanes, "workspace": write, "pram_depth": sp.sympify(pram_depth), **more}
            return scan_phase(self, name, read=read, write=write, **counts)

        return (
            kernel("exp(ΔA)", x + self.bytes * E * S, wide, 2, vector=lanes * N, special=lanes * N),
            kernel("ΔBx", self._tokens(2 * E + S), wide, 2, vector=2 * lanes * N),
            kernel("scan", 2 * wide, wide, COMBINE_DEPTH * steps, steps=steps, vector=lanes * flops),
            kernel("C·h", wide + self._tokens(S), x, tree_depth(S), chains=channels, vector=2 * lanes * N),
            kernel("skip (D·x)", 2 * x + self.bytes * E, x, 2, chains=channels, vector=2 * channels * N),
            kernel(
                "gate", 2 * x, x, 4,
                chains=channels, vector=3 * channels * N, special=channels * N, workspace=ZERO,
            ),
        )  # fmt: skip

    def core_backward(self) -> tuple[Phase, ...]:
        """States and outputs again; the gradient's scan from the end; the gradients of all operands.

        Per lane and token, recomputed: ΔA 1, ΔBx 2, C·h 2; gradients: dy·C 1, dC 2, d(ΔA) 2, its part of dΔ 2
        and of dA 2, dB 2, d(Δx) 2. Per channel and token: Δx 1, D x 2, SiLU and its gradient 10, dx 3, dΔ 2,
        dD 2.
        """
        flops, steps = self._scan()
        channels, operands = B * E, self._core_inputs + self.bytes * self._core_weights
        # The longest of dΔ, dA and dB, after the scans; they do not wait for one another.
        last = sp.Max(8 + tree_depth(S), 8 + CeilLog2(B * N), 6 + CeilLog2(E))
        phase = scan_phase(
            self,
            "selective scan, backward",
            chains=channels * S,
            steps=steps,
            vector=channels * (S * (18 * N + 2 * flops) + 20 * N),
            special=channels * N * (S + 1),
            read=operands + self._tokens(E),
            write=operands,
            pram_depth=COMBINE_DEPTH * steps + last,
        )
        return (replace(phase, sizes={**phase.sizes, "steps": 2 * steps}),)  # two walks, in turn

    # -- the layer -------------------------------------------------------------------------

    def _convolution(self) -> CausalConv1d:
        return CausalConv1d(dtype=self.dtype, convention=self.convention, decode=self.by_token)

    def _products(self) -> tuple[tuple[str, sp.Expr, sp.Expr], ...]:
        """(name, input width, output width) of each projection."""
        return (
            ("input projection", D, 2 * E),
            ("Δ, B and C projection", E, R + 2 * S),
            ("Δ projection", R, E),
            ("output projection", E, D),
        )

    def forward(self) -> tuple[Phase, ...]:
        """The core; with projections: in, convolution, Δ B C, Δ, core, out."""
        if not self.projections:
            return self.core_forward()
        into, low, step, out = (
            gemm(self, name, m=B * N, n=outer, k=inner, workspace=ZERO if outer == D else self._tokens(outer))
            for name, inner, outer in self._products()
        )
        convolution = at(self._convolution().forward(), {D: E})
        return (into, *convolution, low, step, *self.core_forward(), out)

    def backward(self) -> tuple[Phase, ...]:
        """The core; with projections also two products per forward product, and the convolution's gradients.

        The convolved x feeds the scan and the projection to Δ, B and C: its two gradients are added.
        """
        if not self.projections:
            return self.core_backward()
        into, low, step, out = (
            gradients(self, name, rows=B * N, inner=inner, outer=outer)
            for name, inner, outer in self._products()
        )
        convolution = at(self._convolution().backward(), {D: E})
        added = gradient_sum(self, rows=B * N, cols=E)
        return (*out, *self.core_backward(), *step, *low, added, *convolution, *into)
