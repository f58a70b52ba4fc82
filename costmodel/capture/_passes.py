"""From memory-bound operations to passes over memory: what they read, write and compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import sympy as sp

from costmodel.capture import _ops
from costmodel.capture._layers import Pass
from costmodel.capture._parts import CapturedPart, Example, format_of, size_of
from costmodel.capture._records import WIDTHS, Call, Operand, Piece
from costmodel.cost import ONE, ZERO
from costmodel.layers import Layer
from costmodel.layers._kernels import POINTWISE, POINTWISE_GRADIENT
from costmodel.layers.pointwise import Norm, Softmax
from costmodel.models import Part


@dataclass(frozen=True, eq=False)
class Memory:
    """A memory-bound operation: what it reads, writes and computes.

    Attributes
    ----------
    call : Call
        The operation.
    kind : str
        Its kind, see `_ops.kind`.
    table : Operand
        The largest of its operands and results, over which it passes.
    reads, writes : mapping of Piece to Expr
        Bytes read and written, by part of a storage.
    vector, special : Expr
        Arithmetic [FLOP].
    pattern : str
        ``elementwise``, ``softmax``, ``norm`` or ``rmsnorm``.
    reduced : Operand or None
        Result of a row reduction, smaller than the table.
    by_rows : bool
        Whether the reduced dimensions are contiguous (the last ones).
    """

    call: Call
    kind: str
    table: Operand
    reads: Mapping[Piece, sp.Expr]
    writes: Mapping[Piece, sp.Expr]
    vector: sp.Expr = ZERO
    special: sp.Expr = ZERO
    pattern: str = "elementwise"
    reduced: Operand | None = None
    by_rows: bool = False
    layer: Layer | None = None
    sizes: Mapping[str, sp.Expr] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[sp.Expr, sp.Expr]:
        """Rows and columns of the table."""
        if self.sizes:
            return self.sizes["m"], self.sizes["n"]
        shape = self.table.shape
        return sp.Mul(*shape[:-1]), (shape[-1] if shape else ONE)


def memory(call: Call, example: Example) -> Memory:
    """Return what a memory-bound operation moves and computes; unknown ones read and write everything."""
    known = _ops.kind(call) or "move"
    reads, writes = _traffic(call, known)
    candidates = [*call.operands, *call.written] if known not in ("creation", "gather") else call.written
    table = max(candidates, key=lambda operand: size_of(operand.numel, example))
    if call.op in ROWS:
        return _rows(call, reads, writes)
    vector, special = _ops.arithmetic(call.op, known)
    if call.op == "pow" and call.args[1:] and call.args[1] in (2, 3, 2.0, 3.0):
        vector, special = int(call.args[1]) - 1, 0
    if _is_tanh_gelu(call):
        counts = POINTWISE if call.op == "gelu" else POINTWISE_GRADIENT
        vector, special = counts["gelu-tanh"].vector, counts["gelu-tanh"].special
    reduced, by_rows = None, False
    if known == "reduction" and call.outputs:
        reduced, by_rows = call.outputs[0], _reduces_rows(call)
    numel = table.numel
    return Memory(
        call, known, table, reads, writes, vector * numel, special * numel, reduced=reduced, by_rows=by_rows
    )


def _is_tanh_gelu(call: Call) -> bool:
    """Return whether an operation is GELU's approximation by tanh, or its gradient."""
    return call.op in ("gelu", "gelu_backward") and call.kwargs.get("approximate") == "tanh"


def _traffic(call: Call, known: str) -> tuple[dict[Piece, sp.Expr], dict[Piece, sp.Expr]]:
    """Return the bytes read and written, by part of a storage."""
    writes = {operand.piece: operand.bytes for operand in call.written}
    if known == "creation":
        return {}, writes
    reads = call.pieces
    if call.op == "copy":
        reads.pop(call.args[0].piece, None)
    first = call.args[0] if call.args and isinstance(call.args[0], Operand) else None
    if known == "gather" and first is not None:
        taken = call.args[1] if call.op == "nll_loss_forward" else call.outputs[0]
        reads[first.piece] = taken.numel * WIDTHS[first.dtype]
    if known == "scatter":
        _scatter(call, reads, writes)
    return reads, writes


def _scatter(call: Call, reads: dict[Piece, sp.Expr], writes: dict[Piece, sp.Expr]) -> None:
    """Update the traffic of a scatter: target elements are read and written; a new target is first filled."""
    if call.op == "nll_loss_backward":  # (gradient, input, target, …): the input is not looked at
        reads.pop(call.args[1].piece, None)
        return
    target = call.mutated[0] if call.mutated else call.outputs[0]
    sources = [o for o in call.operands if o.is_float and o.storage != target.storage]
    touched = sources[-1].bytes if sources else ZERO
    if call.mutated:
        reads[target.piece] = touched
        writes[target.piece] = touched
    else:
        writes[target.piece] = target.bytes + touched


