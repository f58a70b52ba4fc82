"""The base class of all layers: static options, the sizes a layer needs, and the kernels it runs."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Mapping
from functools import cache, lru_cache
from typing import Any, ClassVar, Self

import sympy as sp

from costmodel import notebook
from costmodel.arguments import typed
from costmodel.cost import ONE, ZERO, Cost, Phase, Tensors, latex
from costmodel.dtypes import dtype as parse_dtype
from costmodel.errors import CostmodelError, unknown_name
from costmodel.layers._options import checked, is_typed, option_text, read
from costmodel.symbols import DEVICE_SIZES, GLOSSARY

CONVENTIONS = ("exact", "torch")
DIRECTIONS = ("fwd", "bwd", "fwd+bwd")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer: static options that determine a symbolic cost.

    Parameters
    ----------
    dtype : str
        Format of activations and weights. Statistics, softmax and gate
        arithmetic run in fp32 for formats of 16 bits or fewer.
    direction : str
        The pass that is counted: ``fwd``, ``bwd`` or ``fwd+bwd``. Some layers have no backward pass;
        recurrent layers also have its two halves, ``bwd_data`` (gradients of inputs and states, step by
        step) and ``bwd_weights`` (gradients of the weights, one product over all steps).
    convention : str
        ``exact`` counts the operations that the mathematics requires; ``torch`` counts what
        ``torch.utils.flop_counter.FlopCounterMode`` reports.

    Raises
    ------
    CostmodelError
        If an option has an invalid value.
    """

    name: ClassVar[str]
    family: ClassVar[str]
    source: ClassVar[str]
    not_counted: ClassVar[str]
    required: ClassVar[tuple[str, ...]]
    defaults: ClassVar[dict[str, str | int]] = {}
    #: Meaning of a size in this layer, where it differs from the glossary's.
    meanings: ClassVar[Mapping[str, str]] = {}
    directions: ClassVar[tuple[str, ...]] = DIRECTIONS

    dtype: str = "bf16"
    direction: str = "fwd"
    convention: str = "exact"

    def __new__(cls, *_: Any, **options: Any) -> Self:
        """Refuse an unknown option before any option is set."""
        for option in options:
            if option not in cls.__dataclass_fields__:
                raise unknown_name(f"option of {cls.name}", option, cls.option_types())
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Check the options, and replace a dtype alias by the canonical name."""
        for option, kind, default in self._typed_options():
            value = checked(f"{option} of {self.name}", getattr(self, option), kind, default)
            object.__setattr__(self, option, value)
        object.__setattr__(self, "dtype", parse_dtype(self.dtype).name)
        self.check_options(direction=self.directions, convention=CONVENTIONS)

    def check_options(self, **known: Collection[str]) -> None:
        """Refuse an option whose value is not one of the known values.

        Parameters
        ----------
        **known : collection of str
            Option → its possible values.

        Raises
        ------
        UnknownNameError
            If an option has another value; the message suggests the nearest one.
        """
        for option, values in known.items():
            value = getattr(self, option)
            if not isinstance(value, str) or value not in values:
                raise unknown_name(f"{option} of {self.name}", value, values)

    def check_forward_only(self, choice: str, *, chosen: bool) -> None:
        """Refuse any direction but ``fwd`` if a chosen option has no backward pass.

        Parameters
        ----------
        choice : str
            The option as the error message shows it: ``form=recurrent``.
        chosen : bool
            Whether the option was chosen.

        Raises
        ------
        UnknownNameError
            If the direction is not ``fwd``.
        """
        if chosen and self.direction != "fwd":
            raise unknown_name(f"direction of {self.name} with {choice}", self.direction, ("fwd",))

    # -- defined by subclasses -------------------------------------------------------------

    def forward(self) -> tuple[Phase, ...]:
        """Return the kernels of the forward pass."""
        raise NotImplementedError

    def backward(self) -> tuple[Phase, ...]:
        """Return the kernels of the backward pass."""
        raise NotImplementedError

    def tensors(self) -> Tensors:
        """Return the operands that any implementation has to move."""
        raise NotImplementedError

    def kept(self) -> sp.Expr:
        """Return the memory that the forward pass keeps for the backward pass [bytes]."""
        raise NotImplementedError

    def path(self) -> sp.Expr:
        """Return the longest path between two positions of the sequence."""
        return ONE

    def passes(self) -> sp.Expr:
        """Return the number of stacked layers that run in turn, each on all positions at once."""
        return ONE

    def parameters(self) -> sp.Expr:
        """Return the number of learned parameters."""
        return ZERO

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Refuse sizes that are valid one by one but not together.

        Parameters
        ----------
        sizes : mapping of str to float or array
            All sizes that the layer takes.

        Raises
        ------
        SizeError
            If, for example, heads is not a multiple of kv_heads.
        """

    def on_chip(self, sizes: Mapping[str, Any]) -> Any:  # noqa: ARG002 - most layers do not need it
        """Return the on-chip memory that one compute unit needs [bytes] if an option determines it, else 0.

        Parameters
        ----------
        sizes : mapping of str to float or array
            All sizes that the layer takes.
        """
        return 0.0

    # -- derived from these ----------------------------------------------------------------

    @property
    def bytes(self) -> sp.Expr:
        """Size of one element of the layer's dtype [bytes]."""
        return sp.Rational(parse_dtype(self.dtype).bytes)

    @property
    def exact(self) -> Self:
        """The layer with ``convention="exact"``: FLOPs that another convention adds take no time."""
        return self if self.convention == "exact" else dataclasses.replace(self, convention="exact")

    @property
    def accumulate(self) -> str:
        """Format of statistics and pointwise arithmetic: fp64 for fp64, else fp32."""
        return "fp64" if self.dtype == "fp64" else "fp32"

    @property
    def stat_bytes(self) -> sp.Expr:
        """Size of one statistic (maximum, sum, log-sum-exp, mean) [bytes]."""
        return sp.Integer(8 if self.dtype == "fp64" else 4)

    def phases(self) -> tuple[Phase, ...]:
        """Return the kernels of the layer's direction, in execution order."""
        if self.direction == "fwd":
            return self.forward()
        back = tuple(dataclasses.replace(p, direction=p.direction or "bwd") for p in self.backward())
        return back if self.direction == "bwd" else self.forward() + back

    @property
    def cost(self) -> Cost:
        """The symbolic cost, computed once per set of options."""
        return _cost(self)

    @property
    def options(self) -> dict[str, Any]:
        """The options by name."""
        return {option: getattr(self, option) for option in self.option_types()}

    @classmethod
    @cache
    def option_types(cls) -> Mapping[str, Any]:
        """Return the type of each option, for reading ``--set option=value``."""
        # A layer may be defined outside any module (in an example of the documentation), where the names
        # in its annotations cannot be looked up.
        hints = typing.get_type_hints(cls, localns=vars(typing))
        return {f.name: hints[f.name] for f in dataclasses.fields(cls)}

    @classmethod
    @cache
    def _typed_options(cls) -> list[tuple[str, Any, Any]]:
        """Return (name, type, default) of each option whose type determines its possible values."""
        kinds = cls.option_types()
        return [
            (f.name, kinds[f.name], f.default)
            for f in dataclasses.fields(cls)
            if f.name in kinds and is_typed(kinds[f.name])
        ]

    @classmethod
    @typed
    def from_text(cls, settings: dict[str, str]) -> Layer:
        """Return a layer from options given as text (``{"causal": "true"}``).

        Parameters
        ----------
        settings : dict of str to str
            Option → value, as after ``--set`` on the command line.

        Raises
        ------
        CostmodelError
            If an option is unknown, or its text does not fit its type.
        """
        kinds = cls.option_types()
        for option in settings:
            if option not in kinds:
                raise unknown_name(f"option of {cls.name}", option, kinds)
        return cls(**{option: read(option, text, kinds[option]) for option, text in settings.items()})

    @property
    def label(self) -> str:
        """The layer's name, its dtype and all options that differ from their defaults."""
        changed = [
            f"{f.name}={option_text(getattr(self, f.name))}"
            for f in dataclasses.fields(self)
            if f.name not in ("dtype",) and getattr(self, f.name) != f.default
        ]
        return f"{self.name}[{','.join([self.dtype, *changed])}]"

    def sizes(self) -> tuple[str, ...]:
        """Return the names of all sizes the layer takes, required ones first."""
        return (*self.required, *self.defaults)

    @classmethod
    def meaning(cls, size: str) -> str:
        """Return what a size is, in one line."""
        return cls.meanings.get(size, GLOSSARY[size].meaning.partition(" (default")[0])

    def unknown_size(self, name: str) -> CostmodelError:
        """Return the error for a size that the layer does not take."""
        return unknown_name(f"size of {self.name}", name, (*self.sizes(), *DEVICE_SIZES))

    def _repr_html_(self) -> str:
        """Show formulas, sizes and source in a notebook."""
        counts = ((name, notebook.formula(latex(row))) for name, row in self.cost.rows().items() if row != 0)
        sizes = (
            (name, notebook.formula(GLOSSARY[name].latex), meaning) for name, meaning in glossary_lines(self)
        )
        return notebook.block(
            self.label,
            {"source": self.source, "not counted": self.not_counted},
            notebook.table(("count", "formula"), counts),
            notebook.table(("size", "letter", "meaning"), sizes),
        )


