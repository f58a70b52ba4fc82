"""One device's share of a model's layers in training: divided by a family's `cut`, with experts spread.

Products with weights come in pairs, the first divided by columns and the second by rows, over `tensor`
devices (Shoeybi et al., arXiv 1909.08053, §3); the heads between them, and the channels of recurrences and
scans, are divided too. Between the pairs, devices divide the positions (Korthikanti et al., arXiv 2205.05198,
§4.2.2): norms, residual sums, and all parts without a divided field, whose weights are replicated (shared
experts, RWKV's second receptance, the last product of Zamba2's block, what Gemma 3n and 4 have beside both
halves of a layer). What is gathered is not kept: backward gathers it again (ibid.). Each device sends the
tokens of its own positions to the experts, which are spread over their own number of devices, and each of
which is whole or divided over a further number (Liu et al., arXiv 2504.14960, §3: folded). Products that make
the latents of queries and keys, or an adapter's numbers of low rank, and RWKV's mixing with the previous
token, are replicated and see all positions. Mamba's Δ, B and C are computed from all channels, hence summed
over the devices in both passes. Mamba-2's come with its heads and groups. A decoder gathers its encoder's
output in each layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TypeAlias

import sympy as sp

from costmodel.cost import ZERO
from costmodel.errors import UnavailableError
from costmodel.layers import Layer
from costmodel.layers._devices import NODE, P
from costmodel.layers.expert_parallel import ExpertParallel
from costmodel.models._blocks import B, N, S, Use, keeping
from costmodel.models._devices import BETWEEN, SUMMED, exchange, of_divided_row, of_stream
from costmodel.models._model import Model
from costmodel.models._part import Part
from costmodel.models.architecture import Architecture
from costmodel.models.stack import Stack, again
from costmodel.symbols import ceil_div

#: What stands before and between a model's stacks of layers, and what stands after them.
Ends: TypeAlias = tuple[tuple[Part, ...], tuple[Part, ...]]
#: Parts with nothing to divide, which each device computes for its own positions.
OWN = (
    *("shared expert", "shared expert gate", "channel receptance"),
    "zero experts' scores",
    *("router down-projection", "router state", "router norm", "router inner projection"),
    *("router activation", "router", "routing"),
    *("input beside embedding", "block norm", "block output projection"),
    *("norm gate down-projection", "norm gate", "norm gate up-projection"),
    *("own input gate", "own input", "own input projection"),
    *("router of streams", "weights of streams", "mixture of streams", "streams"),
    *("low-rank input", "low-rank residual"),
)


@dataclass(frozen=True)
class Kind:
    """One kind of layer of a model, as one device runs it.

    Attributes
    ----------
    count : int
        Number of layers of this kind.
    model : callable
        Returns one such layer for a `direction`; `recompute` says what backward recomputes.
    sizes : mapping of str to int
        The layer's sizes except those of a step: `batch`, `seq` (an encoder's `seq_kv`) and, for mixtures of
        experts, `devices` over which experts are spread, `node` of them per node.
    expert_tensor : int
        Number of devices that share each expert.
    spread : Expr
        Parameters of one such layer that a device has and the other `devices` do not.
    """

    count: int
    model: Callable[..., Layer]
    sizes: Mapping[str, int] = field(default_factory=dict)
    expert_tensor: int = 1
    spread: sp.Expr = ZERO


@lru_cache(maxsize=64)
def kinds(
    architecture: Architecture,
    *,
    dtype: str,
    tensor: int,
    node: int,
    expert_tensor: int = 1,
    attention: str = "tiled",
) -> tuple[Kind, ...]:
    """Return the kinds of a model's layers in their order, one device's share of each.

    Parameters
    ----------
    architecture : Architecture
        The model.
    dtype : str
        Format of weights and activations.
    tensor : int
        Number of devices that share a layer.
    node : int
        How many of these are in one node.
    expert_tensor : int
        How many of these share each expert.
    attention : str
        See `Architecture.training`.

    Raises
    ------
    UnavailableError
        If the model has no equal layers, or it is not known how they are divided.
    """
    family, fields = architecture.family, architecture.fields
    if not family.cut:
        raise UnavailableError(
            f"{architecture.name}: it is not known how devices share its layers, so there is no plan for it"
        )
    use = Use("training", dtype, attention)
    own = fields.replaced(**{name: getattr(fields, name) // tensor for name in family.cut})
    whole, cut = ([item for item in family.parts(f, use) if isinstance(item, Stack)] for f in (fields, own))
    devices = _Sharing(int(fields.d_model), tensor, node, expert_tensor)
    found = []
    for stack, before in zip(cut, whole, strict=True):
        layer = Stack(tuple(devices.parts(stack, before)), sp.Integer(1))
        model = partial(_model, layer, dtype)
        found.append(Kind(int(stack.times), model, expert_tensor=expert_tensor, spread=_spread(layer)))
    return tuple(found)


def around_layers(architecture: Architecture, *, dtype: str, attention: str = "tiled") -> Ends:
    """Return the parts before and between a model's stacks of layers, and those after them.

    Parameters
    ----------
    architecture, dtype, attention
        See `kinds`.
    """
    items = list(architecture.family.parts(architecture.fields, Use("training", dtype, attention)))
    last = max(i for i, item in enumerate(items) if isinstance(item, Stack))
    before = tuple(item for item in items[:last] if isinstance(item, Part))
    return before, tuple(item for item in items[last:] if isinstance(item, Part))


@lru_cache(maxsize=64)
def ends(parts: Ends, *, dtype: str, tensor: int) -> tuple[Model, Model]:
    """Return both ends of a model, forward and backward, as each of the devices that share it runs them.

    Tables of words are divided by rows (Shoeybi et al., §3), everything else by positions. What the devices
    exchange there is left out.

    Parameters
    ----------
    parts : Ends
        The parts of both ends; see `around_layers`.
    dtype : str
        Format of weights and activations.
    tensor : int
        Number of devices.
    """
    first, last = (
        _model(Stack(tuple(_of_end(part, tensor) for part in end), sp.Integer(1)), dtype, "fwd+bwd")
        for end in parts
    )
    return first, last


def _of_end(part: Part, tensor: int) -> Part:
    """Return a part of an end with a device's rows of its table, or else with its positions."""
    sizes = dict(part.sizes)
    if "vocab" in sizes:
        sizes["vocab"] = ceil_div(sizes["vocab"], sp.Integer(tensor))
    else:
        sizes = _of_own_positions(sizes, tensor)
    return dataclasses.replace(part, sizes=tuple(sizes.items()))


