"""Operations of torch as rows of measured tables: op, dtype and sizes.

Each reader takes one call and returns the columns of its row, or None if no layer describes the call
(operands of two formats, a mask, a softmax over a dimension other than the last). Positions of arguments are
those of torch's schemas (``native_functions.yaml``), which the tests compare them with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from costmodel.traces import _convolutions, _passes
from costmodel.traces._events import Op
from costmodel.traces._operands import DTYPES, is_sparse, operand

Row = dict[str, Any]
Reader = Callable[[Op], Row | None]


def row(op: Op) -> Row | None:
    """Return the columns of an operation's row: op, dtype and sizes; None if no layer describes it.

    An operation without a reader here may still be a pass over memory.
    """
    reader = READERS.get(op.name)
    try:
        found = reader(op) if reader else None
    except (IndexError, KeyError, TypeError, ValueError):
        found = None  # inputs of another release's schema
    return found or _passes.row(op)


def first_dtype(op: Op) -> str | None:
    """Return the format of an operation's first floating-point tensor, or None."""
    return next((DTYPES[kind] for kind in op.types if kind in DTYPES), None)


def _sides(op: Op, place: int) -> tuple[int, ...]:
    """Return the shape of an input, which must be a dense floating-point tensor with elements."""
    shape = tuple(int(side) for side in op.inputs[place])
    if 0 in shape or not shape or op.types[place] not in DTYPES or is_sparse(op, place):
        raise ValueError(f"input {place} of {op.name} is no dense tensor of floats")
    return shape


def _shape(op: Op, place: int) -> tuple[int, ...]:
    """Return the shape of an input, which must not be expanded (have strides of 0)."""
    shape = _sides(op, place)
    strides = op.strides[place] if place < len(op.strides) else ()
    if any(stride == 0 and side > 1 for side, stride in zip(shape, strides, strict=False)):
        raise ValueError(f"input {place} of {op.name} is expanded")
    return shape


def _dtype(op: Op, *places: int) -> str:
    """Return the common format of some inputs."""
    found = {DTYPES[op.types[place]] for place in places}
    if len(found) > 1:
        raise ValueError(f"inputs of {op.name} have several formats")
    return found.pop()


def _flag(op: Op, place: int) -> bool:
    return {"True": True, "False": False}[op.values[place]]


def _matmul(a: int, op: Op) -> Row:
    """A product of two matrices, inputs `a` and `a` + 1; torch copies expanded ones."""
    (m, k), (_, n) = _sides(op, a), _sides(op, a + 1)
    return {"op": "gemm", "dtype": _dtype(op, a, a + 1), "m": m, "n": n, "k": k}


def _batched(a: int, op: Op) -> Row:
    (b, m, k), (_, _, n) = _shape(op, a), _shape(op, a + 1)
    return {"op": "bmm", "dtype": _dtype(op, a, a + 1), "b": b, "m": m, "n": n, "k": k}


def _attention(kernel: str, query: int, causal: int, mask: int | None, direction: str, op: Op) -> Row | None:
    """Attention over (batch, heads, length, head_dim); `query`, `causal` and `mask` are inputs.

    A mask saves no work in these kernels. Reading it is not counted, so it must be small.
    """
    batch, heads, seq_q, head_dim = _shape(op, query)
    if mask is not None and op.inputs[mask]:
        beside = sum(operand(op, place).elements for place in (query, query + 1))
        if operand(op, mask).elements > beside:
            return None
    keys = _, kv_heads, seq_kv, _ = _shape(op, query + 1)
    is_causal = _flag(op, causal)
    if keys[::3] != (batch, head_dim) or _shape(op, query + 2) != keys or (is_causal and seq_q != seq_kv):
        return None  # values of another width, or a causal mask aligned to the first key
    sizes = {"batch": batch, "seq_kv": seq_kv, "heads_q": heads, "heads_kv": kv_heads, "head_dim": head_dim}
    found = {"dtype": _dtype(op, query, query + 1, query + 2), "kernel": kernel, **sizes}
    if seq_q == 1 and direction == "fwd":
        return {"op": "attention_decode", **found}
    name = "attention_prefill" if is_causal else "attention_prefill_noncausal"
    return {"op": name, "direction": direction, "seq_q": seq_q, **found}


