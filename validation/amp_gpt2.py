"""GPT-2 as in Hugging Face's code, under PyTorch's automatic mixed precision (AMP).

Weights and activations between layers are fp32. Products are fp16 and cast their operands. Norms, powers,
softmax and the loss are fp32 (PyTorch's list of operations for CUDA autocast). Nothing is executed:
`costmodel.from_torch` captures the code with one and with two layers, and the other layers are taken to be
like the second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from costmodel.capture import from_torch
from costmodel.hardware import load as device_of
from costmodel.models import Architecture, load
from costmodel.parallel.limits import MARGIN
from costmodel.predict import predict
from costmodel.validation.torch_env import load_torch

#: Largest number of tokens of a pass: 16 sequences of 1,024.
TOKENS = 16 * 1024
#: Size of Adam's two moments of a weight in fp32 [bytes].
MOMENTS = 8
DROPOUT = 0.1


@dataclass(frozen=True)
class Pass:
    """Forward and backward pass of a batch of sequences.

    Attributes
    ----------
    seconds : float
        Time of the pass [s].
    batch : int
        Number of sequences: the largest power of two that fits into memory, with at most `TOKENS` tokens.
    rung : str
        Rung of the prediction.
    """

    seconds: float
    batch: int
    rung: str


@lru_cache(maxsize=64)
def largest_pass(name: str, device: str, length: int, *, tiled: bool, fused: bool) -> Pass:
    """Return the largest pass of a GPT-2 that fits into a device's memory.

    Parameters
    ----------
    name : str
        A GPT-2 of the catalogue.
    device : str
        The device that runs it.
    length : int
        Tokens of a sequence.
    tiled : bool
        Whether attention's core is one kernel (FlashAttention) or as in the code.
    fused : bool
        Whether chains of pointwise operations and reductions are one kernel, or one kernel per line of code.
    """
    architecture = load(name)
    room = (1 - MARGIN) * device_of(device).hbm_capacity - MOMENTS * architecture.parameters
    batch = TOKENS // length
    while True:
        seconds, held, rung = _whole(architecture, device, batch, length, tiled, fused)
        if held <= room or batch == 1:
            return Pass(seconds, batch, rung)
        batch //= 2


def _whole(
    architecture: Architecture, device: str, batch: int, length: int, tiled: bool, fused: bool
) -> tuple[float, float, str]:
    """Return time [s] and memory [bytes] of a pass through all layers, and the rung."""
    fusion = "compile" if fused else ("flash" if tiled else "eager")
    found = []
    for layers in (1, 2):
        module, tokens = gpt2(architecture, layers, batch, length, tiled=tiled)
        model = from_torch(module, tokens, direction="fwd+bwd", fusion=fusion)
        found.append(predict(model, device, harness="eager-events"))
    more = architecture.fields.layers - 1
    seconds, held = (
        float(one + more * (two - one))
        for one, two in zip(*((p.seconds, p.footprint_bytes) for p in found), strict=True)
    )
    return seconds, held, found[0].rung


def gpt2(
    architecture: Architecture, layers: int, batch: int, length: int, *, tiled: bool = False
) -> tuple[Any, Any]:
    """Return a GPT-2 with its first layers, embedding, logits and loss, and its tokens, as meta tensors.

    The module returns the loss. Source: Hugging Face transformers, modeling_gpt2.py (GPT2LMHeadModel,
    gelu_new).
    """
    torch = load_torch()
    ops = torch.nn.functional
    c = architecture.fields
    d, head = c.d_model, c.head_dim
    shapes = {"embedding": (c.vocab, d), "positions": (length, d), "norm_last": (2, d)}
    for i in range(layers):
        shapes |= {f"norm{i}a": (2, d), f"norm{i}b": (2, d), f"qkv{i}": (3 * d, d), f"out{i}": (d, d)}
        shapes |= {f"up{i}": (4 * d, d), f"down{i}": (d, 4 * d)}

    class GPT2(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            for name, shape in shapes.items():
                setattr(self, name, torch.nn.Parameter(torch.empty(shape)))
                if name.rstrip("0123456789") in ("qkv", "out", "up", "down"):
                    setattr(self, f"{name}_bias", torch.nn.Parameter(torch.empty(shape[0])))
            self.register_buffer("mask", torch.empty(1, 1, length, length, dtype=torch.bool))

        def norm(self, name: str, x: Any) -> Any:
            gain, offset = getattr(self, name)
            return ops.layer_norm(x, (d,), gain, offset)

        def linear(self, name: str, x: Any) -> Any:
            weight, bias = getattr(self, name).half(), getattr(self, f"{name}_bias").half()
            return ops.linear(x.half(), weight, bias)

        def attention(self, i: int, x: Any) -> Any:
            b, n, _ = x.shape
            parts = self.linear(f"qkv{i}", x).split(d, 2)
            q, k, v = (part.view(b, n, c.heads, head).transpose(1, 2) for part in parts)
            if tiled:
                values = ops.scaled_dot_product_attention(q, k, v, is_causal=True)
            else:
                scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(head)
                least = torch.full((), -1e4, dtype=scores.dtype, device=scores.device)
                scores = torch.where(self.mask, scores, least)
                values = torch.matmul(ops.dropout(ops.softmax(scores.float(), -1).half(), DROPOUT), v)
            return self.linear(f"out{i}", values.transpose(1, 2).reshape(b, n, d))

        def gelu(self, x: Any) -> Any:
            return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.float().pow(3))))

        def forward(self, tokens: Any) -> Any:
            x = ops.dropout(ops.embedding(tokens, self.embedding) + self.positions, DROPOUT)
            for i in range(layers):
                x = x + ops.dropout(self.attention(i, self.norm(f"norm{i}a", x)), DROPOUT)
                inner = self.gelu(self.linear(f"up{i}", self.norm(f"norm{i}b", x)))
                x = x + ops.dropout(self.linear(f"down{i}", inner), DROPOUT)
            logits = ops.linear(self.norm("norm_last", x).half(), self.embedding.half())
            scored, wanted = logits[:, :-1].contiguous(), tokens[:, 1:].contiguous()
            return ops.cross_entropy(scored.float().flatten(0, 1), wanted.flatten())

    with torch.device("meta"):
        return GPT2(), torch.zeros(batch, length, dtype=torch.long)
