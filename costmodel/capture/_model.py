"""A captured module as a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp

from costmodel.capture._layers import Pass
from costmodel.capture._parts import CapturedPart
from costmodel.cost import ZERO, Phase, Tensors
from costmodel.dtypes import dtype as parse_dtype
from costmodel.errors import CostmodelError, SizeError
from costmodel.layers._phases import of_forward
from costmodel.models import Model, Part
from costmodel.symbols import DEVICE_SIZES, GLOSSARY

#: Formats that modules run in, and torch's names for them.
TORCH = {"fp64": "float64", "fp32": "float32", "tf32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Unmapped:
    """Operations of one name for which there is no kernel model.

    Attributes
    ----------
    op : str
        Their name in aten.
    count : int
        How many ran.
    flops_share : float
        Their share of FlopCounterMode's FLOPs, at the example's sizes.
    """

    op: str
    count: int
    flops_share: float


@dataclass(frozen=True, kw_only=True)
class CapturedTensors(Tensors):
    """What any implementation has to move, and what torch holds in memory.

    Attributes
    ----------
    gradients : Expr
        Gradients of parameters and inputs [bytes].
    stored : Expr
        All parameters and buffers [bytes].
    made : Expr
        Gradients in memory after the backward pass, including those of unused table rows [bytes].
    live : Expr
        Peak memory of intermediate results [bytes].
    optimizer : Expr
        State of the optimiser [bytes].
    """

    gradients: sp.Expr = ZERO
    stored: sp.Expr = ZERO
    made: sp.Expr = ZERO
    live: sp.Expr = ZERO
    optimizer: sp.Expr = ZERO

    def compulsory(self, direction: str) -> sp.Expr:
        """Return the bytes that have to move at least once for that direction."""
        forward = self.inputs + self.weights + self.outputs
        return {"fwd": forward, "bwd": self.gradients, "fwd+bwd": forward + self.gradients}[direction]

    def footprint(self, direction: str, kept: sp.Expr, workspace: sp.Expr) -> sp.Expr:
        """Return the memory occupied at once [bytes]."""
        alive = self.inputs + self.stored + self.outputs + workspace
        if direction == "fwd":
            return alive + self.live
        return alive + self.made + self.optimizer + sp.Max(kept, self.live)


@dataclass(frozen=True, kw_only=True)
class CapturedModel(Model):
    """A captured module: its forward and, if captured, its backward kernels.

    Its path length is that of torch's recurrent layers, else 1: how positions interact is not analysed.

    Parameters
    ----------
    backward_parts : tuple of CapturedPart
        Kernels of the backward pass.
    captured : tuple of str
        The directions that were captured.
    kept_bytes : Expr
        What autograd keeps between the passes [bytes].
    live_forward, live_training : Expr
        Peak memory of intermediate results in a forward pass, and in both passes, taken at
        the example's sizes [bytes].
    stored, moved, gradients, made : Expr
        All parameters and buffers; those that a forward pass reads in full; gradients of these and of the
        inputs; all gradients in memory after the backward pass [bytes].
    learned : Expr
        Number of the module's parameters, trained or frozen.
    dependent : int
        Number of kernels on the longest chain of dependent kernels.
    bounds : tuple of (condition, str)
        Conditions on the sizes under which the module's code runs as captured, and where it checks them.
    assumed : tuple of str
        What was assumed where the control flow depends on data or on a size, and where.
    unmapped : tuple of Unmapped
        Operations whose cost is only the traffic of their operands, for lack of a kernel model.
    """

    backward_parts: tuple[Part, ...] = ()
    captured: tuple[str, ...] = ("fwd",)
    kept_bytes: sp.Expr = ZERO
    live_forward: sp.Expr = ZERO
    live_training: sp.Expr = ZERO
    stored: sp.Expr = ZERO
    moved: sp.Expr = ZERO
    gradients: sp.Expr = ZERO
    made: sp.Expr = ZERO
    learned: sp.Expr = ZERO
    dependent: int = 1
    bounds: tuple[tuple[Any, str], ...] = ()
    assumed: tuple[str, ...] = ()
    unmapped: tuple[Unmapped, ...] = ()

    def __hash__(self) -> int:
        """Return the hash, computed once."""
        return self._hash

    def __repr__(self) -> str:
        """Return a summary; the kernels are in `phases`."""
        sizes = ", ".join(self.required) or "no open sizes"
        kernels = f"{len(self.parts)} parts forward, {len(self.backward_parts)} backward"
        assumed = f"; {len(self.assumed)} assumed" if self.assumed else ""
        return f"CapturedModel({self.label}: {sizes}; {kernels}{assumed})"

    def __post_init__(self) -> None:
        """Check that the direction was captured."""
        if self.direction not in self.captured:
            raise CostmodelError(
                f"{self.title} was captured for direction {' and '.join(self.captured)}, "
                f"not {self.direction}: capture it with from_torch(…, direction='fwd+bwd')"
            )
        super().__post_init__()

    @cached_property
    def required(self) -> tuple[str, ...]:  # type: ignore[override]
        """The sizes that stayed open."""
        found: set[str] = set()
        for phase in (*self.forward(), *self.backward()):
            counts = (phase.repeats, phase.read, phase.write, *phase.sizes.values(), *phase.flops.values())
            found |= {symbol.name for count in counts for symbol in count.free_symbols}
        return tuple(name for name in GLOSSARY if name in found and name not in DEVICE_SIZES)

    def unknown_size(self, name: str) -> CostmodelError:
        """Return the error for a size that the model does not take, or that the module's code has fixed."""
        for line in self.assumed:
            if f": {name} was taken to be" in line or line.startswith("all sizes"):
                return SizeError(
                    f"{self.title} takes no {name}: {line}; capture it again at the size you want"
                )
        return super().unknown_size(name)

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Refuse sizes for which the module's code would run differently than captured."""
        for condition, where in self.bounds:
            names = sorted(str(s) for s in condition.free_symbols)
            if any(name not in sizes for name in names):
                continue
            test = sp.lambdify(sorted(condition.free_symbols, key=str), condition, "numpy")
            if not np.all(test(*(sizes[name] for name in names))):
                raise SizeError(
                    f"{self.title} was captured for {condition} ({where}): for other sizes, capture it again"
                )

    def _kernels(self, parts: tuple[Part, ...]) -> tuple[Phase, ...]:
        return tuple(
            part.phase(phase)
            for part in parts
            for phase in self._layer(part).phases()
            if phase.name not in getattr(part, "without", ())
        )

    def forward(self) -> tuple[Phase, ...]:
        """The forward kernels; equal ones are one that repeats."""
        return self._kernels(self.parts)

    def backward(self) -> tuple[Phase, ...]:
        """The backward kernels, then the optimiser's."""
        return self._kernels(self.backward_parts) + of_forward(self._kernels(self.updates))

    def tensors(self) -> Tensors:
        """Inputs, outputs, and the weights that every forward pass reads in full."""
        return CapturedTensors(
            inputs=self.inputs,
            outputs=self.outputs,
            weights=self.moved,
            gradients=self.gradients,
            stored=self.stored,
            made=self.made,
            live=self.live_forward if self.direction == "fwd" else self.live_training,
            optimizer=self._optimizer(),
        )

    def kept(self) -> sp.Expr:
        """What autograd saved."""
        return self.kept_bytes

    def passes(self) -> sp.Expr:
        """Number of kernels on the longest chain of dependent forward kernels."""
        return sp.Integer(self.dependent)

    def parameters(self) -> sp.Expr:
        """Number of the module's parameters."""
        return self.learned

    @property
    def product_flops(self) -> sp.Expr:
        """FLOPs of the operations that FlopCounterMode also counts: products, convolutions, attention."""
        parts = {
            "fwd": self.parts,
            "bwd": self.backward_parts,
            "fwd+bwd": (*self.parts, *self.backward_parts),
        }
        total = []
        for part in parts[self.direction]:
            if isinstance(part, CapturedPart) and part.product:
                engine = "vector" if isinstance(part.layer, Pass) else "matrix"  # a depthwise convolution
                for phase in self._kernels((part,)):
                    total += [n * phase.repeats for (kind, _), n in phase.flops.items() if kind == engine]
        return sp.Add(*total)

    def in_dtype(self, dtype: str) -> Model:
        """Raise an error: the format of every operation was fixed when the module was captured."""
        name = parse_dtype(dtype).name
        remedy = f"use from_torch(…, dtype={name!r})"
        if name not in TORCH:
            remedy = f"modules run in {', '.join(TORCH)}, not in {name}; layers of the catalogue do"
        raise CostmodelError(f"{self.title} has the formats it was captured in: {remedy}")


def same(parts: list[CapturedPart]) -> tuple[CapturedPart, ...]:
    """Return parts, with equal ones as one that repeats."""
    counts: dict[CapturedPart, sp.Expr] = {}
    for part in parts:
        key = dataclasses.replace(part, repeats=sp.Integer(1))
        counts[key] = counts.get(key, ZERO) + part.repeats
    return tuple(dataclasses.replace(part, repeats=count) for part, count in counts.items())