@lru_cache(maxsize=4096)
def _cost(layer: Layer) -> Cost:
    phases = layer.phases()
    tensors, kept = layer.tensors(), layer.kept()
    # In training, the forward pass's intermediates are freed, or counted in `kept`, when backward runs.
    last = layer.backward() if layer.direction == "fwd+bwd" else phases
    workspace = sp.Add(*(p.workspace * _runs(p) for p in last))
    steps = sp.Add(*(p.steps * p.repeats for p in phases))
    ways = 2 if layer.direction == "fwd+bwd" else 1
    return Cost(
        phases=phases,
        compulsory=tensors.compulsory(layer.direction),
        updated=tensors.rewritten,
        footprint=tensors.footprint(layer.direction, kept, workspace),
        kept=kept,
        depth=steps if steps != 0 else ways * layer.passes(),
        path=layer.path(),
        parameters=layer.parameters(),
    )


def _runs(phase: Phase) -> sp.Expr:
    """Return 1, or 0 for a kernel that runs zero times (a loop over rounds of which there are none)."""
    return ONE if phase.repeats.is_positive else sp.Min(1, phase.repeats)


def glossary_lines(layer: Layer | type[Layer]) -> list[tuple[str, str]]:
    """Return (name, meaning) of each size that a layer takes; the meaning states the default, if any."""
    # The required sizes may depend on the options: for a class, use its default options.
    asked = layer() if isinstance(layer, type) else layer
    lines = [(name, asked.meaning(name)) for name in asked.required]
    lines += [(name, f"{asked.meaning(name)} (default {value})") for name, value in asked.defaults.items()]
    return lines
