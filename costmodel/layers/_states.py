"""Layers with a recurrent state: a sequence at once, or token by token with the state in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from costmodel.cost import Phase
from costmodel.dtypes import dtype as parse_dtype
from costmodel.errors import CostmodelError, unknown_name
from costmodel.layers._base import Layer

#: The form that takes a sequence token by token.
RECURRENT = "recurrent"
#: Formats in which libraries keep a state in memory, besides that of the arithmetic.
NARROW = ("bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class KeptState(Layer):
    """A layer that takes a sequence at once, or token by token, from a state that it reads and writes back.

    Parameters
    ----------
    state_dtype : str, optional
        With form=recurrent, the format of the state in memory (``bf16`` or ``fp16``), which is updated in
        fp32; by default that of the arithmetic.
    """

    #: Forms of the layer; the first is the default.
    forms: ClassVar[tuple[str, ...]] = ("chunked", RECURRENT)

    form: str = "chunked"
    state_dtype: str | None = None

    def __post_init__(self) -> None:
        """Check the form, and the format of the state that it keeps."""
        super().__post_init__()
        self.check_options(form=self.forms)
        self.check_forward_only(f"form={RECURRENT}", chosen=self.by_token)
        if self.state_dtype is None:
            return
        kind = parse_dtype(self.state_dtype)
        if not self.by_token:
            raise CostmodelError(
                f"state_dtype of {self.name}: applies to form={RECURRENT}; give that too, or leave out "
                f"state_dtype={kind.name}"
            )
        if kind.name not in NARROW:
            raise unknown_name(f"state_dtype of {self.name}", self.state_dtype, NARROW)
        object.__setattr__(self, "state_dtype", kind.name)

    @property
    def by_token(self) -> bool:
        """Whether the layer takes its sequence token by token."""
        return self.form == RECURRENT

    @property
    def state_bytes(self) -> sp.Expr:
        """Size of one number of the state in memory [bytes]."""
        if self.state_dtype is None:
            return self.stat_bytes
        return sp.Rational(parse_dtype(self.state_dtype).bytes)


def update_phase(
    layer: Layer,
    name: str,
    *,
    op: str = "state_update",
    states: sp.Expr,
    steps: sp.Expr,
    vector: sp.Expr,
    special: sp.Expr,
    read: sp.Expr,
    write: sp.Expr,
    pram_depth: sp.Expr,
) -> Phase:
    """Return a kernel that reads recurrent states, updates them token by token, and writes them back.

    Parameters
    ----------
    layer : Layer
        The layer; its operands have its dtype, the arithmetic its accumulation format.
    name, op : str
        What the kernel computes; the operation, as measurements name it.
    states : Expr
        Size of the states [bytes].
    steps : Expr
        Tokens of each sequence.
    vector, special : Expr
        Arithmetic of all tokens by engine [FLOP].
    read, write : Expr
        Traffic with main memory, of which the states are a part of each [bytes].
    pram_depth : Expr
        As in `Phase`.
    """
    flops = {("vector", layer.accumulate): vector, ("special", layer.accumulate): special}
    sizes = {"states": states, "traffic": read + write, "steps": steps, "vector_flops": vector}
    return Phase(
        name=name,
        kernel="state_update",
        op=op,
        sizes={key: sp.sympify(value) for key, value in sizes.items()},
        options={"dtype": layer.dtype},
        flops={key: sp.sympify(value) for key, value in flops.items() if value != 0},
        read=read,
        write=write,
        steps=sp.sympify(steps),
        pram_depth=sp.sympify(pram_depth),
    )
