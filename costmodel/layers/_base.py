"""What every layer is: static choices, the sizes it needs, and the kernels it runs."""

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
    """A layer: a symbolic cost, given static choices.

    Parameters
    ----------
    dtype : str
        Format of activations and weights. Statistics, softmax and gate
        arithmetic of 16-bit and narrower formats are fp32.
    direction : str
        Which pass is counted: ``fwd``, ``bwd`` or ``fwd+bwd``. Some layers have no backward pass;
        recurrent ones have its two halves, ``bwd_data`` (gradients of inputs and states, step by
        step) and ``bwd_weights`` (gradients of weights, one product over all steps).
    convention : str
        ``exact`` counts what the mathematics asks for; ``torch`` counts what
        ``torch.utils.flop_counter.FlopCounterMode`` does.

    Raises
    ------
    CostmodelError
        If an option has a value it cannot have.
    """

    name: ClassVar[str]
    family: ClassVar[str]
    source: ClassVar[str]
    not_counted: ClassVar[str]
    required: ClassVar[tuple[str, ...]]
    defaults: ClassVar[dict[str, str | int]] = {}
    #: What a size is here, where the glossary's words for it are of other layers.
    meanings: ClassVar[Mapping[str, str]] = {}
    directions: ClassVar[tuple[str, ...]] = DIRECTIONS

    dtype: str = "bf16"
    direction: str = "fwd"
    convention: str = "exact"

    def __new__(cls, *_: Any, **options: Any) -> Self:
        """Refuse an option that there is none of, before any is set."""
        for option in options:
            if option not in cls.__dataclass_fields__:
                raise unknown_name(f"option of {cls.name}", option, cls.option_types())
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Check the options, and write the dtype by its own name."""
        for option, kind, default in self._typed_options():
            value = checked(f"{option} of {self.name}", getattr(self, option), kind, default)
            object.__setattr__(self, option, value)
        object.__setattr__(self, "dtype", parse_dtype(self.dtype).name)
        self.check_options(direction=self.directions, convention=CONVENTIONS)

    def check_options(self, **known: Collection[str]) -> None:
        """Refuse an option whose value is not among those that are known.

        Parameters
        ----------
        **known : collection of str
            Option → the values it can have.

        Raises
        ------
        UnknownNameError
            If it has another; the text offers the nearest.
        """
        for option, values in known.items():
            value = getattr(self, option)
            if not isinstance(value, str) or value not in values:
                raise unknown_name(f"{option} of {self.name}", value, values)

    def check_forward_only(self, choice: str, *, chosen: bool) -> None:
        """Refuse another direction than ``fwd`` where a choice that was made has no backward pass.

        Parameters
        ----------
        choice : str
            In words, for the error: ``form=recurrent``.
        chosen : bool
            Whether it was made.

        Raises
        ------
        UnknownNameError
            If the direction is another.
        """
        if chosen and self.direction != "fwd":
            raise unknown_name(f"direction of {self.name} with {choice}", self.direction, ("fwd",))

    # -- what a layer writes ---------------------------------------------------------------

    def forward(self) -> tuple[Phase, ...]:
        """Return the kernels of the forward pass."""
        raise NotImplementedError

    def backward(self) -> tuple[Phase, ...]:
        """Return the kernels of the backward pass."""
        raise NotImplementedError

    def tensors(self) -> Tensors:
        """Return the operands any implementation has to move."""
        raise NotImplementedError

    def kept(self) -> sp.Expr:
        """Return what forward keeps for backward [bytes]."""
        raise NotImplementedError

    def path(self) -> sp.Expr:
        """Return the longest path between two positions."""
        return ONE

    def passes(self) -> sp.Expr:
        """Return the layers passed one after the other, each seeing all positions at once."""
        return ONE

    def parameters(self) -> sp.Expr:
        """Return the number of learned parameters."""
        return ZERO

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Refuse sizes that are fine one by one but not together.

        Parameters
        ----------
        sizes : mapping of str to float or array
            Every size the layer takes.

        Raises
        ------
        SizeError
            If, for example, heads is not a multiple of kv_heads.
        """

    def on_chip(self, sizes: Mapping[str, Any]) -> Any:  # noqa: ARG002 - most leave it to their kernels
        """Return what one unit has to hold at once [bytes], where an option of the layer says; else 0.

        Parameters
        ----------
        sizes : mapping of str to float or array
            Every size the layer takes.
        """
        return 0.0

    # -- what follows from it --------------------------------------------------------------

    @property
    def bytes(self) -> sp.Expr:
        """Size of one element of the layer's dtype [bytes]."""
        return sp.Rational(parse_dtype(self.dtype).bytes)

    @property
    def exact(self) -> Self:
        """The layer as it is computed: what another convention counts beside takes no time."""
        return self if self.convention == "exact" else dataclasses.replace(self, convention="exact")

    @property
    def accumulate(self) -> str:
        """Format of statistics and pointwise arithmetic: fp32 unless wider."""
        return "fp64" if self.dtype == "fp64" else "fp32"

    @property
    def stat_bytes(self) -> sp.Expr:
        """Size of one statistic (maximum, sum, log-sum-exp, mean) [bytes]."""
        return sp.Integer(8 if self.dtype == "fp64" else 4)

    def phases(self) -> tuple[Phase, ...]:
        """Return the kernels of the layer's direction, in the order they run."""
        if self.direction == "fwd":
            return self.forward()
        back = tuple(dataclasses.replace(p, direction=p.direction or "bwd") for p in self.backward())
        return back if self.direction == "bwd" else self.forward() + back

    @property
    def cost(self) -> Cost:
        """The symbolic cost, computed once for each set of options."""
        return _cost(self)

    @property
    def options(self) -> dict[str, Any]:
        """The static choices by name."""
        return {option: getattr(self, option) for option in self.option_types()}

    @classmethod
    @cache
    def option_types(cls) -> Mapping[str, Any]:
        """Return the type of each option, for reading ``--set option=value``."""
        # A layer may be written where no module has the names of its annotations: in a document's example.
        hints = typing.get_type_hints(cls, localns=vars(typing))
        return {f.name: hints[f.name] for f in dataclasses.fields(cls)}

    @classmethod
    @cache
    def _typed_options(cls) -> list[tuple[str, Any, Any]]:
        """Return (name, type, default) of each option whose type says what it can be."""
        kinds = cls.option_types()
        return [
            (f.name, kinds[f.name], f.default)
            for f in dataclasses.fields(cls)
            if f.name in kinds and is_typed(kinds[f.name])
        ]

    @classmethod
    @typed
    def from_text(cls, settings: dict[str, str]) -> Layer:
        """Return the layer with options given as text (``{"causal": "true"}``).

        Parameters
        ----------
        settings : dict of str to str
            Option → its value, as after ``--set`` on the command line.

        Raises
        ------
        CostmodelError
            If an option is unknown, or its text is not of its type.
        """
        kinds = cls.option_types()
        for option in settings:
            if option not in kinds:
                raise unknown_name(f"option of {cls.name}", option, kinds)
        return cls(**{option: read(option, text, kinds[option]) for option, text in settings.items()})

    @property
    def label(self) -> str:
        """The layer's name with the options that differ from their defaults."""
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
    # In training, forward's intermediates are gone, or among what is kept, when backward runs.
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
    """Return 1, or 0 where a kernel does not run: that of rounds of which there are none."""
    return ONE if phase.repeats.is_positive else sp.Min(1, phase.repeats)


def glossary_lines(layer: Layer | type[Layer]) -> list[tuple[str, str]]:
    """Return (name, meaning) of each size a layer takes, with its default."""
    # What a layer requires may depend on its options: of a class, those of its defaults.
    asked = layer() if isinstance(layer, type) else layer
    lines = [(name, asked.meaning(name)) for name in asked.required]
    lines += [(name, f"{asked.meaning(name)} (default {value})") for name, value in asked.defaults.items()]
    return lines
