"""A Transformer layer cut over devices: the parts of tables.py and attention.py with one device's sizes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from .attention import attention
from .exchanges import message
from .kernels import WIDTH, Expected, Kernel, Number, statistic, table
from .pointwise import OF_RESULT
from .rows import norm_pass
from .tables import feed_forward

Sizes = dict[str, int]
Options = dict[str, Any]


def megatron(o: Options, s: Sizes) -> Expected:
    """Shoeybi et al. §3; Korthikanti et al. §4: f and f̄, or g and ḡ, around attention and feed-forward."""
    w, p, b, d, layers = WIDTH[o["dtype"]], s["devices"], s["batch"], s["d_model"], s["num_layers"]
    cut = o["sequence_parallel"]
    own = b * -(-s["seq"] // p) if cut else b * s["seq"]
    length = p * -(-s["seq"] // p) if cut else s["seq"]
    local = {**s, "seq": length, "seq_kv": length}
    local |= {name: -(-s[name] // p) for name in ("heads", "kv_heads", "d_ff")}
    # Gather and scatter need a table of all positions beside the device's own; all-reduces are in place.
    send = partial(message, o["dtype"], s, size=w * b * length * d, workspace=w * b * length * d * cut)
    gather = (send(collective="all-gather"),) if cut else ()
    reduce = send(collective="reduce-scatter" if cut else "all-reduce")
    add = table(w, own, d, 2, 1, vector=1)
    mask = own * d  # one byte per number, held until backward
    dropped = table(w, own, d, 1, 1, vector=2, depth=2, more_write=mask, workspace=mask)
    drop = (dropped,) if o["dropout"] else ()
    undrop = (table(w, own, d, 1, 1, vector=2, depth=2, more_read=mask),) if o["dropout"] else ()
    normed, unnormed = (norm_pass(w, o["norm"], own, d, way) for way in ("fwd", "bwd"))

    (heads, inner), (heads_back, inner_back) = (_parts(o, local, way) for way in ("fwd", "bwd"))

    def around(part: Expected) -> tuple[Kernel, ...]:
        return (normed, *gather, *part.kernels, reduce, *drop, add)

    def back(part: Expected, weights: int) -> tuple[Kernel, ...]:
        """Return a part's backward kernels; the input is gathered again before kernel number `weights`."""
        before, after = part.kernels[:weights], part.kernels[weights:]
        return (*undrop, *gather, *before, *gather, *after, reduce, unnormed, add)

    forward = (*around(heads), *around(inner))
    core = _core(o, local, "fwd")
    again = {"none": (), "selective": core.kernels, "full": forward}[o["recompute"]]
    # dW of the up projection is the last of five kernels. In attention, which ends with six products and the
    # sum of the input's gradients, the gradient of Q's weights is fourth from the end.
    backward = (*again, *back(inner_back, 4), *back(heads_back, len(heads_back.kernels) - 4))
    gains = (2 if o["norm"] == "layer" else 1) * d
    parameters = layers * (heads.parameters + inner.parameters + 2 * gains)
    chosen = {"fwd": forward, "bwd": backward, "fwd+bwd": forward + backward}[o["direction"]]
    return Expected(
        kernels=tuple(replace(kernel, repeats=kernel.repeats * layers) for kernel in chosen),
        inputs=w * own * d,
        outputs=w * own * d,
        weights=w * (parameters - layers * 2 * (gains - d)),
        offsets=w * layers * 2 * (gains - d),
        kept=layers * _kept(o, local, own, s),
        passes=layers,
        parameters=parameters,
    )


def _core(o: Options, s: Sizes, direction: str, projections: bool = False) -> Expected:
    shared = {"dtype": o["dtype"], "convention": o["convention"], "direction": direction}
    options = shared | {"causal": o["causal"], "projections": projections, "cross": False}
    extra = {"mask": False, "dropout": o["dropout"]}
    if o["attention"] == "tiled":
        extra = {"schedule": "fa2", "tile": None}
    return attention(o["attention"], options | extra, s)


def _parts(o: Options, s: Sizes, direction: str) -> tuple[Expected, Expected]:
    options = {"dtype": o["dtype"], "convention": o["convention"], "activation": o["activation"]}
    return _core(o, s, direction, projections=True), feed_forward(options | {"direction": direction}, s)


def _kept(o: Options, local: Sizes, own: int, s: Sizes) -> Number:
    """Return what each kernel keeps for backward, item by item (Korthikanti et al., §4.1) [bytes]."""
    w, d, d_h, dv = WIDTH[o["dtype"]], s["d_model"], s["head_dim"], s["value_dim"]
    h, g, f = local["heads"], local["kv_heads"], local["d_ff"]
    if o["recompute"] == "full":
        return w * own * d
    rows = s["batch"] * local["seq"]
    square = s["batch"] * h * local["seq"] ** 2
    items = [
        *[w * own * d] * 2,  # inputs of the norms
        *[w * own * d] * 2,  # inputs of Q, K, V and of the first product
        w * rows * (h * d_h + g * d_h + g * dv),  # Q, K, V
        w * rows * h * dv,  # input of the output projection
        *[w * rows * f] * (1 if o["activation"] in OF_RESULT else 2),  # the activation's input and output
    ]
    if o["dropout"]:
        items += [own * d] * 2  # masks
    if o["attention"] == "tiled":
        items.append(statistic(o["dtype"]) * rows * h)
    elif o["recompute"] == "none":
        items.append(w * square)  # softmax output
        if o["dropout"]:
            items += [square, w * square]  # mask, dropout output
    return sum(items)
