"""What a memory-bound operation of torch reads and writes: the bytes of its operands and of its result.

One table says of each operation which operands it has and how large its result is; shapes, strides and
formats are the trace's. Where these do not settle the bytes, `row` returns None, and `lacking` says why.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from costmodel.measured import PASSES
from costmodel.traces._events import Op

#: Format by the type of a tensor's elements, as traces name it.
DTYPES = {
    "float": "fp32",
    "double": "fp64",
    "c10::BFloat16": "bf16",
    "c10::Half": "fp16",
    "c10::Float8_e4m3fn": "fp8",
    "c10::Float8_e5m2": "fp8",
}
#: Bytes of an element by its type; compilers call integers by several names.
WIDTHS = {
    **dict.fromkeys(("bool", "signed char", "unsigned char", "c10::Float8_e4m3fn", "c10::Float8_e5m2"), 1),
    **dict.fromkeys(("short", "short int", "short unsigned int", "c10::Half", "c10::BFloat16"), 2),
    **dict.fromkeys(("int", "unsigned int", "float"), 4),
    **dict.fromkeys(("long", "long int", "long long", "__int64", "double"), 8),
}
#: The number that stands for a format in an operation's arguments (``c10/core/ScalarType.h``) → its type.
NUMBERED = {"5": "c10::Half", "6": "float", "7": "double", "15": "c10::BFloat16"}
#: Pass → the operation of its rows.
_ROWS_OF = {op: name for name, op in PASSES.items()}
#: A format for tensors of which only the width is known; passes that only move need no more.
_OF_WIDTH = {1: "int8", 2: "fp16", 4: "fp32", 8: "fp64"}


@dataclass(frozen=True)
class Operand:
    """A tensor among an operation's inputs: its sides, the type of its elements, the elements in memory."""

    shape: tuple[int, ...]
    kind: str
    elements: int

    @property
    def bytes(self) -> int:
        """Its size in memory."""
        return self.elements * WIDTHS[self.kind]


@dataclass(frozen=True)
class Moved:
    """What an operation moves.

    Attributes
    ----------
    op : str
        The pass, an operation of ``costmodel.layers.memory_pass``.
    dtype : str
        The widest format of its floats.
    shape : tuple of int
        The table over which it passes.
    read, written : int
        Bytes.
    least : int
        Bytes that are read in any case: operands may be one tensor (``x * x``), gathered rows the same.
    in_place : bool
        Whether the result replaces part of what is read.
    """

    op: str
    dtype: str
    shape: tuple[int, ...]
    read: int
    written: int
    least: int
    in_place: bool = False

    def row(self) -> dict[str, Any]:
        """Return the columns of its row."""
        table = {"m": math.prod(self.shape[:-1]), "n": self.shape[-1] if self.shape else 1}
        moved = {"written_bytes": self.written, "in_place": self.in_place}
        if self.read:
            moved |= {"read_bytes": self.read, "least_bytes": self.least}
        return {"op": _ROWS_OF[self.op], "dtype": self.dtype, **table, **moved}


Reader = Callable[[Op], Moved | None]


def row(op: Op) -> dict[str, Any] | None:
    """Return the columns of the row of a memory-bound operation; None if its bytes are not to be told."""
    reader = READERS.get(op.name)
    try:
        moved = reader(op) if reader else None
    except (IndexError, KeyError, TypeError, ValueError):
        return None  # inputs that are not those of the schema: another release's
    return moved.row() if moved else None


def lacking(op: Op) -> str:
    """Return why a memory-bound operation has no row; empty if it is none of the table."""
    if op.name in LISTED or op.name.startswith("aten::_foreach_"):
        return "a trace does not record the formats of tensors in a list, nor the shapes of a long one"
    if op.name in INDEXED:
        return "a trace does not record the tensors of indices of a[i]"
    return ""


def is_tensor(op: Op, place: int) -> bool:
    """Return whether an input is a tensor of numbers."""
    return place < len(op.types) and op.types[place] in WIDTHS


