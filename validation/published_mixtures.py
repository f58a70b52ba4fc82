"""Published training of mixtures of experts on many devices, and predictions by `costmodel.parallel`.

The layouts are the publishers' if they give them, else the fastest ones found. Nothing is fitted on these
rows, and no test depends on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from costmodel import hardware
from costmodel.models import load
from costmodel.parallel import Cluster, Layered, Layout, Training, plan
from costmodel.validation.published_training import PORT, Answer

H100 = "nvidia/h100-sxm"
#: Number of devices and their utilisation [%] with sequences of 4,096 tokens: Liu et al., arXiv 2504.14960,
#: abstract.
FOLDED = {"mixtral-8x22b": (128, 49.3)}
#: Sequences per step of `FOLDED`: assumed, as the number is not known.
SEQUENCES = 256
#: DeepSeek-AI, arXiv 2412.19437: devices (§3.1), sequences per step and their tokens (§4.2), device-hours for
#: 10¹² tokens (§1, Table 1).
DEVICES, BATCH, SEQ, HOURS = 2048, 15_360, 4096, 180_000.0


def mixtures() -> Iterator[tuple[dict[str, Any], Answer]]:
    """Yield each published row, in the columns of `whole_models`, with its prediction."""
    paper = {"source": "DeepSeek-V3 (arXiv 2412.19437)", "where": "Table 1", "impl": "HAI-LLM"}
    about = {"model": "DeepSeek-V3 training", "quantity": "train", "unit": "GPU-hours for 10¹² tokens"}
    yield {**paper, **about, "published": HOURS}, deepseek("fp8", True)
    paper = {
        "source": "MoE Parallel Folding (arXiv 2504.14960)",
        "where": "abstract",
        "impl": "Megatron-Core",
    }
    for name, (devices, published) in FOLDED.items():
        about = {"model": f"{name} training", "quantity": "train", "unit": "% of peak"}
        yield {**paper, **about, "published": published}, folded(name, devices)


def deepseek(dtype: str, hidden: bool) -> Answer:
    """Return the device-hours of training DeepSeek-V3 on 10¹² tokens, in its publishers' layout [h].

    Its 61 layers are distributed over 16 stages, so the largest stage has four.
    """
    stages = 16
    layout = Layout(pipeline=stages, data=DEVICES // stages, expert=64, zero=1, overlap_experts=hidden)
    step = Training(
        model=Layered.of(load("deepseek-v3"), dtype=dtype),
        cluster=Cluster(device=hardware.load(H100).replace(network=PORT), devices=DEVICES),
        layout=layout,
        batch=BATCH,
        seq=SEQ,
    )
    hours = float(step.seconds) * DEVICES / 3600 * 1e12 / (BATCH * SEQ)
    assumed = (
        f"products in {dtype}, all else in 16 bits; 16 stages of up to 4 layers, experts over 64 devices, "
        f"micro-batch 1; all-to-alls {'overlapped' if hidden else 'exposed'}, each copy of a token sent "
        "separately; no multi-token prediction; H100's links instead of H800's"
    )
    return Answer(hours, H100, "kernel", assumed)


def folded(name: str, devices: int) -> Answer:
    """Return the utilisation of the fastest layout found for a mixture of experts [%]."""
    cluster = Cluster(device=hardware.load(H100).replace(network=PORT), devices=devices)
    best = plan(Layered.of(load(name)), cluster, batch=SEQUENCES, seq=SEQ).iloc[0]
    numbers = ("tensor", "pipeline", "data", "expert", "expert_tensor", "zero")
    said = ", ".join(f"{what} {best[what]}" for what in numbers)
    assumed = f"the fastest of all layouts ({said}); {SEQUENCES} sequences per step, balanced experts; bf16"
    return Answer(100 * float(best["utilisation"]), H100, "kernel", assumed)
