"""Recurrent layers from formulas.md §1: loops over layers, and pointwise counts from running a cell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .cells import GATES, step
from .kernels import WIDTH, Expected, Kernel, Number, dot_depth, product, table

Sizes = dict[str, int]
KEPT = {"rnn": 1, "lstm": 6, "gru": 5}  # formulas.md §1: (I+H), (I+6H), (I+5H) elements per step
STATES = {"rnn": 1, "lstm": 2, "gru": 1}


def recurrent(name: str, o: dict[str, Any], s: Sizes) -> Expected:
    """Expect a stack of layers; generation runs all kernels once per position."""
    whole = _stack(name, o, s)
    if not o["generation"]:
        return whole
    position = _stack(name, o, s | {"seq": 1})
    again = tuple(replace(kernel, repeats=kernel.repeats * s["seq"]) for kernel in position.kernels)
    return replace(whole, kernels=again)


def _stack(name: str, o: dict[str, Any], s: Sizes) -> Expected:
    w, g = WIDTH[o["dtype"]], GATES[name]
    b, t, h, layers = s["batch"], s["seq"], s["hidden"], s["num_layers"]
    ways = 2 if o["bidirectional"] else 1
    projected = o.get("projected", False)
    width = s["projection"] if projected else h
    skip = o["recurrent_only"]
    first = h if skip else s["input"]
    #: (input width, number of layers with it)
    stacked = [(first, 1), (ways * width, layers - 1)]
    parameters = 0
    for layer in range(layers):
        incoming = 0 if skip else (first if layer == 0 else ways * width)
        one_way = (
            g * h * (incoming + width) + (2 * g * h if o["bias"] else 0) + (h * width if projected else 0)
        )
        parameters += ways * one_way
    biases = layers * ways * 2 * g * h if o["bias"] else 0
    shape = _Shape(name, o, s, w, width, ways)
    inner = ways * g * h
    forward: list[Kernel] = []
    if o["batch_first"]:
        forward.append(table(w, b * t, first, 1, 1, depth=0))
    if not skip:
        forward += [product(w, b * t, inner, i, repeats=count) for i, count in stacked]
    state = width + (h if STATES[name] == 2 else 0)
    forward.append(_recurrence(shape, "fwd", reads=(h if skip else g * h) + state, writes=state))
    data = [_recurrence(shape, "bwd", reads=KEPT[name] * h + width, writes=g * h)]
    weights: list[Kernel] = []
    if not skip:
        data += [product(w, b * t, i, inner, repeats=count) for i, count in reversed(stacked)]
        weights += [product(w, inner, i, b * t, repeats=count) for i, count in stacked]
    # One product over all steps, but by a library call of its own, which takes the recurrence's sizes.
    recurrence = {"steps": t, "batch": b, "hidden": h, "width": width, "parallel": ways}
    gradient = replace(product(w, g * h, width, b * t, times=ways, repeats=layers), sizes=recurrence)
    if o["bias"]:
        # Gradients of biases are sums over all positions. Both biases of a gate share one, except for the
        # GRU's candidate, whose second bias is multiplied by r. Every bias vector's gradient is written.
        different = {"rnn": 1, "lstm": 4, "gru": 4}[name]
        sums, written = ways * different * h * b * t, ways * 2 * g * h * w
        gradient = replace(gradient, vector=sums, write=gradient.write + written)
    weights.append(gradient)
    if projected:
        weights.append(product(w, width, h, b * t, times=ways, repeats=layers))
    kernels = {
        "fwd": forward,
        "bwd": data + weights,
        "fwd+bwd": forward + data + weights,
        "bwd_data": data,
        "bwd_weights": weights,
    }[o["direction"]]
    return Expected(
        kernels=tuple(kernels),
        inputs=w * b * t * first,
        weights=w * (parameters - biases),
        offsets=w * biases,
        outputs=w * b * t * ways * width,
        # A later layer's input is an earlier layer's h, which is kept already. A projected layer also keeps
        # h before the projection.
        kept=w * b * t * (first + layers * ways * (KEPT[name] * h + (width if projected else 0))),
        path=t,
        parameters=parameters,
    )


class _Shape:
    """A layer's options and sizes, as its recurrence needs them."""

    def __init__(self, name: str, o: dict[str, Any], s: Sizes, w: Number, width: int, ways: int) -> None:
        self.name, self.o, self.s, self.w, self.width, self.ways = name, o, s, w, width, ways


def _recurrence(shape: _Shape, direction: str, *, reads: int, writes: int) -> Kernel:
    """Return the recurrence: products with the recurrent weights, the cell, states through memory."""
    o, s, w, ways, width = shape.o, shape.s, shape.w, shape.ways, shape.width
    g = GATES[shape.name]
    b, t, h = s["batch"], s["seq"], s["hidden"]
    together = s["num_layers"] if o["wavefront"] else 1
    projected = o.get("projected", False)
    weights = ways * together * w * (g * h * width + (h * width if projected else 0))
    # formulas.md §1: weights once, plus (T − 1)·max(0, weights − on-chip capacity).
    rereads = {True: 0, False: weights, None: max(0, weights - s["onchip"])}[o["persistent"]]
    cell = step(shape.name, direction, o["bias"])
    matrix, moved_in, moved_out = 0, weights, 0
    if o["bias"] and direction == "fwd":
        moved_in += together * ways * w * 2 * g * h
    for position in range(t):
        if position:
            moved_in += rereads
        # Backward walks from the end: the product of position 0 is h0's gradient, which torch skips.
        recurrent = not (direction == "bwd" and o["convention"] == "torch" and position == 0)
        matrix += 2 * b * ways * together * (g * h * width * recurrent + (h * width if projected else 0))
        moved_in += together * b * ways * w * reads
        moved_out += together * b * ways * w * writes
    length = t + s["num_layers"] - 1 if o["wavefront"] else t
    chain = cell.chain + dot_depth(width if direction == "fwd" else g * h)
    if projected:
        chain += dot_depth(h if direction == "fwd" else width)
    one = Kernel(
        matrix=matrix,
        vector=t * b * ways * together * h * cell.vector,
        special=t * b * ways * together * h * cell.special,
        read=moved_in,
        write=moved_out,
        steps=length,
        depth=length * chain,
        # Gates of all steps, and the sequence that one layer hands to the next.
        workspace=t
        * b
        * ways
        * w
        * ((0 if o["recurrent_only"] else together * g * h) + (width if s["num_layers"] > 1 else 0)),
        sizes={"steps": length, "batch": b, "hidden": h, "width": width, "parallel": ways * together},
    )
    return replace(one, repeats=1 if o["wavefront"] else s["num_layers"])
