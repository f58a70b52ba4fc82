"""How a model is spread: tensor, pipeline and data parallelism, and what is kept or computed again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from costmodel.errors import CostmodelError
from costmodel.kernels.base import Array
from costmodel.parallel.transformer import Transformer


class Numbers(NamedTuple):
    """The numbers of layouts, of one shape."""

    tensor: Array
    pipeline: Array
    data: Array
    micro_batch: Array
    interleave: Array


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One layout, or (numbers as arrays) many that differ in numbers alone.

    Parameters
    ----------
    tensor : array_like
        Devices that share each layer: heads and inner width are cut.
    pipeline : array_like
        Stages, each with an equal part of the layers.
    data : array_like
        Copies of the model, each with an equal part of the batch.
    micro_batch : array_like
        Sequences that pass through a stage at once.
    interleave : array_like
        Parts of the model that a stage holds, not next to each other (virtual stages).
    sequence_parallel : bool
        Whether what lies between a layer's products is cut by positions.
    recompute : str
        What backward computes again: ``none``, ``selective`` (stored scores), ``full``.
    zero : int
        What the copies share: 0 nothing, 1 the optimiser's state, 2 gradients too, 3 weights too
        (Rajbhandari et al., arXiv 1910.02054).
    overlap : bool
        Whether gradients are exchanged while backward runs on.
    """

    tensor: ArrayLike = 1
    pipeline: ArrayLike = 1
    data: ArrayLike = 1
    micro_batch: ArrayLike = 1
    interleave: ArrayLike = 1
    sequence_parallel: bool = False
    recompute: str = "none"
    zero: int = 0
    overlap: bool = True

    def __post_init__(self) -> None:
        """Check the stage of ZeRO."""
        if self.zero not in (0, 1, 2, 3):
            raise CostmodelError(f"layout: zero is 0, 1, 2 or 3, got {self.zero}")

    @property
    def numbers(self) -> Numbers:
        """The numbers, broadcast against each other."""
        given = (self.tensor, self.pipeline, self.data, self.micro_batch, self.interleave)
        return Numbers(*np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in given)))

    @property
    def devices(self) -> Array:
        """Devices that it takes."""
        n = self.numbers
        return n.tensor * n.pipeline * n.data

    def check(self, model: Transformer, batch: int, devices: int) -> None:
        """Refuse what cannot be split as asked.

        Raises
        ------
        CostmodelError
            If it does not take all devices, or something does not divide evenly; the text says what would.
        """
        n = self.numbers
        if np.any(self.devices != devices):
            wrong = np.ravel(self.devices)[np.ravel(self.devices != devices)][0]
            raise CostmodelError(
                f"layout: tensor · pipeline · data is {wrong:g}, and the cluster has {devices} devices"
            )
        for whole, parts, what in (
            (model.sizes["heads"], n.tensor, "heads over tensor"),
            (model.num_layers, n.pipeline * n.interleave, "layers over pipeline · interleave"),
            (batch, n.data * n.micro_batch, "sequences of the batch over data · micro_batch"),
        ):
            odd = np.mod(float(whole), parts) != 0
            if np.any(odd):
                wrong = np.ravel(parts)[np.ravel(odd)][0]
                raise CostmodelError(
                    f"layout: {whole} {what} = {wrong:g} does not come out even; {_near(whole, wrong)} would"
                )
        if np.any((n.interleave > 1) & (np.mod(batch / (n.data * n.micro_batch), n.pipeline) != 0)):
            raise CostmodelError(
                "layout: with interleave > 1 the micro-batches of a copy must be a multiple of the stages"
            )


def _near(whole: int, parts: float) -> str:
    """Return the divisors of a whole number on either side of another number."""
    divisors = [n for n in range(1, whole + 1) if whole % n == 0]
    below = [n for n in divisors if n <= parts]
    above = [n for n in divisors if n > parts]
    return " or ".join(str(n) for n in (*below[-1:], *above[:1]))
