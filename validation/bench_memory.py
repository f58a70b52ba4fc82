"""Memory-bound kernels: softmax, norms, activations, elementwise arithmetic and a copy, over m × n tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from costmodel.layers.pointwise import Elementwise, Norm, Softmax
from costmodel.validation.case import Case
from costmodel.validation.registry import Maker, Work, bench


def _softmax_layer(case: Case) -> Softmax:
    return Softmax(dtype=case.dtype, direction=case.direction)


@bench("softmax", kernel="torch.softmax", op="softmax", layer=_softmax_layer)
def softmax(case: Case, make: Maker) -> Work:
    """Softmax over each row."""

    def call(x: Any) -> Any:
        return make.torch.softmax(x, -1)

    return Work((make(case["m"], case["n"]),), call, call)


def _norm(kind: str) -> Callable[[Case], Norm]:
    return lambda case: Norm(dtype=case.dtype, direction=case.direction, kind=kind)


@bench("layernorm", kernel="torch.nn.functional.layer_norm", op="layernorm", layer=_norm("layer"))
def layernorm(case: Case, make: Maker) -> Work:
    """Layer norm over each row, with gain and offset."""
    n = case["n"]

    def call(x: Any, gain: Any, offset: Any) -> Any:
        return make.torch.nn.functional.layer_norm(x, (n,), gain, offset)

    return Work((make(case["m"], n), make(n), make(n)), call, call)


@bench("rmsnorm", kernel="torch.nn.functional.rms_norm", op="rmsnorm", layer=_norm("rms"))
def rmsnorm(case: Case, make: Maker) -> Work:
    """RMS norm over each row, with gain."""
    n = case["n"]

    def call(x: Any, gain: Any) -> Any:
        return make.torch.nn.functional.rms_norm(x, (n,), gain, 1e-6)

    return Work((make(case["m"], n), make(n)), call, call)


def _elementwise(
    name: str,
    operands: int,
    function: Callable[[Any], Callable[..., Any]],
    directions: tuple[str, ...] = ("fwd", "bwd", "fwd+bwd"),
) -> None:
    def layer(case: Case) -> Elementwise:
        return Elementwise(dtype=case.dtype, direction=case.direction, op=name)

    def build(case: Case, make: Maker) -> Work:
        call = function(make.torch)
        return Work(tuple(make(case["m"], case["n"]) for _ in range(operands)), call, call)

    build.__doc__ = f"{name} of each element."
    op = name if name in ("relu", "gelu", "tanh") else f"elementwise_{name}"
    bench(name, kernel=f"torch {name}", op=op, layer=layer, directions=directions)(build)


_elementwise("relu", 1, lambda torch: torch.relu)
_elementwise("gelu", 1, lambda torch: torch.nn.functional.gelu)
_elementwise("tanh", 1, lambda torch: torch.tanh)
# Their gradient is the incoming gradient, passed on by reference, so there is no kernel to time.
_elementwise("add", 2, lambda torch: torch.add, directions=("fwd",))
_elementwise("copy", 1, lambda torch: torch.clone, directions=("fwd",))
_elementwise("mul", 2, lambda torch: torch.mul)
