"""Expert parallelism: the experts are spread over devices, and tokens are sent to them and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ONE, Phase, Tensors
from costmodel.errors import CostmodelError
from costmodel.layers import _ffn
from costmodel.layers._devices import NODE, P, exchange
from costmodel.layers._indexed import IndexedTensors
from costmodel.layers._kernels import stream
from costmodel.layers._phases import at
from costmodel.layers._refusal import refuse
from costmodel.layers.moe import D, E, F, K, MoE, T


@dataclass(frozen=True, kw_only=True)
class ExpertParallel(MoE):
    """Mixture of experts with E/p of the E experts on each of p `devices`, each with its own tokens.

    The k copies of a token are sent to their experts and back by two all-to-all exchanges forward and two
    backward, each of 2·k·d bytes per token in 16 bits, of which a share (p − 1)/p leaves the device. A device
    receives as many copies as it sends, and runs them through its E/p experts. One that has all experts, and
    shares none, makes no copies. All counts are per device; `batch` and `seq` describe one device's tokens.

    Parameters
    ----------
    cut : int
        Expert tensor parallelism: number of devices that share each expert, in addition to the p. Each holds
        1/`cut` of the expert's inner width, gathers the copies that have arrived at all of them, and adds its
        part of the results to theirs. These devices are in the same node.
    """

    name: ClassVar[str] = "expert-parallel"
    family: ClassVar[str] = "distributed"
    source: ClassVar[str] = (
        "Lepikhin et al., arXiv 2006.16668, §3.2 (two all-to-alls); Fedus et al., arXiv 2101.03961, §5.4; "
        "Liu et al., arXiv 2504.14960, §3 (experts that tensor parallelism does not cut, or cuts)"
    )
    not_counted: ClassVar[str] = (
        f"{MoE.not_counted}; the exchange of token counts before the dispatch; sending a token only "
        "once to a device with several of its experts; overlap of exchanges and arithmetic"
    )
    required: ClassVar[tuple[str, ...]] = (*MoE.required, "devices")
    defaults: ClassVar[dict[str, str | int]] = {**MoE.defaults, "node": "devices"}
    meanings: ClassVar[Mapping[str, str]] = {"batch": "sequences per device"}

    cut: int = 1

    def __post_init__(self) -> None:
        """Refuse `among`: the devices over which the experts are spread are a size here."""
        super().__post_init__()
        if self.among != 1:
            raise CostmodelError(
                f"among of {self.name}: leave it out, and give the size devices; got among={self.among}"
            )

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Check that all devices hold equally many experts, and equal parts of each."""
        super().check_sizes(sizes)
        wanted = "devices must divide experts: all devices hold equally many"
        refuse(self, sizes["experts"] % sizes["devices"], wanted, sizes, "devices", "experts")
        wanted = f"cut = {self.cut} must divide d_ff: all hold equal parts of an expert"
        refuse(self, sizes["d_ff"] % self.cut, wanted, sizes, "d_ff")

    @property
    def working(self) -> sp.Expr:
        """Expected number of a device's experts that are chosen by some token of any device."""
        return self._chosen_by(T * self.cut * P) / P

    @property
    def _chosen(self) -> _ffn.Shape:
        return _ffn.Shape(
            rows=self.cut * T * K / self.working, width=D, inner=F / self.cut, sets=self.working
        )

    @property
    def _sent(self) -> sp.Expr:
        """1 if copies of tokens are sent, each as a row of its own; 0 if a device has whole experts alone."""
        return sp.Min(1, P - 1) if self.cut == 1 else ONE

    def _gathered(self, phase: Phase) -> Phase:
        """Return a product that reads each copy of a token as a row of its own, unless none is sent."""
        gathers = super()._gathered(phase)
        alone = 1 - self._sent
        return replace(
            phase,
            read=phase.read + alone * (gathers.read - phase.read),
            l2=phase.l2 + alone * (gathers.l2 - phase.l2),
        )

    def _in_one_kernel(self, phase: Phase, **_: bool) -> Phase:
        """Return the product unchanged: what arrives is sorted, and a library's grouped product serves."""
        return phase

    def _with_exchanges(self, phases: tuple[Phase, ...], there: str, back: str) -> tuple[Phase, ...]:
        """Return the kernels with an exchange before the experts' kernels and one after them."""
        inside = [i for i, phase in enumerate(phases) if phase.name.startswith("experts: ")]
        first, last = inside[0], inside[-1] + 1
        size = self.bytes * T * K * D
        go, come = (exchange(self, name, "all-to-all", size, workspace=size) for name in (there, back))
        gather, add = (self._sharing_exchange(name) for name in ("all-gather", "reduce-scatter"))
        return (*phases[:first], go, *gather, *phases[first:last], *add, come, *phases[last:])

    def _sharing_exchange(self, collective: str) -> tuple[Phase, ...]:
        """Return the exchange of copies between the devices that share an expert; none if `cut` is 1."""
        if self.cut == 1:
            return ()
        size = self.bytes * self.cut * T * K * D
        room = size if collective == "all-gather" else size / self.cut
        phase = exchange(self, f"expert tensor-parallel {collective}", collective, size, workspace=room)
        return at((phase,), {P: sp.Integer(self.cut), NODE: sp.Integer(self.cut)})

    def forward(self) -> tuple[Phase, ...]:
        """Router scores, choice, one copy per chosen expert; sending, experts, sending back; weighted sum."""
        kernels, routed = super().forward(), len(self._routing())
        copies = self.bytes * T * K * D
        ordered = stream(
            self,
            "token permutation",
            op="elementwise_copy",
            rows=T,
            cols=D,
            reads=1,
            writes=K,
            depth=0,
            extra_read=self._choices,
            workspace=copies,
        )
        ordered = replace(ordered, repeats=self._sent)
        return self._with_exchanges(
            (*kernels[:routed], ordered, *kernels[routed:]), "dispatch all-to-all", "combine all-to-all"
        )

    def backward(self) -> tuple[Phase, ...]:
        """The same backward: result gradients are sent to the experts, copy gradients are sent back."""
        return self._with_exchanges(
            super().backward(), "combine gradient all-to-all", "dispatch gradient all-to-all"
        )

    def tensors(self) -> Tensors:
        """The tokens in and out; the router; the device's experts that tokens cannot avoid choosing."""
        sequence, one = self.bytes * T * D, _ffn.held(self, self._chosen, self._form)
        least = sp.Max(0, K - (E - E / P))
        return IndexedTensors(
            inputs=sequence,
            weights=self.bytes * self._router_parameters
            + _ffn.held(self, self._common, self._form)
            + least * one,
            outputs=sequence,
            indices=self._given_choices,
            unread=(E / P - least) * one,
        )

    def kept(self) -> sp.Expr:
        """What a mixture of experts keeps, and the copies that have arrived from other devices."""
        return super().kept() + self._sent * self.bytes * self.cut * T * K * D

    def parameters(self) -> sp.Expr:
        """The router, the shared experts, and one device's part of the other experts."""
        return self._router_parameters + _ffn.parameters(self._common, self._form) + self.spread()

    def spread(self) -> sp.Expr:
        """Return the parameters that only this one of the `devices` holds: its part of the experts."""
        return E / P * _ffn.parameters(self._chosen, self._form)
