"""Pooling, resampling and padding of images: what they move, at least where their windows touch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

from costmodel.traces._events import Op
from costmodel.traces._operands import WIDTHS, Moved, Operand, Reader, format_of, numbers, operand, per_side
from costmodel.traces._spans import Span

#: Size of the index that a maximum keeps [bytes].
_INDEX = 8


def _needed(x: Operand, places: int) -> int:
    """Return the bytes of some elements of a tensor; 1 if it is expanded, as these may be the same."""
    return places * WIDTHS[x.kind] if x.elements == math.prod(x.shape) else 1


def _pooled(sides: int, kept: int, dilation: int | None, ceil: int, op: Op) -> Moved:
    """Return what a maximum or a mean over windows moves.

    Parameters
    ----------
    sides : int
        Number of trailing dimensions with windows; inputs are (input, widths, strides, paddings, …).
    kept : int
        Size of what is kept per result, besides the result [bytes].
    dilation : int or None
        Input with the dilation, if there is one.
    ceil : int
        Input that says whether a last window may be cut off.
    op : Op
        The call.
    """
    x = operand(op, 0)
    widths = per_side(op, 1, sides)
    strides, paddings = per_side(op, 2, sides, widths), per_side(op, 3, sides, [0])
    dilations = per_side(op, dilation, sides, [1]) if dilation else [1] * sides
    each = zip(x.shape[-sides:], widths, strides, paddings, dilations, strict=True)
    spans = [Span(*one) for one in each]
    outputs = [span.outputs(ceil=op.values[ceil] == "True") for span in spans]
    others = math.prod(x.shape[:-sides])
    touched = others * math.prod(span.touched(count) for span, count in zip(spans, outputs, strict=True))
    shape = (*x.shape[:-sides], *outputs)
    written = math.prod(shape) * (WIDTHS[x.kind] + kept)
    return Moved("arithmetic", format_of([x]), shape, x.bytes, written, _needed(x, touched))


def _adaptive(kept: int, op: Op) -> Moved:
    """Return what adaptive pooling moves; its windows touch the whole image."""
    x, outputs = operand(op, 0), numbers(op, 1)
    shape = (*x.shape[: -len(outputs)], *outputs)
    written = math.prod(shape) * (WIDTHS[x.kind] + kept)
    return Moved("arithmetic", format_of([x]), shape, x.bytes, written, x.bytes)


def _spread(indices: int | None, op: Op) -> Moved:
    """Return what the gradient of pooling or padding moves: gradients and indices to an image."""
    grad, x = operand(op, 0), operand(op, 1)
    read = grad.bytes + (operand(op, indices).bytes if indices else 0)
    written = math.prod(x.shape) * WIDTHS[x.kind]
    return Moved("scatter", format_of([grad]), grad.shape, read, written, read)


def _resized(kind: str, sides: int, op: Op) -> Moved:
    """Return what an interpolation moves; enlarging omits at most one position per dimension."""
    x, outputs = operand(op, 0), numbers(op, 1)
    if len(outputs) != sides:
        raise ValueError(f"{op.name} does not say its sizes")
    shape = (*x.shape[:-sides], *outputs)
    touched = math.prod(x.shape[:-sides]) * math.prod(
        max(min(side, out) - 1, 1) for side, out in zip(x.shape[-sides:], outputs, strict=True)
    )
    written = math.prod(shape) * WIDTHS[x.kind]
    return Moved(kind, format_of([x]), shape, x.bytes, written, _needed(x, touched))


def _resized_gradient(kind: str, op: Op) -> Moved:
    """Return what the gradient of an interpolation moves: the larger image, and the smaller one."""
    grad, sides = operand(op, 0), numbers(op, 2)
    written = math.prod(sides) * WIDTHS[grad.kind]
    return Moved(kind, format_of([grad]), grad.shape, grad.bytes, written, grad.bytes)


def _padded(op: Op) -> Moved:
    """Return what padding with the image's own values moves; paddings start with the last dimension."""
    x, pads = operand(op, 0), numbers(op, 1)
    if min(pads) < 0:
        raise ValueError("sides that are cut")
    more = [before + after for before, after in zip(pads[::2], pads[1::2], strict=True)][::-1]
    shape = (*x.shape[: -len(more)], *(s + m for s, m in zip(x.shape[-len(more) :], more, strict=True)))
    written = math.prod(shape) * WIDTHS[x.kind]
    return Moved("copy", format_of([x]), shape, x.bytes, written, x.bytes)


#: Interpolations by number of dimensions: those that copy one position, those that weigh several.
_COPIED = {f"upsample_nearest{sides}d": sides for sides in (1, 2, 3)} | {
    f"_upsample_nearest_exact{sides}d": sides for sides in (1, 2, 3)
}
_WEIGHED = {
    **{"upsample_linear1d": 1, "upsample_bilinear2d": 2, "upsample_bicubic2d": 2, "upsample_trilinear3d": 3},
    **{"_upsample_bilinear2d_aa": 2, "_upsample_bicubic2d_aa": 2},
}
_PADS = [f"{kind}_pad{sides}d" for kind in ("reflection", "replication") for sides in (1, 2, 3)]
READERS: Mapping[str, Reader] = {
    **{f"aten::max_pool{sides}d_with_indices": partial(_pooled, sides, _INDEX, 4, 5) for sides in (2, 3)},
    "aten::max_pool1d": partial(_pooled, 1, 0, 4, 5),
    **{f"aten::avg_pool{sides}d": partial(_pooled, sides, 0, None, 4) for sides in (2, 3)},
    **{f"aten::_adaptive_avg_pool{sides}d": partial(_adaptive, 0) for sides in (2, 3)},
    **{f"aten::adaptive_max_pool{sides}d": partial(_adaptive, _INDEX) for sides in (2, 3)},
    **{f"aten::max_pool{sides}d_with_indices_backward": partial(_spread, 7) for sides in (2, 3)},
    **{f"aten::adaptive_max_pool{sides}d_backward": partial(_spread, 2) for sides in (2, 3)},
    **{f"aten::avg_pool{sides}d_backward": partial(_spread, None) for sides in (2, 3)},
    **{f"aten::_adaptive_avg_pool{sides}d_backward": partial(_spread, None) for sides in (2, 3)},
    **{f"aten::{name}": partial(_resized, "copy", sides) for name, sides in _COPIED.items()},
    **{f"aten::{name}": partial(_resized, "arithmetic", sides) for name, sides in _WEIGHED.items()},
    **{f"aten::{name}_backward": partial(_resized_gradient, "scatter") for name in (*_COPIED, *_WEIGHED)},
    **{f"aten::{name}": _padded for name in _PADS},
    **{f"aten::{name}_backward": partial(_spread, None) for name in _PADS},
}
