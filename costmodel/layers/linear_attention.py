"""Linear attention with a feature map instead of softmax: Katharopoulos et al., and the Performer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.errors import CostmodelError
from costmodel.layers._decay import N
from costmodel.layers._kernels import gemm, multiplied_out, stream
from costmodel.layers._linear import B, H, _MatrixState
from costmodel.symbols import CeilLog2, symbols, tree_depth

D, F = symbols("head_dim features")


@dataclass(frozen=True, kw_only=True)
class _FeatureAttention(_MatrixState):
    """Linear attention between feature maps, φ(q) (Σ φ(k) vᵀ) / (φ(q)·Σ φ(k)).

    Parameters
    ----------
    causal : bool
        Each token attends to itself and the tokens before it: the sums are a running state, computed in
        the chosen `form`. Otherwise they are one product over all tokens, 4·n·d_k·d_v FLOP per head.
    """

    normalised: ClassVar[bool] = True

    causal: bool = False

    def __post_init__(self) -> None:
        """Check the combination of options."""
        super().__post_init__()
        if self.by_token and not self.causal:
            raise CostmodelError(
                f"{self.name}: form=recurrent needs causal=true: a recurrence sees only earlier positions"
            )

    def map_forward(self) -> tuple[Phase, ...]:
        """Return the kernels of φ, applied to queries and keys together."""
        raise NotImplementedError

    def map_backward(self) -> tuple[Phase, ...]:
        """Return the kernels of φ's gradient."""
        raise NotImplementedError

    def forward(self) -> tuple[Phase, ...]:
        """The feature map, then the core: one state, a scan over chunks, or token by token."""
        return (*self.map_forward(), *(super().forward() if self.causal else self._one_state()))

    def backward(self) -> tuple[Phase, ...]:
        """The core's gradients, then the feature map's."""
        return (*(super().backward() if self.causal else self._one_state_back()), *self.map_backward())

    def _one_state(self) -> tuple[Phase, ...]:
        """S = φ(K)ᵀ V; z = Σ φ(k); φ(Q) S, divided by φ(Q) z."""
        dk, dv, heads = self.key_dim, self.value_width, B * H
        state, sums = self.bytes * heads * dk * dv, self.bytes * heads * dk
        return (
            gemm(self, "state", m=dk, n=dv, k=N, batch=heads, workspace=state),
            self._pass("key sum", dk, 1, 0, vector=1, depth=CeilLog2(N), extra_write=sums, workspace=sums),
            gemm(self, "outputs", m=N, n=dv, k=dk, batch=heads),
            self._pass(
                "normalisation",
                dv,
                1,
                1,
                vector=1 + 2 * dk / dv,
                depth=tree_depth(dk) + 1,
                extra_read=self._queries() + sums,
            ),
        )

    def _one_state_back(self) -> tuple[Phase, ...]:
        """The division's gradient; two products per forward product; z's contributions to dQ and dK."""
        dk, dv, heads = self.key_dim, self.value_width, B * H
        state, sums = self.bytes * heads * dk * dv, self.bytes * heads * dk
        return (
            self._division_gradient(),
            gemm(self, "query gradient", m=N, n=dk, k=dv, batch=heads),
            self._pass(
                "query gradient, normaliser",
                dk,
                2,
                1,
                vector=4,
                depth=sp.Max(2, 1 + CeilLog2(N)),
                extra_read=self._row_statistic() + sums,
                extra_write=sums,
                workspace=sums,
            ),
            gemm(self, "state gradient", m=dk, n=dv, k=N, batch=heads, workspace=state),
            gemm(self, "key gradient", m=N, n=dk, k=dv, batch=heads),
            self._pass("key gradient, normaliser", dk, 1, 1, vector=1, depth=1, extra_read=sums),
            gemm(self, "value gradient", m=N, n=dv, k=dk, batch=heads),
        )

    def _pass(self, name: str, cols: sp.Expr, reads: int, writes: int, **counts: Any) -> Phase:
        """Return a pass over one row per token and head."""
        phase = stream(self, name, rows=B * H * N, cols=cols, reads=reads, writes=writes, **counts)
        return multiplied_out(phase)

    def _map_pass(self, name: str, cols: sp.Expr, reads: int, **counts: Any) -> Phase:
        """Return a pass over the queries and keys of every token and head."""
        phase = stream(self, name, rows=2 * B * H * N, cols=cols, reads=reads, writes=1, **counts)
        return multiplied_out(phase)

    def tensors(self) -> Tensors:
        """Q, K and V in, O out; the random features are no operand, as they could be drawn again."""
        core = super().tensors()
        return replace(core, inputs=2 * self._sequence(H, D) + self._values())

    def kept(self) -> sp.Expr:
        """Its inputs, the mapped queries and keys, O and its divisors; if not causal, also the state."""
        kept = super().kept()
        if kept == 0:
            return kept
        state = ZERO if self.causal else self.bytes * B * H * self.key_dim * (self.value_width + 1)
        return kept + 2 * self._queries() + state

    def path(self) -> sp.Expr:
        """Return 1 if every token reads the sum over all tokens, else the path of the scan."""
        return super().path() if self.causal else sp.Integer(1)


