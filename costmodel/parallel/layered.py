"""A training step of a model by its own layers: of one kind or several, experts spread over devices.

As `training` has it, of any model whose layers are known to be shared (`costmodel.models.shares`):
recurrences and scans, decoders beside encoders, mixtures of experts.

Layers of several kinds take turns (a stage has its part of each), or follow each other: then time and
memory are those of the first or the last stage, whichever has more. A decoder's stages pass the encoder's
output on with their own.

Tokens travel to their experts and back, twice each way for each layer
(Lepikhin et al., arXiv 2006.16668, §3.2), over the link to devices of the node and over the network to
others, at once. Of the learned numbers, experts have as many copies as there are devices with the layer
over those they are spread over, all others as many as the layout has.

Left out: uneven loads, what copies of parts that are whole on each device (routers, norms, shared experts)
exchange between the devices that share a layer, and layers that predict further tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from costmodel.arguments import typed
from costmodel.errors import UnavailableError
from costmodel.evaluate import compile_expressions, evaluate
from costmodel.files import remembered
from costmodel.hardware import Device
from costmodel.kernels.base import Array
from costmodel.models import Architecture, Model
from costmodel.models.shares import Kind, kinds
from costmodel.parallel.copies import Group
from costmodel.parallel.language_model import LanguageModel
from costmodel.parallel.training import Training
from costmodel.parallel.transformer import Transformer
from costmodel.predict import predict


@typed
@dataclass(frozen=True, kw_only=True)
class Layered(LanguageModel):
    """A model of the catalogue with the layers that it has; made by `of`. See `LanguageModel`.

    Parameters
    ----------
    architecture : Architecture
        The model.
    """

    architecture: Architecture

    @property
    def divided(self) -> Mapping[str, int]:
        """What its family says is divided."""
        cut, fields = self.architecture.family.cut, self.architecture.fields
        return {what: int(getattr(fields, name)) for name, what in cut.items()}

    @property
    def experts(self) -> int:
        """Experts of a layer; 0: it has none."""
        return int(getattr(self.architecture.fields, "experts", 0))

    @property
    def expert_width(self) -> int:
        """Inner width of an expert; 0: it has none."""
        return int(getattr(self.architecture.fields, "d_expert", 0)) if self.experts else 0

    @property
    def encodes(self) -> bool:
        """Whether it is a decoder beside an encoder."""
        return self.architecture.family.encodes

    @property
    def by_positions(self) -> bool:
        """Whatever is not divided is cut by positions."""
        return True

    @classmethod
    @typed
    def of(cls, architecture: Architecture, *, dtype: str = "bf16", attention: str = "tiled") -> Layered:
        """Return the stack of layers that a model of the catalogue is.

        Raises
        ------
        UnavailableError
            If it has no equal layers, or it is not known how they are shared.
        """
        found = kinds(architecture, dtype=dtype, tensor=1, node=1, attention=attention)
        c = architecture.fields
        return cls(
            architecture=architecture,
            num_layers=sum(kind.count for kind in found),
            d_model=c.d_model,
            vocab=c.vocab,
            tied=getattr(c, "tied", True),
            attention=attention,
            dtype=dtype,
        )

    def kinds(self, tensor: int, node: int, expert_tensor: int = 1) -> tuple[Kind, ...]:
        """Return its kinds of layers, one device's share of each, in their order."""
        return _kinds(self.architecture, self.dtype, self.attention, tensor, node, expert_tensor)


@lru_cache(maxsize=64)
def _kinds(
    architecture: Architecture, dtype: str, attention: str, tensor: int, node: int, expert_tensor: int
) -> tuple[Kind, ...]:
    devices = {"tensor": tensor, "node": node, "expert_tensor": expert_tensor}
    return kinds(architecture, dtype=dtype, attention=attention, **devices)


@typed
def stack_of(architecture: Architecture, *, dtype: str = "bf16", attention: str = "tiled") -> LanguageModel:
    """Return the stack that a model of the catalogue is: a Transformer's equal layers, or its own.

    Raises
    ------
    UnavailableError
        See `Layered.of`.
    """
    try:
        return Transformer.of(architecture, dtype=dtype, attention=attention)
    except UnavailableError:
        return Layered.of(architecture, dtype=dtype, attention=attention)


