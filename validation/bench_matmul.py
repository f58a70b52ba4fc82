"""Matrix products: cuBLAS on CUDA, MKL or oneDNN on the CPU, through ``torch.matmul``."""

from __future__ import annotations

from typing import Any

from costmodel.errors import UnavailableError
from costmodel.layers.matmul import Matmul
from costmodel.validation.case import Case
from costmodel.validation.registry import Maker, Work, bench


def _layer(case: Case) -> Matmul:
    return Matmul(dtype=case.dtype, direction=case.direction, batched=case.bench == "bmm")


@bench("matmul", kernel="torch.matmul", op="gemm", layer=_layer)
def matmul(case: Case, make: Maker) -> Work:
    """out[m, n] = A[m, k] · B[k, n], both row-major."""
    m, n, k = case["m"], case["n"], case["k"]
    return Work((make(m, k), make(k, n)), make.torch.matmul, make.torch.matmul)


@bench("bmm", kernel="torch.bmm", op="bmm", layer=_layer)
def bmm(case: Case, make: Maker) -> Work:
    """out[b, m, n] = A[b, m, k] · B[b, k, n]."""
    b, m, n, k = case["batch"], case["m"], case["n"], case["k"]
    return Work((make(b, m, k), make(b, k, n)), make.torch.bmm, make.torch.bmm)


@bench(
    "scaled-mm",
    kernel="torch._scaled_mm",
    op="gemm",
    layer=_layer,
    devices=("cuda",),
    dtypes=("fp8",),
    directions=("fwd",),
)
def scaled_mm(case: Case, make: Maker) -> Work:
    """Product of two e4m3 matrices, accumulated in fp32, bf16 out; scales of 1, no quantisation timed.

    Raises
    ------
    UnavailableError
        If n or k is no multiple of 16: cuBLASLt has no such kernel.
    """
    torch, m, n, k = make.torch, case["m"], case["n"], case["k"]
    if n % 16 or k % 16:
        raise UnavailableError(f"fp8 products exist for n and k that are multiples of 16, not {n} and {k}")
    one = torch.ones((), device=make.device)

    def call(a: Any, b: Any) -> Any:
        # cuBLASLt takes B column-major: the transpose of a row-major n × k.
        return torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    return Work((make(m, k), make(n, k)), call, lambda a, b: a @ b.t())