def operand(op: Op, place: int) -> Operand:
    """Return an input that has to be a tensor with at least one element."""
    shape = tuple(int(side) for side in op.inputs[place])
    kind = op.types[place]
    if kind not in WIDTHS or 0 in shape:
        raise ValueError(f"input {place} of {op.name} is no tensor with elements")
    strides = op.strides[place] if place < len(op.strides) else ()
    return Operand(shape, kind, _elements(shape, strides))


def _elements(shape: tuple[int, ...], strides: Iterable[Any]) -> int:
    """Return how many elements of memory a tensor covers: of an expanded side one, of windows the stretch."""
    steps = [int(step) for step in strides]
    if len(steps) != len(shape):
        return math.prod(shape)
    distinct = math.prod(side for side, step in zip(shape, steps, strict=True) if step)
    return min(distinct, 1 + sum((side - 1) * step for side, step in zip(shape, steps, strict=True)))


def _dtype(operands: Iterable[Operand]) -> str:
    """Return the widest format of the floats among some operands; of bytes and flags ``int8``."""
    kinds = {each.kind for each in operands}
    floats = [kind for kind in kinds if kind in DTYPES]
    if floats:
        return DTYPES[max(floats, key=lambda kind: (WIDTHS[kind], kind))]
    if any(WIDTHS[kind] > 1 for kind in kinds):
        raise ValueError("integers, for which there is no format")
    return "int8"


def _least(operands: Iterable[Operand]) -> int:
    """Return the bytes that are read in any case: tensors of one format may be one, or parts of one."""
    largest: dict[str, int] = {}
    for each in operands:
        largest[each.kind] = max(largest.get(each.kind, 0), each.bytes)
    return sum(largest.values())


# -- operations on each element --------------------------------------------------------------


def _promoted(operands: list[Operand]) -> str:
    """Return the type of a result of floats: the widest of those with sides; fp16 and bf16 give fp32.

    A single number takes part only if nothing has sides. Results of integers depend on more than the trace
    records.
    """
    sided = [each for each in operands if each.shape] or operands[:1]
    floats = {each.kind for each in sided if each.kind in DTYPES}
    if not floats:
        raise ValueError("no floats")
    widest = max(WIDTHS[kind] for kind in floats)
    found = {kind for kind in floats if WIDTHS[kind] == widest}
    return found.pop() if len(found) == 1 else "float"


def _broadcast(operands: list[Operand]) -> tuple[int, ...]:
    """Return the shape of the result of operands that repeat along their sides of 1."""
    sides = max(len(each.shape) for each in operands)
    padded = [(1,) * (sides - len(each.shape)) + each.shape for each in operands]
    found = []
    for at_one in zip(*padded, strict=True):
        longest = max(at_one)
        if any(side not in (1, longest) for side in at_one):
            raise ValueError("sides that do not fit")
        found.append(longest)
    return tuple(found)


def _pointwise(kind: str, operands: int, result: str, op: Op) -> Moved | None:
    """Return what an operation on each element moves.

    Parameters
    ----------
    kind : str
        The pass.
    operands : int
        How many inputs may be tensors, from the first on. A further one is a result that was handed in.
    result : str
        ``bool``, or ``float``: the wider of the operands' formats.
    op : Op
        The call.
    """
    if any(is_tensor(op, place) for place in range(operands, len(op.types))):
        return None
    read = [operand(op, place) for place in range(operands) if is_tensor(op, place)]
    in_place = op.name.endswith("_")
    if in_place:
        written, shape = read[0].bytes, read[0].shape
    else:
        shape = _broadcast(read)
        made = "bool" if result == "bool" else _promoted(read)
        written = math.prod(shape) * WIDTHS[made]
    total = sum(each.bytes for each in read)
    return Moved(kind, _dtype(read), shape, total, written, _least(read), in_place)


def _dropout(op: Op) -> Moved:
    """Return what a dropout moves: its input, the result, and a mask of one byte per element."""
    x = operand(op, 0)
    count = math.prod(x.shape)
    return Moved("dropout", _dtype([x]), x.shape, x.bytes, count * WIDTHS[x.kind] + count, x.bytes)


