"""Device-independent counts of one kernel (`Phase`) and of a layer (`Cost`)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import sympy as sp

from costmodel.symbols import LATEX_NAMES

ZERO = sp.Integer(0)
ONE = sp.Integer(1)
ENGINES = ("matrix", "vector", "special")


def latex(expression: sp.Expr) -> str:
    """Return LaTeX in the letters of the papers."""
    text: str = sp.latex(sp.factor_terms(expression), symbol_names=LATEX_NAMES)
    return text


def _aligned(rows: Mapping[str, sp.Expr]) -> str:
    """Return named counts as LaTeX for a notebook, one per line."""
    lines = (rf"\text{{{name}}} &= {latex(row)}" for name, row in rows.items())
    return r"$$\begin{aligned}" + r"\\".join(lines) + r"\end{aligned}$$"


class Tally(Mapping[Any, sp.Expr]):
    """Counts by key, such as FLOPs by (engine, dtype); the first part of a key alone gives a partial sum.

    ``tally["matrix", "bf16"]`` is one entry, ``tally["matrix"]`` the sum over dtypes, ``tally.total``
    everything. A missing key counts 0.
    """

    def __init__(self, entries: Mapping[Any, sp.Expr] = MappingProxyType({})) -> None:
        self._entries = {key: value for key, value in entries.items() if value != 0}

    def __getitem__(self, key: Hashable) -> sp.Expr:
        """Return one entry, or the sum of the entries whose key starts with ``key``."""
        if key in self._entries:
            return self._entries[key]
        return sp.Add(*(v for k, v in self._entries.items() if isinstance(k, tuple) and k[0] == key))

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the keys whose count is not 0."""
        return iter(self._entries)

    def __len__(self) -> int:
        """Return the number of keys whose count is not 0."""
        return len(self._entries)

    @property
    def total(self) -> sp.Expr:
        """The sum over all keys."""
        return sp.Add(*self._entries.values())

    def __repr__(self) -> str:
        """Show the entries as a mapping."""
        return repr(self._entries)

    def _repr_latex_(self) -> str:
        return _aligned({" ".join(k) if isinstance(k, tuple) else k: v for k, v in self.items()})


def add_tallies(tallies: Iterable[tuple[Mapping[Any, sp.Expr], sp.Expr]]) -> Tally:
    """Return the sum of tallies, each multiplied by its factor."""
    total: dict[Any, list[sp.Expr]] = {}
    for tally, factor in tallies:
        for key, value in tally.items():
            total.setdefault(key, []).append(factor * value)
    return Tally({key: sp.Add(*values) for key, values in total.items()})


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One kernel, possibly repeated: its arithmetic, traffic and dependent steps.

    All counts are of one run of the kernel; ``repeats`` says how many times it runs, one after the other.

    Attributes
    ----------
    name : str
        What it is for ("scores", "input projection", …).
    kernel : str
        The kernel model that times it: a module of ``costmodel.kernels``.
    op : str
        The operation as measurements name it (``gemm``, ``softmax``, …); it selects the kernel model's fitted
        constants.
    borrowed : bool
        Whether ``op`` names another operation, whose constants stand in because this one was not measured.
    sizes : mapping
        Symbolic arguments of that model.
    options : mapping
        Its static arguments (dtype, causal, tile, …).
    flops : mapping of (engine, dtype) to Expr
        Arithmetic [FLOP]; 1 MAC = 2 FLOP.
    spared : mapping of (engine, dtype) to Expr
        The part of `flops` that another schedule of the same mathematics avoids (attention's rescaling of
        outputs at each tile); the lower bound leaves it out.
    read, write : Expr
        Traffic with main memory [bytes]: operands and results, each once, and
        what the algorithm itself writes and reads back.
    l2 : Expr
        Repeated reads that a cache may serve [bytes].
    steps : Expr
        Steps that depend on the previous position of the sequence; 0 for a kernel that processes all
        positions at once.
    pram_depth : Expr
        Depth of the arithmetic with unlimited processors.
    workspace : Expr
        Intermediate results kept in main memory [bytes].
    link : Expr
        Bytes that a device sends to other devices over its links.
    repeats, launches : Expr
        Number of times the kernel runs; launches per run.
    overlaps : bool
        Whether each run overlaps a run of the phase before it, like a transfer that hides behind arithmetic.
        Only the excess over that phase counts as time.
    beside : bool
        Whether its arithmetic does not depend on the phase before it, as keys' and values' projections do not
        depend on the queries'. The depth of the two is the larger one; their times still add up, because
        kernels run one after the other.
    direction : str
        ``fwd`` or ``bwd``: the pass it belongs to; default the pass that its layer makes it for.
    library : str
        A kernel's own name, where one library alone computes this: it decides which constants are used,
        whatever kernel and framework the caller names for the layer's other kernels.
    """

    name: str
    kernel: str
    op: str
    sizes: Mapping[str, sp.Expr]
    options: Mapping[str, Any] = field(default_factory=dict)
    flops: Mapping[tuple[str, str], sp.Expr]
    read: sp.Expr
    write: sp.Expr
    l2: sp.Expr = ZERO
    steps: sp.Expr = ZERO
    pram_depth: sp.Expr = ONE
    workspace: sp.Expr = ZERO
    link: sp.Expr = ZERO
    repeats: sp.Expr = ONE
    launches: sp.Expr = ONE
    overlaps: bool = False
    beside: bool = False
    borrowed: bool = False
    spared: Mapping[tuple[str, str], sp.Expr] = field(default_factory=dict)
    direction: str = ""
    library: str = ""

    @property
    def sent_by(self) -> str:
        """The device's bandwidth for the bytes it sends: ``link``, or ``sums`` for an all-reduce."""
        return "sums" if self.options.get("collective") == "all-reduce" else "link"

    @property
    def hbm(self) -> sp.Expr:
        """Traffic with main memory of one run [bytes]."""
        return self.read + self.write

    def at(self, sizes: Mapping[sp.Symbol, sp.Expr]) -> Phase:
        """Return the phase with symbols replaced in all its expressions, simultaneously."""

        def put(expression: sp.Expr) -> sp.Expr:
            return sp.sympify(expression).xreplace(sizes)

        return replace(
            self,
            sizes={name: put(size) for name, size in self.sizes.items()},
            flops={key: put(count) for key, count in self.flops.items()},
            spared={key: put(count) for key, count in self.spared.items()},
            **{name: put(getattr(self, name)) for name in _EXPRESSIONS},
        )


