"""Plans of a campaign's cases: the default plan, which takes minutes, and the full one.

Shapes are drawn from grids, limited to a range of work, and thinned by the hash of the case. They are
therefore the same on every machine and spread over the grid, with other sizes among the powers of two.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from costmodel.layers.recurrent import GATES
from costmodel.validation.case import Case, Option, case
from costmodel.validation.registry import find

Sizes = Mapping[str, int]

#: Number of shapes from which enough remain to fit constants on, after some are held out.
FITTABLE = 14


@dataclass(frozen=True)
class Scale:
    """Size and number of a plan's cases.

    Attributes
    ----------
    flops : (float, float)
        Range of the FLOP of a compute-bound case.
    elements : (float, float)
        Range of the elements of a memory-bound case's table.
    dtypes : tuple of str
        Formats; the first one has the most cases.
    share : float
        Multiple of the default number of shapes.
    launches : tuple of str
        ``eager``, and on CUDA ``graph``; the first one has the most cases.
    thin : (int, int)
        Thinning of shapes in further formats and in further ways to launch: one shape of so many is measured.
        Further formats need enough shapes to fit constants; further launches only show the host's overhead.
    recurrent : tuple of str
        Formats of recurrent layers; the first one has the most cases, because torch uses cuDNN's persistent
        kernels in fp16 only (``get_algo`` in its ``RNN.cpp``). Empty without cuDNN: `dtypes` holds.
    """

    flops: tuple[float, float]
    elements: tuple[float, float]
    dtypes: tuple[str, ...]
    share: float
    launches: tuple[str, ...]
    thin: tuple[int, int] = (1, 1)
    recurrent: tuple[str, ...] = ()


#: CPU: up to about 50 ms on two cores by default; most have no fast 16-bit formats. CUDA: up to a few
#: ms on an H200.
SCALES = {
    ("cpu", False): Scale((2e5, 6e9), (2**10, 2**24), ("fp32",), 1.0, ("eager",)),
    ("cpu", True): Scale((2e5, 1e11), (2**10, 2**27), ("fp32",), 8.0, ("eager",)),
    ("cuda", False): Scale(
        (1e7, 2e12),
        (2**14, 2**29),
        ("bf16", "fp32"),
        1.0,
        ("graph", "eager"),
        thin=(2, 5),
        recurrent=("fp16", "bf16", "fp32"),
    ),
    ("cuda", True): Scale(
        (1e7, 2e13),
        (2**14, 2**31),
        ("bf16", "fp32", "fp16", "tf32", "fp8"),
        8.0,
        ("graph", "eager"),
        recurrent=("fp16", "bf16", "fp32", "tf32"),
    ),
}


def plan(kind: str, *, full: bool = False) -> list[Case]:
    """Return the cases of a campaign on a kind of device; their order has no meaning.

    Parameters
    ----------
    kind : str
        ``cpu`` or ``cuda``.
    full : bool
        Whether to use the exhaustive plan, which takes many times longer.
    """
    scale = SCALES[kind, full]
    parts = (_matmuls, _attention, _decode, _recurrent, _loops, _linear, _memory, _cold)
    cases = list(itertools.chain.from_iterable(part(scale) for part in parts))
    if kind == "cuda":
        cases += _tiles(scale)
    known = [c for c in cases if kind in find(c.bench).devices]
    # FlashAttention-2 on CUDA has 16-bit formats only; the CPU's kernel of that name has fp32.
    known = [c for c in known if (kind, c.bench, c.dtype) != ("cuda", "sdpa-flash", "fp32")]
    # Torch does not use the memory-efficient kernel for keys that heads share
    # (``use_mem_efficient_attention`` in its ``sdp_utils.cpp``, 2.11 to 2.13).
    known = [c for c in known if not (c.bench == "sdpa-efficient" and _keys_are_shared(c))]
    return list(dict.fromkeys(known))


def _keys_are_shared(one: Case) -> bool:
    return one.get("kv_heads", one["heads"]) != one["heads"]


def counted() -> list[Case]:
    """Return the cases whose memory traffic is counted on a GPU, each with cold caches.

    They are a copy and a product, whose traffic is known; dense and tiled attention over length; tile sizes
    of both schedules, to test that traffic falls as 1/M (Dao et al. 2022, Theorem 2); and an LSTM whose
    weights fit on the chip, and one whose weights do not.
    """
    heads = {"batch": 4, "heads": 16, "head_dim": 64}
    cases = [
        case("copy", {"m": 8192, "n": 8192}, state="cold"),
        case("matmul", {"m": 4096, "n": 4096, "k": 4096}, dtype="bf16", state="cold"),
    ]
    for name, seq in itertools.product(("sdpa-math", "sdpa-flash"), (512, 1024, 2048, 4096)):
        options: dict[str, Option] = {"causal": False}
        cases.append(case(name, {**heads, "seq": seq}, dtype="bf16", options=options, state="cold"))
    for schedule, tiles in _COUNTED_TILES.items():
        for rows, cols in tiles:
            options = {"schedule": schedule, "tile_rows": rows, "tile_cols": cols}
            sizes = {**heads, "seq": 8192}  # K and V exceed any L2
            cases.append(case("triton-attention", sizes, dtype="bf16", options=options, state="cold"))
    for hidden in (512, 4096):
        cases.append(case("lstm", {"batch": 16, "hidden": hidden, "seq": 64}, dtype="fp16", state="cold"))
    return cases


# -- drawing from grids ---------------------------------------------------------------------------


def draw(grid: Mapping[str, Sequence[int]], keep: Callable[[Sizes], bool], count: float) -> list[Sizes]:
    """Return up to `count` of a grid's shapes that `keep` accepts; always the same ones."""
    kept: list[Sizes] = []
    for values in itertools.product(*grid.values()):
        sizes = dict(zip(grid, values, strict=True))
        if keep(sizes):
            kept.append(sizes)
    return sorted(kept, key=lambda sizes: case("shape", sizes).key)[: int(count)]