def _normalised(operands: int, op: Op) -> Moved:
    """Return what (x − mean) · scale + shift moves, or its gradient; what a channel shares does not count."""
    read = [operand(op, place) for place in range(operands)]
    x = read[0]
    written = math.prod(x.shape) * WIDTHS[x.kind]
    total = sum(each.bytes for each in read)
    return Moved("multiply-add", _dtype(read), x.shape, total, written, _least(read))


# -- moves -----------------------------------------------------------------------------------


def _copy(op: Op) -> Moved | None:
    """Return what a copy on one device moves, from one format to another or along another order of sides."""
    copies = (kernel.name for kernel in op.kernels if kernel.name.startswith("Memcpy"))
    if any(not name.startswith("Memcpy DtoD") for name in copies):
        return None
    to, source = operand(op, 0), operand(op, 1)
    kind = "copy" if to.kind == source.kind else "cast"
    return Moved(kind, _dtype([to, source]), to.shape, source.bytes, to.bytes, source.bytes)


def _fill(op: Op) -> Moved:
    """Return what a fill writes; it reads nothing."""
    to = operand(op, 0)
    return Moved("fill", _dtype([to]), to.shape, 0, to.bytes, 0)


def _gather(index: int, shape: Callable[[Op, Operand, Operand], tuple[int, ...]], op: Op) -> Moved:
    """Return what a look-up moves: the indices, and each element that it returns, in and out."""
    table, indices = operand(op, 0), operand(op, index)
    found = shape(op, table, indices)
    taken = math.prod(found) * WIDTHS[table.kind]
    return Moved("gather", _dtype([table]), found, taken + indices.bytes, taken, indices.bytes)


def _selected(op: Op, table: Operand, indices: Operand) -> tuple[int, ...]:
    """Return the shape of the result of ``index_select``: `indices` along one side."""
    sides = list(table.shape)
    sides[int(op.values[1])] = math.prod(indices.shape)
    return tuple(sides)


def _loss(op: Op) -> Moved:
    """Return what a loss of chosen scores moves: a number and its place per row in, their mean out."""
    scores, chosen = operand(op, 0), operand(op, 1)
    number = WIDTHS[scores.kind]
    rows = math.prod(chosen.shape)
    written = (rows if op.values[3] == "0" else 1) * number
    return Moved(
        "gather", _dtype([scores]), chosen.shape, chosen.bytes + rows * number, written, chosen.bytes
    )


def _embedding_gradient(op: Op) -> Moved:
    """Return what the gradient of an embedding moves: rows and indices in, a new table out."""
    rows, indices = operand(op, 0), operand(op, 1)
    written = int(op.values[2]) * rows.shape[-1] * WIDTHS[rows.kind]
    read = rows.bytes + indices.bytes
    return Moved("scatter-add", _dtype([rows]), rows.shape, read, written, read)


def _loss_gradient(op: Op) -> Moved:
    """Return what the gradient of a loss of chosen scores writes: zeros, and one number per row."""
    scores, chosen = operand(op, 1), operand(op, 2)
    written = math.prod(scores.shape) * WIDTHS[scores.kind]
    return Moved("copy", _dtype([scores]), scores.shape, chosen.bytes, written, chosen.bytes)


# -- sums ------------------------------------------------------------------------------------


