"""Convolutions and their gradients as implicit products, with the bytes that follow from the shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from costmodel.traces._events import Op
from costmodel.traces._operands import DTYPES, WIDTHS, Operand, operand, per_side
from costmodel.traces._spans import Span

_DIRECTIONS = {(True, True): "bwd", (True, False): "bwd_data", (False, True): "bwd_weights"}


def _row(op: Op, x: int, backward: bool) -> dict[str, Any] | None:
    """Return the columns of a convolution's row.

    Parameters
    ----------
    op : Op
        The call.
    x : int
        Place of the input; weights, a bias, strides, paddings, dilations, a flag for transposed ones, further
        padding and groups follow.
    backward : bool
        Whether the output's gradient comes first, and a list of the gradients that are wanted last.
    """
    image, weight = operand(op, x), operand(op, x + 1)
    rank = len(weight.shape) - 2
    if image.kind != weight.kind or image.kind not in DTYPES or len(image.shape) != rank + 2:
        return None
    strides, paddings, dilations = (per_side(op, x + place, rank) for place in (3, 4, 5))
    transposed, groups = op.values[x + 6] == "True", int(op.values[x + 8])
    if transposed:
        further = per_side(op, x + 7, rank)
        result = _transposed(image, weight, strides, paddings, dilations, further)
        large, small = result, image.shape[2:]
    else:
        large = image.shape[2:]
    sides = zip(large, weight.shape[2:], strides, paddings, dilations, strict=True)
    spans = [Span(*side) for side in sides]
    if not transposed:
        result = small = tuple(span.outputs() for span in spans)
    if not all(span.meets for span in spans):
        return None
    n, k = weight.shape[0] // groups, weight.shape[1]
    out = (image.shape[0], k * groups if transposed else n * groups, *result)
    width = WIDTHS[image.kind]
    written = math.prod(out) * width
    # A stride may skip positions of the larger image, which are then not read.
    touched = math.prod(span.touched(count) for span, count in zip(spans, small, strict=True))
    sparing = image.bytes if transposed else image.shape[0] * image.shape[1] * touched * width
    needed = sparing if image.elements == math.prod(image.shape) else 0
    found = {
        "op": "convolution" if groups == 1 else "convolution_depthwise" if k == 1 else "convolution_grouped",
        "dtype": DTYPES[image.kind],
        "m": image.shape[0] * math.prod(small),
        "n": n,
        "k": k,
        "taps": math.prod(weight.shape[2:]),
        "transposed": transposed,
        **({"b": groups} if groups > 1 else {}),
    }
    if not backward:
        moved = image.bytes + weight.bytes, written, needed + weight.bytes
        return found | _moved("fwd", *moved)
    return found | _gradients(op, image, weight, needed)


def _gradients(op: Op, image: Operand, weight: Operand, needed: int) -> dict[str, Any]:
    """Return the direction and the bytes of the requested gradients: of the input, the weights or both."""
    grad = operand(op, 0)
    of_input, of_weights = (said.strip() == "True" for said in op.values[10].strip("[]").split(",")[:2])
    width = WIDTHS[image.kind]
    # The output's gradient may be one expanded number, or the input itself.
    read = grad.bytes + of_input * weight.bytes + of_weights * image.bytes
    least = of_input * weight.bytes + max(grad.bytes, of_weights * needed)
    written = width * (of_input * math.prod(image.shape) + of_weights * math.prod(weight.shape))
    return _moved(_DIRECTIONS[of_input, of_weights], read, written, least)


def _moved(direction: str, read: int, written: int, least: int) -> dict[str, Any]:
    return {
        "direction": direction,
        "read_bytes": read,
        "written_bytes": written,
        "least_bytes": max(least, 1),
    }


def _transposed(
    image: Operand,
    weight: Operand,
    strides: list[int],
    paddings: list[int],
    dilations: list[int],
    further: list[int],
) -> tuple[int, ...]:
    """Return the dimensions of a transposed convolution's result (``torch.nn.ConvTranspose2d``)."""
    sides = zip(image.shape[2:], weight.shape[2:], strides, paddings, dilations, further, strict=True)
    return tuple((i - 1) * s - 2 * p + d * (w - 1) + more + 1 for i, w, s, p, d, more in sides)


READERS: Mapping[str, Callable[[Op], dict[str, Any] | None]] = {
    "aten::convolution": partial(_row, x=0, backward=False),
    "aten::_convolution": partial(_row, x=0, backward=False),
    "aten::convolution_backward": partial(_row, x=1, backward=True),
}
