"""A whole model as a layer: it consists of parts whose sizes are expressions of the model's sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase, Tensors
from costmodel.dtypes import DType
from costmodel.dtypes import dtype as parse_dtype
from costmodel.errors import CostmodelError, SizeError
from costmodel.evaluate import compile_expressions
from costmodel.layers import Layer
from costmodel.layers._indexed import IndexedTensors
from costmodel.layers._phases import of_forward
from costmodel.layers._stored import StoredCache, StoredWeights, check_narrower, saves
from costmodel.layers.optimizer_step import OptimizerStep, P
from costmodel.models._cache import cached, passed_over, states
from costmodel.models._formats import in_format
from costmodel.models._part import Part
from costmodel.models.stack import Stack
from costmodel.symbols import DEVICE_SIZES, GLOSSARY, Largest, symbol


@dataclass(frozen=True, kw_only=True)
class ModelTensors(IndexedTensors):
    """A model's operands, and what else it occupies [bytes].

    Attributes
    ----------
    optimizer : Expr
        The optimiser's state, including its copies of the weights.
    gradients : Expr
        Size of the gradients of all weights [bytes].
    left : Expr
        Keys, values and states that a forward pass leaves in memory.
    passed_over : Expr
        The part of the model's state that this call does not read.
    working : Expr
        Largest working set of a part: its inputs, its results and what its kernels pass on; plus, with
        recomputation, what one recomputed layer keeps meanwhile.
    """

    optimizer: sp.Expr = ZERO
    gradients: sp.Expr = ZERO
    left: sp.Expr = ZERO
    passed_over: sp.Expr = ZERO
    working: sp.Expr = ZERO

    def footprint(self, direction: str, kept: sp.Expr, workspace: sp.Expr) -> sp.Expr:  # noqa: ARG002
        """Return the memory occupied at once [bytes]; only the largest working set of a part counts."""
        wider = ZERO if direction == "fwd" else self.gradients - self.learned
        held = self.optimizer + self.left + self.passed_over
        return super().footprint(direction, kept, self.working) + wider + held

    @property
    def learned(self) -> sp.Expr:
        """Size of all weights [bytes]."""
        return self.weights + self.offsets + self.unread


@dataclass(frozen=True, kw_only=True)
class Model(Layer):
    """A model: parts that run one after the other.

    As a `Layer` it can be predicted, swept, compared and shown like any other.

    Parameters
    ----------
    title : str
        The model's name.
    parts : tuple of Part
        The parts in execution order.
    inputs, outputs : Expr
        Size of the model's input and output [bytes].
    state : Expr
        Size of what it keeps of earlier calls (a KV cache); read, but for what attention passes over [bytes].
    updates : tuple of Part
        Parts that run once, forward, after the backward pass: the optimiser.
    again : tuple of Stack
        Layers that backward recomputes from their inputs, which are all that is kept of them.
    leaves : tuple of Part
        Parts of decoding whose keys, values and states a forward pass leaves in memory.
    idle : Expr
        Size of weights in memory that this use does not touch: in decoding, an encoder's [bytes].
    origin : str
        Where the model's sizes are published.
    left_out : str
        What is not counted.
    tensor : int
        Number of devices that share it. Counts are those of one of them.
    narrower : tuple of str
        What is stored in a narrower format, in words: ``weights in int4``.
    context : int, optional
        The longest sequence that it is made for [tokens].
    """

    title: str
    parts: tuple[Part, ...]
    inputs: sp.Expr
    outputs: sp.Expr
    state: sp.Expr = ZERO
    updates: tuple[Part, ...] = ()
    again: tuple[Stack, ...] = ()
    leaves: tuple[Part, ...] = ()
    idle: sp.Expr = ZERO
    origin: str = ""
    left_out: str = ""
    tensor: int = 1
    narrower: tuple[str, ...] = ()
    context: int | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if not self.parts:
            raise SizeError(f"model {self.title}: wanted at least one part, got none")

    def __hash__(self) -> int:
        """Return the hash, computed once: every prediction uses it to look its plan up."""
        return self._hash

    def __repr__(self) -> str:
        """Return a summary; the parts are in `parts`."""
        return f"<{self.label}: {len(self.parts)} parts>"

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields only: compiled functions cannot be pickled, and are compiled again."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, field.name) for field in dataclasses.fields(self)))

    # -- descriptions ------------------------------------------------------------------------

    # These belong to the class of a layer but to the instance of a model; readers see no difference.

    family: ClassVar[str] = "model"
    defaults: ClassVar[dict[str, str | int]] = {}

    @property
    def name(self) -> str:  # type: ignore[override]
        """The model's title, with what is stored narrower."""
        return ", ".join((self.title, *self.narrower))

    @property
    def source(self) -> str:  # type: ignore[override]
        """Where the model's sizes are published."""
        return self.origin

    @property
    def not_counted(self) -> str:  # type: ignore[override]
        """What is left out."""
        return self.left_out

    @cached_property
    def required(self) -> tuple[str, ...]:  # type: ignore[override]
        """The sizes that the parts leave open, in the order of the glossary."""
        open_sizes: set[str] = set()
        for part in self.parts:
            for expression in (*part.replacements.values(), part.repeats):
                open_sizes |= {s.name for s in expression.free_symbols}
        return tuple(name for name in GLOSSARY if name in open_sizes and name not in DEVICE_SIZES)

    @classmethod
    @cache
    def option_types(cls) -> Mapping[str, Any]:
        """Return the types of the options that a user can set: those that every layer has."""
        return Layer.option_types()

    @property
    def label(self) -> str:
        """The model's title, with its dtype and direction, and what is stored narrower."""
        computed = f"{self.title}[{self.dtype}{',' + self.direction if self.direction != 'fwd' else ''}]"
        return ", ".join((computed, *self.narrower))

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Refuse sizes that one of the parts refuses."""
        values = iter(self._part_sizes(*(sizes[name] for name in self.required)))
        for part in self._checked_parts:
            part.layer.check_sizes({name: next(values) for name, _ in part.sizes})

    @cached_property
    def _checked_parts(self) -> tuple[Part, ...]:
        """The parts whose sizes do not depend on the device."""
        device = {symbol(name) for name in DEVICE_SIZES}
        return tuple(p for p in self.parts if all(not v.free_symbols & device for _, v in p.sizes))

    @cached_property
    def _part_sizes(self) -> Any:
        """Compiled function that returns every size of these parts."""
        values = [value for part in self._checked_parts for _, value in part.sizes]
        return compile_expressions(values, self.required)

    # -- costs -------------------------------------------------------------------------------

    def _layer(self, part: Part) -> Layer:
        return dataclasses.replace(part.layer, convention=self.convention)

    def _directed(self, part: Part) -> Layer:
        """Return a part's layer in the model's direction: forward, some run other kernels in training."""
        layer = self._layer(part)
        known = self.direction in layer.directions
        return dataclasses.replace(layer, direction=self.direction) if known else layer

    def forward(self) -> tuple[Phase, ...]:
        """Return each part's forward kernels, in order."""
        return tuple(part.phase(phase) for part in self.parts for phase in self._directed(part).forward())

    def backward(self) -> tuple[Phase, ...]:
        """Return recomputed kernels; each part's backward kernels, the last part first; then the updates."""
        again = tuple(part for stack in self.again for part in stack)
        first = of_forward(part.phase(p) for part in again for p in self._directed(part).forward())
        back = (part.phase(p) for part in reversed(self.parts) for p in self._directed(part).backward())
        updates = of_forward(part.phase(p) for part in self.updates for p in self._layer(part).forward())
        return (*first, *back, *updates)

    def _sum(self, of_part: Iterable[tuple[Part, sp.Expr]]) -> sp.Expr:
        return sp.Add(*(part.expression(value) * part.repeats for part, value in of_part))

    def tensors(self) -> Tensors:
        """Return the model's input, output and state, and the weights of all parts."""
        return self.held()

    def held(self) -> ModelTensors:
        """Return the operands together with what else the model occupies."""
        own = [part for part in self.parts if not part.shared]
        found = {part: part.layer.tensors() for part in self.parts}
        beside = passed_over(self.parts)
        unread = self._sum((part, getattr(found[part], "unread", ZERO)) for part in own)
        return ModelTensors(
            optimizer=self._optimizer(),
            gradients=sp.Rational(parse_dtype(self.dtype).gradient_bytes) * self.parameters(),
            left=cached(self.leaves) + states(self.leaves),
            working=self._working(),
            passed_over=beside,
            inputs=self.inputs + self.state - beside,
            outputs=self.outputs,
            weights=self._sum((part, found[part].weights) for part in own if part.layer.parameters() != 0),
            offsets=self._sum((part, found[part].offsets) for part in own),
            updated=self._sum((part, found[part].updated) for part in self.parts),
            unwritten=self._sum((part, found[part].unwritten) for part in self.parts),
            unread=unread + sp.Rational(self._around.bytes) * self._extra() + self.idle,
        )

    def _optimizer(self) -> sp.Expr:
        """Return the optimiser's state [bytes]."""
        steps = [(part, part.layer) for part in self.updates if isinstance(part.layer, OptimizerStep)]
        return sp.Add(*(part.expression(P * step.state_bytes) for part, step in steps))

    def _working(self) -> sp.Expr:
        """Return the largest working set of a part, with what is recomputed meanwhile [bytes]."""
        found = []
        for part in self.parts:
            tensors = part.layer.tensors()
            phases = part.layer.forward() if self.direction == "fwd" else part.layer.backward()
            between = sp.Add(*(phase.workspace for phase in phases))
            # A cache is an input of attention, but is in memory during all parts: it is counted elsewhere.
            one = (dataclasses.replace(part, repeats=ONE, borrows=False),)
            there = cached(one) - passed_over(one)
            found.append(part.expression(tensors.inputs + tensors.outputs + between) - there)
        return Largest(*found) + sp.Max(ZERO, *(stack.kept() for stack in self.again))

    def kept(self) -> sp.Expr:
        """Return what the parts keep for backward; of a recomputed layer, only its input."""
        every = self._sum((part, part.layer.kept() * part.keeps) for part in self.parts)
        return every + sp.Add(*(stack.times * (stack.input() - stack.kept()) for stack in self.again))

    def path(self) -> sp.Expr:
        """Return the longest dependency path of any part."""
        return sp.Max(*{part.expression(part.layer.path()) for part in self.parts})

    def passes(self) -> sp.Expr:
        """Return the passes of all parts, one after the other."""
        return self._sum((part, part.layer.passes()) for part in self.parts)

    def parameters(self) -> sp.Expr:
        """Return the number of parameters of all parts, with shared ones counted once."""
        own = ((part, part.layer.parameters()) for part in self.parts if not part.shared)
        return self._sum(own) + self._extra()

    def _extra(self) -> sp.Expr:
        """Return the number of parameters that no part's layer counts."""
        return sp.Add(*(part.extra * part.repeats for part in self.parts))

    @property
    def _around(self) -> DType:
        """Format of what is around the products."""
        return parse_dtype(self.dtype).around

    # -- variants --------------------------------------------------------------------------

    def storing(
        self, *, weights: str | None = None, group: int | None = None, cache: str | None = None
    ) -> Model:
        """Return the model with its products' weights, or its cache, stored in a narrower format.

        Unchanged are embeddings, the scores of words, routers, norms, recurrences (LSTMs with their
        projections) and products of two activations.

        Parameters
        ----------
        weights, group : str, int, optional
            Format of the weights, and numbers per scale; see `costmodel.layers.Matmul`.
        cache : str, optional
            Format of keys and values, or of latents.

        Raises
        ------
        CostmodelError
            If the format is not narrower than the model's, or the model is trained or has no such cache.
        """
        formats = {"weights": weights, "cache": cache}
        given = {what: parse_dtype(kind) for what, kind in formats.items() if kind is not None}
        for what, kind in given.items():
            own = self if what == "weights" else dataclasses.replace(self, dtype=self._around.name)
            check_narrower(own, what, kind)
        if cache and not any(isinstance(part.layer, StoredCache) for part in (*self.parts, *self.leaves)):
            raise CostmodelError(f"cache of {self.title}: it keeps no keys and values")

        def stored(part: Part) -> Part:
            layer = part.layer
            if weights and isinstance(layer, StoredWeights) and saves(layer, "weights", weights):
                layer = dataclasses.replace(layer, weights=weights, group=group)
            if cache and isinstance(layer, StoredCache) and saves(layer, "cache", cache):
                layer = dataclasses.replace(layer, cache=cache)
            return dataclasses.replace(part, layer=layer)

        parts, leaves = (tuple(map(stored, some)) for some in (self.parts, self.leaves))
        if (parts, leaves) == (self.parts, self.leaves):
            return self
        return dataclasses.replace(
            self,
            narrower=(*self.narrower, *(f"{what} in {kind.name}" for what, kind in given.items())),
            parts=parts,
            leaves=leaves,
            state=self.state + cached(parts) - cached(self.parts),
        )

    def in_dtype(self, dtype: str) -> Model:
        """Return the model with every part in another number format; see `in_format` for narrow ones.

        Its `inputs`, `outputs` and `state` are activations and scale with the format, and so do `idle`
        weights; a cache that is stored narrower keeps its format.
        """
        name = parse_dtype(dtype).name
        scale = sp.Rational(parse_dtype(name).around.bytes) / sp.Rational(self._around.bytes)

        def converted(parts: tuple[Part, ...]) -> tuple[Part, ...]:
            return tuple(dataclasses.replace(part, layer=in_format(part.layer, name)) for part in parts)

        parts = converted(self.parts)
        return dataclasses.replace(
            self,
            dtype=name,
            parts=parts,
            updates=tuple(
                dataclasses.replace(part, layer=dataclasses.replace(part.layer, dtype=name))
                for part in self.updates
            ),
            again=tuple(dataclasses.replace(s, layer=converted(s.layer)) for s in self.again),
            leaves=converted(self.leaves),
            inputs=self.inputs * scale,
            outputs=self.outputs * scale,
            state=(self.state - cached(self.parts)) * scale + cached(parts),
            idle=self.idle * scale,
        )
