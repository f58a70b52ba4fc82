"""Recurrent layers of ``torch.nn`` (cuDNN on CUDA, oneDNN or ATen on the CPU), and as loops of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from costmodel.layers import Layer, get
from costmodel.layers.recurrent import GATES
from costmodel.validation.case import Case
from costmodel.validation.registry import Maker, Work, bench

_CLASSES = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}


def _cell(torch: Any, name: str, pre: Any, state: tuple[Any, ...], w_hh: Any, b_hh: Any) -> tuple[Any, ...]:
    """Return the next state from x W_ihᵀ + b_ih and the previous state, by the equations in torch.nn's pages.

    Gates are in the order of torch's stacked weights: i f g o; r z n.
    """
    h = state[0]
    product = torch.addmm(b_hh, h, w_hh.t())
    if name == "rnn":
        return (torch.tanh(pre + product),)
    if name == "lstm":
        i, f, g, o = (pre + product).chunk(4, 1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c
    pr, pz, pn = pre.chunk(3, 1)
    hr, hz, hn = product.chunk(3, 1)
    r, z = torch.sigmoid(pr + hr), torch.sigmoid(pz + hz)
    n = torch.tanh(pn + r * hn)
    return (n + z * (h - n),)


def _walk(torch: Any, name: str, x: Any, weights: tuple[Any, ...], reverse: bool) -> Any:
    """Return the outputs of one direction of one layer, step by step; x has shape (seq, batch, input)."""
    w_ih, w_hh, b_ih, b_hh = weights
    pre = torch.nn.functional.linear(x, w_ih, b_ih)
    zero = torch.zeros(x.shape[1], w_hh.shape[1], dtype=x.dtype, device=x.device)
    state: tuple[Any, ...] = (zero, zero) if name == "lstm" else (zero,)
    # Unbind once: the gradient of indexing would fill the whole sequence at every step.
    steps, outputs = pre.unbind(0), []
    for step in reversed(steps) if reverse else steps:
        state = _cell(torch, name, step, state, w_hh, b_hh)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if reverse else outputs)


def _stack(torch: Any, name: str, ways: int) -> Callable[..., Any]:
    """Return the function of (x, *weights) that runs a stack of layers step by step."""

    def run(x: Any, *weights: Any) -> Any:
        for layer in range(len(weights) // (4 * ways)):
            own = weights[4 * ways * layer : 4 * ways * (layer + 1)]
            walked = [_walk(torch, name, x, own[4 * w : 4 * w + 4], reverse=w == 1) for w in range(ways)]
            x = torch.cat(walked, -1) if ways == 2 else walked[0]
        return x

    return run


def _layer(name: str) -> Callable[[Case], Layer | None]:
    def layer(case: Case) -> Layer:
        return get(name)(
            dtype=case.dtype,
            direction=case.direction,
            bidirectional=bool(case.option("bidirectional", False)),  # type: ignore[call-arg]
            wavefront=bool(case.option("wavefront", False)),
        )

    return layer


def _admit_bf16(torch: Any) -> None:
    """Let torch pack bf16 weights into one buffer if cuDNN has bf16 recurrent layers (since 9.13).

    Torch uses these layers, but its own list of cuDNN's formats lacks bf16 (2.11 to 2.13), so it would
    otherwise gather the weights in every call.
    """
    if (torch.backends.cudnn.version() or 0) >= 91300:
        torch.backends.cudnn.CUDNN_TENSOR_DTYPES.add(torch.bfloat16)


def _module(name: str) -> Callable[[Case, Maker], Work]:
    def build(case: Case, make: Maker) -> Work:
        torch = make.torch
        hidden, width = case["hidden"], case.get("input", case["hidden"])
        ways = 2 if case.option("bidirectional", False) else 1
        _admit_bf16(torch)
        module = getattr(torch.nn, _CLASSES[name])(
            width, hidden, num_layers=case.get("num_layers", 1), bidirectional=ways == 2
        )
        module = make.adopt(module)
        # cuDNN has a backward pass in training mode only; without dropout both modes compute the same.
        module.train(case.direction != "fwd")
        x = make(case["seq"], case["batch"], width)

        def call(x: Any, *_: Any) -> Any:
            return module(x)[0]

        return Work((x, *module.parameters()), call, _stack(torch, name, ways))

    build.__doc__ = f"torch.nn.{_CLASSES[name]}, sequence first."
    return build


def _loop(name: str) -> Callable[[Case, Maker], Work]:
    def build(case: Case, make: Maker) -> Work:
        hidden, width, gates = case["hidden"], case.get("input", case["hidden"]), GATES[name]
        scale = hidden**-0.5
        x = make(case["seq"], case["batch"], width)
        shapes = ((gates * hidden, width), (gates * hidden, hidden), (gates * hidden,), (gates * hidden,))
        run = _stack(make.torch, name, 1)
        return Work((x, *(make(*shape, scale=scale) for shape in shapes)), run, run)

    build.__doc__ = f"{name} as a loop of framework calls, one cell a step."
    return build


for _name, _class in _CLASSES.items():
    bench(_name, kernel=f"torch.nn.{_class}", op=_name, layer=_layer(_name))(_module(_name))
    # No layer describes a loop of framework calls; its rows are only compared with the lower bound.
    bench(f"{_name}-loop", kernel="step-by-step loop", op=_name, layer=lambda _: None)(_loop(_name))
