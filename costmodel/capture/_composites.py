"""Composite operations that are captured as one: attention, recurrent layers and dropout.

On the CPU tensors that a trace uses, torch would decompose these into dozens of kernels that no
accelerator runs. During a trace, the functions behind ``scaled_dot_product_attention``,
``nn.LSTM``, ``nn.GRU``, ``nn.RNN`` and ``nn.Dropout`` are replaced by ones that record one operation
forward and one backward. Code that imported ``scaled_dot_product_attention`` by name before is not
affected: its attention is recorded kernel by kernel.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

#: torch's names of recurrent layers.
CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")


@contextlib.contextmanager
def composites(recorder: Any, *, whole_attention: bool) -> Iterator[None]:
    """Record composites as single operations while a module runs.

    Parameters
    ----------
    recorder : Recorder
        The recorder of the trace.
    whole_attention : bool
        Whether attention is one of them; otherwise it runs by its definition: product, softmax, product.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    own = torch._VF
    with contextlib.ExitStack() as stack:
        fast = torch.backends.mha.get_fastpath_enabled()
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)  # one operation that hides its products
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if whole_attention:
            attention = partial(_attention, _function(recorder, "attention"))
            stack.enter_context(
                mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", attention)
            )
        for cell in CELLS:
            layer = partial(_recurrent, _function(recorder, "recurrent"), getattr(own, cell), cell)
            stack.enter_context(mock.patch.object(own, cell, layer, create=True))
        for cell in ("lstm_cell", "gru_cell"):
            step = partial(_cell, _function(recorder, f"_thnn_fused_{cell}"))
            stack.enter_context(mock.patch.object(own, cell, step, create=True))
        stack.enter_context(mock.patch.object(own, "dropout", _dropout, create=True))
        stack.enter_context(_flat_weights())
        stack.enter_context(_fakes_as_real())
        yield


@contextlib.contextmanager
def _fakes_as_real() -> Iterator[None]:
    """Make transformers treat the trace's tensors as real ones.

    It would otherwise build a mask, as a tracer could not tell that none is needed. Its questions about the
    mask's data are answered, and noted, like any other question about data.
    """
    library = sys.modules.get("transformers.utils.import_utils")
    if not hasattr(library, "is_fake_tensor"):
        yield
        return
    with mock.patch.object(library, "is_fake_tensor", return_value=False):
        yield


@contextlib.contextmanager
def _flat_weights() -> Iterator[None]:
    """Make recurrent modules, which also hold their weights in a list, use the weights they are given."""
    import torch

    changed = []

    def enter(module: Any, _: Any) -> None:
        if isinstance(module, torch.nn.RNNBase):
            changed.append((module, module._flat_weights))
            names = module._flat_weights_names
            module.__dict__["_flat_weights"] = [getattr(module, name) for name in names]

    hook = torch.nn.modules.module.register_module_forward_pre_hook(enter)
    try:
        yield
    finally:
        hook.remove()
        for module, weights in changed:
            module.__dict__["_flat_weights"] = weights


def _function(recorder: Any, op: str) -> Callable[..., Any]:
    """Return a function of (shapes of results, facts, kept, *operands) that autograd sees as one operation.

    ``kept`` says what is kept for backward: (number of operands, number of results, shapes of statistics).
    """
    import torch

    class Composite(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, shapes: Any, facts: Any, kept: Any, *operands: Any) -> Any:
            inputs, results, statistics = kept
            with recorder.pause():
                made = tuple(_result(op, operands[0], shape) for shape in shapes)
                extra = tuple(operands[0].new_empty(shape, dtype=dtype) for shape, dtype in statistics)
            ctx.operands, ctx.facts, ctx.path = recorder.note(operands), facts, recorder.module()
            ctx.shapes = [(operand.shape, operand.dtype) for operand in operands]
            recorder.add(op, ctx.operands, recorder.note((*made, *extra)), **facts)
            ctx.save_for_backward(*operands[:inputs], *made[:results], *extra)
            return made

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            needed = tuple(ctx.needs_input_grad[3:])
            with recorder.pause():
                made = [
                    torch.empty(shape, dtype=dtype) if wanted else None
                    for (shape, dtype), wanted in zip(ctx.shapes, needed, strict=True)
                ]
                saved = ctx.saved_tensors
            outputs = recorder.note([gradient for gradient in made if gradient is not None])
            arrived = [gradient for gradient in gradients if gradient is not None]
            inputs = (*ctx.operands, *recorder.note((*saved, *arrived)))
            recorder.add(op, inputs, outputs, module=ctx.path, into=needed, **ctx.facts)
            return (None, None, None, *made)

    return Composite.apply  # type: ignore[no-any-return]


