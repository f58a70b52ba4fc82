"""Whole models kernel by kernel, as the eager code of GPT-2, OPT and BERT in transformers launches them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from .counted import tally
from .kernels import WIDTH, Expected, Kernel, product, table
from .pointwise import gelu
from .rows import norm_pass, softmax_pass

#: ((products that make Q, K and V, their width in d), tables of scores and of the inner activation that
#: autograd saves per layer (tests/layers/test_saved.py), whether the head is the logits' product).
MODELS = {
    "gpt2": ((1, 3), 1, 5, True),
    "opt": ((3, 1), 2, 1, True),
    "bert": ((3, 1), 1, 2, False),
}
#: (table, reads, writes, arithmetic, how many) of the kernel of each line; x is the inner activation, s the
#: scores, d a hidden state. GPT-2: 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))).
FORWARD = {
    "gpt2": (
        *(("s", 1, 1, "plain", 1),) * 2,  # scale, mask
        ("x", 1, 1, "plain", 1),  # power
        ("x", 1, 1, "plain", 3),  # scales
        ("x", 2, 1, "plain", 1),  # sum
        ("x", 1, 1, "tanh", 1),
        ("x", 1, 1, "plain", 1),  # adds one
        ("x", 2, 1, "plain", 1),  # product
    ),
    "opt": (("d", 1, 1, "plain", 1), *(("s", 1, 1, "plain", 1),) * 2, ("x", 1, 1, "plain", 1)),
    "bert": (*(("s", 1, 1, "plain", 1),) * 2, ("x", 1, 1, "gelu", 1)),
}
#: The kernels that autograd runs for them; tests/layers/test_eager_torch.py checks them against torch.
BACKWARD = {
    "gpt2": (
        *(("s", 1, 1, "plain", 1),) * 2,
        ("x", 2, 1, "plain", 3),  # gradients of products read the other operand
        ("x", 2, 1, "plain", 1),  # tanh's gradient reads its result
        ("x", 1, 1, "plain", 5),  # gradients of scales, and the power's square
        ("x", 2, 1, "plain", 2),  # gradients of x, which three lines read, are added
        ("d", 1, 1, "copy", 2),  # Q, K and V side by side; one has a layout of its own
    ),
    "opt": (
        ("d", 1, 1, "plain", 1),
        ("s", 1, 1, "plain", 1),  # of a maximum: half of it,
        ("s", 1, 0, "plain", 2),  # equal? less?
        ("s", 2, 1, "plain", 1),  # which of the two,
        ("s", 1, 1, "plain", 1),  # and nothing where less
        ("x", 2, 1, "plain", 1),
        ("d", 2, 1, "plain", 2),
    ),
    "bert": (("s", 1, 1, "plain", 1), ("x", 2, 1, "plain", 1), ("d", 2, 1, "plain", 2)),
}
COST = {
    "plain": {"vector": 1},
    "copy": {"depth": 0},
    "tanh": {"special": 1},
    "gelu": vars(tally(gelu, 0.7)),
}


def _head(o: dict[str, Any], s: dict[str, int]) -> tuple[int, int, int]:
    """Return rows, columns and inner size of the product after the last layer."""
    if MODELS[o["style"]][3] or o["dropout"]:
        return s["batch"] * s["seq"], s["vocab"], s["d_model"]
    return s["batch"], s["d_model"], s["d_model"]


def _kernels(o: dict[str, Any], s: dict[str, int], back: bool) -> tuple[Kernel, ...]:
    """Return all kernels; every table that a kernel reads or writes goes through memory."""
    (count, wide), *_ = MODELS[o["style"]]
    w, b, n, d, f = WIDTH[o["dtype"]], s["batch"], s["seq"], s["d_model"], s["d_ff"]
    h, dh, layers, rows = s["heads"], s["head_dim"], s["num_layers"], b * n
    head = _head(o, s)
    shapes = (
        (rows, wide * d, d, 1, count),
        (n, n, dh, b * h, 1),
        (n, dh, n, b * h, 1),
        (rows, d, d, 1, 1),
        (rows, f, d, 1, 1),
        (rows, d, f, 1, 1),
    )
    kernels: list[Kernel] = []
    if back:
        m, cols, k = head
        kernels += [product(w, m, k, cols), product(w, k, cols, m)]
    for m, cols, k, times, often in shapes:
        sizes = ((m, k, cols), (k, cols, m)) if back else ((m, cols, k),)
        kernels += [product(w, *size, times=times, repeats=often * layers) for size in sizes]
    passes = [
        (norm_pass(w, "layer", rows, d, "bwd" if back else "fwd"), 2),
        (softmax_pass(w, b * h * n, n, "bwd" if back else "fwd"), 1),
        (table(w, rows, d, 1, 1, depth=0), 4),
        (table(w, rows, d, 2, 1, vector=1), 2),
    ]
    if o["dropout"]:
        passes += [(table(w, b * h * n, n, 1, 1, vector=1), 1), (table(w, rows, d, 1, 1, vector=1), 2)]
    tables = {"s": (b * h * n, n), "x": (rows, f), "d": (rows, d)}
    for where, reads, writes, kind, often in (BACKWARD if back else FORWARD)[o["style"]]:
        passes.append((table(w, *tables[where], reads, writes, **COST[kind]), often))
    if back:  # the gradient of an offset is a sum over all tokens
        for width, often in ((wide * d, count), (d, 1), (f, 1), (d, 1)):
            depth = math.ceil(math.log2(rows))
            passes.append((table(w, rows, width, 1, 0, vector=1, depth=depth, more_write=w * width), often))
    kernels += [replace(kernel, repeats=often * layers) for kernel, often in passes]
    if not back:
        kernels.append(product(w, *head))
    return tuple(kernels)


def eager(o: dict[str, Any], s: dict[str, int]) -> Expected:
    """Expect L layers and a head."""
    _, squares, inner, _ = MODELS[o["style"]]
    squares += o["dropout"]  # probabilities before and after
    w, rows, d, f = WIDTH[o["dtype"]], s["batch"] * s["seq"], s["d_model"], s["d_ff"]
    layers, head, scores = s["num_layers"], _head(o, s), s["batch"] * s["heads"] * s["seq"] ** 2
    kernels = {"fwd": (False,), "bwd": (True,), "fwd+bwd": (False, True)}[o["direction"]]
    weights = layers * (4 * d * d + 2 * d * f) + head[1] * head[2]
    return Expected(
        kernels=tuple(kernel for back in kernels for kernel in _kernels(o, s, back)),
        inputs=w * rows * d,
        weights=w * (weights + layers * 2 * d),
        offsets=w * layers * 2 * d,
        outputs=w * head[0] * head[1],
        kept=w * (layers * (rows * (8 * d + inner * f) + squares * scores) + head[0] * head[2]),
        passes=layers,
        parameters=weights + layers * 4 * d,
    )
