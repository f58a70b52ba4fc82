"""From operations to kernels: products, convolutions, attention and recurrent layers become layers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sympy as sp

from costmodel.capture._layers import Convolution, Pass
from costmodel.capture._records import FORMATS, Call, Operand
from costmodel.cost import ONE
from costmodel.layers import Layer, get
from costmodel.layers.matmul import Matmul
from costmodel.layers.tiled_attention import TiledAttention
from costmodel.models import Part

Example = Mapping[sp.Symbol, int]


@dataclass(frozen=True)
class CapturedPart(Part):
    """A part of a captured model: kernels of one direction.

    Attributes
    ----------
    without : tuple of str
        Kernels of the layer that did not run (a gradient that nothing needs).
    product : bool
        Whether FlopCounterMode also counts it.
    """

    without: tuple[str, ...] = ()
    product: bool = False


def size_of(expression: sp.Expr, example: Example) -> float:
    """Return an expression's value at the example's sizes."""
    return float(expression.xreplace(example))


def name_of(call: Call, title: str) -> str:
    """Return a part's name: the module's path, with stacked modules merged (``layers.*.linear1``)."""
    return re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", call.module) or title


def format_of(operand: Operand) -> str:
    """Return the layer's dtype for an operand; operands that are not floating point count as fp32."""
    return FORMATS.get(operand.dtype, "fp32")


# -- products ----------------------------------------------------------------------------------


def _matmul(call: Call, title: str) -> list[CapturedPart]:
    """Return the part of mm, addmm, bmm, baddbmm, mv, dot, from the last two of the first three tensors."""
    a, b = [arg for arg in call.args[:3] if isinstance(arg, Operand)][-2:]
    left, right = a.shape, b.shape
    sizes = {
        "m": left[-2] if len(left) > 1 else ONE,
        "k": left[-1],
        "n": right[-1] if len(right) > 1 else ONE,
    }
    if len(left) == 3:
        sizes["batch"] = left[0]
    layer = Matmul(dtype=format_of(a), batched=len(left) == 3)
    return [_part(call, title, layer, sizes, product=call.counted is not None)]


def _first_two(call: Call, title: str) -> list[CapturedPart]:
    """Return the part of _scaled_mm and similar: of the first two arguments."""
    a, b = call.args[:2]
    sizes = {"m": a.shape[-2], "k": a.shape[-1], "n": b.shape[-1]}
    return [_part(call, title, Matmul(dtype=format_of(a)), sizes, product=True)]


def _grouped(call: Call, title: str) -> list[CapturedPart]:
    """Return the part of _grouped_mm: rows of one array, with one matrix per group; groups taken as equal."""
    a, b = call.args[:2]
    if len(a.shape) == 2 and len(b.shape) == 3:
        sizes = {"batch": b.shape[0], "m": a.shape[0] / b.shape[0], "k": a.shape[1], "n": b.shape[2]}
    elif len(a.shape) == 2:  # gradients of the matrices: the sum runs over the rows of both
        groups = call.outputs[0].shape[0]
        sizes = {"batch": groups, "m": a.shape[0], "k": a.shape[1] / groups, "n": b.shape[1]}
    else:
        sizes = {"batch": a.shape[0], "m": a.shape[1], "k": a.shape[2], "n": b.shape[-1]}
    return [_part(call, title, Matmul(dtype=format_of(a), batched=True), sizes)]


def _part(call: Call, title: str, layer: Layer, sizes: Mapping[str, sp.Expr], **more: Any) -> CapturedPart:
    part = Part.of(name_of(call, title), layer, **sizes)
    return CapturedPart(part.name, part.layer, part.sizes, **more)


def _convolution(call: Call, title: str) -> list[CapturedPart]:
    x, weight, transposed, groups = call.args[0], call.args[1], call.args[6], call.args[8]
    small = x if transposed else call.outputs[0]  # each of its positions meets every tap once
    read, write = x.bytes + weight.bytes, call.outputs[0].bytes
    return [_conv(call, title, "convolution", small, weight, groups, "data", read, write)]


