"""The layers of a pipeline's first and last stage: their time, their learned numbers, what forward keeps.

Layers of several kinds take turns (a stage has its part of each), or follow each other: then time and
memory are those of the first or the last stage, whichever has more.

Tokens travel to their experts and back, twice each way for each layer
(Lepikhin et al., arXiv 2006.16668, §3.2), over the link to devices of the node and over the network to
others, at once.

Left out: uneven loads, what copies of parts that are whole on each device (routers, norms, shared experts)
exchange between the devices that share a layer, and layers that predict further tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

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

#: What is asked of a kind of layer, with arrays of micro-batches and of devices that experts are spread over.
Measure = Callable[[Kind, Array, Array], Array]


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The stages of layouts that differ in numbers alone.

    Parameters
    ----------
    model, cluster, layout, rung
        See `Training`.
    seq, seq_kv : float
        Tokens of a sequence, and of an encoder's.
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
        """The layouts' numbers."""
        return self.layout.numbers

    @property
    def layers(self) -> Array:
        """Layers of the fullest stage: see `Training.stage_layers`."""
        n = self.numbers
        return n.interleave * np.ceil(self.model.num_layers / (n.pipeline * n.interleave))

    @cached_property
    def ends(self) -> tuple[list[Array], list[Array]]:
        """How many layers of each kind the first and the last stage have, both as full as any."""
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

    def _of_kinds(self, measure: Measure) -> list[Array]:
        """Return for each kind of layer what `measure` says of it in each layout.

        It is asked once for each number of devices that share a layer, and its experts, with the
        micro-batches, and the numbers of devices that experts are spread over, that go with it.
        """
        n = self.numbers
        unique, restored = distinct(n.tensor, n.expert_tensor, n.micro_batch, n.expert)
        found = [np.empty(unique.shape[1]) for _ in self.model.kinds(1, 1)]
        for shares in np.unique(unique[:2], axis=1).T:
            rows = np.equal(unique[:2].T, shares).all(axis=1)
            for column, kind in zip(found, self._kinds_over(*map(int, shares)), strict=True):
                column[rows] = measure(kind, unique[2, rows], unique[3, rows])
        return [restored(column) for column in found]

    def _kinds_over(self, tensor: int, expert_tensor: int) -> tuple[Kind, ...]:
        # Whoever shares a layer sits in one node, as far as a node reaches.
        node = min(tensor, self.cluster.node)
        return self.model.kinds(tensor, node, expert_tensor, sequence_parallel=self.layout.sequence_parallel)

    def _fuller_end(self, of_layers: list[Array]) -> Array:
        """Return what the first or the last stage has of something, whichever has more."""
        return np.maximum(*(_over(layers, of_layers) for layers in self.ends))

    def _given(self, kind: Kind, layer: Layer, micro_batch: ArrayLike, expert: ArrayLike) -> dict[str, Any]:
        """Return the sizes of one kind of layer: its own, and those of the step that it takes."""
        node = np.minimum(expert, max(1, self.cluster.node // kind.expert_tensor))
        step = {"batch": micro_batch, "seq": self.seq, "seq_kv": self.seq_kv, "devices": expert, "node": node}
        return {name: step[name] for name in layer.required if name in step} | dict(kind.sizes)

    # -- time ------------------------------------------------------------------------------

    def seconds(self, direction: str) -> Array:
        """Return the time of the slower end for a micro-batch, one way, its tokens' travel apart [s]."""
        return self._time(direction, travelling=False)

    def travel(self, direction: str) -> Array:
        """Return the time that the tokens of a micro-batch are on the way to experts and back [s]."""
        return self._time(direction, travelling=True)

    def _time(self, direction: str, *, travelling: bool) -> Array:
        again = self.layout.recompute if direction == "bwd" else "none"

        def measure(kind: Kind, micro_batch: Array, expert: Array) -> Array:
            layer = kind.model(direction, recompute=again)
            given = self._given(kind, layer, micro_batch, expert)
            sizes = tuple((n, tuple(v) if isinstance(v, np.ndarray) else v) for n, v in given.items())
            return _layer_seconds(layer, self.cluster.machine, sizes, self.rung)[travelling]

        return self._fuller_end(self._of_kinds(measure))

    def sent(self) -> Array:
        """Return what a device sends to experts and back for a micro-batch, both ways [bytes]."""

        def measure(kind: Kind, micro_batch: Array, expert: Array) -> Array:
            layer = kind.model("fwd+bwd", recompute=self.layout.recompute)
            sizes = self._given(kind, layer, micro_batch, expert)
            sent = [phase.link * phase.repeats for phase in layer.cost.phases if _travels(phase.options)]
            values = compile_expressions(sent, list(sizes))(*sizes.values())
            return np.asarray(sum(values, start=np.zeros_like(expert)))

        return _over(self.ends[1], self._of_kinds(measure))

    # -- numbers that are learned, and that are kept ---------------------------------------

    def parameters(self) -> Array:
        """Return the learned numbers of the end that has more."""
        return self._fuller_end(self._of_kinds(self._counted("parameters")))

    def experts(self) -> Array:
        """Return those of them that are of experts spread over devices, at the end that has more."""
        return self._fuller_end(self._of_kinds(self._spread))

    @property
    def expert_copies(self) -> Array:
        """Devices that have the same experts."""
        n = self.numbers
        return n.tensor * n.data / (n.expert * n.expert_tensor)

    def _counted(self, what: str, recompute: str = "none") -> Measure:
        """Return what gives a count of one layer on a device, forward."""

        def measure(kind: Kind, micro_batch: Array, expert: Array) -> Array:
            layer = kind.model("fwd", recompute=recompute)
            return np.asarray(evaluate(layer, **self._given(kind, layer, micro_batch, expert))[what])

        return measure

    def _spread(self, kind: Kind, _: Array, expert: Array) -> Array:
        """Return the learned numbers of one layer's experts on a device."""
        (value,) = compile_expressions([kind.spread], ["devices"])(expert)
        return np.asarray(value) + np.zeros_like(expert)

    def copied_layer(self) -> Array:
        """Return the learned numbers of the largest layer of which there are copies."""
        shared, spread = self.numbers.data > 1, self.expert_copies > 1
        both = zip(self._of_kinds(self._counted("parameters")), self._of_kinds(self._spread), strict=True)
        of_layers = [(every - experts) * shared + experts * spread for every, experts in both]
        return np.asarray(np.max(of_layers, axis=0))

    def kept(self) -> tuple[Array, Array, ArrayLike]:
        """Return what the first and the last stage keep of a micro-batch, and need for a while [bytes].

        The layer that is computed again in full has all of its activations for a while.
        """
        recompute = self.layout.recompute
        of_layers = self._of_kinds(self._counted("kept_bytes", recompute))
        first, last = (_over(layers, of_layers) for layers in self.ends)
        if recompute != "full":
            return first, last, 0.0
        return first, last, np.max(self._of_kinds(self._counted("kept_bytes")), axis=0)

    def forward_flops(self, batch: float) -> float:
        """Return the matrix FLOP of all layers forward, on one device."""
        total = 0.0
        for kind in self.model.kinds(1, 1):
            layer = kind.model("fwd")
            total += kind.count * evaluate(layer, **self._given(kind, layer, batch, 1.0))["matrix_flops"]
        return float(total)


def distinct(*columns: Array) -> tuple[Array, Callable[[Array], Array]]:
    """Return the different rows of columns, as columns, and how to put an answer for each back in place."""
    rows, of = np.unique(np.stack([column.ravel() for column in columns]), axis=1, return_inverse=True)
    return rows, lambda answers: answers[of.ravel()].reshape(columns[0].shape)


def _over(layers: list[Array], of_layers: list[Array]) -> Array:
    """Return the sum over a stage's layers."""
    return np.asarray(sum(count * each for count, each in zip(layers, of_layers, strict=True)))


def _travels(options: Mapping[str, Any]) -> bool:
    """Return whether in a phase of those options tokens are on their way to experts, or back."""
    return options.get("collective") == "all-to-all"


@remembered(maxsize=1024)
def _layer_seconds(
    layer: Layer, machine: Device, sizes: tuple[tuple[str, Any], ...], rung: str | None
) -> tuple[Array, Array]:
    """Return the time of one layer but for its tokens' travel, and that of this alone [s]."""
    found = predict(layer, machine, {name: np.array(size) for name, size in sizes}, rung=rung)
    times: list[Array] = [np.zeros(found.shape), np.zeros(found.shape)]
    for part, seconds in zip(found.plan.phases, found.phase_seconds, strict=True):
        times[_travels(part.phase.options)] += seconds
    return np.maximum(times[0], found.lower_s), times[1]
