"""A whole model is a layer made of layers: parts with their sizes written in the model's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase, Tensors
from costmodel.dtypes import dtype as parse_dtype
from costmodel.errors import CostmodelError, SizeError
from costmodel.evaluate import compile_expressions
from costmodel.layers import Layer
from costmodel.layers._indexed import IndexedTensors
from costmodel.layers._phases import of_forward
from costmodel.layers._stored import StoredCache, StoredWeights, check_narrower, saves
from costmodel.layers.optimizer_step import OptimizerStep, P
from costmodel.models._cache import cached, states
from costmodel.models._part import Part
from costmodel.models.stack import Stack
from costmodel.symbols import DEVICE_SIZES, GLOSSARY, Largest, symbol


@dataclass(frozen=True, kw_only=True)
class ModelTensors(IndexedTensors):
    """A model's operands, and what it occupies beside them [bytes].

    Attributes
    ----------
    optimizer : Expr
        The optimiser's state, its copies of the weights included.
    gradient : Expr
        Size of a weight's gradient over that of the weight.
    left : Expr
        Keys, values and states that the pass leaves behind.
    working : Expr
        What the part that needs most has at once: its inputs, its results, what lies between its
        kernels; of what backward computes again, what one layer keeps for a while.
    """

    optimizer: sp.Expr = ZERO
    gradient: sp.Expr = ONE
    left: sp.Expr = ZERO
    working: sp.Expr = ZERO

    def footprint(self, direction: str, kept: sp.Expr, workspace: sp.Expr) -> sp.Expr:  # noqa: ARG002
        """Return the memory occupied at once [bytes]; parts run one by one: not all workspace is in use."""
        wider = ZERO if direction == "fwd" else self.gradients - self.learned
        return super().footprint(direction, kept, self.working) + wider + self.optimizer + self.left

    @property
    def learned(self) -> sp.Expr:
        """All weights [bytes]."""
        return self.weights + self.offsets + self.unread

    @property
    def gradients(self) -> sp.Expr:
        """Those of all weights [bytes]."""
        return self.gradient * self.learned


@dataclass(frozen=True, kw_only=True)
class Model(Layer):
    """A model: parts that run one after the other.

    Being a `Layer` it is predicted, swept, compared and shown as one.

    Parameters
    ----------
    title : str
        Its name.
    parts : tuple of Part
        In the order they run.
    inputs, outputs : Expr
        What goes in and comes out [bytes].
    state : Expr
        What it reads that an earlier call wrote (a KV cache) [bytes].
    updates : tuple of Part
        What runs once, forward, after the backward pass: the optimiser.
    again : tuple of Stack
        What backward computes again, from the input of each layer, which is all that is kept of it.
    leaves : tuple of Part
        Parts of decoding whose keys, values and states a forward pass leaves in memory.
    idle : Expr
        Weights that this use does not touch, and that lie in memory: an encoder's, decoding [bytes].
    origin : str
        Where its sizes are published.
    left_out : str
        What is not counted.
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

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if not self.parts:
            raise SizeError(f"model {self.title}: wanted at least one part, got none")

    def __hash__(self) -> int:
        """Return the hash, computed once: every prediction looks its plan up by it."""
        return self._hash

    def __getstate__(self) -> dict[str, Any]:
        """Return what it is made of: compiled functions cannot be pickled, and are made again."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, field.name) for field in dataclasses.fields(self)))

    # -- what a layer says of itself -------------------------------------------------------

    # A layer's name belongs to its class, a model's to itself; whoever reads them need not know.

    family: ClassVar[str] = "model"
    defaults: ClassVar[dict[str, str | int]] = {}

    @property
    def name(self) -> str:  # type: ignore[override]
        """Its title."""
        return self.title

    @property
    def source(self) -> str:  # type: ignore[override]
        """Where its sizes are published."""
        return self.origin

    @property
    def not_counted(self) -> str:  # type: ignore[override]
        """What is left out."""
        return self.left_out

    @cached_property
    def required(self) -> tuple[str, ...]:  # type: ignore[override]
        """The sizes that the parts leave open, in the order of the vocabulary."""
        open_sizes: set[str] = set()
        for part in self.parts:
            for expression in (*part.replacements.values(), part.repeats):
                open_sizes |= {s.name for s in expression.free_symbols}
        return tuple(name for name in GLOSSARY if name in open_sizes and name not in DEVICE_SIZES)

    @classmethod
    @cache
    def option_types(cls) -> Mapping[str, Any]:
        """Return the type of each choice that a user of the model has: those that every layer has."""
        return Layer.option_types()

    @property
    def label(self) -> str:
        """Its name, with its dtype and direction."""
        return f"{self.title}[{self.dtype}{',' + self.direction if self.direction != 'fwd' else ''}]"

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Refuse sizes that a part refuses."""
        values = iter(self._part_sizes(*(sizes[name] for name in self.required)))
        for part in self._checked_parts:
            part.layer.check_sizes({name: next(values) for name, _ in part.sizes})

    @cached_property
    def _checked_parts(self) -> tuple[Part, ...]:
        """The parts whose sizes follow from the model's alone, not from the device's."""
        device = {symbol(name) for name in DEVICE_SIZES}
        return tuple(p for p in self.parts if all(not v.free_symbols & device for _, v in p.sizes))

    @cached_property
    def _part_sizes(self) -> Any:
        """Compiled: every size of those parts."""
        values = [value for part in self._checked_parts for _, value in part.sizes]
        return compile_expressions(values, self.required)

    # -- what a layer writes ---------------------------------------------------------------

    def _layer(self, part: Part) -> Layer:
        return dataclasses.replace(part.layer, convention=self.convention)

    def forward(self) -> tuple[Phase, ...]:
        """Each part's kernels, in order."""
        return tuple(part.phase(phase) for part in self.parts for phase in self._layer(part).forward())

    def backward(self) -> tuple[Phase, ...]:
        """What is computed again; each part's backward kernels, the last part first; then the updates."""
        again = tuple(part for stack in self.again for part in stack)
        first = of_forward(part.phase(p) for part in again for p in self._layer(part).forward())
        back = (part.phase(p) for part in reversed(self.parts) for p in self._layer(part).backward())
        updates = of_forward(part.phase(p) for part in self.updates for p in self._layer(part).forward())
        return (*first, *back, *updates)

    def _sum(self, of_part: Iterable[tuple[Part, sp.Expr]]) -> sp.Expr:
        return sp.Add(*(part.expression(value) * part.repeats for part, value in of_part))

    def tensors(self) -> Tensors:
        """The model's own input, output and state; the weights of all its parts."""
        return self.held()

    def held(self) -> ModelTensors:
        """Return these operands, and what the model occupies beside them."""
        own = [part for part in self.parts if not part.shared]
        found = {part: part.layer.tensors() for part in self.parts}
        unread = self._sum((part, getattr(found[part], "unread", ZERO)) for part in own)
        return ModelTensors(
            optimizer=self._optimizer(),
            gradient=sp.Rational(parse_dtype(self.dtype).gradient_bytes) / self.bytes,
            left=cached(self.leaves) + states(self.leaves),
            working=self._working(),
            inputs=self.inputs + self.state,
            outputs=self.outputs,
            weights=self._sum((part, found[part].weights) for part in own if part.layer.parameters() != 0),
            offsets=self._sum((part, found[part].offsets) for part in own),
            updated=self._sum((part, found[part].updated) for part in self.parts),
            unwritten=self._sum((part, found[part].unwritten) for part in self.parts),
            unread=unread + self.bytes * self._extra() + self.idle,
        )

    def _optimizer(self) -> sp.Expr:
        """Return the optimiser's state [bytes]."""
        steps = [(part, part.layer) for part in self.updates if isinstance(part.layer, OptimizerStep)]
        return sp.Add(*(part.expression(P * step.state_bytes) for part, step in steps))

    def _working(self) -> sp.Expr:
        """Return what the part that needs most has at once, and what is there again meanwhile [bytes]."""
        found = []
        for part in self.parts:
            tensors = part.layer.tensors()
            phases = part.layer.forward() if self.direction == "fwd" else part.layer.backward()
            between = sp.Add(*(phase.workspace for phase in phases))
            # A cache is among attention's inputs, and there for all parts.
            there = cached((dataclasses.replace(part, repeats=ONE),))
            found.append(part.expression(tensors.inputs + tensors.outputs + between) - there)
        return Largest(*found) + sp.Max(ZERO, *(stack.kept() for stack in self.again))

    def kept(self) -> sp.Expr:
        """What each part keeps; of a layer that is computed again, its input."""
        every = self._sum((part, part.layer.kept() * part.keeps) for part in self.parts)
        return every + sp.Add(*(stack.times * (stack.input() - stack.kept()) for stack in self.again))

    def path(self) -> sp.Expr:
        """The longest path in any of its parts."""
        return sp.Max(*{part.expression(part.layer.path()) for part in self.parts})

    def passes(self) -> sp.Expr:
        """Those of all parts, one after the other."""
        return self._sum((part, part.layer.passes()) for part in self.parts)

    def parameters(self) -> sp.Expr:
        """Those of all parts, shared ones counted once."""
        own = ((part, part.layer.parameters()) for part in self.parts if not part.shared)
        return self._sum(own) + self._extra()

    def _extra(self) -> sp.Expr:
        """Return the learned numbers that no part's layer counts."""
        return sp.Add(*(part.extra * part.repeats for part in self.parts))

    # -- variants --------------------------------------------------------------------------

    def storing(
        self, *, weights: str | None = None, group: int | None = None, cache: str | None = None
    ) -> Model:
        """Return the model with its products' weights, or what it caches, stored in a narrower format.

        Embeddings, the scores of words, routers, norms, recurrences (LSTMs with their projections) and
        products of two activations stay as they are.

        Parameters
        ----------
        weights, group : str, int, optional
            Format of the weights, and numbers to a scale, see `costmodel.layers.Matmul`.
        cache : str, optional
            Format of keys and values, or of latents.

        Raises
        ------
        CostmodelError
            If the format is not narrower than the model's, the model is trained, or has no such cache.
        """
        formats = {"weights": weights, "cache": cache}
        given = {what: parse_dtype(kind) for what, kind in formats.items() if kind is not None}
        for what, kind in given.items():
            check_narrower(self, what, kind)
        if cache and not any(isinstance(part.layer, StoredCache) for part in (*self.parts, *self.leaves)):
            raise CostmodelError(f"cache of {self.title}: it has no keys and values that stay")

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
            title=", ".join((self.title, *(f"{what} in {kind.name}" for what, kind in given.items()))),
            parts=parts,
            leaves=leaves,
            state=self.state + cached(parts) - cached(self.parts),
        )

    def in_dtype(self, dtype: str) -> Model:
        """Return the model with every part in that format.

        `inputs`, `outputs` and `state` are scaled with it, as all of them are activations, and so is what is
        `idle`; a cache that is stored narrower stays as it is.
        """
        name = parse_dtype(dtype).name
        scale = sp.Rational(parse_dtype(name).bytes) / self.bytes

        def converted(parts: tuple[Part, ...]) -> tuple[Part, ...]:
            return tuple(
                dataclasses.replace(part, layer=dataclasses.replace(part.layer, dtype=name)) for part in parts
            )

        parts = converted(self.parts)
        return dataclasses.replace(
            self,
            dtype=name,
            parts=parts,
            updates=converted(self.updates),
            again=tuple(dataclasses.replace(s, layer=converted(s.layer)) for s in self.again),
            leaves=converted(self.leaves),
            inputs=self.inputs * scale,
            outputs=self.outputs * scale,
            state=(self.state - cached(self.parts)) * scale + cached(parts),
            idle=self.idle * scale,
        )
