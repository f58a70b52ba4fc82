"""The first and last stage of a pipeline: time of their layers, parameters, and kept activations.

Layers of several kinds either alternate (every stage has a share of each), or follow one another: then
time and memory are those of the first or the last stage, whichever is larger.

Tokens are sent to their experts and back, twice in each pass of each layer
(Lepikhin et al., arXiv 2006.16668, §3.2), over the link to devices of the node and over the network to
others, at the same time.

Left out: uneven loads, exchanges between devices that share a layer for parts that are whole on each of
them (routers, norms, shared experts), and layers that predict further tokens.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from costmodel.evaluate import compile_expressions, evaluate
from costmodel.files import remembered
from costmodel.hardware import Device
from costmodel.kernels.base import Array
from costmodel.layers import Layer
from costmodel.models.shares import Kind
from costmodel.parallel.cluster import Cluster
from costmodel.parallel.language_model import LanguageModel
from costmodel.parallel.layout import Layout, Numbers
from costmodel.predict import predict

#: Returns a quantity of a kind of layer, for arrays of micro-batches and of devices that experts are spread
#: over; or one object for all of these.
Measure = Callable[[Kind, Array, Array], Any]
#: What predictions rest on: the rung of each, and the origins of its constants.
Grounds = frozenset[tuple[str, str]]


class Timed(NamedTuple):
    """The times of one layer, and what its prediction rests on.

    Attributes
    ----------
    seconds : array
        Time without transfers of tokens to experts and back [s].
    travel : array
        Time of these transfers [s].
    grounds : frozenset of (str, str)
        The prediction's rung and the origins of its constants.
    """

    seconds: Array
    travel: Array
    grounds: Grounds


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The first and last stage of layouts that differ only in numbers.

    Parameters
    ----------
    model, cluster, layout, rung
        See `Training`.
    seq, seq_kv : float
        Tokens per sequence, and per sequence of the encoder.
    """

    model: LanguageModel
    cluster: Cluster
    layout: Layout
    seq: float
    seq_kv: float
    rung: str | None

    # -- layers ----------------------------------------------------------------------------

    @cached_property
    def numbers(self) -> Numbers:
        """The numbers of the layouts."""
        return self.layout.numbers

    @property
    def layers(self) -> Array:
        """Number of layers of the fullest stage: see `Training.stage_layers`."""
        n = self.numbers
        return n.interleave * np.ceil(self.model.num_layers / (n.pipeline * n.interleave))

    @cached_property
    def ends(self) -> tuple[list[Array], list[Array]]:
        """Numbers of layers of each kind in the first and in the last stage, both taken as full stages."""
        stage, first, last, start = self.layers, [], [], 0
        every = self.model.kinds(1, 1)
        if self.model.alternates:
            each = [stage * kind.count / self.model.num_layers for kind in every]
            return each, each
        for kind in every:
            end = start + kind.count
            first.append(np.maximum(0.0, np.minimum(end, stage) - start))
            last.append(np.maximum(0.0, end - np.maximum(start, self.model.num_layers - stage)))
            start = end
        return first, last

    def _of_kinds(self, measure: Measure, dtype: DTypeLike = np.float64) -> list[NDArray[Any]]:
        """Return `measure` of each kind of layer, for each layout.

        It is called once per combination of devices that share a layer and its experts, with arrays of the
        micro-batches and expert-parallel sizes that occur with that combination.
        """
        n = self.numbers
        unique, restored = distinct(n.tensor, n.expert_tensor, n.micro_batch, n.expert)
        found = [np.empty(unique.shape[1], dtype) for _ in self.model.kinds(1, 1)]
        for shares in np.unique(unique[:2], axis=1).T:
            rows = np.equal(unique[:2].T, shares).all(axis=1)
            for column, kind in zip(found, self._kinds_over(*map(int, shares)), strict=True):
                column[rows] = measure(kind, unique[2, rows], unique[3, rows])
        return [restored(column) for column in found]

    def _kinds_over(self, tensor: int, expert_tensor: int) -> tuple[Kind, ...]:
        # The devices that share a layer are in the same node, as far as a node reaches.
        node = min(tensor, self.cluster.per_node)
        return self.model.kinds(tensor, node, expert_tensor, sequence_parallel=self.layout.sequence_parallel)

    def _fuller_end(self, of_layers: list[Array]) -> Array:
        """Return a sum over the layers of the first or the last stage, whichever is larger."""
        return np.maximum(*(_over(layers, of_layers) for layers in self.ends))

    def _given(self, kind: Kind, layer: Layer, micro_batch: ArrayLike, expert: ArrayLike) -> dict[str, Any]:
        """Return the sizes of one kind of layer: its own, and the sizes of the step that it needs."""
        node = np.minimum(expert, max(1, self.cluster.per_node // kind.expert_tensor))
        step = {"batch": micro_batch, "seq": self.seq, "seq_kv": self.seq_kv, "devices": expert, "node": node}
        return {name: step[name] for name in layer.required if name in step} | dict(kind.sizes)

    # -- time ------------------------------------------------------------------------------

    def seconds(self, direction: str) -> Array:
        """Return the time of the slower stage per micro-batch and pass, without expert transfers [s]."""
        return self._fuller_end(self._of_kinds(self._timed(direction, "seconds")))

    def travel(self, direction: str) -> Array:
        """Return the time of sending a micro-batch's tokens to experts and back [s]."""
        return self._fuller_end(self._of_kinds(self._timed(direction, "travel")))

    def grounds(self) -> NDArray[np.object_]:
        """Return for each layout what the predictions of all its layers rest on, in both passes."""
        passes = (self._of_kinds(self._timed(pass_, "grounds"), object) for pass_ in ("fwd", "bwd"))
        return reduce(operator.or_, itertools.chain(*passes))

    def _timed(self, direction: str, what: str) -> Measure:
        """Return a measure of the times of one layer: a field of `Timed`."""
        again = self.layout.recompute if direction == "bwd" else "none"

        def measure(kind: Kind, micro_batch: Array, expert: Array) -> Any:
            layer = kind.model(direction, recompute=again)
            given = self._given(kind, layer, micro_batch, expert)
            return getattr(timed(layer, self.cluster.machine, given, self.rung), what)

        return measure

    def sent(self) -> Array:
        """Return what a device sends to experts and back per micro-batch, in both passes [bytes]."""

        def measure(kind: Kind, micro_batch: Array, expert: Array) -> Array:
            layer = kind.model("fwd+bwd", recompute=self.layout.recompute)
            sizes = self._given(kind, layer, micro_batch, expert)
            sent = [phase.link * phase.repeats for phase in layer.cost.phases if _travels(phase.options)]
            values = compile_expressions(sent, list(sizes))(*sizes.values())
            return np.asarray(sum(values, start=np.zeros_like(expert)))

        return _over(self.ends[1], self._of_kinds(measure))

    # -- parameters and kept activations ---------------------------------------------------

    def parameters(self) -> Array:
        """Return the number of parameters of the stage that has more."""
        return self._fuller_end(self._of_kinds(self._counted("parameters")))

    def experts(self) -> Array:
        """Return how many of these parameters belong to distributed experts, for the stage that has more."""
        return self._fuller_end(self._of_kinds(self._spread))

    @property
    def expert_copies(self) -> Array:
        """Number of devices that hold copies of the same experts."""
        n = self.numbers
        return n.tensor * n.data / (n.expert * n.expert_tensor)

    def _counted(self, what: str, recompute: str = "none") -> Measure:
        """Return a measure of a count of one layer per device, forward."""

        def measure(kind: Kind, micro_batch: Array, expert: Array) -> Array:
            layer = kind.model("fwd", recompute=recompute)
            return np.asarray(evaluate(layer, **self._given(kind, layer, micro_batch, expert))[what])

        return measure

    def _spread(self, kind: Kind, _: Array, expert: Array) -> Array:
        """Return the parameters of one layer's experts per device."""
        (value,) = compile_expressions([kind.spread], ["devices"])(expert)
        return np.asarray(value) + np.zeros_like(expert)

    def copied_layer(self) -> Array:
        """Return the number of parameters of the largest layer that has copies."""
        shared, spread = self.numbers.data > 1, self.expert_copies > 1
        both = zip(self._of_kinds(self._counted("parameters")), self._of_kinds(self._spread), strict=True)
        of_layers = [(every - experts) * shared + experts * spread for every, experts in both]
        return np.asarray(np.max(of_layers, axis=0))

    def kept(self) -> tuple[Array, Array, ArrayLike]:
        """Return what the first and the last stage keep per micro-batch, and a temporary part [bytes].

        With full recomputation, the layer that is being recomputed temporarily holds all its activations.
        """
        recompute = self.layout.recompute
        of_layers = self._of_kinds(self._counted("kept_bytes", recompute))
        first, last = (_over(layers, of_layers) for layers in self.ends)
        if recompute != "full":
            return first, last, 0.0
        return first, last, np.max(self._of_kinds(self._counted("kept_bytes")), axis=0)

    def forward_flops(self, batch: float) -> float:
        """Return the forward matrix FLOP of all layers, on one device."""
        total = 0.0
        for kind in self.model.kinds(1, 1):
            layer = kind.model("fwd")
            total += kind.count * evaluate(layer, **self._given(kind, layer, batch, 1.0))["matrix_flops"]
        return float(total)


def distinct(*columns: Array) -> tuple[Array, Callable[[NDArray[Any]], NDArray[Any]]]:
    """Return the distinct rows of columns, as columns, and a function that expands answers to all rows."""
    rows, of = np.unique(np.stack([column.ravel() for column in columns]), axis=1, return_inverse=True)
    return rows, lambda answers: answers[of.ravel()].reshape(columns[0].shape)


def _over(layers: list[Array], of_layers: list[Array]) -> Array:
    """Return the sum over a stage's layers."""
    return np.asarray(sum(count * each for count, each in zip(layers, of_layers, strict=True)))


def _travels(options: Mapping[str, Any]) -> bool:
    """Return whether a phase with these options sends tokens to experts or back."""
    return options.get("collective") == "all-to-all"


def timed(layer: Layer, machine: Device, sizes: Mapping[str, Any], rung: str | None) -> Timed:
    """Return the times of one layer; it is predicted once, however many layouts have it."""
    fixed = tuple((name, tuple(v) if isinstance(v, np.ndarray) else v) for name, v in sizes.items())
    return _layer_seconds(layer, machine, fixed, rung)


@remembered(maxsize=1024)
def _layer_seconds(
    layer: Layer, machine: Device, sizes: tuple[tuple[str, Any], ...], rung: str | None
) -> Timed:
    found = predict(layer, machine, {name: np.array(size) for name, size in sizes}, rung=rung)
    times: list[Array] = [np.zeros(found.shape), np.zeros(found.shape)]
    for part, seconds in zip(found.plan.phases, found.phase_seconds, strict=True):
        times[_travels(part.phase.options)] += seconds
    grounds = frozenset([(found.rung, found.constants_from)])
    return Timed(np.maximum(times[0], found.lower_s), times[1], grounds)