def _reduces_rows(call: Call) -> bool:
    """Return whether a reduction is over the last dimensions, which are contiguous in memory."""
    rank = len(call.args[0].shape) if isinstance(call.args[0], Operand) else 0
    dims = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim")
    if isinstance(dims, int):
        dims = (dims,)
    if not isinstance(dims, tuple) or not dims:
        return True
    over = sorted(int(d) % rank for d in dims) if rank else []
    return over == list(range(rank - len(over), rank))


def _norm(call: Call, kind: str, direction: str) -> tuple[Layer, sp.Expr, Operand]:
    x, shape = (call.args[0], call.args[1]) if direction == "fwd" else (call.args[1], call.args[2])
    return Norm(dtype=format_of(x), kind=kind, direction=direction), sp.Mul(*map(sp.sympify, shape)), x


def _softmax(call: Call, direction: str) -> tuple[Layer, sp.Expr, Operand]:
    x = call.args[0]
    dim = call.args[1] if direction == "fwd" else call.args[2]
    return Softmax(dtype=format_of(x), direction=direction), (x.shape[int(dim)] if x.shape else ONE), x


#: Row-wise operations that are layers → pattern of the rows, and a function that reads the layer from a
#: call.
ROWS: Mapping[str, tuple[str, Callable[[Call], tuple[Layer, sp.Expr, Operand]]]] = {
    "native_layer_norm": ("norm", lambda call: _norm(call, "layer", "fwd")),
    "native_layer_norm_backward": ("norm", lambda call: _norm(call, "layer", "bwd")),
    "_fused_rms_norm": ("rmsnorm", lambda call: _norm(call, "rms", "fwd")),
    "_fused_rms_norm_backward": ("rmsnorm", lambda call: _norm(call, "rms", "bwd")),
    **dict.fromkeys(
        ("_softmax", "_log_softmax", "_safe_softmax"), ("softmax", lambda call: _softmax(call, "fwd"))
    ),
    **dict.fromkeys(
        ("_softmax_backward_data", "_log_softmax_backward_data"),
        ("softmax", lambda call: _softmax(call, "bwd")),
    ),
}


def _rows(call: Call, reads: Mapping[Piece, sp.Expr], writes: Mapping[Piece, sp.Expr]) -> Memory:
    """Return an operation that is a layer: softmax, a norm, or the gradient of one."""
    pattern, read = ROWS[call.op]
    layer, cols, x = read(call)
    sizes = {"m": x.numel / cols, "n": cols}
    part = Part.of("", layer, **sizes)
    (phase,) = layer.phases()
    counts = {engine: part.expression(value) for (engine, _), value in phase.flops.items()}
    return Memory(
        call=call,
        kind="rows",
        table=x,
        reads=reads,
        writes=writes,
        vector=counts.get("vector", ZERO),
        special=counts.get("special", ZERO),
        pattern=pattern,
        by_rows=True,
        layer=layer if call.outputs[0].dtype == x.dtype else None,
        sizes=sizes,
    )


def pass_of(
    title: str, path: str, group: list[Memory], reads: sp.Expr, writes: sp.Expr, example: Example
) -> CapturedPart:
    """Return the kernel that runs one memory-bound operation, or several fused ones."""
    largest = max(group, key=lambda one: size_of(one.table.numel, example))
    rows, cols = next((one.shape for one in group if one.pattern != "elementwise"), largest.shape)
    patterns = [one.pattern for one in group if one.pattern != "elementwise"]
    pattern = "softmax" if "softmax" in patterns else (patterns[0] if patterns else "elementwise")
    floats = [o for one in group for o in (*one.call.operands, *one.call.written) if o.is_float]
    widest = max(floats, key=lambda o: size_of(o.bytes, example), default=largest.table)
    names = list(dict.fromkeys(one.call.op for one in group))
    op = _measured(group, pattern)
    layer = Pass(
        dtype=format_of(widest),
        title=" + ".join(names[:4]) + (f" + {len(names) - 4} more" if len(names) > 4 else ""),
        op=op,
        borrowed=len(group) > 1
        or _ops.THEMSELVES.get(group[0].call.op) != op
        or _is_tanh_gelu(group[0].call),
        pattern=pattern,
        rows=rows,
        cols=cols,
        read=reads,
        write=writes,
        vector=sp.Add(*(one.vector for one in group)),
        special=sp.Add(*(one.special for one in group)),
    )
    return CapturedPart(path or title, layer, ())


def _measured(group: list[Memory], pattern: str) -> str:
    """Return the measured operation that is nearest to a pass."""
    if pattern != "elementwise":
        return {"softmax": "softmax", "norm": "layernorm", "rmsnorm": "rmsnorm"}[pattern]
    if len(group) == 1 and group[0].call.op in _ops.MEASURED:
        return _ops.MEASURED[group[0].call.op]
    operands = {piece for one in group for piece in one.reads}
    return "elementwise_add" if len(operands) > 1 else "elementwise_mul_scalar"
