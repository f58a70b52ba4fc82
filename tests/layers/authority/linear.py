"""Linear attention and its relatives: the kernels of `chunks` for all heads, and their traffic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from . import chunks
from .chunks import Tally
from .counted import Counted, exp, log2_ceil, maximum, tally, total
from .kernels import WIDTH, Expected, Kernel, Number, directed, dot_depth, product, statistic, table
from .pieces import by_pair, by_row, squares
from .scans import chains, updated
from .tables import softmax_pass

Sizes = dict[str, int]
#: (decay, whether keys have gates of their own, whether normalised)
KIND = {
    "retnet": ("fixed", False, False),
    "gla": ("vector", False, False),
    "mlstm": ("scalar", True, True),
    "mamba-2": ("scalar", False, False),
    "linear-attention": ("none", False, True),
    "performer": ("none", False, True),
}


class Shape:
    """Sizes of a layer, and bytes of its tensors."""

    def __init__(self, name: str, o: dict[str, Any], s: Sizes) -> None:
        self.name, self.o, self.w, self.stat = name, o, WIDTH[o["dtype"]], statistic(o["dtype"])
        self.b, self.n, self.h, self.c = s["batch"], s["seq"], s["heads"], s["block"]
        self.dk, self.dv = s["head_dim"], s.get("value_dim", s["head_dim"])
        self.groups = self.h
        if name == "mamba-2":
            self.dk, self.dv, self.groups = s["state"], s["head_dim"], o["groups"]
        if name == "performer":
            self.dk = s["features"]
        self.decay, self.gated_keys, self.normalised = KIND[name]
        tokens = self.w * self.b * self.n
        self.queries, self.values = tokens * self.groups * self.dk, tokens * self.h * self.dv
        gates = {"scalar": 1, "vector": self.dk}.get(self.decay, 0) + self.gated_keys
        self.gates = tokens * self.h * gates
        entries = self.dk * (self.dv + self.normalised)
        self.state = self.stat * self.b * self.h * entries
        self.held = (WIDTH[o["state_dtype"]] if o["state_dtype"] else self.stat) * self.b * self.h * entries
        count = -(-self.n // self.c)
        # flash-linear-attention, chunk_fwd_h: states in the format of the keys, backward in fp32.
        self.states_back = self.state * count
        narrow = name in ("retnet", "gla")
        self.states = (self.w * self.b * self.h * entries if narrow else self.state) * count
        self.rows = self.stat * self.b * self.h * self.n

    @property
    def more(self) -> dict[str, Any]:
        more: dict[str, Any] = {"normalised": self.normalised}
        if self.gated_keys:
            more["gated_keys"] = True
        if self.name == "mamba-2":
            more["gate_depth"] = 1
        return more

    def kernel(
        self,
        t: Tally,
        *,
        steps: int = 0,
        blocks: int,
        timed: Mapping[str, Number] | None = None,
        **moved: Number,
    ) -> Kernel:
        """Return a kernel for all heads, with what is `timed` besides its counts.

        torch keeps the scores that are computed again here.
        """
        again = 0 if self.o["convention"] == "torch" else t.again
        kernel = chains(
            Kernel(
                matrix=self.b * (self.h * t.matrix + self.groups * (t.keys + again)),
                vector=self.b * self.h * t.vector,
                special=self.b * self.h * t.special,
                steps=steps,
                depth=t.depth,
                **moved,
            ),
            blocks,
        )
        return replace(kernel, sizes={**kernel.sizes, **(timed or {})})


def core(x: Shape) -> tuple[tuple[Kernel, ...], tuple[Kernel, ...]]:
    """Return the chunked form, forward and backward."""
    count = -(-x.n // x.c)
    heads = x.b * x.h

    def of(direction: str) -> dict[str, Tally]:
        full = x.o["convention"] == "torch"
        return chunks.kernels(x.n, x.c, x.dk, x.dv, x.decay, direction, full=full, **x.more)

    there, back = of("fwd"), of("bwd")
    # The walk from the end may begin with a shorter chunk; its depth is that of whole chunks.
    length = min(x.c, x.n)
    whole = chunks.kernels(count * length, length, x.dk, x.dv, x.decay, "bwd", **x.more)
    back = {**back, "state gradients": replace(back["state gradients"], depth=whole["state gradients"].depth)}
    # Backward begins with the states again (chunk_simple_gla_bwd, _mamba_chunk_scan_combined_bwd); torch's
    # autograd would keep them.
    walked = there["states"]
    if x.o["convention"] == "torch":
        walked = replace(walked, matrix=0, keys=0)
    moved: tuple[Number, Number] | None = None
    taken: list[dict[str, Number]] = [{}, {}]
    if x.name == "gla":
        moved = _gla_moved(x)
        # Scores by pairs of pieces and by pieces (chunk_gla_fwd_A_*); gradients of q and of k, by pieces.
        each = (by_pair(x.n, x.c) + squares(x.n, x.c), 2 * (by_row(x.n, x.c) + squares(x.n, x.c)))
        taken = [{"exponentials": heads * x.dk * number} for number in each]
    elif x.name == "mamba-2" and not x.o["fused"]:
        moved = _mamba_moved(x)
    # formulas.md §4: Q, K, V, O once; each state written and read once; K and V again, from the cache.
    forward = (
        x.kernel(
            there["states"],
            steps=count,
            blocks=heads,
            read=x.queries + x.values + x.gates,
            write=x.states,
            workspace=x.states,
        ),
        x.kernel(
            there["outputs"],
            blocks=heads * count,
            read=x.queries + x.states,
            write=x.values,
            l2=moved[0] if moved else x.queries + x.values + x.gates,
            launches=4 if moved else 1,
            timed=taken[0],
        ),
    )
    backward = []
    rows = 0
    if x.normalised:
        rows = x.rows
        cost = tally(lambda: [total([Counted(1.0) / Counted(2.0) * 1.0])])
        assert cost.vector == 3  # divide; multiply by O; add
        backward.append(
            table(
                x.w,
                heads * x.n,
                x.dv,
                2,
                1,
                vector=3,
                depth=1 + dot_depth(x.dv),
                more_read=rows,
                more_write=rows,
            )
        )
    backward.append(
        x.kernel(
            walked,
            steps=count,
            blocks=heads,
            read=x.queries + x.values + x.gates,
            write=x.states_back,
            workspace=x.states_back,
        )
    )
    backward.append(
        x.kernel(
            back["state gradients"],
            steps=count,
            blocks=heads,
            read=x.queries + x.values + rows,
            write=x.states_back,
            l2=x.gates,
            workspace=x.states_back,
        )
    )
    # One kernel for dQ and dK: Q, K, V, dO, the states and their gradients; one for dV, without V and states.
    first, second = (2 * x.queries + 2 * x.values, 2 * x.queries + x.values + x.states_back)
    backward.append(
        x.kernel(
            back["operand gradients"],
            blocks=heads * count,
            read=2 * x.states_back,
            write=2 * x.queries + x.values + x.gates,
            l2=moved[1] if moved else first + second + x.gates + rows,
            launches={"gla": 8, "mamba-2": 12}[x.name] if moved else 2,
            timed=taken[1],
        )
    )
    return forward, tuple(backward)


def _gla_moved(x: Shape) -> tuple[Number, Number]:
    """Return what GLA's kernels move beyond operands once and states (fla/ops/gla/chunk.py).

    Each line is a kernel: what it reads, and what it writes. The gates' sums, scores, dQ, dK and the gates'
    gradients are in fp32, and made narrow at last.
    """
    q, v, s = x.queries, x.values, x.states_back
    sums = x.stat * x.b * x.n * x.h * x.dk
    scores = x.stat * x.b * x.n * x.h * min(x.c, x.n)
    forward = (
        (x.gates, sums),
        (q + v + sums, x.states),
        (2 * q + sums, scores),  # scores between pieces of 16 tokens
        (2 * q + sums, 0),  # and within them
        (q + v + sums + scores + x.states, v),
    )
    # Q, K, V and the gates once; O; the states written and read.
    once = (2 * q + v + x.gates) + v + 2 * x.states
    backward = (
        (x.gates, sums),
        (q + v + sums, s),
        (q + v + sums, s),
        (q + sums + scores + v + s, v),  # dV
        (2 * v, scores),
        (2 * q + sums + scores, 2 * sums),
        (2 * q + v + s + sums + v + s + 2 * sums, 3 * sums),
        (3 * sums, 2 * q + x.gates),
    )
    # Q, K, V, dO and the gates once; the states and their gradients written and read; the gradients.
    once_back = (2 * q + 2 * v + x.gates) + 4 * s + (2 * q + v + x.gates)
    return sum(map(sum, forward)) - once, sum(map(sum, backward)) - once_back


def _mamba_moved(x: Shape) -> tuple[Number, Number]:
    """Return what mamba_ssm's kernels move beyond operands once and states (ops/triton/ssd_combined.py).

    Each line is a kernel, as in `_gla_moved`. Δ, the sums of ΔA and their gradients (`r`), states before they
    are passed on, scores, and the gradients of B and C before the last product are in fp32. The B, C
    and scores of a group are read by each of its heads, scores only up to the diagonal.
    """
    q, v, s, r = x.queries, x.values, x.states_back, x.rows
    each = x.w * x.b * x.n * x.h * x.dk
    narrow = s * x.w // x.stat
    length = min(x.c, x.n)
    scores = x.stat * x.b * x.n * length * x.groups
    cut = [min(x.c, x.n - first) for first in range(0, x.n, x.c)]
    below = x.stat * x.b * x.h * sum(i + 1 for tokens in cut for i in range(tokens))
    wide = x.stat * x.b * x.n * x.groups * x.dk
    forward = (
        (x.gates, 2 * r),
        (v + each + 2 * r, s),
        (s, narrow),
        (2 * q, scores),
        (v + each + below + narrow + 2 * r, v),
    )
    once = (2 * q + v + x.gates) + v + 2 * s
    backward = (
        (x.gates, 2 * r),
        (2 * q, scores),
        (v + each + 2 * r, s),
        (s, s),
        (each + v + r, s),  # gradients of the states
        (2 * s, 2 * narrow),
        (2 * v + each + below + narrow + 2 * r, v + r),  # dx, dΔ
        (v + narrow + each + 2 * r, wide + r),  # dB
        (v + narrow + each + r, wide + r),  # dC
        (2 * v + 2 * r, scores),
        (q + scores + wide, q),
        (q + scores + wide, q),
        (2 * v + below + 2 * r, r),
        (3 * r, r),  # the parts of the gradient of ΔA
        (2 * r + x.gates, x.gates),
    )
    once_back = (2 * q + 2 * v + x.gates) + 4 * s + (2 * q + v + x.gates)
    return sum(map(sum, forward)) - once, sum(map(sum, backward)) - once_back


def one_by_one(x: Shape, weights: Number = 0) -> Kernel:
    """Return the token-by-token form, which reads and writes the state."""
    t = chunks.recurrence(x.n, x.dk, x.dv, x.decay, **x.more)
    operands = 2 * x.queries + x.values + x.gates
    moved = {"read": operands + weights + x.held, "write": x.values + x.held}
    return updated(x.kernel(t, steps=x.n, blocks=x.b * x.h, **moved), x.held)


def gated_linear(name: str, o: dict[str, Any], s: Sizes) -> Expected:
    """Expect the core of RetNet, GLA, mLSTM or Mamba-2."""
    x = Shape(name, o, s)
    operands = 2 * x.queries + x.values + x.gates
    parameters = 2 * x.h if name == "mamba-2" else 0  # A and D
    weights = x.w * parameters
    recurrent = o["form"] == "recurrent"
    if recurrent:
        kernels: tuple[Kernel, ...] = (one_by_one(x, weights),)
        if name == "mamba-2":
            kernels = (updated(_more(x, kernels[0], channel=3, depth=1), x.held),)
    else:
        forward, backward = core(x)
        if name == "mamba-2":
            forward, backward = _mamba_2(x, forward, backward, weights)
        kernels = directed(o, forward, backward)
    divided = x.values + x.rows if x.normalised else 0
    scores = x.stat * x.b * x.n * x.h * min(x.c, x.n) if name == "gla" else 0
    return Expected(
        kernels=kernels,
        inputs=operands,
        weights=weights,
        outputs=x.values,
        updated=x.held if recurrent else 0,
        kept=0 if recurrent else operands + divided + scores,
        path=x.n if recurrent else -(-x.n // x.c),
        parameters=parameters,
    )


def _more(
    x: Shape, k: Kernel, *, channel: int, token: int = 1, depth: int = 0, read: Number = 0, write: Number = 0
) -> Kernel:
    vector = k.vector + x.b * x.h * x.n * (channel * x.dv + token)
    changed = replace(k, vector=vector, depth=k.depth + depth, read=k.read + read, write=k.write + write)
    return chains(changed, int(k.sizes.get("chains", 0)), steps=int(k.sizes["steps"]))


def _mamba_2(
    x: Shape, forward: tuple[Kernel, ...], backward: tuple[Kernel, ...], weights: Number
) -> tuple[tuple[Kernel, ...], tuple[Kernel, ...]]:
    """Add ΔA to every kernel, Δx where x is read, y + D x; backward dx, dΔ, dA, dD (see state_space)."""
    from .state_space import duality_cost  # noqa: PLC0415

    states, outputs = forward
    again, ds, operands = backward
    cost = duality_cost()
    later = max(2, 1 + log2_ceil(x.b * x.n))
    return (
        (
            _more(x, states, channel=1, read=weights),
            _more(x, outputs, channel=cost.forward_channel, depth=1, read=weights),
        ),
        (
            _more(x, again, channel=1, read=weights),
            _more(x, ds, channel=0, read=weights),
            _more(
                x,
                operands,
                channel=cost.backward_channel,
                token=cost.backward_token,
                depth=later,
                read=weights,
                write=weights,
            ),
        ),
    )


# -- feature maps ------------------------------------------------------------------------------


def elu_plus_1(x: Counted) -> Counted:
    """Return elu(x) + 1 = exp(min(x, 0)) + max(x, 0)."""
    low = maximum(-x, 0.0)
    return exp(-low) + maximum(x, 0.0)


def elu_plus_1_gradient(mapped: Counted, g: Counted) -> Counted:
    return g * -maximum(-mapped, -1.0)


def feature_attention(name: str, o: dict[str, Any], s: Sizes) -> Expected:
    """Expect the layers of Katharopoulos et al. and the Performer."""
    x = Shape(name, o, s)
    w, heads, d = x.w, x.b * x.h, s["head_dim"]
    rows, mapped, raw = 2 * heads * x.n, 2 * x.queries, 2 * w * x.b * x.n * x.h * d
    if name == "linear-attention":
        there, back = tally(elu_plus_1, 0.7), tally(elu_plus_1_gradient, 0.7, 0.3)
        mapping = (table(w, rows, d, 1, 1, **vars(there), workspace=mapped),)
        unmapping = (table(w, rows, d, 2, 1, **vars(back)),)
    else:
        mapping, unmapping = _favor(x, d, rows, mapped, raw)
    if not o["causal"]:
        forward, backward = _one_state(x)
    elif o["form"] == "recurrent":
        forward, backward = (one_by_one(x),), ()
    else:
        forward, backward = core(x)
    recurrent = o["form"] == "recurrent"
    state = 0 if o["causal"] else w * heads * x.dk * (x.dv + 1)
    return Expected(
        kernels=directed(o, (*mapping, *forward), (*backward, *unmapping)),
        inputs=raw + x.values,
        outputs=x.values,
        updated=x.held if recurrent else 0,
        kept=0 if recurrent else raw + x.values + state + x.values + x.rows + mapped,
        path=(x.n if recurrent else -(-x.n // x.c)) if o["causal"] else 1,
    )


def _favor(
    x: Shape, d: int, rows: int, mapped: Number, raw: Number
) -> tuple[tuple[Kernel, ...], tuple[Kernel, ...]]:
    """Return the kernels of exp(ωᵀx − |x|²/2)/√m (Performer, Lemma 1 without the common factor)."""
    w, m, statistics = x.w, x.dk, 2 * x.rows
    norm = 2 * d + 1  # squares and their sum; half of it
    exponential = Kernel(
        vector=rows * (norm + 2 * m),  # subtracted; over √m
        special=rows * m,
        read=w * rows * m + raw,
        write=w * rows * m,
        depth=dot_depth(d) + 1 + 1 + 1 + 1,
        workspace=mapped,
        sizes={"rows": rows, "cols": m, "reads": 1 + Fraction(raw) / (w * rows * m), "writes": 1},
    )
    mapping = (product(w, rows, m, d, workspace=mapped), exponential)
    unmapping = (
        table(w, rows, m, 2, 1, vector=2, depth=1 + log2_ceil(m), more_write=statistics),
        product(w, rows, d, m),
        table(w, rows, d, 2, 1, vector=2, depth=2, more_read=statistics),
    )
    return mapping, unmapping


def _one_state(x: Shape) -> tuple[tuple[Kernel, ...], tuple[Kernel, ...]]:
    """Return φ(K)ᵀ V and φ(Q) S: 4·n·d_k·d_v per head, backward twice that (goldens)."""
    w, n, heads, dk, dv = x.w, x.n, x.b * x.h, x.dk, x.dv
    state, sums = w * heads * dk * dv, w * heads * dk
    divided = Kernel(
        vector=heads * n * (2 * dk + dv),  # q·z; the division
        read=w * heads * n * (dv + dk) + sums,
        write=w * heads * n * dv,
        depth=dot_depth(dk) + 1,
        sizes={
            "rows": heads * n,
            "cols": dv,
            "reads": 1 + Fraction(dk, dv) + Fraction(sums) / (w * heads * n * dv),
            "writes": 1,
        },
    )
    forward = (
        product(w, dk, dv, n, times=heads, workspace=state),
        table(w, heads * n, dk, 1, 0, vector=1, depth=log2_ceil(n), more_write=sums, workspace=sums),
        product(w, n, dv, dk, times=heads),
        divided,
    )
    backward = (
        table(w, heads * n, dv, 2, 1, vector=3, depth=1 + dot_depth(dv), more_read=x.rows, more_write=x.rows),
        product(w, n, dk, dv, times=heads),
        table(
            w,
            heads * n,
            dk,
            2,
            1,
            vector=4,  # dq − s·z; z's gradient, the sum of −s·q
            depth=max(2, 1 + log2_ceil(n)),
            more_read=x.rows + sums,
            more_write=sums,
            workspace=sums,
        ),
        product(w, dk, dv, n, times=heads, workspace=state),
        product(w, n, dk, dv, times=heads),
        table(w, heads * n, dk, 1, 1, vector=1, more_read=sums),
        product(w, n, dv, dk, times=heads),
    )
    return forward, backward


def linformer(o: dict[str, Any], s: Sizes) -> Expected:
    """Expect keys and values mixed to k rows, and softmax attention over those."""
    w = WIDTH[o["dtype"]]
    b, n, h, d, dv, k = (s[x] for x in ("batch", "seq", "heads", "head_dim", "value_dim", "rank"))
    heads = b * h
    one = h if o["sharing"] == "none" else 1  # matrices that a product reads
    matrices = {"none": 2 * h, "heads": 2, "keys-and-values": 1}[o["sharing"]]
    scores = w * heads * n * k
    soft = {x: softmax_pass(w, heads * n, k, x, workspace=scores) for x in ("fwd", "bwd")}
    forward = (
        product(w, k, d, n, times=heads, a=one, workspace=w * heads * k * d),
        product(w, k, dv, n, times=heads, a=one, workspace=w * heads * k * dv),
        product(w, n, k, d, times=heads, workspace=scores),
        soft["fwd"],
        product(w, n, dv, k, times=heads),
    )
    backward = (
        product(w, k, dv, n, times=heads, workspace=w * heads * k * dv),
        product(w, n, k, dv, times=heads, workspace=scores),
        soft["bwd"],
        product(w, n, d, k, times=heads),
        product(w, k, d, n, times=heads, workspace=w * heads * k * d),
        product(w, n, d, k, times=heads, a=one),
        product(w, n, dv, k, times=heads, a=one),
        product(w, k, n, d, times=heads, out=one),
        product(w, k, n, dv, times=heads, out=one, workspace=w * k * n if matrices == 1 else 0),
    )
    if matrices == 1:  # E and F are the same matrix, whose gradients are added
        backward += (table(w, k, n, 2, 1, vector=1),)
    tokens = w * b * n * h
    return Expected(
        kernels=directed(o, forward, backward),
        inputs=tokens * (2 * d + dv),
        weights=w * matrices * k * n,
        outputs=tokens * dv,
        kept=tokens * (2 * d + dv) + w * heads * k * (d + dv) + scores,
        parameters=matrices * k * n,
    )