def _convolution_backward(call: Call, title: str) -> list[CapturedPart]:
    grad, x, weight = call.args[:3]
    transposed, groups, mask = call.args[7], call.args[9], call.args[10]
    small, parts = (x if transposed else grad), []
    if mask[0]:
        name, read = "input gradient", grad.bytes + weight.bytes
        parts.append(_conv(call, title, name, small, weight, groups, "data", read, x.bytes))
    if mask[1]:
        name, read = "weight gradient", grad.bytes + x.bytes
        parts.append(_conv(call, title, name, small, weight, groups, "weights", read, weight.bytes))
    return parts


def _conv(
    call: Call,
    title: str,
    name: str,
    small: Operand,
    weight: Operand,
    groups: int,
    gradient_of: str,
    read: sp.Expr,
    write: sp.Expr,
) -> CapturedPart:
    """Return one product of a convolution; with one channel per group it runs on the vector engine."""
    taps = sp.Mul(*weight.shape[2:])
    positions = small.shape[0] * sp.Mul(*small.shape[2:])
    outer, inner = weight.shape[0] / sp.Integer(groups), weight.shape[1]
    of_weights = gradient_of == "weights"
    found: dict[str, Any] = {"dtype": format_of(small), "title": name, "read": read, "write": write}
    found["torch_factor"] = sp.Integer(groups if of_weights else 1)
    layer: Layer
    if inner == 1 and groups > 1:
        flops = 2 * positions * weight.shape[0] * taps
        shape = {"rows": positions, "cols": sp.Integer(groups)}
        layer = Pass(**found, **shape, vector=flops)
    elif of_weights:
        layer = Convolution(**found, groups=sp.Integer(groups), m=outer, n=inner * taps, k=positions)
    else:
        layer = Convolution(**found, groups=sp.Integer(groups), m=positions, n=outer, k=inner * taps)
    return CapturedPart(name_of(call, title), layer, (), product=True)


def _attention(call: Call, title: str) -> list[CapturedPart]:
    q, k, v = call.args[:3]
    rank, shape = len(q.shape), q.shape
    heads = shape[-3] if rank > 3 else ONE
    sizes = {
        "batch": sp.Mul(*shape[: -3 if rank > 3 else -2]),
        "heads": heads,
        "kv_heads": k.shape[-3] if rank > 3 else ONE,
        "seq": shape[-2],
        "seq_kv": k.shape[-2],
        "head_dim": shape[-1],
        "value_dim": v.shape[-1],
    }
    causal = bool(call.kwargs["causal"]) and shape[-2] == k.shape[-2]
    direction = "bwd" if call.backward else "fwd"
    layer = TiledAttention(dtype=format_of(q), causal=causal, direction=direction)
    return [_part(call, title, layer, sizes, product=True)]


def recurrent_part(call: Call, title: str) -> CapturedPart:
    """Return a stack of recurrent layers as the layer of that name."""
    facts = dict(call.kwargs)
    options = {name: facts[name] for name in ("bidirectional", "bias")}
    sizes = {name: sp.sympify(facts[name]) for name in ("batch", "seq", "hidden", "input", "num_layers")}
    if facts["projection"] is not None:
        options["projected"] = True
        sizes["projection"] = sp.sympify(facts["projection"])
    direction = "bwd" if call.backward else "fwd"
    layer = get(facts["cell"])(dtype=format_of(call.args[0]), direction=direction, **options)
    without = ("input gradient, layer 1",) if call.backward and not facts["into"][0] else ()
    return _part(call, title, layer, sizes, without=without, product=True)


SOLID: Mapping[str, Callable[[Call, str], list[CapturedPart]]] = {
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "addbmm", "vdot"), _matmul),
    "_scaled_mm": _first_two,
    "_grouped_mm": _grouped,
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "attention": _attention,
    "recurrent": lambda call, title: [recurrent_part(call, title)],
}