def _cases(
    names: Iterable[str],
    shapes: Sequence[Sizes],
    scale: Scale,
    *,
    directions: Sequence[str] = ("fwd",),
    launches: Sequence[str] | None = None,
    options: Mapping[str, Option] | None = None,
    state: str = "warm",
    dtypes: Sequence[str] | None = None,
) -> list[Case]:
    """Return the product of kernels, shapes, formats, directions and ways to launch.

    The first format and way to launch have all shapes, the others fewer (``scale.thin``). Forward cases in
    further formats are at least as many as a fit needs. Backward passes are not launched as graphs, because a
    graph would have to include the forward pass.
    """
    cases = []
    for name, direction in itertools.product(names, directions):
        kept = [w for w in launches or scale.launches if not (w == "graph" and direction == "bwd")]
        known = [d for d in dtypes or scale.dtypes if d in find(name).dtypes]
        for (i, dtype), (j, launch) in itertools.product(enumerate(known), enumerate(kept)):
            taken = shapes[:: (scale.thin[0] if i else 1) * (scale.thin[1] if j else 1)]
            if i and not j and direction == "fwd" and len(taken) < FITTABLE <= len(shapes):
                taken = shapes[:FITTABLE]
            cases += [
                case(name, s, dtype=dtype, direction=direction, options=options, launch=launch, state=state)
                for s in taken
            ]
    return cases


def _within(scale: Scale, flops: float) -> bool:
    return scale.flops[0] <= flops <= scale.flops[1]


# -- families -------------------------------------------------------------------------------------


def _matmuls(scale: Scale) -> list[Case]:
    sides = (1, 8, 33, 64, 128, 200, 256, 500, 512, 1024, 1536, 2048, 4096, 8192)
    grid = {"m": sides, "n": sides[3:], "k": sides[3:]}

    def fits(s: Sizes) -> bool:
        m, n, k = s["m"], s["n"], s["k"]
        return _within(scale, 2.0 * m * n * k) and m * k + k * n + m * n <= scale.elements[1]

    shapes = draw(grid, fits, 44 * scale.share)
    squares = [{"m": n, "n": n, "k": n} for n in sides[3:] if _within(scale, 2.0 * n**3)]
    cases = _cases(("matmul",), [*squares, *shapes], scale)
    whole = [s for s in (*squares, *shapes) if s["n"] % 16 == s["k"] % 16 == 0]
    cases += _cases(("scaled-mm",), whole[: int(24 * scale.share)], scale, dtypes=("fp8",))
    cases += _cases(("matmul",), shapes[:8], scale, directions=("fwd+bwd",))
    batched = {"batch": (4, 16, 60, 128), "m": (16, 64, 128, 500), "n": (64, 128, 300), "k": (32, 64, 128)}
    products = draw(
        batched, lambda s: _within(scale, 2.0 * s["batch"] * s["m"] * s["n"] * s["k"]), 22 * scale.share
    )
    # One register of columns or fewer: no tile.
    narrow = [{"batch": b, "m": m, "n": n, "k": 64} for b, m, n in ((16, 256, 1), (60, 500, 4), (128, 64, 8))]
    return cases + _cases(("bmm",), [*products, *narrow], scale)


