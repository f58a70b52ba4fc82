"""Alternatives to quadratic attention as a framework runs them: linear attention, and scans."""

from __future__ import annotations

from functools import partial
from typing import Any

from costmodel.cost import ONE
from costmodel.layers.linear_attention import LinearAttention
from costmodel.layers.matmul import Matmul
from costmodel.layers.scan import Scan
from costmodel.models import Model, Part
from costmodel.symbols import symbols
from costmodel.validation.case import Case
from costmodel.validation.passes import Call, Pass, in_calls
from costmodel.validation.registry import Maker, Work, bench

B, H, N, D = symbols("batch heads seq head_dim")


def _linear_layer(case: Case) -> Model:
    """Return linear attention with each call below as a separate pass or product.

    The layer of that name fuses φ and the division. Here elu, the addition of 1, the sum of the keys and the
    product with it are separate calls that read and write whole tables. Backward, an addition of 1 and a sum
    pass their gradient on without a call; φ(Q) and φ(K) are used twice, so that two gradients are added; and
    a/b has the gradients g/b and Σ −g·((a/b)/b).
    """
    dtype, tokens = case.dtype, B * H * N
    product = Matmul(dtype=dtype, batched=True)
    added = (Call("elementwise_add", 2 * ONE),)
    divide = Call("elementwise_div", 1 + ONE / D)
    divided = (
        *(divide, divide, divide),
        Call("elementwise_neg"),
        Call("elementwise_mul", 2 * ONE),
        Call("elementwise_sum", writes=ONE / D),
    )
    one = Pass(dtype=dtype, called="elementwise_add_scalar", gradient=added)
    summed = Pass(dtype=dtype, called="elementwise_sum", writes=ONE / N, gradient=())
    division = Pass(dtype=dtype, called=divide.op, reads=divide.reads, gradient=divided)
    parts = (
        Part.of("elu", Pass(dtype=dtype, called="elu"), repeats=2, m=tokens, n=D),
        Part.of("plus 1", one, repeats=2, m=tokens, n=D),
        Part.of("state", product, shared=True, batch=B * H, m=D, n=D, k=N),
        Part.of("sum of keys", summed, m=tokens, n=D),
        Part.of("outputs", product, shared=True, batch=B * H, m=N, n=D, k=D),
        Part.of("divisors", product, shared=True, batch=B * H, m=N, n=1, k=D),
        Part.of("division", division, m=tokens, n=D),
    )
    return in_calls(LinearAttention.name, case, parts)


@bench("linear-attention", kernel="torch matmul", op="linear_attention", layer=_linear_layer)
def linear_attention(case: Case, make: Maker) -> Work:
    """φ(Q)(φ(K)ᵀV) over φ(Q)·Σφ(K), with φ(x) = elu(x) + 1 (Katharopoulos et al., arXiv 2006.16236)."""
    shape = (case["batch"], case["heads"], case["seq"], case["head_dim"])

    def call(q: Any, k: Any, v: Any) -> Any:
        elu = make.torch.nn.functional.elu
        q, k = elu(q) + 1, elu(k) + 1
        state, total = k.transpose(-1, -2) @ v, k.sum(-2)
        return (q @ state) / (q @ total.unsqueeze(-1))

    return Work((make(*shape), make(*shape), make(*shape)), call, call)


def _states(torch: Any, a: Any, b: Any) -> Any:
    """Return h_t = a_t h_{t−1} + b_t, step by step."""
    h = torch.zeros_like(b[:, 0])
    states = []
    for one, other in zip(a.unbind(1), b.unbind(1), strict=True):
        h = one * h + other
        states.append(h)
    return torch.stack(states, 1)


def _operands(case: Case, make: Maker) -> tuple[Any, Any]:
    """Return a in (0, 1), so that no state grows, and b."""
    shape = (case["batch"], case["seq"], case["hidden"])
    return make.torch.sigmoid(make(*shape)), make(*shape)


@bench(
    "scan-loop",
    kernel="torch loop",
    op="scan",
    layer=lambda case: Scan(dtype=case.dtype, algorithm="sequential", fused=False),
    directions=("fwd",),
)
def scan_loop(case: Case, make: Maker) -> Work:
    """A multiplication and an addition per step, each a separate call."""
    call = partial(_states, make.torch)
    return Work(_operands(case, make), call, call)


@bench(
    "scan-levels",
    kernel="torch levels",
    op="scan",
    layer=lambda case: Scan(dtype=case.dtype, algorithm="kogge-stone", fused=False),
    directions=("fwd",),
)
def scan_levels(case: Case, make: Maker) -> Work:
    """log₂ T levels over the whole sequence: every pair is combined with that 1, 2, 4, … positions before."""
    seq = case["seq"]

    def call(a: Any, b: Any) -> Any:
        reach = 1
        a, b = a.clone(), b.clone()
        while reach < seq:
            # The right side is computed before the write, so it reads the previous level.
            b[:, reach:] += a[:, reach:] * b[:, :-reach]
            a[:, reach:] *= a[:, :-reach].clone()
            reach *= 2
        return b

    return Work(_operands(case, make), call, partial(_states, make.torch))