#: Fields of a phase that hold a single expression.
_EXPRESSIONS = tuple(f.name for f in fields(Phase) if f.type == "sp.Expr")


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """A layer's operands, which any implementation has to read or write [bytes].

    Attributes
    ----------
    inputs, weights, outputs : Expr
        Activations in, parameters, activations out.
    updated : Expr
        State that is read and updated in place (a KV cache's new rows, a recurrent state); part of neither
        inputs nor outputs.
    unwritten : Expr
        The part of `updated` that is read but not written: positions of a window that a ring buffer keeps.
    offsets : Expr
        Parameters that no gradient depends on (biases); not part of `weights`.
    linear : bool
        Whether the gradients need neither inputs nor weights.
    kept_inputs, kept_outputs : Expr
        The inputs and outputs that are part of what forward keeps, so that they are not counted twice.
        Default: all inputs (none if `linear`), and no outputs.
    """

    inputs: sp.Expr
    outputs: sp.Expr
    weights: sp.Expr = ZERO
    updated: sp.Expr = ZERO
    unwritten: sp.Expr = ZERO
    offsets: sp.Expr = ZERO
    linear: bool = False
    kept_inputs: sp.Expr | None = None
    kept_outputs: sp.Expr = ZERO

    @property
    def rewritten(self) -> sp.Expr:
        """State that has to be written as well as read [bytes]."""
        return self.updated - self.unwritten

    def compulsory(self, direction: str) -> sp.Expr:
        """Return the bytes that any implementation has to move for that direction.

        Forward reads inputs and weights and writes outputs. Backward reads the operands and the outputs'
        gradients, and writes gradients of inputs and weights; gradients of the data need no inputs, those of
        the weights no weights. Forward and backward together read the operands once. What is kept between
        them is not counted, because it could be recomputed.
        """
        operands = self.inputs + self.weights
        again = ZERO if self.linear else operands
        return {
            "fwd": operands + self.offsets + self.outputs + self.updated + self.rewritten,
            "bwd": again + self.outputs + operands + self.offsets,
            "bwd_data": self.weights + self.outputs + self.inputs,
            "bwd_weights": self.inputs + self.outputs + self.weights + self.offsets,
            "fwd+bwd": 2 * (operands + self.offsets + self.outputs),
        }[direction]

    def footprint(self, direction: str, kept: sp.Expr, workspace: sp.Expr) -> sp.Expr:
        """Return the memory occupied at the same time [bytes].

        It comprises the operands and the direction's intermediates; with a backward pass also the operands'
        gradients and what forward kept. Operands that forward kept are counted once.
        """
        alive = self.inputs + self.weights + self.offsets + self.outputs + self.updated
        if direction == "fwd":
            return alive + workspace
        return 2 * alive + kept - self._kept_operands() + workspace

    def _kept_operands(self) -> sp.Expr:
        """Return the operands that are part of what forward keeps [bytes]."""
        if self.kept_inputs is not None:
            return self.kept_inputs + self.kept_outputs
        return self.kept_outputs + (ZERO if self.linear else self.inputs)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The symbolic cost of a layer in one direction.

    Attributes
    ----------
    phases : tuple of Phase
        The kernels, in the order they run.
    compulsory : Expr
        Traffic that any implementation has to have [bytes] (see `Tensors`).
    updated : Expr
        The part of it that is state read and written in place [bytes]; a cache can save both the read and the
        write.
    footprint : Expr
        Memory occupied: operands, intermediates and, for training, gradients
        and what is kept [bytes].
    kept : Expr
        Intermediate results that forward keeps for backward [bytes].
    depth : Expr
        Dependent steps: those of the recurrence, layer by layer; for layers that process all positions at
        once, the number of layers (once for each pass).
    path : Expr
        Longest path between two positions (Vaswani et al. 2017, Table 1).
    parameters : Expr
        Learned numbers.
    """

    phases: tuple[Phase, ...]
    compulsory: sp.Expr
    updated: sp.Expr
    footprint: sp.Expr
    kept: sp.Expr
    depth: sp.Expr
    path: sp.Expr
    parameters: sp.Expr

    @cached_property
    def flops(self) -> Tally:
        """Arithmetic by (engine, dtype) [FLOP].

        ``matrix``: products of matrices, 2 FLOP for a multiply-add; ``vector``: other arithmetic, element by
        element; ``special``: exponentials, tanh, erf and their like, 1 FLOP each.
        """
        return add_tallies((p.flops, p.repeats) for p in self.phases)

    @cached_property
    def least_flops(self) -> Tally:
        """The part of `flops` that every schedule of the same mathematics needs (without `Phase.spared`)."""
        spared = add_tallies((p.spared, -p.repeats) for p in self.phases)
        return add_tallies(((self.flops, ONE), (spared, ONE)))

    @cached_property
    def bytes(self) -> Tally:
        """Traffic by level [bytes]: ``hbm``, ``l2``, and ``link`` (sent to other devices)."""
        return add_tallies(({"hbm": p.hbm, "l2": p.l2, "link": p.link}, p.repeats) for p in self.phases)

    @property
    def sends(self) -> bool:
        """Whether anything is sent to other devices."""
        return bool(self.bytes["link"] != 0)

    @cached_property
    def pram_depth(self) -> sp.Expr:
        """Depth of the arithmetic with unlimited processors and tree reductions.

        In a backward pass, the gradients of inputs and weights count one after the other, as kernels run.
        """
        chain: list[sp.Expr] = []
        for phase in self.phases:
            depth = phase.pram_depth * phase.repeats
            chain.append(sp.Max(chain.pop(), depth) if phase.beside else depth)
        return sp.Add(*chain)

    @cached_property
    def launches(self) -> sp.Expr:
        """Kernels launched."""
        return sp.Add(*(p.launches * p.repeats for p in self.phases))

    def rows(self) -> dict[str, sp.Expr]:
        """Return the totals by the names that answers and tables use; ``link_bytes`` if anything is sent."""
        sent = {"link_bytes": self.bytes["link"]} if self.sends else {}
        return {
            "matrix_flops": self.flops["matrix"],
            "vector_flops": self.flops["vector"],
            "special_flops": self.flops["special"],
            "hbm_bytes": self.bytes["hbm"],
            "l2_bytes": self.bytes["l2"],
            **sent,
            "compulsory_bytes": self.compulsory,
            "depth": self.depth,
            "pram_depth": self.pram_depth,
            "path": self.path,
            "launches": self.launches,
            "footprint_bytes": self.footprint,
            "kept_bytes": self.kept,
            "parameters": self.parameters,
        }

    def _repr_latex_(self) -> str:
        return _aligned({name.replace("_", " "): row for name, row in self.rows().items()})