_BACKENDS = ("sdpa-math", "sdpa-flash", "sdpa-efficient", "sdpa-cudnn")


def _attention(scale: Scale) -> list[Case]:
    grid = {
        "batch": (1, 2, 4, 8),
        "heads": (4, 8, 12, 32),
        "seq": (64, 128, 256, 500, 512, 1024, 2048, 4096, 8192),
        "head_dim": (32, 64, 128),
    }

    def work(s: Sizes) -> float:
        return 4.0 * s["batch"] * s["heads"] * s["seq"] ** 2 * s["head_dim"]

    def fits(s: Sizes) -> bool:
        # Dense attention stores every score; shapes of too much work are left out.
        return _within(scale, work(s)) and s["batch"] * s["heads"] * s["seq"] ** 2 <= 2**31

    shapes = draw(grid, fits, 22 * scale.share)
    cases = _cases(_BACKENDS, shapes, scale, options={"causal": False})
    cases += _cases(_BACKENDS, [s for s in shapes if s["seq"] >= 256], scale, options={"causal": True})
    small = [s for s in shapes if work(s) <= scale.flops[1] / 3]
    cases += _cases(_BACKENDS, small[:12], scale, directions=("bwd",), options={"causal": False})
    # Grouped keys: not for the math backend, which copies keys for every query head, as no layer does.
    grouped = [{**s, "kv_heads": s["heads"] // 4} for s in shapes[:6]]
    return cases + _cases(_BACKENDS[1:], grouped, scale, options={"causal": True})


def _decode(scale: Scale) -> list[Case]:
    grid = {
        "batch": (1, 4, 16, 64),
        "heads": (8, 32),
        "kv_heads": (2, 8),
        "seq_kv": (256, 1024, 3000, 8192, 32768),
        "head_dim": (64, 128),
    }

    def fits(s: Sizes) -> bool:
        elements = s["batch"] * s["kv_heads"] * s["seq_kv"] * s["head_dim"]
        return scale.elements[0] <= elements <= scale.elements[1] / 2

    shapes = [{**s, "seq": 1} for s in draw(grid, fits, 18 * scale.share)]
    return _cases(_BACKENDS[1:], shapes, scale)


_STEPS = {"batch": (1, 4, 16, 64), "hidden": (64, 128, 256, 512, 1024), "seq": (32, 128, 512, 1024)}


def _walk(scale: Scale, gates: int, count: float) -> list[Sizes]:
    """Return shapes of a recurrent layer over the whole range of width, batch and length."""

    def work(s: Sizes) -> float:
        return 4.0 * gates * s["batch"] * s["seq"] * s["hidden"] ** 2

    return draw(_STEPS, lambda s: work(s) <= scale.flops[1], count)


def _recurrent(scale: Scale) -> list[Case]:
    cases: list[Case] = []
    scale = replace(scale, dtypes=scale.recurrent or scale.dtypes)
    for name, count in (("rnn", 18), ("lstm", 26), ("gru", 24)):
        shapes = _walk(scale, GATES[name], count * scale.share)
        cases += _cases((name,), shapes, scale)
        short = _short(_walk(scale, GATES[name], 1000))[: int(10 * scale.share)]
        cases += _cases((name,), short, scale, directions=("bwd",))
    stacked = [{**s, "num_layers": 2, "input": 96} for s in _walk(scale, 8, 4 * scale.share)]
    # cuDNN overlaps the layers of a stack (Appleyard et al., arXiv 1604.01946).
    overlapped: dict[str, Option] = {"wavefront": True} if scale.recurrent else {}
    return cases + _cases(("lstm", "gru"), stacked, scale, options=overlapped)


def _short(shapes: Sequence[Sizes]) -> list[Sizes]:
    """Return shapes of few steps and little work, as frameworks record every step for the backward pass."""
    return [s for s in shapes if s["seq"] <= 512 and s["batch"] * s["seq"] * s["hidden"] ** 2 <= 1e8]


def _loops(scale: Scale) -> list[Case]:
    cases = []
    for name, gates in GATES.items():
        short = [s for s in _walk(scale, gates, 40 * scale.share) if s["seq"] <= 128]
        cases += _cases((f"{name}-loop",), short[: int(3 * scale.share)], scale)
    return cases


def _linear(scale: Scale) -> list[Case]:
    """Return linear attention, and scans as a loop and level by level."""
    heads = {"batch": (1, 4), "heads": (4, 16), "seq": (256, 1000, 4096, 16384), "head_dim": (32, 64, 128)}
    lanes = {"batch": (1, 4), "seq": (128, 500, 2048, 8192), "hidden": (64, 256, 1024, 4096)}

    def small(s: Sizes) -> bool:
        return 8.0 * s["batch"] * s["heads"] * s["seq"] * s["head_dim"] <= scale.elements[1]

    def short(s: Sizes) -> bool:
        return scale.elements[0] <= s["batch"] * s["seq"] * s["hidden"] <= scale.elements[1] / 4

    shapes = draw(heads, small, 10 * scale.share)
    cases = _cases(("linear-attention",), shapes, scale, directions=("fwd", "bwd"))
    cases += _cases(("linear-attention",), shapes[:3], scale, directions=("fwd+bwd",))
    scans = draw(lanes, short, 10 * scale.share)
    loops = [s for s in scans if s["seq"] <= 500]
    return cases + _cases(("scan-levels",), scans, scale) + _cases(("scan-loop",), loops[:4], scale)


#: Shapes per kernel; copies have many, because they determine the constants of the memory levels.
_ROW_WISE = {"softmax": 20, "layernorm": 18, "rmsnorm": 14}
_POINTWISE = {"copy": 24, "add": 18, "gelu": 18, "relu": 18, "tanh": 18, "mul": 18}

#: Copies with results that the allocator maps anew each time: more than 32 MiB in fp32.
_MAPPED = ({"m": 9000, "n": 1000}, {"m": 11000, "n": 1000}, {"m": 13000, "n": 1000}, {"m": 16000, "n": 1000})


def _memory(scale: Scale) -> list[Case]:
    grid = {
        "m": (16, 64, 200, 1024, 4096, 16384, 65536),
        "n": (64, 128, 500, 1024, 4096, 8192, 32768),
    }

    def fits(s: Sizes) -> bool:
        return scale.elements[0] <= s["m"] * s["n"] <= scale.elements[1]

    cases = []
    for name, count in {**_ROW_WISE, **_POINTWISE}.items():
        cases += _cases((name,), draw(grid, fits, count * scale.share), scale)
    cases += _cases(("copy",), [s for s in _MAPPED if fits(s)], scale)
    backward = draw(grid, fits, 12 * scale.share)
    return cases + _cases(("softmax", "layernorm"), backward, scale, directions=("bwd",))


def _cold(scale: Scale) -> list[Case]:
    """Return a few cases with cold caches; eager only, as caches cannot be flushed within a graph."""
    cold = {"launches": ("eager",), "state": "cold", "dtypes": scale.dtypes[:1]}
    grid = {"m": (64, 1024, 4096), "n": (500, 4096)}
    tables = draw(grid, lambda s: s["m"] * s["n"] <= scale.elements[1], 4 * scale.share)
    products = draw(
        {"m": (8, 128, 512), "n": (512, 2048), "k": (512, 2048)},
        lambda s: _within(scale, 2.0 * s["m"] * s["n"] * s["k"]),
        4 * scale.share,
    )
    return _cases(("copy", "softmax"), tables, scale, **cold) + _cases(("matmul",), products, scale, **cold)  # type: ignore[arg-type]


_COUNTED_TILES = {
    "fa1": ((16, 16), (16, 64), (32, 32), (64, 16), (64, 64)),
    "fa2": ((32, 32), (32, 128), (64, 64), (128, 32), (128, 128)),
}


def _tiles(scale: Scale) -> list[Case]:
    """Return cases of the Triton attention over tile sizes, for both schedules."""
    cases = []
    for schedule, sides in (("fa2", (32, 64, 128)), ("fa1", (16, 32, 64))):
        for rows, cols in itertools.product(sides, sides):
            options: dict[str, Option] = {"schedule": schedule, "tile_rows": rows, "tile_cols": cols}
            shape = {"batch": 4, "heads": 16, "seq": 2048, "head_dim": 64}
            cases += _cases(
                ("triton-attention",), [shape], scale, options=options, dtypes=("bf16",), launches=("graph",)
            )
    return cases