@typed
@dataclass(frozen=True, kw_only=True)
class LayeredTraining(Training):
    """A step of a model by its own layers; see `Training`.

    Parameters
    ----------
    seq_kv : float, optional
        Tokens of an encoder's sequences; default `seq`.
    """

    model: Layered
    seq_kv: float | None = None

    @property
    def _encoded(self) -> float:
        """Tokens of an encoder's sequences."""
        return self.seq if self.seq_kv is None else self.seq_kv

    @property
    def _positions(self) -> float:
        return self.seq + (self._encoded if self.model.encodes else 0.0)

    # -- layers and stages -----------------------------------------------------------------

    def _of_kinds(self, measure: Callable[[Kind, Array, Array], Array]) -> list[Array]:
        """Return for each kind of layer what `measure` says of it in each layout.

        It is asked once for each number of devices that share a layer, and its experts, with the
        micro-batches, and the numbers of devices that experts are spread over, that go with it.
        """
        n = self._numbers
        columns = np.stack([x.ravel() for x in (n.tensor, n.expert_tensor, n.micro_batch, n.expert)])
        unique, of = np.unique(columns, axis=1, return_inverse=True)
        found = [np.empty(unique.shape[1]) for _ in self.model.kinds(1, 1)]
        for shares in np.unique(unique[:2], axis=1).T:
            rows = np.equal(unique[:2].T, shares).all(axis=1)
            for column, kind in zip(found, self._kinds_over(*shares.astype(int)), strict=True):
                column[rows] = measure(kind, unique[2, rows], unique[3, rows])
        return [column[of.ravel()].reshape(n.tensor.shape) for column in found]

    def _kinds_over(self, tensor: int, expert_tensor: int) -> tuple[Kind, ...]:
        return self.model.kinds(int(tensor), min(int(tensor), self.cluster.node), int(expert_tensor))

    @cached_property
    def _ends(self) -> tuple[list[Array], list[Array]]:
        """How many layers of each kind the first and the last stage have, both as full as any."""
        stage, first, last, start = self.stage_layers, [], [], 0
        every = self.model.kinds(1, 1)
        if self.model.architecture.family.alternates:
            each = [stage * kind.count / self.model.num_layers for kind in every]
            return each, each
        for kind in every:
            end = start + kind.count
            first.append(np.maximum(0.0, np.minimum(end, stage) - start))
            last.append(np.maximum(0.0, end - np.maximum(start, self.model.num_layers - stage)))
            start = end
        return first, last

    def _fuller_end(self, of_layers: list[Array]) -> Array:
        """Return what the first or the last stage has of something, whichever has more."""
        return np.maximum(*(_over(layers, of_layers) for layers in self._ends))

    # -- time ------------------------------------------------------------------------------

    def _seconds_of(self, direction: str, part: int) -> Array:
        """Return the time of a stage without the tokens' travel (part 0), or of that alone (1) [s]."""

        def measure(kind: Kind, micro_batch: Array, expert: Array) -> Array:
            again = self.layout.recompute if direction == "bwd" else "none"
            model = kind.model(direction, recompute=again)
            sizes = tuple(self._given(model, 1.0, 1.0).items())
            machine, node = self.cluster.machine, self._node_of(kind)
            found = _kind_seconds(model, machine, node, sizes, self.rung, tuple(micro_batch), tuple(expert))
            return found[part]

        return self._fuller_end(self._of_kinds(measure))

    def _node_of(self, kind: Kind) -> int:
        """Return how many of the devices that experts are spread over a node has room for."""
        return max(1, self.cluster.node // kind.expert_tensor)

    def _stage_seconds(self, direction: str) -> Array:
        return self._seconds_of(direction, 0)

    def _travel(self) -> Array:
        both = [np.asarray(sum(self._seconds_of(way, part) for way in ("fwd", "bwd"))) for part in (0, 1)]
        return np.maximum(0.0, both[1] - both[0]) if self.layout.overlap_experts else both[1]

    @cached_property
    def travel_bytes(self) -> Array:
        """What a device sends to experts and back in a step, to itself nothing [bytes]."""
        return np.asarray(self.micro_batches * _over(self._ends[1], self._of_kinds(self._sent)))

    def _sent(self, kind: Kind, micro_batch: Array, expert: Array) -> Array:
        """Return the bytes of one layer and micro-batch, both ways."""
        model = kind.model("fwd+bwd", recompute=self.layout.recompute)
        sizes = self._given(model, micro_batch, expert)
        sent = [p.link * p.repeats for p in model.cost.phases if p.options.get("collective") == "all-to-all"]
        values = compile_expressions(sent, list(sizes))(*sizes.values())
        return np.asarray(sum(values, start=np.zeros_like(expert)))

    # -- memory ----------------------------------------------------------------------------

    def _given(self, model: Model, micro_batch: ArrayLike, expert: ArrayLike) -> dict[str, ArrayLike]:
        """Return the sizes of one kind of layer."""
        lengths = {"seq": self.seq, "seq_kv": self._encoded}
        given = {"batch": micro_batch, **lengths, "devices": expert, "node": self.cluster.node}
        return {name: given[name] for name in model.required}

    @cached_property
    def _groups(self) -> tuple[Group, ...]:
        n, node = self._numbers, self.cluster.node
        numbers = self._fuller_end(self._of_kinds(self._every)) + self._table_parameters()
        if not self.model.experts:
            return (Group(numbers, n.data, node / n.tensor),)
        experts = self._fuller_end(self._of_kinds(self._spread))
        return (
            Group(numbers - experts, n.data, node / n.tensor),
            Group(experts, self._expert_copies, node / (n.expert * n.expert_tensor)),
        )

    @property
    def _expert_copies(self) -> Array:
        """Devices that have the same experts."""
        n = self._numbers
        return n.tensor * n.data / (n.expert * n.expert_tensor)

    def _every(self, kind: Kind, micro_batch: Array, expert: Array) -> Array:
        """Return the learned numbers of one layer on a device."""
        model = kind.model("fwd")
        return np.asarray(evaluate(model, **self._given(model, micro_batch, expert))["parameters"])

    def _spread(self, kind: Kind, _: Array, expert: Array) -> Array:
        """Return those of them that are of experts spread over devices."""
        values = compile_expressions([kind.spread], ["devices"])(expert)
        return np.asarray(values[0]) + np.zeros_like(expert)

    def _copied_layer(self) -> Array:
        n = self._numbers
        both = zip(self._of_kinds(self._every), self._of_kinds(self._spread), strict=True)
        of_layers = [
            (every - spread) * (n.data > 1) + spread * (self._expert_copies > 1) for every, spread in both
        ]
        return np.asarray(np.max(of_layers, axis=0))

    def _stage_kept(self) -> tuple[Array, Array, ArrayLike]:
        def of(recompute: str) -> list[Array]:
            def measure(kind: Kind, micro_batch: Array, expert: Array) -> Array:
                model = kind.model("fwd", recompute=recompute)
                return np.asarray(evaluate(model, **self._given(model, micro_batch, expert))["kept_bytes"])

            return self._of_kinds(measure)

        first, last = (_over(layers, of(self.layout.recompute)) for layers in self._ends)
        return first, last, np.max(of("none"), axis=0) if self.layout.recompute == "full" else 0.0

    def _forward_flops(self) -> float:
        total = 0.0
        for kind in self.model.kinds(1, 1):
            model = kind.model("fwd")
            total += kind.count * evaluate(model, **self._given(model, self.batch, 1.0))["matrix_flops"]
        return float(total)


def _over(layers: list[Array], of_layers: list[Array]) -> Array:
    """Return the sum over a stage's layers."""
    return np.asarray(sum(count * each for count, each in zip(layers, of_layers, strict=True)))


@remembered(maxsize=1024)
def _kind_seconds(
    model: Model,
    machine: Device,
    node: int,
    sizes: tuple[tuple[str, Any], ...],
    rung: str | None,
    micro_batch: tuple[float, ...],
    expert: tuple[float, ...],
) -> tuple[Array, Array]:
    """Return the time of one layer but for all-to-alls, and that of those [s]."""
    e = np.array(expert)
    varied = {"batch": np.array(micro_batch), "devices": e, "node": np.minimum(e, node)}
    given = {name: varied.get(name, size) for name, size in sizes}
    found = predict(model, machine, given, rung=rung)
    times: list[Array] = [np.zeros_like(e), np.zeros_like(e)]
    for part, seconds in zip(found.plan.phases, found.phase_seconds, strict=True):
        times[part.phase.options.get("collective") == "all-to-all"] += seconds
    return times[0], times[1]
