"""Layouts: degrees of tensor, pipeline, data and expert parallelism, recomputation and ZeRO."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from costmodel.arguments import typed
from costmodel.errors import CostmodelError, unknown_name
from costmodel.evaluate import as_whole
from costmodel.kernels.base import Array
from costmodel.layers._recompute import RECOMPUTE
from costmodel.parallel.language_model import LanguageModel
from costmodel.units import in_full

#: Upper limit of all numbers of a layout.
LARGEST = 2.0**40


class Numbers(NamedTuple):
    """The numbers of one or many layouts, as arrays of the same shape."""

    tensor: Array
    pipeline: Array
    data: Array
    micro_batch: Array
    interleave: Array
    expert: Array
    expert_tensor: Array


@typed
@dataclass(frozen=True, kw_only=True)
class Layout:
    """A layout, or, with arrays as numbers, many layouts that differ only in numbers.

    Parameters
    ----------
    tensor : array_like
        Tensor parallelism: devices that share each layer by its heads, channels and inner width.
    pipeline : array_like
        Pipeline stages. They need not divide the layers: the fullest stage counts, see
        `Training.stage_layers`.
    data : array_like
        Data parallelism: copies of the model, each with an equal share of the batch.
    micro_batch : array_like
        Sequences that pass through a stage at once.
    interleave : array_like
        Virtual stages: non-adjacent parts of the model that each stage holds.
    expert : array_like
        Expert parallelism: devices that a layer's experts are spread over, out of the tensor · data devices
        that hold the layer, so that every expert has tensor · data / (expert · expert_tensor) copies.
    expert_tensor : array_like
        Devices that share each expert by its inner width, out of those that share the layer.
    sequence_parallel : bool
        Whether the operations between a layer's products are split by positions.
    recompute : str
        What backward recomputes: ``none``, ``selective`` (stored scores) or ``full``.
    zero : int
        ZeRO stage, what the copies shard: 0 nothing, 1 the optimiser's state, 2 also gradients, 3 also
        weights (Rajbhandari et al., arXiv 1910.02054).
    overlap : bool
        Whether copies communicate while they compute. Gradients are exchanged during backward; sharded
        weights are gathered during forward, and with ZeRO 3 also during backward (stages 1 and 2:
        Megatron-LM's overlapped parameter gather, once per step; 3: Zhao et al., arXiv 2304.11277, §3.3, for
        every micro-batch). The gather of one layer is never hidden. Otherwise nothing is hidden.
    overlap_experts : bool
        Whether tokens are sent to experts and back while another micro-batch is computed (DualPipe:
        DeepSeek-AI, arXiv 2412.19437, §3.2.1); otherwise nothing hides these transfers.
    """

    tensor: ArrayLike = 1
    pipeline: ArrayLike = 1
    data: ArrayLike = 1
    micro_batch: ArrayLike = 1
    interleave: ArrayLike = 1
    expert: ArrayLike = 1
    expert_tensor: ArrayLike = 1
    sequence_parallel: bool = False
    recompute: str = "none"
    zero: int = 0
    overlap: bool = True
    overlap_experts: bool = False

    def __post_init__(self) -> None:
        """Check the numbers, the recomputation and the ZeRO stage."""
        for name in Numbers._fields:
            as_whole(f"layout: {name}", getattr(self, name), LARGEST)
        if self.recompute not in RECOMPUTE:
            raise unknown_name("recompute of a layout", self.recompute, RECOMPUTE)
        if self.zero not in (0, 1, 2, 3):
            raise CostmodelError(f"layout: wanted zero to be 0, 1, 2 or 3, got {self.zero}")

    @property
    def numbers(self) -> Numbers:
        """The numbers, broadcast against each other."""
        given = (np.asarray(getattr(self, name), dtype=np.float64) for name in Numbers._fields)
        return Numbers(*np.broadcast_arrays(*given))

    @property
    def devices(self) -> Array:
        """Number of devices that the layout takes."""
        n = self.numbers
        return n.tensor * n.pipeline * n.data

    def check(self, model: LanguageModel, batch: int, devices: int) -> None:
        """Refuse layouts that cannot split the model.

        Parameters
        ----------
        model : LanguageModel
            The model.
        batch : int
            Sequences per step.
        devices : int
            Devices of the cluster.

        Raises
        ------
        CostmodelError
            If the layout does not take all devices, leaves a stage without a layer, or does not divide evenly
            anything other than layers over stages; the message says what would.
        """
        n = self.numbers
        if np.any(self.devices != devices):
            wrong = np.ravel(self.devices)[np.ravel(self.devices != devices)][0]
            raise CostmodelError(
                f"layout: tensor · pipeline · data is {in_full(wrong)}, and the cluster has {devices} devices"
            )
        for what, whole in model.divided.items():
            _even(whole, n.tensor, f"{what} over tensor")
        if model.by_positions and np.any(n.tensor > 1) and not self.sequence_parallel:
            raise CostmodelError(
                f"layout: tensor = {in_full(np.max(n.tensor))} needs sequence_parallel=True for this model: "
                "between its layers' parts, each device processes its own positions"
            )
        self._check_stages(model)
        _even(batch, n.data * n.micro_batch, "sequences of the batch over data · micro_batch")
        self._check_experts(model)
        self._check_interleaved(batch)

    def _check_stages(self, model: LanguageModel) -> None:
        """Refuse more pipeline parts than there are layers."""
        parts = self.numbers.pipeline * self.numbers.interleave
        if np.any(parts > model.num_layers):
            raise CostmodelError(
                f"layout: {model.num_layers} layers over pipeline · interleave = {in_full(np.max(parts))} "
                f"leave some without a layer; up to {model.num_layers} would do"
            )

    def _check_interleaved(self, batch: int) -> None:
        """Refuse interleaved stages whose micro-batches do not come in whole rounds of the pipeline."""
        n = self.numbers
        passed = batch / (n.data * n.micro_batch)
        odd = (n.interleave > 1) & (np.mod(passed, n.pipeline) != 0)
        if np.any(odd):
            passes, stages = (np.ravel(column)[np.ravel(odd)][0] for column in (passed, n.pipeline))
            raise CostmodelError(
                "layout: interleave > 1 needs micro-batches of a copy in a multiple of the pipeline's "
                f"{in_full(stages)} stages, got {in_full(passes)}; another batch or micro_batch, or "
                "interleave = 1 would do"
            )

    def _check_experts(self, model: LanguageModel) -> None:
        """Refuse numbers that do not divide the experts evenly."""
        n = self.numbers
        if not model.experts:
            for name, column in (("expert", n.expert), ("expert_tensor", n.expert_tensor)):
                if np.any(column != 1):
                    raise CostmodelError(
                        f"layout: {name} is {in_full(np.max(column))}, but the model is no mixture of "
                        f"experts; {name} = 1 would do"
                    )
            return
        _even(model.experts, n.expert, "experts over expert")
        _even(model.expert_width, n.expert_tensor, "columns of an expert over expert_tensor")
        columns = (n.tensor, n.tensor * n.data, n.expert, n.expert_tensor)
        for t, whole, expert, share in zip(*map(np.ravel, columns), strict=True):
            _even(int(t), share, "devices that share a layer (tensor) over expert_tensor")
            what = "devices that hold a layer (tensor · data) over expert · expert_tensor"
            _even(int(whole), expert * share, what)


def _even(whole: int, parts: ArrayLike, what: str) -> None:
    """Refuse numbers of parts that do not divide a whole number."""
    odd = np.mod(float(whole), parts) != 0
    if np.any(odd):
        wrong = np.ravel(parts)[np.ravel(odd)][0]
        raise CostmodelError(
            f"layout: {whole} {what} = {in_full(wrong)} does not divide evenly; {_near(whole, wrong)} would"
        )


def _near(whole: int, parts: float) -> str:
    """Return the nearest divisors of a whole number below and above another number."""
    # A batch may have 40 bits. Each divisor above the root goes with one below it.
    small = [n for n in range(1, math.isqrt(whole) + 1) if whole % n == 0]
    divisors = sorted({*small, *(whole // n for n in small)})
    below = [n for n in divisors if n <= parts]
    above = [n for n in divisors if n > parts]
    return " or ".join(str(n) for n in (*below[-1:], *above[:1]))
