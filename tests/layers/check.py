"""Compare a layer's expressions with the authority, field by field and kernel by kernel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import sympy as sp
from authority import AUTHORITY
from authority.kernels import Expected, Kernel
from exact import Number, exact

from costmodel.layers import Layer

#: ("kernel", position, field) or ("layer", field).
Key = tuple[Any, ...]
FIELDS = ("read", "write", "l2", "steps", "workspace", "link", "repeats", "launches")
ENGINES = ("matrix", "vector", "special")
OPERANDS = ("inputs", "weights", "offsets", "outputs", "updated", "unwritten", "indices", "unread")


def observe(layer: Layer) -> dict[Key, sp.Expr]:
    """Return every expression of a layer by its key."""
    found: dict[Key, sp.Expr] = {}
    for i, phase in enumerate(layer.phases()):
        for (engine, dtype), count in phase.flops.items():
            found["kernel", i, engine, dtype] = sp.sympify(count)
        for name in FIELDS:
            found["kernel", i, name] = sp.sympify(getattr(phase, name))
        found["kernel", i, "depth"] = sp.sympify(phase.pram_depth)
        for name, size in phase.sizes.items():
            found["kernel", i, "sizes", name] = sp.sympify(size)
    tensors = layer.tensors()
    for name in OPERANDS:
        found["layer", name] = sp.sympify(getattr(tensors, name, 0))
    for name in ("kept", "path", "passes", "parameters"):
        found["layer", name] = sp.sympify(getattr(layer, name)())
    return found


def expect(layer: Layer, sizes: Mapping[str, int]) -> dict[Key, Number]:
    """Return the authority's value of each expression at some sizes."""
    expected = AUTHORITY[layer.name](layer.options, dict(sizes))
    found: dict[Key, Number] = {}
    for i, kernel in enumerate(expected.kernels):
        found |= {("kernel", i, *key): value for key, value in _kernel(kernel, layer)}
    found |= {("layer", name): getattr(expected, name) for name in _layer_fields()}
    return found


def _kernel(kernel: Kernel, layer: Layer) -> Iterator[tuple[Key, Number]]:
    # contract.md: products in the layer's dtype, everything else in fp32 (fp64 where that is the dtype).
    wide = "fp64" if layer.dtype == "fp64" else "fp32"
    for engine in ENGINES:
        count = getattr(kernel, engine)
        if count:
            yield (engine, layer.dtype if engine == "matrix" else wide), count
    for name in (*FIELDS, "depth"):
        yield (name,), getattr(kernel, name)
    for name, size in kernel.sizes.items():
        yield ("sizes", name), size


def _layer_fields() -> tuple[str, ...]:
    return tuple(name for name in Expected.__dataclass_fields__ if name != "kernels")


def differences(
    observed: Mapping[Key, sp.Expr], layer: Layer, points: Sequence[Mapping[str, int]]
) -> list[str]:
    """Return the disagreements, one line each."""
    found = []
    for sizes in points:
        expected = expect(layer, sizes)
        for key in expected.keys() | observed.keys():
            if not agrees(key, observed.get(key), expected.get(key), sizes):
                value = exact(observed[key], sizes) if key in observed else "absent"
                found.append(f"{key}: {value} instead of {expected.get(key, 'nothing')} at {dict(sizes)}")
    return found


def agrees(key: Key, expression: sp.Expr | None, expected: Number | None, sizes: Mapping[str, int]) -> bool:
    """Return whether an expression has the authority's value; a FLOP count of 0 may be absent."""
    try:
        value = exact(expression, sizes) if expression is not None else None
    except ArithmeticError:
        return False
    if key[-2] in ENGINES:
        return Fraction(value or 0) == Fraction(expected or 0)
    return value is not None and expected is not None and Fraction(value) == Fraction(expected)


def check(layer: Layer, points: Sequence[Mapping[str, int]]) -> None:
    """Raise AssertionError with every disagreement between a layer and its authority."""
    wrong = differences(observe(layer), layer, points)
    assert not wrong, f"{layer.label}:\n" + "\n".join(sorted(wrong)[:20])
