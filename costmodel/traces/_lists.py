"""Operations on lists of tensors, whose formats a trace does not record.

On a GPU the format follows from the kernel's name; on a CPU, for a concatenation, from the memory that it
allocates, if that is recorded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import partial

from costmodel.traces._events import Op
from costmodel.traces._operands import DTYPES, OF_WIDTH, WIDTHS, Moved, Reader

#: Size of an element in the name of a concatenation's kernel [bytes].
_PIECES = re.compile(r"CatArrayBatchedCopy\w*<.*?OpaqueType<(?:\(unsigned int\))?(\d+)u?>")
#: Type in which a kernel over lists of tensors computes, in its name.
_FUNCTOR = re.compile(r"multi_tensor_apply_kernel<.*?Functor<([\w:]+)[,>]")


def _listed(op: Op, place: int) -> list[tuple[int, ...]]:
    """Return the shapes of a list of tensors, which must be recorded."""
    shapes = [tuple(int(side) for side in shape) for shape in op.inputs[place]]
    if op.types[place] != "TensorList" or not shapes:
        raise ValueError(f"input {place} of {op.name} is no list of shapes")
    return shapes


def _count(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes)


def _width(op: Op, count: int) -> int | None:
    """Return the size of an element of a concatenation of `count` elements [bytes], or None if unknown."""
    if not op.kernels:
        width, over = divmod(op.allocated, count)
        return width if width in OF_WIDTH and not over else None
    found = {name.group(1) for kernel in op.kernels if (name := _PIECES.search(kernel.name))}
    return int(found.pop()) if len(found) == 1 else None


def _concatenated(op: Op) -> Moved | None:
    count = _count(_listed(op, 0))
    width = _width(op, count)
    if width is None:
        return None
    moved = count * width
    pieces = [shape for shape in _listed(op, 0) if math.prod(shape)]
    last = pieces[0][-1] if pieces[0] else 1
    shape = (count // last, last) if count % last == 0 else (count,)
    # All pieces may be the same tensor, possibly an expanded one.
    most = max(math.prod(piece) for piece in pieces) * width if _dense(op) else 1
    return Moved("concatenate", OF_WIDTH[width], shape, moved, moved, most)


def _dense(op: Op) -> bool:
    """Return whether no tensor of the list is known to be expanded."""
    strides = op.strides[0] if op.strides else []
    return not any(
        step == 0 and side > 1
        for sides, steps in zip(op.inputs[0], strides, strict=False)
        for side, step in zip(sides, steps, strict=False)
    )


def _each(kind: str, reads: tuple[int, ...], writes: tuple[int, ...], op: Op) -> Moved | None:
    """Return what an operation on all tensors of some lists moves; it updates those that it writes."""
    names = [kernel.name for kernel in op.kernels]
    found = {name.group(1) for text in names if (name := _FUNCTOR.search(text))}
    if len(found) != 1 or not all("multi_tensor_apply_kernel" in name for name in names):
        return None
    (type_,) = found
    counts = {
        place: _count(_listed(op, place)) for place in {*reads, *writes} if op.types[place] == "TensorList"
    }
    read = sum(counts.get(place, 0) for place in reads) * WIDTHS[type_]
    in_place = op.name.endswith("_")
    written = sum(counts[place] for place in writes) * WIDTHS[type_]
    # Lists that are only read may be the same list: a gradient times itself.
    others = [counts[place] for place in reads if place in counts and not (in_place and place in writes)]
    least = (written if in_place else 0) + max(others, default=0) * WIDTHS[type_]
    return Moved(kind, DTYPES[type_], (counts[writes[0]],), read, written, least, in_place)


READERS: Mapping[str, Reader] = {
    "aten::cat": _concatenated,
    **{
        f"aten::_foreach_{name}_": partial(_each, kind, reads, (0,))
        for name, kind, reads in (
            ("add", "arithmetic", (0, 1)),
            ("sub", "arithmetic", (0, 1)),
            ("mul", "arithmetic", (0, 1)),
            ("div", "arithmetic", (0, 1)),
            ("sqrt", "function", (0,)),
            ("neg", "arithmetic", (0,)),
            ("addcmul", "multiply-add", (0, 1, 2)),
            ("addcdiv", "multiply-add", (0, 1, 2)),
            ("lerp", "multiply-add", (0, 1)),
        )
    },
    "aten::_foreach_sqrt": partial(_each, "function", (0,), (0,)),
    # (weights, gradients, first moments, second moments, …): gradients are only read.
    "aten::_fused_adam_": partial(_each, "multiply-add", (0, 1, 2, 3), (0, 2, 3)),
    "aten::_fused_adamw_": partial(_each, "multiply-add", (0, 1, 2, 3), (0, 2, 3)),
}