def _sum(dims: int, dtype: int | None, result: str, op: Op) -> Moved | None:
    """Return what a sum or a maximum over some sides moves.

    Parameters
    ----------
    dims : int
        Which input says the sides; where it says none, all are summed.
    dtype : int or None
        Which input says the format of the result; default that of the first.
    result : str
        ``float``, ``bool``, ``index`` (where the maximum is), or ``both`` of a maximum and its place.
    op : Op
        The call.
    """
    x = operand(op, 0)
    if dtype is not None and len(op.values) == 2:  # (self, dtype)
        dims, dtype = 2, 1
    said = op.values[dims].strip("[]") if dims < len(op.values) else ""
    over = [int(side) for side in said.split(",")] if said else range(len(x.shape))
    sums = math.prod(x.shape) // math.prod(x.shape[side] for side in over)
    made = x.kind
    if dtype is not None and dtype < len(op.values) and op.values[dtype]:
        made = NUMBERED[op.values[dtype]]
    if result in ("float", "both") and made not in DTYPES:
        return None  # sums of integers are wider
    number = {"float": WIDTHS[made], "bool": 1, "index": 8, "both": WIDTHS[made] + 8 * bool(said)}[result]
    return Moved("sum", _dtype([x]), x.shape, x.bytes, sums * number, x.bytes)


def _largest(op: Op) -> Moved | None:
    """Return what ``max`` or ``min`` moves: of two tables, along one side with its places, or of all."""
    if is_tensor(op, 1):
        return _pointwise("arithmetic", 2, "float", op)
    return _sum(1, None, "both", op)


def _scanned(op: Op) -> Moved | None:
    """Return what a running sum moves."""
    x = operand(op, 0)
    if x.kind not in DTYPES or (len(op.values) > 2 and op.values[2]):
        return None
    return Moved("sum", _dtype([x]), x.shape, x.bytes, math.prod(x.shape) * WIDTHS[x.kind], x.bytes)


# -- lists of tensors, whose format is told by the kernel's name alone --------------------------

#: What a concatenation moves, in the name of its kernel: elements of so many bytes, or a type.
_PIECES = re.compile(r"CatArrayBatchedCopy\w*<.*?OpaqueType<(?:\(unsigned int\))?(\d+)u?>")
#: What one kernel over a list of tensors computes in.
_FUNCTOR = re.compile(r"multi_tensor_apply_kernel<.*?Functor<([\w:]+)[,>]")


def _listed(op: Op, place: int) -> list[tuple[int, ...]]:
    """Return the shapes of a list of tensors, which has to be recorded."""
    shapes = [tuple(int(side) for side in shape) for shape in op.inputs[place]]
    if op.types[place] != "TensorList" or not shapes:
        raise ValueError(f"input {place} of {op.name} is no list of shapes")
    return shapes


def _count(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes)


