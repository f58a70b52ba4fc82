"""The memory of a whole model in training, prefill and decoding, by kind, and the sizes that fit.

The training memory of a stack of equal layers is that of `costmodel.parallel` on one device
(Korthikanti et al., arXiv 2205.05198, §4); for any other model, each part keeps its own activations, or
each layer its input. Decoding and prefill hold the weights, the cache of keys, values and states, and the
kernels' workspace.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from costmodel.cost import ZERO
from costmodel.dtypes import dtype as parse_dtype
from costmodel.errors import CostmodelError, UnavailableError
from costmodel.evaluate import bind, compile_expressions
from costmodel.hardware import Device
from costmodel.layers._recompute import RECOMPUTE
from costmodel.models import Architecture, Model
from costmodel.parallel import Cluster, Layout, Training, Transformer
from costmodel.parallel.limits import MARGIN, UNLIMITED, check_margin, largest

Array = NDArray[np.float64]
#: Kinds of memory, in the order in which charts stack them.
KINDS = ("weights", "gradients", "optimiser", "activations", "cache", "working")
#: Largest number of devices that is tried if one is too small to serve a model.
MOST_DEVICES = 64


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The memory of a model on one device.

    Parameters
    ----------
    architecture : Architecture
        The model.
    device : Device
        The device.
    dtype, attention : str
        See `Architecture`.
    margin : float
        Share of the memory that the model must leave free (fragmentation, the context).
    """

    architecture: Architecture
    device: Device
    dtype: str = "bf16"
    attention: str = "tiled"
    margin: float = MARGIN

    def __post_init__(self) -> None:
        """Check the margin."""
        check_margin(self.margin)

    @property
    def room(self) -> float:
        """Memory that the model may use [bytes]."""
        return (1 - self.margin) * self.device.hbm_capacity

    @cached_property
    def stack(self) -> Transformer | None:
        """The model as a stack of equal layers, or None if it is not one."""
        if self.attention == "eager":
            return None  # separate kernels for masks and dropout keep more
        try:
            return Transformer.of(self.architecture, dtype=self.dtype, attention=self.attention)
        except UnavailableError:
            return None

    @property
    def recomputations(self) -> tuple[str, ...]:
        """The possible recomputations: ``none``, and for equal layers also ``selective`` and ``full``."""
        return RECOMPUTE if self.architecture.layered else RECOMPUTE[:1]

    def model(self, use: str, recompute: str = "none") -> Model:
        """Return the model for a use: ``training``, ``prefill`` or ``decode``."""
        if use == "decode":
            return self.architecture.decode(self.dtype)
        if use == "prefill":
            return self.architecture.prefill(self.dtype, attention=self.attention)
        return self.architecture.training(self.dtype, attention=self.attention, recompute=recompute)

    def kinds(
        self, use: str, *, batch: float, lengths: ArrayLike, recompute: str = "none"
    ) -> dict[str, Array]:
        """Return the memory of each of `KINDS` for every length [bytes].

        Parameters
        ----------
        use : {"training", "prefill", "decode"}
            The use.
        batch : float
            Number of sequences.
        lengths : array_like
            Tokens per sequence; for decoding, tokens in the cache.
        recompute : str
            Recomputation in training; see `recomputations`.
        """
        given = np.atleast_1d(np.asarray(lengths, dtype=np.float64))
        if use == "training" and self.stack:
            return self._trained(self.stack, recompute, batch, given)
        return self._counted(self.model(use, recompute), use, batch, given)

    def total(self, use: str, *, batch: float, length: float, recompute: str = "none") -> float:
        """Return the total memory [bytes]."""
        found = self.kinds(use, batch=batch, lengths=length, recompute=recompute)
        return float(sum(kind[0] for kind in found.values()))

    def generating(self, *, prompt: float, new: float, batch: float) -> tuple[float, str, float]:
        """Return the peak memory of a generation [bytes], and the use and length at which it occurs."""
        # In an encoder-decoder, the prompt's cache is the encoder's; the decoder's starts empty.
        end = max(prompt, new) if self.architecture.family.encodes else prompt + new
        uses = (("prefill", prompt), ("decode", end))
        held = ((self.total(use, batch=batch, length=length), use, length) for use, length in uses)
        return max(held, key=lambda one: one[0])

    def longest(self, use: str, *, batch: float) -> int | None:
        """Return the longest sequence that fits [tokens]; 0 if none does, None if all do."""
        return _most(lambda n: self.total(use, batch=batch, length=n) <= self.room)

    def largest(self, use: str, *, length: float, recompute: str = "none") -> int | None:
        """Return the largest batch that fits [sequences]; 0 if none does, None if all do."""
        return _most(lambda n: self.total(use, batch=n, length=length, recompute=recompute) <= self.room)

    def lacking(self, use: str, *, batch: float, length: float, recompute: str = "none") -> str | None:
        """Return, as one line, how much memory is missing and the cheapest remedy; None if the model fits.

        Remedies, in the order tried: more recomputation; fewer sequences; a narrower format
        (not for training); more devices, which divide everything evenly, or weights stored narrower.
        """
        given = {"batch": batch, "length": length}
        total = self.total(use, **given, recompute=recompute)
        if total <= self.room:
            return None
        short = f"{(total - self.room) / 1e9:.1f} GB more than the {self.room / 1e9:.1f} GB available"
        return f"{short}; {self._remedy(use, batch, length, recompute, total)} would do"

    def _remedy(self, use: str, batch: float, length: float, recompute: str, total: float) -> str:
        """Return the first remedy that suffices."""
        if use == "training":
            for more in self.recomputations[self.recomputations.index(recompute) + 1 :]:
                if self.total(use, batch=batch, length=length, recompute=more) <= self.room:
                    return f"--recompute {more}"
        most = self.largest(use, length=length, recompute=recompute)
        if most:
            return f"batch={most}"
        possible = use != "training" and self.dtype != "fp8" and "fp8" in self.device.matrix_dtypes
        if possible and self._does(use, batch, length, dtype="fp8"):
            return "--dtype fp8"
        fewest = math.ceil(self.architecture.devices * total / self.room)
        if use == "training":
            return f"{fewest} such devices (costmodel plan)"
        among = self._shared(use, batch, length, fewest) or f"{fewest} such devices"
        stored = self._stored(use, batch, length)
        return f"{among} or {stored}" if stored else among

    def _shared(self, use: str, batch: float, length: float, fewest: int) -> str | None:
        """Return the smallest tensor-parallel size that fits; None if none is known."""
        for devices in range(fewest, MOST_DEVICES + 1):
            try:
                share = dataclasses.replace(self, architecture=self.architecture.tensor_parallel(devices))
            except CostmodelError:
                continue  # it cannot be divided, or not evenly
            if share.total(use, batch=batch, length=length) <= self.room:
                return f"--tensor {devices}"
        return None

    def _stored(self, use: str, batch: float, length: float) -> str | None:
        """Return the widest storage format of the weights that fits; None if none does."""
        given = parse_dtype(self.architecture.weights or self.dtype).bytes
        for kind in (kind for kind in ("int8", "int4") if parse_dtype(kind).bytes < given):
            if self._does(use, batch, length, architecture=self.architecture.storing(kind)):
                return f"--weights {kind}"
        return None

    def _does(self, use: str, batch: float, length: float, **changed: Any) -> bool:
        """Return whether the model fits with these changes; False if they conflict with its stored format."""
        try:
            return dataclasses.replace(self, **changed).total(use, batch=batch, length=length) <= self.room
        except CostmodelError:
            return False

    # -- the two ways of counting ----------------------------------------------------------

    def _trained(self, stack: Transformer, recompute: str, batch: float, lengths: Array) -> dict[str, Array]:
        """Return the memory of a training step of equal layers, with the whole batch as one micro-batch."""
        cluster, layout = (
            Cluster(device=self.device, devices=1),
            Layout(recompute=recompute, micro_batch=batch),
        )
        steps = [
            Training(model=stack, cluster=cluster, layout=layout, batch=batch, seq=float(n)).memory
            for n in lengths
        ]
        return {
            kind: np.array([float(step.get(kind, np.zeros(())).item()) for step in steps]) for kind in KINDS
        }

    def _counted(self, model: Model, use: str, batch: float, lengths: Array) -> dict[str, Array]:
        """Return the memory as the sum of what the model's own parts count."""
        tensors = model.held()
        trained = use == "training"
        kinds = {
            "weights": tensors.learned,
            "gradients": tensors.gradients if trained else ZERO,
            "optimiser": tensors.optimizer,
            "activations": model.kept() if trained else ZERO,
            "cache": model.state + tensors.updated + tensors.left,
            "working": tensors.working,
        }
        bound = bind(model, sizes_of(model, batch, lengths))
        values = compile_expressions([kinds[kind] for kind in KINDS], list(bound))(*bound.values())
        found = (np.broadcast_to(np.asarray(v, dtype=np.float64), lengths.shape) for v in values)
        return dict(zip(KINDS, found, strict=True))


def sizes_of(model: Model, batch: float, lengths: Any) -> dict[str, Any]:
    """Return a model's sizes, with the same length for the sequence, the encoder's and the cache."""
    given = {"batch": batch, "seq": lengths, "seq_kv": lengths}
    return {name: given[name] for name in model.required}


def _most(fits: Callable[[int], bool]) -> int | None:
    """Return the largest number that fits; 0 if 1 does not, None if all do."""
    found = largest(fits)
    return None if found == UNLIMITED else found
