"""Scaled-dot-product attention with each of torch's backends."""

from __future__ import annotations

from typing import Any

from costmodel.cost import ONE
from costmodel.layers import Layer
from costmodel.layers.decode_attention import DecodeAttention
from costmodel.layers.dense_attention import DenseAttention
from costmodel.layers.pointwise import Elementwise
from costmodel.layers.tiled_attention import TiledAttention
from costmodel.models import Part
from costmodel.symbols import symbol, symbols
from costmodel.validation.case import Case
from costmodel.validation.passes import Pass, in_calls
from costmodel.validation.registry import FLOATS, Maker, Work, bench
from costmodel.validation.torch_env import sdpa_backend

B, H, N, D = symbols("batch heads seq head_dim")


def exact_attention(torch: Any, q: Any, k: Any, v: Any, *, causal: bool) -> Any:
    """Return softmax(Q Kᵀ/√d) V by its definition, head by head so that only one n × n matrix exists.

    Parameters
    ----------
    q : Tensor, shape (batch, heads, seq, head_dim)
    k, v : Tensor, shape (batch, kv_heads, seq_kv, head_dim)
    causal : bool
        Query i sees keys 0 … i.
    """
    group = q.shape[1] // k.shape[1]

    def one(q1: Any, k1: Any, v1: Any) -> Any:
        scores = q1 @ k1.T / q1.shape[-1] ** 0.5
        if causal:
            allowed = torch.ones(scores.shape, dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~allowed, float("-inf"))
        return torch.softmax(scores, -1) @ v1

    def kept_small(*tensors: Any) -> Any:
        # For gradients the matrix is recomputed instead of kept for every head.
        if not torch.is_grad_enabled():
            return one(*tensors)
        return torch.utils.checkpoint.checkpoint(one, *tensors, use_reentrant=False)

    def sequence(q1: Any, k1: Any, v1: Any) -> Any:
        return torch.stack([kept_small(each, k1[h // group], v1[h // group]) for h, each in enumerate(q1)])

    # Unbind instead of indexing, whose gradient would fill a tensor of all heads for each one.
    each_head = ([one.unbind(0) for one in tensor.unbind(0)] for tensor in (q, k, v))
    return torch.stack([sequence(*own) for own in zip(*each_head, strict=True)])


def _decode(case: Case) -> bool:
    return case["seq"] == 1 and case.get("seq_kv", 1) > 1


def _op(case: Case) -> str:
    if _decode(case):
        return "attention_decode"
    return "attention_prefill" if case.option("causal", False) else "attention_prefill_noncausal"


def _dense(case: Case) -> Layer:
    """Return dense attention with the additional passes of ATen's math backend (``attention.cpp``).

    For 16-bit formats Q, K and V are widened first, everything in between is fp32, and O and the
    probabilities, which the function also returns, are narrowed (by default, see
    ``torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp``). Separate kernels scale Q and K. The causal
    mask is added to the scores. The softmax returns 0 for rows without a key (``_safe_softmax``) and searches
    for them: `isneginf` reads the scores and writes one byte for each, `all` reads these row by row, and
    `where` reads the probabilities and writes them again. The three are timed as one.
    """
    causal, narrow = bool(case.option("causal", False)), case.dtype in ("bf16", "fp16")
    dtype = "fp32" if narrow else case.dtype
    byte = ONE / DenseAttention(dtype=dtype).bytes
    keyless = Pass(dtype=dtype, called="safe_softmax", reads=2 + byte, writes=1 + byte)
    widened, narrowed = (
        Pass(dtype=case.dtype, called="cast", reads=reads * ONE, writes=(3 - reads) * ONE) for reads in (1, 2)
    )
    parts = [
        Part.of("scale", Elementwise(dtype=dtype, op="copy"), repeats=2, m=B * H * N, n=D),
        Part.of(
            "attention",
            DenseAttention(dtype=dtype, causal=causal, mask=causal),
            batch=B,
            heads=H,
            seq=N,
            head_dim=D,
            **{name: symbol(name) for name in ("kv_heads", "seq_kv") if case.get(name, 0)},
        ),
        Part.of("rows without a key", keyless, m=B * H * N, n=N),
    ]
    if narrow:
        parts.insert(0, Part.of("operands widened", widened, repeats=3, m=B * H * N, n=D))
        parts.append(Part.of("result narrowed", narrowed, m=B * H * N, n=D))
    if narrow and case.direction == "fwd":  # gradients of the probabilities are not needed
        parts.append(Part.of("probabilities narrowed", narrowed, m=B * H * N, n=N))
    return in_calls(DenseAttention.name, case, parts)


def _tiled(case: Case) -> Layer:
    if _decode(case):
        return DecodeAttention(dtype=case.dtype, direction=case.direction)
    return TiledAttention(
        dtype=case.dtype, direction=case.direction, causal=bool(case.option("causal", False))
    )


def _sdpa(case: Case, make: Maker, backend: str) -> Work:
    torch = make.torch
    batch, heads, seq, width = case["batch"], case["heads"], case["seq"], case["head_dim"]
    kv_heads, seq_kv = case.get("kv_heads", heads), case.get("seq_kv", seq)
    causal = bool(case.option("causal", False))
    q = make(batch, heads, seq, width)
    k, v = (make(batch, kv_heads, seq_kv, width) for _ in range(2))

    def call(q: Any, k: Any, v: Any) -> Any:
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=causal, enable_gqa=kv_heads != heads
        )

    def exact(q: Any, k: Any, v: Any) -> Any:
        return exact_attention(torch, q, k, v, causal=causal)

    return Work((q, k, v), call, exact, scope=lambda: sdpa_backend(backend))


@bench("sdpa-math", kernel="sdpa math", op=_op, layer=_dense)
def sdpa_math(case: Case, make: Maker) -> Work:
    """Dense attention: products and softmax as separate kernels."""
    return _sdpa(case, make, "math")


@bench("sdpa-flash", kernel="sdpa flash", op=_op, layer=_tiled, dtypes=("fp32", "bf16", "fp16"))
def sdpa_flash(case: Case, make: Maker) -> Work:
    """FlashAttention-2 on CUDA (16-bit only); on the CPU torch's own tiled kernel."""
    return _sdpa(case, make, "flash")


@bench("sdpa-efficient", kernel="sdpa efficient", op=_op, layer=_tiled, devices=("cuda",), dtypes=FLOATS)
def sdpa_efficient(case: Case, make: Maker) -> Work:
    """xFormers' memory-efficient kernel."""
    return _sdpa(case, make, "efficient")


@bench("sdpa-cudnn", kernel="sdpa cudnn", op=_op, layer=_tiled, devices=("cuda",), dtypes=("bf16", "fp16"))
def sdpa_cudnn(case: Case, make: Maker) -> Work:
    """The cuDNN library's fused kernel."""
    return _sdpa(case, make, "cudnn")