def _concatenated(op: Op) -> Moved | None:
    found = {name.group(1) for kernel in op.kernels if (name := _PIECES.search(kernel.name))}
    if len(found) != 1:
        return None
    width = int(found.pop())
    count = _count(_listed(op, 0))
    moved = count * width
    pieces = [shape for shape in _listed(op, 0) if math.prod(shape)]
    last = pieces[0][-1] if pieces[0] else 1
    shape = (count // last, last) if count % last == 0 else (count,)
    most = max(math.prod(piece) for piece in pieces) * width
    return Moved("concatenate", _OF_WIDTH[width], shape, moved, moved, most)


def _each(kind: str, reads: tuple[int, ...], writes: tuple[int, ...], op: Op) -> Moved | None:
    """Return what one operation on all tensors of some lists moves; those that it writes it replaces."""
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
    # Lists that are not replaced may be one: a gradient times itself.
    others = [counts[place] for place in reads if place in counts and not (in_place and place in writes)]
    least = (written if in_place else 0) + max(others, default=0) * WIDTHS[type_]
    return Moved(kind, DTYPES[type_], (counts[writes[0]],), read, written, least, in_place)


# -- the table -------------------------------------------------------------------------------


def _both(names: Iterable[str], reader: Callable[[Op], Moved | None]) -> dict[str, Reader]:
    """Return readers by name, and the same where the result overwrites the first input."""
    return {f"aten::{name}{ending}": reader for name in names for ending in ("", "_")}


_ONE = ("neg", "abs", "relu", "ceil", "floor", "round", "sign", "leaky_relu", "hardtanh", "square")
_FUNCTIONS = (
    *("exp", "log", "sqrt", "rsqrt", "reciprocal", "tanh", "sigmoid", "gelu", "silu", "erf", "sin", "cos"),
    *("log1p", "expm1", "exp2", "log2"),
)
_COMPARED = ("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor")
#: Operations by the names that traces give them.
READERS: Mapping[str, Reader] = {
    **_both(_ONE, partial(_pointwise, "arithmetic", 1, "float")),
    **_both(_FUNCTIONS, partial(_pointwise, "function", 1, "float")),
    **_both(("add", "sub", "mul", "div"), partial(_pointwise, "arithmetic", 2, "float")),
    **_both(("pow",), partial(_pointwise, "function", 2, "float")),
    **_both(("clamp",), partial(_pointwise, "arithmetic", 3, "float")),
    **_both(("clamp_min", "clamp_max"), partial(_pointwise, "arithmetic", 2, "float")),
    **_both(("addcmul", "addcdiv", "lerp"), partial(_pointwise, "multiply-add", 3, "float")),
    # In place it need not read what it replaces.
    "aten::masked_fill": partial(_pointwise, "arithmetic", 2, "float"),
    "aten::rsub": partial(_pointwise, "arithmetic", 2, "float"),
    "aten::maximum": partial(_pointwise, "arithmetic", 2, "float"),
    "aten::minimum": partial(_pointwise, "arithmetic", 2, "float"),
    "aten::where": partial(_pointwise, "arithmetic", 3, "float"),
    "aten::threshold_backward": partial(_pointwise, "arithmetic", 2, "float"),
    **{
        f"aten::{name}_backward": partial(_pointwise, "function", 2, "float")
        for name in ("tanh", "sigmoid", "gelu", "silu")
    },
    **{f"aten::{name}": partial(_pointwise, "arithmetic", 2, "bool") for name in _COMPARED},
    **{f"aten::{name}": partial(_pointwise, "arithmetic", 1, "bool") for name in ("isnan", "logical_not")},
    **{
        f"aten::{name}{ending}": partial(_normalised, operands)
        for name in ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "native_group_norm")
        for ending, operands in (("", 1), ("_backward", 2))
    },
    "aten::native_dropout": _dropout,
    "aten::native_dropout_backward": partial(_pointwise, "dropout", 2, "float"),
    "aten::copy_": _copy,
    "aten::fill_": _fill,
    "aten::zero_": _fill,
    "aten::embedding": partial(_gather, 1, lambda _, table, indices: (*indices.shape, table.shape[-1])),
    "aten::index_select": partial(_gather, 2, _selected),
    "aten::gather": partial(_gather, 2, lambda _, __, indices: indices.shape),
    "aten::embedding_dense_backward": _embedding_gradient,
    "aten::nll_loss_forward": _loss,
    "aten::nll_loss_backward": _loss_gradient,
    "aten::sum": partial(_sum, 1, 3, "float"),
    "aten::mean": partial(_sum, 1, 3, "float"),
    "aten::prod": partial(_sum, 1, 3, "float"),
    "aten::linalg_vector_norm": partial(_sum, 2, 4, "float"),
    "aten::var": partial(_sum, 1, None, "float"),
    "aten::std": partial(_sum, 1, None, "float"),
    "aten::amax": partial(_sum, 1, None, "float"),
    "aten::amin": partial(_sum, 1, None, "float"),
    "aten::argmax": partial(_sum, 1, None, "index"),
    "aten::argmin": partial(_sum, 1, None, "index"),
    "aten::max": _largest,
    "aten::min": _largest,
    "aten::any": partial(_sum, 1, None, "bool"),
    "aten::all": partial(_sum, 1, None, "bool"),
    "aten::cumsum": _scanned,
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
#: Those among them whose operands are lists.
LISTED = frozenset(
    name for name, reader in READERS.items() if getattr(reader, "func", reader) in (_each, _concatenated)
)
#: Look-ups by tensors of indices, which a trace leaves out.
INDEXED = frozenset(("aten::index", "aten::index_put_", "aten::_index_put_impl_"))
