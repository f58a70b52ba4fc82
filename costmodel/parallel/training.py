"""One training step of a model in a layout: its time, and the memory of its fullest device.

Time (Narayanan et al., arXiv 2104.04473, §2.2): with m micro-batches, p stages and v parts per stage, the
pipeline takes m + (p − 1)/v times a stage's forward and backward pass; the last stage also computes the
logits. Added are the exchange of gradients between copies, as far as backward does not hide it, and the
optimiser step. In an encoder-decoder, the decoder's stages also pass on the encoder's output.

Memory (Korthikanti et al., arXiv 2205.05198, §4): the weights, gradients and optimiser state of one
stage's layers and its part of the embedding, and what forward keeps of the micro-batches in flight. The
number of copies of an expert is that of the devices with the layer over those the experts are spread
over; all other parameters have as many copies as the layout. Of weights and gradients that ZeRO shards,
one layer's are complete while it is computed.

Left out: of `Transformer`, biases, position tables, the last norm, and the time of a narrower embedding's
projections; the start of the pipeline's first receive, the exchange of a tied table's gradients between the
first and the last stage, exchanges between the devices that share the vocabulary tables (an all-reduce of a
micro-batch's positions at each end: 0.1 to 0.6 % of Megatron-LM's published iterations), temporary buffers
of kernels and collectives, failures, and reading the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from costmodel.arguments import typed
from costmodel.dtypes import dtype as parse_dtype
from costmodel.errors import SizeError, shown
from costmodel.evaluate import as_one_size
from costmodel.kernels.base import Array
from costmodel.layers import Layer
from costmodel.layers.optimizer_step import OptimizerStep
from costmodel.parallel.cluster import Cluster
from costmodel.parallel.copies import Group, exchanged_by, exchanges, held
from costmodel.parallel.language_model import LanguageModel
from costmodel.parallel.layout import Layout, Numbers
from costmodel.parallel.stages import Stages, Timed, distinct, timed
from costmodel.predict import predict, together


@typed
@dataclass(frozen=True, kw_only=True)
class Training:
    """A training step over `batch` sequences of `seq` tokens.

    Parameters
    ----------
    model : LanguageModel
        The model that is trained.
    cluster : Cluster
        The devices.
    layout : Layout
        The layout of the model on the devices; if its numbers are arrays, so are the results.
    batch, seq : int or float
        Sequences per step, over all copies; tokens per sequence.
    seq_kv : float, optional
        Tokens per sequence of the encoder, for an encoder-decoder; default `seq`.
    gradient_bytes : int, optional
        Size of one gradient [bytes]: by default that of a weight, but at least 2; 4 if gradients are summed
        in fp32 (Megatron-LM).
    rung : str, optional
        See `costmodel.predict`.
    """

    model: LanguageModel
    cluster: Cluster
    layout: Layout
    batch: float
    seq: float
    seq_kv: float | None = None
    gradient_bytes: float | None = None
    rung: str | None = None

    def __post_init__(self) -> None:
        """Check the sizes, and that the layout divides evenly."""
        if self.seq_kv is not None and not self.model.encodes:
            raise SizeError(
                f"training: seq_kv is an encoder's length, got {shown(self.seq_kv)}, but the model has no "
                "encoder; leave it out"
            )
        for name in ("batch", "seq", "seq_kv"):
            if getattr(self, name) is not None:
                # As a Python number: products of NumPy's small integers overflow.
                object.__setattr__(self, name, as_one_size(name, getattr(self, name)))
        given = self.gradient_bytes
        if given is not None and not 0 < given <= 8:
            raise SizeError(
                "training: wanted gradient_bytes above 0 and up to 8 (2, or 4 summed in fp32), "
                f"got {shown(given)}"
            )
        self.layout.check(self.model, int(self.batch), self.cluster.devices)

    # -- pieces ----------------------------------------------------------------------------

    @cached_property
    def _stages(self) -> Stages:
        return Stages(
            model=self.model,
            cluster=self.cluster,
            layout=self.layout,
            seq=self.seq,
            seq_kv=self._encoded,
            rung=self.rung,
        )

    @property
    def _encoded(self) -> float:
        """Tokens per sequence of the encoder."""
        return self.seq if self.seq_kv is None else self.seq_kv

    @property
    def _positions(self) -> float:
        """Number of positions per sequence that are embedded and passed from stage to stage."""
        return self.seq + (self._encoded if self.model.encodes else 0.0)

    @cached_property
    def _numbers(self) -> Numbers:
        return self._stages.numbers

    @property
    def _weight_bytes(self) -> float:
        return float(parse_dtype(self.model.dtype).bytes)

    @property
    def _result_bytes(self) -> float:
        return float(parse_dtype(self.model.around).bytes)

    @property
    def _gradient_bytes(self) -> float:
        if self.gradient_bytes is None:
            return parse_dtype(self.model.dtype).gradient_bytes
        return self.gradient_bytes

    @property
    def _update(self) -> OptimizerStep:
        return OptimizerStep(dtype=self.model.dtype)

    @property
    def micro_batches(self) -> Array:
        """Number of micro-batches of one copy per step."""
        return np.asarray(self.batch / (self._numbers.data * self._numbers.micro_batch))

    @property
    def stage_layers(self) -> Array:
        """Number of layers of the fullest stage; its virtual stages are all as long as the longest.

        If the stages do not divide the layers, time and memory are those of a pipeline in which all stages,
        also the first and the last, are this full: the others wait for the fullest. That some stages have
        fewer layers, which only shortens filling and draining the pipeline, is left out.
        """
        return self._stages.layers

    @property
    def parameters(self) -> Array:
        """Number of parameters on the device that has the most."""
        return np.asarray(sum(group.parameters for group in self._groups))

    @cached_property
    def _groups(self) -> tuple[Group, ...]:
        """The parameters of a device, grouped by their number of copies."""
        n, node = self._numbers, self.cluster.per_node
        numbers = self._stages.parameters() + self._end_parameters
        if not self.model.experts:
            return (Group(numbers, n.data, node / n.tensor),)
        experts, copies = self._stages.experts(), self._stages.expert_copies
        return (
            Group(numbers - experts, n.data, node / n.tensor),
            Group(experts, copies, node / (n.expert * n.expert_tensor)),
        )

    @cached_property
    def _end_parameters(self) -> Array:
        """Parameters of both ends if they are in one stage, else of the larger one."""
        first, last = (self._of_end(which, lambda end, _: float(end.parameters())) for which in (0, 1))
        return np.asarray(np.where(self._numbers.pipeline == 1, first + last, np.maximum(first, last)))

    def _of_end(
        self, which: int, measure: Callable[[Layer, Array], Any], dtype: DTypeLike = np.float64
    ) -> NDArray[Any]:
        """Return `measure` of what stands before (0) or after (1) the layers, and of its micro-batches."""
        unique, restored = distinct(self._numbers.tensor, self._numbers.micro_batch)
        found = np.empty(unique.shape[1], dtype)
        for tensor in np.unique(unique[0]):
            rows = unique[0] == tensor
            found[rows] = measure(self.model.ends(int(tensor))[which], unique[1, rows])
        return restored(found)

    # -- time ------------------------------------------------------------------------------

    @cached_property
    def parts(self) -> Mapping[str, Array]:
        """The parts of a step's time [s].

        ``forward``, ``backward``, ``experts`` (exposed time of sending tokens to experts and back), ``head``,
        ``sends``, ``bubble``, ``gradients``, ``optimiser``.
        """
        n, m = self._numbers, self.micro_batches
        forward, backward = self._stages.seconds("fwd"), self._stages.seconds("bwd")
        travel, sends = self._travel(forward + backward), self._sends()
        return {
            "forward": m * forward,
            "backward": m * backward,
            "experts": m * travel,
            "head": m * self._head(),
            "sends": m * sends,
            "bubble": (n.pipeline - 1) / n.interleave * (forward + backward + travel + sends),
            "gradients": self._gradients(forward, backward),
            "optimiser": self._updated.seconds,
        }

    @cached_property
    def seconds(self) -> Array:
        """Time of a step [s]."""
        return np.asarray(sum(self.parts.values()))

    def _travel(self, hidden: Array) -> Array:
        """Return the exposed time of sending a micro-batch's tokens to experts and back, both passes [s]."""
        travel = self._stages.travel("fwd") + self._stages.travel("bwd")
        return np.maximum(0.0, travel - hidden) if self.layout.overlap_experts else travel

    @cached_property
    def travel_bytes(self) -> Array:
        """What a device sends to experts on other devices and back per step [bytes]."""
        return np.asarray(self.micro_batches * self._stages.sent())

    def _head(self) -> Array:
        """Return the time that embedding, last norm, logits and loss add per micro-batch [s]."""
        before, after = self._timed_ends("seconds")
        # If both ends are in one stage, their times add; if not, the pipeline waits for the later stage.
        return after + np.where(self._numbers.pipeline == 1, before, 0.0)

    def _timed_ends(self, what: str, dtype: DTypeLike = np.float64) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return a field of `Timed` of what stands before and of what stands after the layers."""

        def measure(end: Layer, micro_batch: Array) -> Any:
            step = {"batch": micro_batch, "seq": self.seq, "seq_kv": self._encoded}
            sizes = {name: step[name] for name in end.required}
            return getattr(timed(end, self.cluster.machine, sizes, self.rung), what)

        return self._of_end(0, measure, dtype), self._of_end(1, measure, dtype)

    @cached_property
    def _updated(self) -> Timed:
        """The optimiser step."""
        sizes = {"params": np.ceil(self._held(1))}
        found = predict(self._update, self.cluster.machine, sizes, rung=self.rung)
        seconds = np.asarray(found.seconds, dtype=np.float64)
        return Timed(seconds, np.zeros(()), frozenset([(found.rung, found.constants_from)]))

    @cached_property
    def grounds(self) -> Mapping[str, NDArray[np.object_]]:
        """What the times of all layers rest on: those of the stages, both ends, and the optimiser step.

        ``rung``, the lowest of their predictions, and ``constants_from``, all origins of their constants
        (see `costmodel.Prediction`). Those of exchanges are among them where there are copies or stages.
        """
        before, after = self._timed_ends("grounds", object)
        found = self._stages.grounds() | before | after | self._updated.grounds | self._exchanged()
        found = np.asarray(found, dtype=object)
        said = {grounds: together(grounds) for grounds in set(found.ravel())}
        texts = np.array([said[grounds] for grounds in found.ravel()], dtype=object)
        rung, origins = (column.reshape(found.shape) for column in texts.T)
        return {"rung": rung, "constants_from": origins}

    def _exchanged(self) -> NDArray[np.object_]:
        """Return what the times of exchanges between copies and between stages rest on, for each layout."""
        n = self._numbers
        copied, staged = np.any([group.copies > 1 for group in self._groups], axis=0), n.pipeline > 1
        used = [(name, copied) for name in exchanged_by(self.layout.zero)]
        used += [("send-receive", staged), ("all-gather", staged & self._gathers)]
        found = np.full(n.data.shape, frozenset(), dtype=object)
        for name, there in used:
            if np.any(there):
                found[there] = found[there] | frozenset([self.cluster.grounds(name, self.rung)])
        return found

    @property
    def _gathers(self) -> NDArray[np.bool_]:
        """Whether the devices of a stage each receive a part of what is passed on, and gather the whole."""
        return (self._numbers.tensor > 1) & (not self.layout.sequence_parallel)

    def _sends(self) -> Array:
        """Return the time of passing a micro-batch on in both passes, at every part of a stage [s]."""
        n = self._numbers
        if not np.any(n.pipeline > 1):
            return np.zeros_like(n.pipeline)
        whole = self._result_bytes * n.micro_batch * self._positions * self.model.d_model
        # Data parallelism is placed inside pipeline parallelism: the neighbour is in another node if the
        # tensor · data devices fill one.
        node = np.where(n.tensor * n.data >= self.cluster.per_node, 1.0, 2.0)
        over, rung = self.cluster.collective_s, self.rung
        once = over("send-receive", whole / n.tensor, np.full_like(whole, 2.0), node, rung=rung)
        if np.any(self._gathers):
            # Each device sends its part, and the receivers all-gather the parts over the link (ibid.,
            # §4.1).
            once = once + over("all-gather", whole, n.tensor, self.cluster.per_node, rung=rung)
        return np.where(n.pipeline > 1, 2 * n.interleave * once, 0.0)

    def _gradients(self, forward: Array, backward: Array) -> Array:
        """Return the exposed time of exchanging gradients and weights between copies [s]."""
        exchanged, gathered = exchanges(
            self._groups,
            self.cluster,
            self.layout.zero,
            self._gradient_bytes,
            self._weight_bytes,
            self.rung,
        )
        hidden = (forward, backward) if self.layout.overlap else (0.0, 0.0)
        # The gather of the first layer's weights is never hidden.
        first = gathered / self.stage_layers
        forward_s = np.maximum(first, gathered - hidden[0])
        if self.layout.zero == 3:
            # Weights are gathered for each pass of each micro-batch, and gradients are scattered after it.
            backward_s = np.maximum(first, gathered + exchanged - hidden[1])
            return np.asarray(self.micro_batches * (forward_s + backward_s))
        # With sharded gradients there is no room to accumulate the others: each micro-batch exchanges them.
        times = self.micro_batches if self.layout.zero == 2 else 1.0
        return np.asarray(times * np.maximum(0.0, exchanged - hidden[1]) + forward_s)

    def _held(self, stage: int) -> Array:
        """Return how many parameters' data a device holds, if ZeRO shards it from this stage on."""
        return held(self._groups, self.layout.zero, stage)

    # -- memory ----------------------------------------------------------------------------

    @cached_property
    def memory(self) -> Mapping[str, Array]:
        """Memory of the fullest device, by kind [bytes].

        ``weights``, ``gradients``, ``optimiser``, ``activations``, ``gathered``.
        """
        return {
            "weights": self._weights(),
            "gradients": self._gradient_bytes * self._held(2),
            # Two moments in fp32, and a master weight if the model's weights are narrower.
            "optimiser": float(self._update.state_bytes) * self._held(1),
            "activations": self._activations(),
            "gathered": self._gathered_bytes(),
        }

    def _weights(self) -> Array:
        """Return the size of the weights; those of both ends have the format around the products [bytes]."""
        copies = self._numbers.data if self.layout.zero >= 3 else 1.0
        wider = self._result_bytes - self._weight_bytes
        return self._weight_bytes * self._held(3) + wider * self._end_parameters / copies

    def _gathered_bytes(self) -> Array:
        """Return the temporarily unsharded part of what copies shard: one layer, or one table [bytes].

        These are its gathered weights (ZeRO 3), and its gradients before they are scattered (2, 3): Zhao et
        al., arXiv 2304.11277, §3.2.1, where a unit is a layer; 4 bytes per parameter of the largest layer
        in DeepSpeed's estimate, `estimate_zero3_model_states_mem_needs`.
        """
        zero = self.layout.zero
        each = self._weight_bytes * (zero >= 3) + self._gradient_bytes * (zero >= 2)
        table = self.model.vocab * self.model.table_width / self._numbers.tensor
        copied = np.where(self._numbers.data > 1, table, 0.0)
        return np.asarray(each * np.maximum(copied, self._stages.copied_layer()))

    @cached_property
    def memory_bytes(self) -> Array:
        """Total memory of the fullest device, without a margin for fragmentation [bytes]."""
        return np.asarray(sum(self.memory.values()))

    def _activations(self) -> Array:
        """Return the activations of the micro-batches in flight, in the first or the last stage [bytes]."""
        n = self._numbers
        p, v = n.pipeline, n.interleave
        first, last, working = self._stages.kept()
        # Micro-batches whose activations a stage holds, where each of its parts counts 1/v (Narayanan et
        # al., §2.2; in Megatron-LM's order): the first stage is p + (p − 1)/v ahead, the last part of the
        # last stage one.
        ahead = np.minimum(self.micro_batches, np.where(v > 1, p + (p - 1) / v, p))
        behind = np.minimum(self.micro_batches, ((v - 1) * p + 1) / v)
        tokens = n.micro_batch * self.seq
        share = n.tensor if self.layout.sequence_parallel else 1.0
        # The inputs of the last norm and of the logits, and the loss's scores in fp32.
        head = (
            2 * self._result_bytes * tokens * self.model.d_model / share
            + 4 * tokens * self.model.vocab / n.tensor
        )
        return np.asarray(np.maximum(ahead * first, behind * last + head) + working)

    @property
    def capacity(self) -> float:
        """Memory of one device [bytes]."""
        return self.cluster.machine.hbm_capacity

    # -- derived figures -------------------------------------------------------------------

    @cached_property
    def model_flops(self) -> float:
        """Matrix FLOP of forward and backward over the batch, without recomputation and masked pairs."""
        each = self.model.table_width * self.model.vocab + 2 * self.model.projected
        logits = 2.0 * self.batch * self.seq * each
        return float(3 * (self._stages.forward_flops(self.batch) + logits))

    @property
    def utilisation(self) -> Array:
        """Model FLOPs utilisation: model FLOP over what all devices could compute during a step at peak."""
        peak = self.cluster.machine.peak(self.model.dtype) * self.cluster.devices
        return np.asarray(self.model_flops / (peak * self.seconds))

    @property
    def tokens_per_second(self) -> Array:
        """Tokens per second, including those of an encoder."""
        return np.asarray(self.batch * self._positions / self.seconds)

    @property
    def energy_j(self) -> Array:
        """Energy of a step at the devices' rated power [J]; NaN if the spec has no power.

        Hosts and cooling are left out.
        """
        power = self.cluster.machine.tdp_w
        return np.asarray((np.nan if power is None else power) * self.cluster.devices * self.seconds)

    @property
    def cost(self) -> Array | None:
        """Cost of a step in the currency of the cluster's price; None without a price."""
        if self.cluster.price is None:
            return None
        return np.asarray(self.cluster.price * self.cluster.devices * self.seconds / 3600)
