"""More arithmetic in less time: attention and an Elman recurrence of the same width on this machine.

Attention may do more arithmetic than a recurrence and still be faster, because its work is not a chain of
dependent steps. The example uses a CPU, where each step costs the library's overhead of a small product.
Recorded with the default sizes of `compare`: 6.2 times the FLOPs in 0.42 of the time (0.75 ms against 1.79
ms; one thread of an AMD EPYC, torch 2.13, with other programs running).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from costmodel.evaluate import evaluate
from costmodel.layers import get
from costmodel.validation import timing
from costmodel.validation.torch_env import load_torch, machine


@dataclass(frozen=True)
class Comparison:
    """Comparison of two layers on one machine: total arithmetic [FLOP], and median times [s]."""

    attention_flops: float
    recurrence_flops: float
    attention_s: float
    recurrence_s: float


def compare(seq: int = 256, width: int = 64, heads: int = 4, budget_s: float = 2.0) -> Comparison:
    """Return FLOPs and measured times of one attention layer and one Elman layer, fp32, one sequence.

    Parameters
    ----------
    seq, width, heads : int
        Sequence length, width of both layers, heads of attention.
    budget_s : float
        Time budget of each measurement [s].

    Raises
    ------
    UnavailableError
        If torch is not installed.
    """
    torch = load_torch()
    x = torch.randn(1, seq, width)
    attention = torch.nn.MultiheadAttention(width, heads, bias=False, batch_first=True)
    recurrence = torch.nn.RNN(width, width, batch_first=True)
    calls: dict[str, Any] = {
        "attention": lambda: attention(x, x, x, need_weights=False),
        "recurrence": lambda: recurrence(x),
    }
    sizes = {"batch": 1, "seq": seq}
    counts = {
        "attention": evaluate(
            get("tiled-attention")(projections=True, dtype="fp32", tile=(32, 32)),  # type: ignore[call-arg]
            **sizes,
            heads=heads,
            head_dim=width // heads,
        ),
        "recurrence": evaluate(get("rnn")(dtype="fp32"), **sizes, hidden=width, onchip=2**40),
    }
    flops = {
        name: count["matrix_flops"] + count["vector_flops"] + count["special_flops"]
        for name, count in counts.items()
    }
    watch = timing.stopwatch("cpu", machine("cpu").cache_at_most)
    with torch.no_grad():
        seconds = {name: timing.measure_warm(watch, call, budget_s).median_s for name, call in calls.items()}
    return Comparison(flops["attention"], flops["recurrence"], seconds["attention"], seconds["recurrence"])