def _softmax(place: int, direction: str, op: Op) -> Row | None:
    """A softmax or log-softmax of input `place`, over the dimension given by the next input."""
    shape = _shape(op, place)
    if int(op.values[place + 1]) not in (-1, len(shape) - 1):
        return None
    if direction == "fwd" and _flag(op, place + 2):
        return None  # reads bf16 or fp16 and writes fp32
    return {"op": "softmax", "direction": direction, "dtype": _dtype(op, place), **_table(shape)}


def _norm(name: str, place: int, direction: str, op: Op) -> Row:
    """A norm of input `place`, over the shape given by the next input."""
    shape = _shape(op, place)
    columns = math.prod(int(side) for side in op.values[place + 1].strip("[]").split(","))
    table = {"m": math.prod(shape) // columns, "n": columns}
    return {"op": name, "direction": direction, "dtype": _dtype(op, place), **table}


def _unary(name: str, direction: str, op: Op) -> Row:
    """A pointwise operation on the first input, or its gradient."""
    flags = {"in_place": op.name.endswith("_")} if direction == "fwd" else {}
    return {"op": name, "direction": direction, "dtype": _dtype(op, 0), **flags, **_table(_shape(op, 0))}


def _binary(name: str, op: Op) -> Row | None:
    """Arithmetic on two tensors of one shape, which may be the same tensor, or on a tensor and a number."""
    shape, flags = _shape(op, 0), {"in_place": op.name.endswith("_")}
    if not op.inputs[1]:
        return {"op": f"elementwise_{name}_scalar", "dtype": _dtype(op, 0), **flags, **_table(shape)}
    if _shape(op, 1) != shape:
        return None  # one of them is broadcast
    return {
        "op": f"elementwise_{name}",
        "dtype": _dtype(op, 0, 1),
        "shared": True,
        **flags,
        **_table(shape),
    }


def _copy(op: Op) -> Row | None:
    """A copy on one device, within one format; AMD's runtime does not always name the direction."""
    if op.leaves_device:
        return None
    shape = _shape(op, 0)
    if _shape(op, 1) != shape:
        return None
    return {"op": "copy", "dtype": _dtype(op, 0, 1), **_table(shape)}


def _recurrent(name: str, op: Op) -> Row | None:
    """Recurrent layers: (input, states, weights, biases, layers, dropout, train, bidirectional, …)."""
    state = op.inputs[1][0] if name == "lstm" else op.inputs[1]
    if name == "lstm" and op.inputs[1][1] != state:
        return None  # an LSTM with projections
    layers, both_ways = int(op.values[4]), _flag(op, 7)
    seq, batch, width = _shape(op, 0)
    if _flag(op, 8):  # batch first
        seq, batch = batch, seq
    _, _, hidden = (int(side) for side in state)
    return {
        "op": name,
        "dtype": _dtype(op, 0),
        "batch": batch,
        "seq": seq,
        "input": width,
        "hidden": hidden,
        "num_layers": layers,
        "bidirectional": both_ways,
    }


def _recurrent_gradient(op: Op) -> Row | None:
    """The gradients (inputs and weights) of one recurrent layer in one direction, by oneDNN."""
    name = {"2": "lstm", "3": "gru"}.get(op.values[14])
    (seq, batch, width), hidden = _shape(op, 0), int(op.values[15])
    if name is None or tuple(op.inputs[2])[1:] != (hidden,):
        return None
    sizes = {"batch": batch, "seq": seq, "input": width, "hidden": hidden, "num_layers": 1}
    return {"op": name, "direction": "bwd", "dtype": _dtype(op, 0), **sizes, "bidirectional": False}


def _whole_product(op: Op) -> Row:
    """A product of 8-bit integers."""
    (m, k), (_, n) = op.inputs[0], op.inputs[1]
    return {"op": "gemm", "dtype": {"signed char": "int8"}[op.types[0]], "m": m, "n": n, "k": k}


def _table(shape: tuple[int, ...]) -> Row:
    """Return a tensor as rows of its last dimension."""
    return {"m": math.prod(shape[:-1]), "n": shape[-1]}


def _with_in_place(readers: Mapping[str, Reader]) -> dict[str, Reader]:
    """Return readers of operations and of their in-place variants."""
    return {name + ending: reader for name, reader in readers.items() for ending in ("", "_")}


#: Attention by torch's backend: kernel, and positions of the query, the causal flag and a mask.
_BACKENDS = {
    "flash_attention": ("fa2", 0, 4, None),
    "efficient_attention": ("sdpa-efficient", 0, 6, 3),
    "cudnn_attention": ("cudnn", 0, 6, 3),
    "flash_attention_for_cpu": ("", 0, 4, 5),
    "flash_attention_backward": ("fa2", 1, 11, None),
    "efficient_attention_backward": ("sdpa-efficient", 1, 11, 4),
    "cudnn_attention_backward": ("cudnn", 1, 14, 8),
    "flash_attention_for_cpu_backward": ("", 1, 7, 8),
}
#: Activations whose gradient is an operation of the same name, and other pointwise operations.
_ACTIVATIONS = ("tanh", "sigmoid", "gelu", "silu")
_UNARY = (*_ACTIVATIONS, "relu", "exp", "log", "sqrt")
#: Readers by torch's name of the operation.
READERS: dict[str, Reader] = {
    "aten::mm": partial(_matmul, 0),
    "aten::addmm": partial(_matmul, 1),
    "aten::_addmm_activation": partial(_matmul, 1),
    "aten::_scaled_mm": partial(_matmul, 0),
    "aten::bmm": partial(_batched, 0),
    "aten::baddbmm": partial(_batched, 1),
    "aten::_int_mm": _whole_product,
    **_convolutions.READERS,
    **{f"aten::{name}": partial(_softmax, 0, "fwd") for name in ("_softmax", "_log_softmax")},
    **{f"aten::{name}_backward_data": partial(_softmax, 1, "bwd") for name in ("_softmax", "_log_softmax")},
    "aten::native_layer_norm": partial(_norm, "layernorm", 0, "fwd"),
    "aten::native_layer_norm_backward": partial(_norm, "layernorm", 1, "bwd"),
    "aten::_fused_rms_norm": partial(_norm, "rmsnorm", 0, "fwd"),
    "aten::_fused_rms_norm_backward": partial(_norm, "rmsnorm", 1, "bwd"),
    "aten::copy_": _copy,
    "aten::lstm": partial(_recurrent, "lstm"),
    "aten::gru": partial(_recurrent, "gru"),
    "aten::rnn_tanh": partial(_recurrent, "rnn"),
    "aten::mkldnn_rnn_layer_backward": _recurrent_gradient,
    **_with_in_place({f"aten::{name}": partial(_unary, name, "fwd") for name in _UNARY}),
    "aten::threshold_backward": partial(_unary, "relu", "bwd"),
    **{f"aten::{name}_backward": partial(_unary, name, "bwd") for name in _ACTIVATIONS},
    **_with_in_place(
        {f"aten::{name}": partial(_binary, name) for name in ("add", "sub", "mul", "div", "pow")}
    ),
    **{
        f"aten::_scaled_dot_product_{name}": partial(
            _attention, *places, "bwd" if name.endswith("backward") else "fwd"
        )
        for name, places in _BACKENDS.items()
    },
}