def _of_own_positions(sizes: Mapping[str, sp.Expr], tensor: int) -> dict[str, sp.Expr]:
    """Return a part's sizes for one device's share of the positions."""
    own = {} if tensor == 1 else {length: ceil_div(length, sp.Integer(tensor)) for length in (N, S)}
    return {name: value.xreplace(own) for name, value in sizes.items()}


def _spread(layer: Stack) -> sp.Expr:
    """Return the parameters of a layer's experts on each of the devices they are spread over."""
    layers = ((part, part.layer) for part in layer.layer)
    return sp.Add(*(p.expression(of.spread()) for p, of in layers if isinstance(of, ExpertParallel)))


def _model(layer: Stack, dtype: str, direction: str, *, recompute: str = "none") -> Model:
    """Return one layer as a model."""
    return Model(
        title="layer",
        parts=layer.layer,
        inputs=ZERO,
        outputs=ZERO,
        direction=direction,
        dtype=dtype,
        again=again((layer,), recompute),
    )


@dataclass(frozen=True)
class _Sharing:
    """Devices that share a layer: the layer's width, their number, how many per node, how many per expert."""

    width: int
    tensor: int
    node: int
    expert_tensor: int

    def parts(self, cut: Stack, whole: Stack) -> Iterator[Part]:
        """Yield the parts on one device, with an exchange between parts that see own and all positions."""
        if self.tensor == 1:
            yield from (self._sliced(part) for part in cut.layer)
            return
        length = _length(whole.layer[0])
        gathered = False
        for part, before in zip(cut.layer, whole.layer, strict=True):
            arrived = False
            if self._of_positions(part, before) == gathered:
                gathered = arrived = not gathered
                how, width = ("all-gather", self._read(part)) if gathered else ("reduce-scatter", self.width)
                yield self._exchange(part, how, B * length, width)
            if _length(part) != length:
                arrived = True
                yield self._exchange(part, "all-gather", B * _length(part), self.width)
            if of_divided_row(part, before):
                yield self._exchange(part, "all-reduce", dict(part.sizes)["m"], 1)
            if gathered:
                yield self._keeping_own(part) if arrived else part
            else:
                yield self._sliced(part)
            if part.name in SUMMED:
                sizes = dict(part.sizes)
                yield self._exchange(part, "all-reduce", sizes["m"], sizes["n"])

    def _read(self, part: Part) -> sp.Expr | int:
        """Return the width of what a part reads: of a product its inner size, else the layer's width."""
        return dict(part.sizes)["k"] if part.layer.name == "matmul" else self.width

    def _keeping_own(self, part: Part) -> Part:
        """Return a part that keeps for backward only its own positions of a gathered input, if any at all."""
        kept = part.expression(part.layer.kept())
        if kept == 0:
            return part
        of_others = part.expression(part.layer.tensors().inputs) * (1 - sp.Rational(1, self.tensor))
        return keeping(part, part.keeps * (1 - of_others / kept))

    def _of_positions(self, part: Part, whole: Part) -> bool:
        """Return whether a device runs a part for its own positions only: norms, residual sums, mixtures."""
        return of_stream(part, whole, self.width) or part.layer.name == "moe" or part.name in OWN

    def _sliced(self, part: Part) -> Part:
        """Return a part for one device's positions, with the experts of a mixture spread over devices."""
        sizes = _of_own_positions(dict(part.sizes), self.tensor)
        if part.layer.name != "moe":
            return dataclasses.replace(part, sizes=tuple(sizes.items()))
        layer = ExpertParallel(**part.layer.options, cut=self.expert_tensor)
        spread = Part.of(part.name, layer, **sizes, devices=P, node=NODE)
        return dataclasses.replace(spread, extra=part.extra)

    def _exchange(self, part: Part, collective: str, rows: sp.Expr, width: sp.Expr | int) -> Part:
        return exchange(BETWEEN, part, collective, rows, width, devices=self.tensor, node=self.node)


def _length(part: Part) -> sp.Symbol:
    """Return the length symbol of a part: for a cross-attention that of its queries, `seq`."""
    found = {s for _, size in part.sizes for s in size.free_symbols}
    return S if S in found and N not in found else N
