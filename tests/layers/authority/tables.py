"""Matrix product, feed-forward, norms, softmax, elementwise operations, and the whole Transformer layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

from .attention import attention
from .counted import Counted, exp, log2_ceil, tally
from .experts import swiglu
from .kernels import WIDTH, Expected, Kernel, Number, directed, product, statistic, table
from .pointwise import LINEAR, OF_RESULT, PROGRAMS, dropout
from .rows import norm_pass, softmax_pass
from .tokens import dropout_layer, rotary

Sizes = dict[str, int]


def matmul(options: dict[str, Any], s: Sizes) -> Expected:
    """Expect 2·m·n·k forward; backward dA = dout·Bᵀ and dB = Aᵀ·dout (goldens: in all 3 times forward)."""
    w, times, m, n, k = WIDTH[options["dtype"]], s["batch"], s["m"], s["n"], s["k"]
    forward: tuple[Kernel, ...] = (product(w, m, n, k, times=times),)
    backward: tuple[Kernel, ...] = (product(w, m, k, n, times=times), product(w, k, n, m, times=times))
    wide = w
    if options["quantise"]:
        # Operands in 16 bits cost a maximum, a scaling and a rounding per element. Each row gets one scale,
        # which the product's epilogue reads.
        wide, scale = 2, statistic(options["dtype"])

        def rounded(plain: Kernel, rows: int, inner: int, out: Number, ways: int, scales: int) -> Kernel:
            copies = times * (ways * w * rows * inner + scale * scales)
            return replace(
                plain,
                vector=3 * ways * times * rows * inner,
                read=plain.read + 2 * times * rows * inner + times * rows * scale,
                write=times * out + copies,
                launches=2,
                workspace=copies,
            )

        forward = (rounded(forward[0], m, k, 2 * m * n, 1, m),)
        # dA sums over dout's columns, dB over its rows and over A's: dout is rounded both ways.
        backward = (
            rounded(backward[0], m, n, 2 * m * k, 2, m + n),
            rounded(backward[1], k, m, w * k * n, 1, k),
        )
    return Expected(
        kernels=directed(options, forward, backward),
        inputs=wide * times * m * k,
        weights=w * times * k * n,
        outputs=wide * times * m * n,
        kept=wide * times * m * k,
        parameters=times * k * n,
    )


def feed_forward(options: dict[str, Any], s: Sizes) -> Expected:
    """Expect y = f(x W₁) W₂ (Vaswani et al. eq. 2): 4·B·n·d·d_ff.

    Kept are x and both inner values (2 + 8 + 8 sbh); only the result if the gradient follows from it.
    """
    w, rows, d, f = WIDTH[options["dtype"]], s["batch"] * s["seq"], s["d_model"], s["d_ff"]
    function = options["activation"]
    _, program, gradient = PROGRAMS[function]
    gradient = OF_RESULT.get(function, gradient)
    there, back = tally(program, 0.7), tally(gradient, 0.7, 0.3)  # type: ignore[arg-type]
    inner = w * rows * f
    forward = (
        product(w, rows, f, d, workspace=inner),
        table(w, rows, f, 1, 1, **vars(there), workspace=inner),
        product(w, rows, d, f),
    )
    backward = (
        product(w, rows, f, d, workspace=inner),
        product(w, f, d, rows),
        table(w, rows, f, 2, 1, **vars(back), workspace=inner),
        product(w, rows, d, f),
        product(w, d, f, rows),
    )
    return Expected(
        kernels=directed(options, forward, backward),
        inputs=w * rows * d,
        weights=2 * w * d * f,
        outputs=w * rows * d,
        kept=w * rows * d + (1 if function in OF_RESULT else 2) * inner,
        parameters=2 * d * f,
    )


def elementwise(options: dict[str, Any], s: Sizes) -> Expected:
    """Expect an operation per element; backward reads what the gradient needs, and dy."""
    w, m, n = WIDTH[options["dtype"]], s["m"], s["n"]
    operands, program, gradient = PROGRAMS[options["op"]]
    linear = options["op"] in LINEAR
    needed = 0 if linear else operands
    there = tally(program, *[0.7] * operands)  # type: ignore[arg-type]
    back = tally(gradient, *[0.7] * (needed + 1))  # type: ignore[arg-type]
    forward = (table(w, m, n, operands, 1, **vars(there)),)
    backward = (table(w, m, n, needed + 1, operands, **vars(back)),)
    # Two tables may be one; a result that replaces a table is state, not another table.
    distinct = {0: "x"} if options["shared"] else {place: "xy"[place] for place in range(operands)}
    if options["in_place"]:
        del distinct[0]
    return Expected(
        kernels=directed(options, forward, backward),
        inputs=len(distinct) * w * m * n,
        outputs=0 if options["in_place"] else w * m * n,
        updated=w * m * n if options["in_place"] else 0,
        kept=needed * w * m * n,
    )


def _sum_of_two(a: Counted, b: Counted) -> Counted:
    return a + b


#: Passes that compute, as counted programs of one element.
PASSES: dict[str, tuple[int, Callable[..., Counted]]] = {
    "arithmetic": (2, _sum_of_two),
    "scatter-add": (2, _sum_of_two),
    "sum": (2, _sum_of_two),
    "multiply-add": (3, lambda x, a, b: x + (a * b) * 0.5),
    "function": (1, exp),
    "dropout": (2, dropout),
}


def memory_pass(options: dict[str, Any], s: Sizes) -> Expected:
    """Expect the bytes that are stated; what is replaced is state, of which a cache saves both ways."""
    w, elements = WIDTH[options["dtype"]], s["m"] * s["n"]
    written, always = s["written_bytes"], s["least_written_bytes"]
    operands, program = PASSES.get(options["op"], (0, None))
    counts = vars(tally(program, *[0.7] * operands)) if program else {"depth": 0}
    if options["op"] == "sum":
        counts["depth"] = log2_ceil(elements)
    read, least = (0, 0) if options["op"] == "fill" else (s["read_bytes"], s["least_bytes"])
    replaced = always if options["in_place"] and read else 0
    kernel = Kernel(
        vector=counts.get("vector", 0) * elements,
        special=counts.get("special", 0) * elements,
        read=read,
        write=written,
        depth=counts["depth"],
        sizes={
            "rows": s["m"],
            "cols": s["n"],
            "reads": Fraction(read) / (w * elements),
            "writes": Fraction(written) / (w * elements),
        },
    )
    return Expected(
        kernels=(kernel,), inputs=least - replaced, updated=replaced, outputs=always - replaced, kept=0
    )


def softmax_layer(options: dict[str, Any], s: Sizes) -> Expected:
    w, m, n = WIDTH[options["dtype"]], s["m"], s["n"]
    return Expected(
        kernels=directed(options, (softmax_pass(w, m, n, "fwd"),), (softmax_pass(w, m, n, "bwd"),)),
        inputs=w * m * n,
        outputs=w * m * n,
        kept=w * m * n,
    )


def norm_layer(options: dict[str, Any], s: Sizes) -> Expected:
    w, m, n = WIDTH[options["dtype"]], s["m"], s["n"]
    learned = 2 if options["kind"] == "layer" else 1
    passes = (norm_pass(w, options["kind"], m, n, direction) for direction in ("fwd", "bwd"))
    return Expected(
        kernels=directed(options, *((one,) for one in passes)),
        inputs=w * m * n,
        weights=w * n,
        offsets=w * (learned - 1) * n,
        outputs=w * m * n,
        kept=w * m * n,
        parameters=learned * n,
    )


def transformer_block(options: dict[str, Any], s: Sizes) -> Expected:
    """Expect L times norm, attention, add, norm, feed-forward, add (Vaswani et al. §3, norm first).

    Dropout follows each half. Kept (Korthikanti et al. §4): 11 + 5as/h and 19, with masks, and 4 for norms.
    """
    w, rows, d, layers = WIDTH[options["dtype"]], s["batch"] * s["seq"], s["d_model"], s["num_layers"]
    shared = {"dtype": options["dtype"], "convention": options["convention"]}
    core = {"causal": options["causal"], "projections": True, "cross": False}
    extra = (
        {"mask": False, "dropout": options["dropout"]}
        if options["attention"] == "dense"
        else {"schedule": "fa2", "tile": None}
    )

    def parts(direction: str) -> tuple[Expected, Expected, tuple[Kernel, ...], tuple[Kernel, ...]]:
        both = shared | {"direction": direction}
        inside = swiglu if options["gated"] else feed_forward
        dropped = dropout_layer(both, {"m": rows, "n": d}).kernels if options["dropout"] else ()
        return (
            attention(options["attention"], both | core | extra, s),
            inside(both | {"activation": options["activation"], "fused": True}, s),
            rotary(both, s).kernels if options["rotary"] else (),
            dropped,
        )

    add = table(w, rows, d, 2, 1, vector=1)
    heads, inner, turned, dropped = parts("fwd")
    normed = norm_pass(w, options["norm"], rows, d, "fwd")
    # Rotation comes between the two projections (Q; K and V) and the core.
    core_at = 2
    forward = (
        normed,
        *heads.kernels[:core_at],
        *turned,
        *heads.kernels[core_at:],
        *dropped,
        add,
        normed,
        *inner.kernels,
        *dropped,
        add,
    )
    heads_back, inner_back, turned_back, dropped_back = parts("bwd")
    normed = norm_pass(w, options["norm"], rows, d, "bwd")
    last = len(heads_back.kernels) - 5  # two gradients per projection, and the sum of the input's
    backward = (
        *dropped_back,
        *inner_back.kernels,
        normed,
        add,
        *dropped_back,
        *heads_back.kernels[:last],
        *turned_back,
        *heads_back.kernels[last:],
        normed,
        add,
    )
    *inner_kernels, last_kernel = heads.kernels[core_at:-1]
    again = w * rows * s["heads"] * s["value_dim"]  # selective recomputation keeps the heads' outputs
    core_kernels = (*inner_kernels, replace(last_kernel, workspace=last_kernel.workspace - again))
    backward = {"none": (), "selective": core_kernels, "full": forward}[options["recompute"]] + backward
    gains = (2 if options["norm"] == "layer" else 1) * d
    parameters = layers * (heads.parameters + inner.parameters + 2 * gains)
    kernels = directed(options, forward, backward)
    # Attention's other inputs are a cached prefix, one in every layer.
    prefix = layers * (heads.inputs - w * rows * d)
    kept = heads.kept + inner.kept + 2 * w * rows * d
    if options["dropout"]:
        kept += 2 * rows * d
    if options["recompute"] == "selective":
        scores = s["batch"] * s["heads"] * s["seq"] * s["seq_kv"]
        kept -= scores * (w + (1 + w if options["dropout"] else 0))  # P, mask, dropped P
    if options["recompute"] == "full":
        kept = w * rows * d
    return Expected(
        kernels=tuple(replace(k, repeats=k.repeats * layers) for k in kernels),
        inputs=w * rows * d + prefix,
        weights=w * (parameters - layers * 2 * (gains - d)),
        offsets=w * layers * 2 * (gains - d),
        outputs=w * rows * d,
        kept=layers * kept,
        passes=layers,
        parameters=parameters,
    )