def _result(op: str, like: Any, shape: tuple[Any, ...]) -> Any:
    """Return an empty result; attention's is stored position by position, with heads side by side."""
    if op == "attention" and len(shape) == 4:
        batch, heads, length, width = shape
        return like.new_empty((batch, length, heads, width)).transpose(1, 2)
    return like.new_empty(shape)


def _attention(
    function: Callable[..., Any],
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,  # noqa: ARG001 - torch's signature
    enable_gqa: bool = False,
) -> Any:
    """Run scaled_dot_product_attention as one operation that keeps Q, K, V, O and one statistic per row."""
    import torch

    facts = {"causal": is_causal, "dropout": dropout_p > 0, "grouped": enable_gqa}
    shape = (*query.shape[:-1], value.shape[-1])
    operands = (query, key, value) if attn_mask is None else (query, key, value, attn_mask)
    kept = (len(operands), 1, ((query.shape[:-1], torch.float32),))
    return function((shape,), facts, kept, *operands)[0]


def _recurrent(function: Callable[..., Any], original: Any, cell: str, *args: Any) -> Any:
    """Run a stack of recurrent layers as one operation (``torch._VF.lstm`` and similar)."""
    # Packed: (input, sizes of the batch, state, weights, …); padded: (input, state, weights, …, order).
    if len(args) != 9:
        return original(*args)
    if isinstance(args[3], (list, tuple)):
        data, lengths, state, weights, bias, layers, _, _, both = args
        batch_first, length = False, lengths.shape[0]
    else:
        data, state, weights, bias, layers, _, _, both, batch_first = args
        length = data.shape[1 if batch_first else 0]
    states = state if cell == "lstm" else (state,)
    hidden, width = states[-1].shape[-1], states[0].shape[-1]
    facts = {
        "cell": cell.partition("_")[0],
        "batch": states[0].shape[1],
        "seq": length,
        "input": data.shape[-1],
        "hidden": hidden,
        "projection": width if width != hidden else None,
        "num_layers": layers,
        "bidirectional": both,
        "bias": bias,
    }
    ways = 2 if both else 1
    shapes = ((*data.shape[:-1], ways * width), *(state.shape for state in states))
    # What it keeps besides its input and output is defined by its `Layer`.
    made: tuple[Any, ...] = function(shapes, facts, (1, 1, ()), data, *states, *weights)
    return made


def _cell(function: Callable[..., Any], data: Any, state: Any, into: Any, within: Any, *biases: Any) -> Any:
    """Run one step of an LSTM or GRU: two products, and one kernel for the gates."""
    from torch.nn.functional import linear

    states = state if isinstance(state, (tuple, list)) else (state,)
    given = [bias for bias in biases if bias is not None]
    gates = (linear(data, into), linear(states[0], within))
    kept = (0, len(states) - 1, ((gates[0].shape, data.dtype),))
    made = function([s.shape for s in states], {}, kept, *gates, states[-1], *given)
    return made if len(states) > 1 else made[0]


def _dropout(data: Any, p: float, train: bool) -> Any:
    """Run dropout as the single kernel that an accelerator runs."""
    import torch

    return torch.native_dropout(data, p, train)[0] if train and p > 0 else data