@dataclass(frozen=True, kw_only=True)
class LinearAttention(_FeatureAttention):
    """Linear attention with φ(x) = elu(x) + 1."""

    name: ClassVar[str] = "linear-attention"
    source: ClassVar[str] = "Katharopoulos et al., arXiv 2006.16236, eq. 4–12"
    not_counted: ClassVar[str] = "projections"

    def map_forward(self) -> tuple[Phase, ...]:
        """One pass over queries and keys: exp(min(x, 0)) + max(x, 0)."""
        counts = {"reads": 1, "vector": 3, "special": 1, "depth": 3}
        return (self._map_pass("feature map", D, **counts, workspace=2 * self._queries()),)

    def map_backward(self) -> tuple[Phase, ...]:
        """The gradient times min(φ, 1)."""
        return (self._map_pass("feature map gradient", D, reads=2, vector=2, depth=2),)


@dataclass(frozen=True, kw_only=True)
class Performer(_FeatureAttention):
    """FAVOR+: m random features φ(x) = exp(ωᵀx − |x|²/2)/√m approximate the exponential of softmax."""

    name: ClassVar[str] = "performer"
    source: ClassVar[str] = "Choromanski et al., arXiv 2009.14794, eq. 5–7, Lemma 1"
    not_counted: ClassVar[str] = (
        "projections; sampling and orthogonalising ω; the maximum subtracted for stability"
    )
    defaults: ClassVar[dict[str, str | int]] = {**_FeatureAttention.defaults, "features": 256}

    @property
    def key_dim(self) -> sp.Expr:
        """Number of features, m: a state is m × d_v."""
        return F

    def map_forward(self) -> tuple[Phase, ...]:
        """ωᵀx; then half the squared norm of x (2·d, and 1 to halve it), subtract, exp, divide by √m."""
        mapped, rows = 2 * self._queries(), 2 * B * N * H
        return (
            gemm(self, "random features", m=rows, n=F, k=D, workspace=mapped),
            self._map_pass(
                "exponential",
                F,
                reads=1,
                vector=2 + (2 * D + 1) / F,
                special=1,
                depth=tree_depth(D) + 4,
                extra_read=2 * self._sequence(H, D),
                workspace=mapped,
            ),
        )

    def map_backward(self) -> tuple[Phase, ...]:
        """The gradient times φ, and its row sums; times ω; minus x times the row sum."""
        rows, statistic = 2 * B * N * H, 2 * self._row_statistic()
        return (
            self._map_pass(
                "exponential gradient", F, reads=2, vector=2, depth=tree_depth(F), extra_write=statistic
            ),
            gemm(self, "random features, input gradient", m=rows, n=D, k=F),
            self._map_pass("squared-norm gradient", D, reads=2, vector=2, depth=2, extra_read=statistic),
        )
