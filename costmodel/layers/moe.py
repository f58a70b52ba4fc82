"""A mixture of experts: each token goes through k of E feed-forward layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.dtypes import dtype as parse_dtype
from costmodel.errors import CostmodelError
from costmodel.layers import _ffn
from costmodel.layers._indexed import PLACE_BYTES, IndexedTensors
from costmodel.layers._kernels import POINTWISE, gemm, gradients, stream
from costmodel.layers._refusal import refuse
from costmodel.layers._stored import StoredWeights
from costmodel.symbols import CeilLog2, Distinct, symbols, tree_depth

B, N, D, F, E, K = symbols("batch seq d_model d_ff experts top_k")
T = B * N
#: How tokens choose their experts: each at random, all experts equally often, or as a power law has it.
LOADS = ("random", "balanced", "power-law")


@dataclass(frozen=True, kw_only=True)
class MoE(StoredWeights):
    """Mixture of experts: a router, and the k of E experts that it chooses for each token.

    A token takes 2dE + k·6·d·d_ff FLOP (4 instead of 6 without a gate). If all experts are equally likely,
    E·(1 − (1 − k/E)^tokens) of them are expected to be chosen by at least one token. Their weights are read,
    in one grouped product whose groups have equal shares of the tokens; the product gathers the tokens as it
    reads them. No token is dropped: there is no capacity factor.

    Forward on GPUs, the experts' products are those of vLLM's and SGLang's Triton kernel
    (`costmodel.kernels.experts`), which pads each expert's tokens to whole blocks; in training, and on other
    devices, those of a library. In formats of 8 bits only the products with weights are: what lies between
    the experts' products, and their sum, has 16.

    Parameters
    ----------
    gated : bool
        Whether experts have three products (SwiGLU) instead of two.
    activation : str
        Activation of the experts.
    fused : bool
        Whether one product computes both the gate and the up part of a gated expert.
    shared : int
        Number of shared experts, which process all tokens in addition to the chosen ones.
    router : bool
        Whether the layer scores and chooses the experts itself; if not, the choices are inputs.
    loads : {"random", "balanced", "power-law"}
        How tokens choose: each at random; all experts equally often, so that min(E, k·tokens) of them work;
        or some experts much more often than others, as benchmarks draw it (`costmodel.kernels._loads`):
        counts are then those of random choices, and only the time of the experts' kernel differs.
    among : int
        Number of devices over which the experts are spread while each device receives all tokens (vLLM's
        expert parallelism inside a tensor-parallel group). Counts are of one device, which runs 1/`among`
        of the choices, and keeps rows of zeros for the others. Forward only; exchanges are not included.
    """

    name: ClassVar[str] = "moe"
    family: ClassVar[str] = "feed-forward"
    source: ClassVar[str] = (
        "Shazeer et al., arXiv 1701.06538, §2; Dai et al., arXiv 2401.06066 (shared experts); "
        "Tan et al., arXiv 2403.08245 (gathered products)"
    )
    not_counted: ClassVar[str] = (
        "reading the permutation of tokens by expert, loads more uneven than random choices', load-balancing "
        "losses, normalising the weights of the chosen experts, biases, dropout"
    )
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "d_model", "experts", "top_k")
    defaults: ClassVar[dict[str, str | int]] = {"d_ff": "4*d_model"}

    gated: bool = True
    activation: str = "silu"
    fused: bool = True
    shared: int = 0
    router: bool = True
    loads: str = "random"
    among: int = 1

    def __post_init__(self) -> None:
        """Check the experts' activation, their loads, and over how many devices they are spread."""
        super().__post_init__()
        self.check_options(activation=POINTWISE, loads=LOADS)
        if self.among < 1:
            raise CostmodelError(f"among of {self.name}: wanted at least 1 device, got {self.among}")
        self.check_forward_only(f"among={self.among}", chosen=self.among > 1)

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Check that `top_k` is at most `experts`, and that all devices hold equally many of these."""
        wanted = "top_k must be at most experts: a token chooses each at most once"
        refuse(self, sizes["top_k"] > sizes["experts"], wanted, sizes, "top_k", "experts")
        wanted = f"among = {self.among} must divide experts"
        refuse(self, sizes["experts"] % self.among, wanted, sizes, "experts")

    # -- parts -----------------------------------------------------------------------------

    @property
    def working(self) -> sp.Expr:
        """Expected number of a device's experts that are chosen by at least one token."""
        chosen = self._chosen_by(T)
        return chosen if self.among == 1 else sp.Max(1, chosen / self.among)

    def _chosen_by(self, tokens: sp.Expr) -> sp.Expr:
        """Return the expected number of all experts that are chosen by at least one of these tokens."""
        return sp.Min(E, tokens * K) if self.loads == "balanced" else Distinct(E, K, tokens)

    @property
    def _choices_run(self) -> sp.Expr:
        """Number of choices that a device runs; the busiest one has at least one."""
        return T * K if self.among == 1 else sp.Max(1, T * K / self.among)

    @property
    def _form(self) -> _ffn.Form:
        return _ffn.Form(self.activation, self.gated, self.fused)

    @property
    def _chosen(self) -> _ffn.Shape:
        return _ffn.Shape(rows=self._choices_run / self.working, width=D, inner=F, sets=self.working)

    @property
    def _wide(self) -> MoE:
        """The same layer in the format of what is around its products: 16 bits at least."""
        around = parse_dtype(self.dtype).around.name
        return self if around == self.dtype else replace(self, dtype=around)

    @property
    def _common(self) -> _ffn.Shape:
        return _ffn.Shape(rows=T, width=D, inner=self.shared * F)

    @property
    def _choices(self) -> sp.Expr:
        """Size of the weight and index of each chosen expert, for all tokens [bytes]."""
        return (self.stat_bytes + PLACE_BYTES) * T * K

    def _gathered(self, phase: Phase) -> Phase:
        """Return a product that reads each token once from memory, and again per expert from the cache."""
        again = self.bytes * T * D * (K - 1)
        return replace(phase, read=phase.read - again, l2=again)

    def _experts(self, phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
        """Return the kernels of the chosen experts, with gathered tokens."""
        first = ("up projection", "gate projection", "gate and up projection")
        gather = {*first, *(f"{name}, weight gradient" for name in first)}
        return tuple(
            replace(self._gathered(p) if p.name in gather else p, name=f"experts: {p.name}") for p in phases
        )

    def _shared(self, direction: str) -> tuple[Phase, ...]:
        """Return the kernels of the shared experts; none if there are no such experts."""
        if not self.shared:
            return ()
        there = direction == "fwd"
        phases = (_ffn.forward if there else _ffn.backward)(self, self._common, self._form)
        phases = _with_intermediate_result(phases) if there else _with_intermediate_gradient(phases)
        return tuple(replace(p, name=f"shared experts: {p.name}") for p in phases)

    # -- kernels ---------------------------------------------------------------------------

    def forward(self) -> tuple[Phase, ...]:
        """Router scores, choice, experts, and the weighted sum of their results."""
        parts = K + (1 if self.shared else 0)
        return (
            *self._routing(),
            *self._experts(_with_intermediate_result(self._run())),
            *self._shared("fwd"),
            stream(
                self._wide,
                "weighted sum",
                rows=T,
                cols=D,
                reads=parts,
                writes=1,
                vector=2 * K + (1 if self.shared else 0),
                depth=1 + CeilLog2(parts),
                extra_read=self._choices,
            ),
        )

    def _routing(self) -> tuple[Phase, ...]:
        """Return the product that scores the experts, and the choice; none without a router."""
        if not self.router:
            return ()
        scores = self.bytes * T * E
        return (
            gemm(self, "router", m=T, n=E, k=D, workspace=scores),
            # Softmax of the scores; then k times the largest remaining score.
            stream(
                self,
                "top-k routing",
                op="softmax",
                borrowed=True,
                pattern="softmax",
                rows=T,
                cols=E,
                reads=1,
                writes=1,
                vector=4 + K,
                special=1,
                depth=2 * CeilLog2(E) + 3 + K * CeilLog2(E),
                extra_write=self._choices,
                workspace=scores + self._choices,
            ),
        )

    def _run(self) -> tuple[Phase, ...]:
        """Return the forward kernels of the chosen experts: products, and the activation between them."""
        phases = tuple(self._with_wide_result(p) for p in _ffn.forward(self, self._chosen, self._form))
        # The rows of choices that other devices run are zeros, and pass through the activation as well.
        whole = self._chosen if self.among == 1 else self._chosen._replace(rows=T * K / self.working)
        around = _ffn.forward(self._wide, whole, self._form)
        products = [p.kernel == "gemm" for p in phases]
        return tuple(
            self._in_one_kernel(phase, first=i == 0, last=i + 1 == len(phases)) if product else wide
            for i, (phase, product, wide) in enumerate(zip(phases, products, around, strict=True))
        )

    def _with_wide_result(self, phase: Phase) -> Phase:
        """Return a kernel that writes its result in the format around the products."""
        wider = self._wide.bytes / self.bytes
        return replace(phase, write=wider * phase.write, workspace=wider * phase.workspace)

    def _in_one_kernel(self, phase: Phase, *, first: bool, last: bool) -> Phase:
        """Return a product as computed by one kernel for all experts, if that is modelled."""
        if self.direction != "fwd":
            return phase
        zeros = self._wide.bytes * (T * K - self._choices_run) * phase.sizes["n"]
        rows = {"tokens": T, "inputs": T * K if last else T, "results": T * K}
        options = {"loads": self.loads, "first": first, "mapped": self.among > 1}
        return replace(
            phase,
            kernel="experts",
            op="experts",
            sizes={**phase.sizes, "held": E / self.among, **rows},
            options={**phase.options, **options},
            write=phase.write + zeros,
        )

    def backward(self) -> tuple[Phase, ...]:
        """The gradients of the weighted sum, the experts and the router; the sum of the tokens' gradients."""
        rows = self.bytes * T * D
        weights = self.stat_bytes * T * K
        parts = K + (1 if self.shared else 0) + (1 if self.router else 0)
        return (
            # Each expert receives its weight times g; each weight, the product of g and the expert's result.
            stream(
                self,
                "weighted sum gradient",
                rows=T,
                cols=D,
                reads=1 + K,
                writes=K,
                vector=3 * K,
                depth=tree_depth(D),
                extra_read=self._choices,
                extra_write=weights,
                workspace=rows * K + weights,
            ),
            *self._experts(_with_intermediate_gradient(_ffn.backward(self, self._chosen, self._form))),
            *self._shared("bwd"),
            *self._routing_back(),
            stream(
                self,
                "sum over experts",
                rows=T,
                cols=D,
                reads=parts,
                writes=1,
                vector=parts - 1,
                depth=CeilLog2(parts),
            ),
        )

    def _routing_back(self) -> tuple[Phase, ...]:
        """Return the gradients of the choice and of the product that scores; none without a router."""
        if not self.router:
            return ()
        return (
            # Σ p·dp has k terms per token; then dp − Σ, times p.
            stream(
                self,
                "top-k routing gradient",
                op="softmax",
                borrowed=True,
                pattern="softmax",
                rows=T,
                cols=E,
                reads=1,
                writes=1,
                vector=2 + 2 * K / E,
                depth=tree_depth(K) + 2,
                extra_read=self._choices,
                workspace=self.bytes * T * E,
            ),
            *gradients(self, "router", rows=T, inner=D, outer=E, workspace=self.bytes * T * D),
        )

    # -- operands --------------------------------------------------------------------------

    def tensors(self) -> Tensors:
        """The sequence in and out; the router, and at least the experts of one token."""
        sequence, one = self.bytes * T * D, _ffn.held(self, self._chosen, self._form)
        # A device that holds some of the experts may be chosen by no token.
        least = K if self.among == 1 else sp.Max(0, K - (E - E / self.among))
        return IndexedTensors(
            inputs=sequence,
            weights=self.bytes * self._router_parameters + (least + self.shared) * one,
            outputs=sequence,
            indices=self._given_choices,
            unread=(E / self.among - least) * one,
        )

    def kept(self) -> sp.Expr:
        """The input, the router's probabilities and the choices; the experts' inner values and results."""
        inside = _ffn.kept(self, self._chosen, self._form)
        common = _ffn.kept(self, self._common, self._form) if self.shared else ZERO
        scored = E if self.router else ZERO
        return self.bytes * T * (D + scored + K * D) + self._choices + inside + common

    def parameters(self) -> sp.Expr:
        """The router, and every expert."""
        experts = (E / self.among + self.shared) * _ffn.parameters(self._chosen, self._form)
        return self._router_parameters + experts

    @property
    def _router_parameters(self) -> sp.Expr:
        return D * E if self.router else ZERO

    @property
    def _given_choices(self) -> sp.Expr:
        """Size of the choices that are inputs, because no router makes them [bytes]."""
        return ZERO if self.router else self._choices


def _with_intermediate_result(phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    """Return the kernels of experts whose result is an intermediate, written by the last kernel."""
    return (*phases[:-1], replace(phases[-1], workspace=phases[-1].write))


def _with_intermediate_gradient(phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    """Return backward kernels of experts whose input gradient is an intermediate, summed later."""
    last = max(i for i, p in enumerate(phases) if not p.name.endswith("weight gradient"))
    return tuple(replace(p, workspace=p.write) if i == last else p for i, p in enumerate(phases))
