"""Pointwise operations: what they read and write, by their shapes and formats."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial

from costmodel.traces._events import Op
from costmodel.traces._operands import (
    DTYPES,
    WIDTHS,
    Moved,
    Operand,
    Reader,
    both,
    computes,
    format_of,
    is_tensor,
    least,
    operand,
)

_WHOLE = re.compile(r"-?\d+|True|False")


def promoted(operands: list[Operand]) -> str:
    """Return the type of a floating-point result: the widest of all tensors; fp16 with bf16 gives fp32.

    Scalars count only if there are no tensors.
    """
    sided = [each for each in operands if each.shape] or operands[:1]
    floats = {each.kind for each in sided if each.kind in DTYPES}
    if not floats:
        raise ValueError("no floats")
    widest = max(WIDTHS[kind] for kind in floats)
    found = {kind for kind in floats if WIDTHS[kind] == widest}
    return found.pop() if len(found) == 1 else "float"


def _whole(op: Op, operands: list[Operand], places: int) -> str:
    """Return the type of an integer result: the widest of all tensors.

    Refused are a fraction, which would make the result floating-point, an integer with booleans, and signed
    with unsigned integers of one width, which give a wider type.
    """
    sided = [each for each in operands if each.shape] or operands[:1]
    kinds = {each.kind for each in sided}
    said = [op.values[i] for i in range(min(places, len(op.values))) if op.types[i] == "Scalar"]
    if any(each.kind in DTYPES for each in operands) or not all(_WHOLE.fullmatch(one) for one in said):
        raise ValueError("a fraction among whole numbers")
    if kinds == {"bool"} and (said or any(each.kind != "bool" for each in operands)):
        raise ValueError("flags and numbers")
    kinds = kinds - {"bool"} or kinds
    widest = max(WIDTHS[kind] for kind in kinds)
    found = {kind for kind in kinds if WIDTHS[kind] == widest}
    if len(found) > 1:
        raise ValueError("whole numbers of several types")
    return found.pop()


def broadcast(operands: list[Operand]) -> tuple[int, ...]:
    """Return the broadcast shape of some operands."""
    sides = max(len(each.shape) for each in operands)
    padded = [(1,) * (sides - len(each.shape)) + each.shape for each in operands]
    found = []
    for at_one in zip(*padded, strict=True):
        longest = max(at_one)
        if any(side not in (1, longest) for side in at_one):
            raise ValueError("sides that do not fit")
        found.append(longest)
    return tuple(found)


def pointwise(kind: str, operands: int, result: str, op: Op) -> Moved | None:
    """Return what a pointwise operation moves.

    Parameters
    ----------
    kind : str
        The pass.
    operands : int
        Number of leading inputs that may be tensors. A further tensor as the last input is ``out``.
    result : str
        ``bool``; ``float``, the widest of the operands' formats; or ``same``, which may also be an integer.
    op : Op
        The call.
    """
    further = [place for place in range(operands, len(op.types)) if is_tensor(op, place)]
    read = [operand(op, place) for place in range(operands) if is_tensor(op, place)]
    in_place = op.name.endswith("_")
    shape = read[0].shape if in_place else broadcast(read)
    if further:
        if further != [len(op.types) - 1] or in_place:
            return None
        out = operand(op, further[0])
        if out.shape != shape:
            return None
        written, in_place = out.bytes, any((each.shape, each.kind) == (shape, out.kind) for each in read)
    elif in_place:
        written = read[0].bytes
    elif result == "bool":
        written = math.prod(shape)
    else:
        floats = any(each.kind in DTYPES for each in read)
        made = promoted(read) if floats or result == "float" else _whole(op, read, operands)
        written = math.prod(shape) * WIDTHS[made]
    total = sum(each.bytes for each in read)
    return Moved(computes(kind, read), format_of(read), shape, total, written, least(read), in_place)


def _where(op: Op) -> Moved | None:
    """Return what ``where(condition, a, b)`` moves; the result has the format of `a` and `b`.

    With a condition alone it lists the nonzero elements, which is no pointwise operation.
    """
    if len(op.types) < 3:
        return None
    chosen = [operand(op, place) for place in (1, 2) if is_tensor(op, place)]
    read = [operand(op, 0), *chosen]
    if is_tensor(op, 3) or not chosen:
        return pointwise("arithmetic", 3, "same", op)
    floats = any(each.kind in DTYPES for each in chosen)
    made, shape = promoted(chosen) if floats else _whole(op, chosen, 3), broadcast(read)
    written, total = math.prod(shape) * WIDTHS[made], sum(each.bytes for each in read)
    return Moved(computes("arithmetic", chosen), format_of(chosen), shape, total, written, least(read))


def _masked_fill(op: Op) -> Moved:
    """Return what a fill under a mask moves; at least the mask is read, and possibly nothing is written."""
    x, mask = operand(op, 0), operand(op, 1)
    kind, total = computes("arithmetic", [x]), x.bytes + mask.bytes
    return Moved(kind, format_of([x]), x.shape, total, x.bytes, mask.bytes, in_place=True, least_written=0)


def _dropout(op: Op) -> Moved:
    """Return what a dropout moves: its input, the result, and a mask of one byte per element."""
    x = operand(op, 0)
    count = math.prod(x.shape)
    return Moved("dropout", format_of([x]), x.shape, x.bytes, count * WIDTHS[x.kind] + count, x.bytes)


def _normalised(operands: int, op: Op) -> Moved:
    """Return what (x − mean) · scale + shift, or its gradient, moves; numbers per channel are not counted."""
    read = [operand(op, place) for place in range(operands)]
    x = read[0]
    written = math.prod(x.shape) * WIDTHS[x.kind]
    total = sum(each.bytes for each in read)
    return Moved("multiply-add", format_of(read), x.shape, total, written, least(read))


def _softmax(kind: str, operands: int, op: Op) -> Moved | None:
    """Return what a softmax along a dimension other than the last, or its gradient, moves."""
    if operands == 1 and op.values[2] == "True":
        return None  # reads bf16 or fp16 and writes fp32
    return pointwise(kind, operands, "float", op)


def _gated(op: Op) -> Moved:
    """Return what a gated linear unit (one half times a gate from the other), or its gradient, moves."""
    read = [operand(op, place) for place in range(2) if is_tensor(op, place)]
    count, width = math.prod(read[-1].shape), WIDTHS[read[-1].kind]
    written = width * (count if len(read) > 1 else count // 2)
    total = sum(each.bytes for each in read)
    return Moved("function", format_of(read), (count // 2,), total, written, least(read))


def _with_mask(op: Op) -> Moved:
    """Return what fake quantisation moves, with its mask of one byte per element."""
    x = operand(op, 0)
    count = math.prod(x.shape)
    return Moved("multiply-add", format_of([x]), x.shape, x.bytes, count * (WIDTHS[x.kind] + 1), x.bytes)


def _log_sigmoid(op: Op) -> Moved:
    """Return what a log-sigmoid moves; on a CPU it also keeps the exponentials for the gradient."""
    x = operand(op, 0)
    table = math.prod(x.shape) * WIDTHS[x.kind]
    written = table if op.kernels else 2 * table
    return Moved("function", format_of([x]), x.shape, x.bytes, written, x.bytes, least_written=table)


def _two_gradients(op: Op) -> Moved:
    """Return what the gradient of a PReLU moves: that of the input, and that of the slopes before its sum."""
    read = [operand(op, place) for place in range(3)]
    written = 2 * math.prod(read[1].shape) * WIDTHS[read[1].kind]
    total = sum(each.bytes for each in read)
    return Moved("arithmetic", format_of(read), read[1].shape, total, written, least(read))


_ONE = (
    *("neg", "abs", "relu", "ceil", "floor", "round", "trunc", "frac", "sign", "sgn", "square", "hardtanh"),
    *("leaky_relu", "hardswish", "hardsigmoid", "nan_to_num", "bitwise_not"),
)
_FUNCTIONS = (
    *("exp", "log", "sqrt", "rsqrt", "reciprocal", "tanh", "sigmoid", "gelu", "silu", "erf", "sin", "cos"),
    *("log1p", "expm1", "exp2", "log2", "log10", "erfc", "tan", "asin", "acos", "atan", "sinh", "cosh"),
    *("elu", "mish"),
)
_TWO = (
    *("add", "sub", "mul", "clamp_min", "clamp_max", "bitwise_and", "bitwise_or", "bitwise_xor", "remainder"),
    *("fmod", "floor_divide", "bitwise_left_shift", "bitwise_right_shift"),
)
_COMPARED = ("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor")
#: Activations whose gradient takes the result's gradient and one more tensor.
_GRADIENTS = ("threshold", "leaky_relu", "hardtanh", "hardswish", "hardsigmoid")
_GRADIENTS_OF_FUNCTIONS = ("tanh", "sigmoid", "gelu", "silu", "softplus", "mish")
#: Losses with one gradient per prediction.
_LOSSES = ("mse_loss", "smooth_l1_loss", "huber_loss")
READERS: Mapping[str, Reader] = {
    **both(_ONE, partial(pointwise, "arithmetic", 1, "same")),
    **both(_FUNCTIONS, partial(pointwise, "function", 1, "float")),
    **both(_TWO, partial(pointwise, "arithmetic", 2, "same")),
    **both(("div",), partial(pointwise, "arithmetic", 2, "float")),
    **both(("pow", "atan2"), partial(pointwise, "function", 2, "float")),
    **both(("clamp",), partial(pointwise, "arithmetic", 3, "same")),
    **both(("addcmul", "addcdiv", "lerp"), partial(pointwise, "multiply-add", 3, "float")),
    "aten::masked_fill": partial(pointwise, "arithmetic", 2, "same"),
    "aten::masked_fill_": _masked_fill,
    "aten::rsub": partial(pointwise, "arithmetic", 2, "same"),
    **{
        f"aten::{name}": partial(pointwise, "arithmetic", 1, "float") for name in ("softshrink", "hardshrink")
    },
    "aten::softplus": partial(pointwise, "function", 1, "float"),
    **{f"aten::__{way}shift__": partial(pointwise, "arithmetic", 2, "same") for way in "lr"},
    "aten::maximum": partial(pointwise, "arithmetic", 2, "same"),
    "aten::minimum": partial(pointwise, "arithmetic", 2, "same"),
    "aten::_prelu_kernel": partial(pointwise, "arithmetic", 2, "float"),
    "aten::_prelu_kernel_backward": _two_gradients,
    "aten::where": _where,
    **{f"aten::{name}_backward": partial(pointwise, "arithmetic", 2, "float") for name in _GRADIENTS},
    **{
        f"aten::{name}_backward": partial(pointwise, "function", 2, "float")
        for name in _GRADIENTS_OF_FUNCTIONS
    },
    **{f"aten::{name}_backward": partial(pointwise, "arithmetic", 3, "float") for name in _LOSSES},
    "aten::log_sigmoid_forward": _log_sigmoid,
    "aten::log_sigmoid_backward": partial(pointwise, "arithmetic", 3, "float"),
    "aten::glu": _gated,
    "aten::glu_backward": _gated,
    **{f"aten::{name}": partial(pointwise, "arithmetic", 2, "bool") for name in _COMPARED},
    **{
        f"aten::{name}": partial(pointwise, "arithmetic", 1, "bool")
        for name in ("isnan", "isneginf", "isposinf", "logical_not")
    },
    **{
        f"aten::{name}{ending}": partial(_normalised, operands)
        for name in ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "native_group_norm")
        for ending, operands in (("", 1), ("_backward", 2))
    },
    **{f"aten::{name}": partial(_softmax, "function", 1) for name in ("_softmax", "_log_softmax")},
    **{
        f"aten::{name}_backward_data": partial(_softmax, "multiply-add", 2)
        for name in ("_softmax", "_log_softmax")
    },
    "aten::fake_quantize_per_tensor_affine_cachemask": _with_mask,
    "aten::native_dropout": _dropout,
    "aten::native_dropout_backward": partial(pointwise, "dropout", 2, "float"),
}
