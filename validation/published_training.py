"""Published training times of whole models: what each row means, and what the package predicts for it.

What a row leaves open (sequences a device, what is computed again, what overlaps) is assumed here, and said
with the answer. Communication between the devices is left out everywhere.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

import pandas as pd

from costmodel.layers import Layer
from costmodel.layers.eager_transformer import EagerTransformer
from costmodel.layers.optimizer_step import OptimizerStep
from costmodel.models import Architecture, from_config, load
from costmodel.predict import predict

#: Optimiser steps, and sequences of 1,024 tokens a step, of FlashAttention's GPT-2 runs (its appendix E.2).
GPT2_STEPS, GPT2_SEQUENCES = 400_000, 512
GPUS, DAY = 8, 86400.0


@dataclass(frozen=True)
class Answer:
    """A predicted number in the published unit, and what it rests on."""

    value: float
    device: str
    rung: str
    assumed: str


def _seconds(layer: Layer, device: str, **sizes: float) -> tuple[float, str]:
    found = predict(layer, device, sizes)
    return float(found.seconds), found.rung


# -- Attention Is All You Need -----------------------------------------------------------------

#: Sustained single-precision rates that the paper's Table 2 assumes (its footnote 5) [FLOP/s].
SUSTAINED = {"k80": 2.8e12, "k40": 3.7e12, "m40": 6.0e12, "p100": 9.5e12}


def device_time_flops(gpu: str, devices: int, seconds: float) -> float:
    """Return "training cost" as Vaswani et al., Table 2, has it: time × devices × a sustained rate [FLOP].

    It is no count of the model's arithmetic, which is 20 to 40 % of it.
    """
    return SUSTAINED[gpu] * devices * seconds


def transformer(row: pd.Series) -> Answer | str:
    """Return a training step of the Transformer on one of 8 P100 [s]."""
    name = "transformer-big" if "big" in row["op"] else "transformer-base"
    length, tokens = 25, 25_000 // GPUS
    model = load(name).training("fp32", attention="dense", optimizer="adam")
    step, rung = _seconds(model, "nvidia/p100-sxm2-16gb", batch=tokens // length, seq=length, seq_kv=length)
    steps = re.search(r"\((\d+) steps\)", row["op"])
    value = step * int(steps[1]) / 3600 if steps else step
    assumed = f"{tokens} source and target tokens a GPU in sentences of {length}; no dropout; no all-reduce"
    return Answer(value, "nvidia/p100-sxm2-16gb", rung, assumed)


# -- FlashAttention's GPT-2 runs ---------------------------------------------------------------


def gpt2(row: pd.Series) -> Answer | str:
    """Return the time of a GPT-2 training run on one of 8 A100 [days]."""
    model = load("gpt2-medium" if "medium" in row["op"] else "gpt2")
    length = int(row["seq"])
    batch = 16 * 1024 // length
    passes = GPT2_SEQUENCES * 1024 // (GPUS * batch * length)
    layer, how = _gpt2(model, row["impl"])
    device = "nvidia/a100-sxm-40gb"
    step, rung = _seconds(layer, device, batch=batch, seq=length, **_eager_sizes(layer, model))
    update = OptimizerStep(dtype="fp16", implementation="foreach")
    last, _ = _seconds(update, device, params=model.parameters)
    assumed = f"{how}; {batch} sequences at a time, {passes} times a step; fp16; no all-reduce, no input"
    return Answer((passes * step + last) * GPT2_STEPS / DAY, device, rung, assumed)


def _gpt2(model: Architecture, impl: str) -> tuple[Layer, str]:
    if impl == "HuggingFace":
        eager: Layer = EagerTransformer(dtype="fp16", direction="fwd+bwd", style="gpt2", dropout=True)
        return eager, "every line of its code a kernel"
    if impl == "Megatron-LM":
        return model.training("fp16", attention="eager", optimizer=None), "scores in memory, with dropout"
    return model.training("fp16", optimizer=None), "tiled attention without dropout"


def _eager_sizes(layer: Layer, model: Architecture) -> dict[str, float]:
    c = model.fields
    sizes = {"d_model": c.d_model, "heads": c.heads, "num_layers": c.layers, "vocab": c.vocab}
    return sizes if layer.name == "eager-transformer" else {}


# -- FlashAttention-2's GPT-3 throughputs ------------------------------------------------------


def gpt3(row: pd.Series) -> Answer | str:
    """Return the throughput of training GPT-3 on one of 8 A100, as the paper counts FLOP [TFLOP/s]."""
    impl = row["impl"]
    if impl == "FlashAttention":
        return "FlashAttention 1's kernels are not among those of whole models"
    model = load("gpt3-2.7b" if "2.7B" in row["op"] else "gpt3-1.3b")
    length = int(row["seq"])
    batch = 8192 // length
    attention = "eager" if impl.startswith("without") else "tiled"
    layer = model.training("fp16", attention=attention, optimizer=None)
    seconds, rung = _seconds(layer, "nvidia/a100-sxm-80gb", batch=batch, seq=length)
    c = model.fields
    flop = batch * (6 * length * model.parameters + 12 * c.layers * c.d_model * length**2)
    assumed = f"{attention} attention; {batch} sequences at a time; fp16; update and all-reduce not charged"
    return Answer(flop / seconds / 1e12, "nvidia/a100-sxm-80gb", rung, assumed)


# -- MaxText on TPUs ---------------------------------------------------------------------------

#: (TPU, scale) → sequences of 2,048 tokens a chip, and what is computed again backward: MaxText's
#: configs/v5e/*.sh and configs/experimental/*.sh. `minimal` keeps the results of all products with weights.
MAXTEXT = {
    ("tpu-v5e", 16): (6, "full"), ("tpu-v5e", 32): (4, "full"), ("tpu-v5e", 64): (2, "full"),
    ("tpu-v5e", 128): (1, "minimal"), ("tpu-v5p", 32): (8, "minimal"), ("tpu-v5p", 64): (4, "minimal"),
    ("tpu-v5p", 128): (2, "minimal"), ("tpu-v5p", 256): (2, "minimal"), ("tpu-v5p", 512): (1, "minimal"),
    ("tpu-v5p", 1024): (1, "full"),
}  # fmt: skip


def maxtext_model(scale: int) -> Architecture:
    """Return MaxText's default model at a ``global_parameter_scale``, a power of two.

    Heads and inner width double first, then the width, then the layers (its `get_individual_scales`).
    """
    doublings, left = divmod(scale.bit_length() - 1, 3)
    wide, width, layers = (2 ** (doublings + (left > least)) for least in (0, 1, 2))
    return from_config(
        {
            "model_type": "llama",
            "vocab_size": 32768,
            "hidden_size": 2048 * width,
            "intermediate_size": 7168 * wide,
            "num_hidden_layers": 16 * layers,
            "num_attention_heads": 16 * wide,
            "head_dim": 128,
            "tie_word_embeddings": True,
        },
        name=f"maxtext-{scale}b",
    )


def maxtext(row: pd.Series) -> Answer | str:
    """Return the throughput of training a model of MaxText on one TPU of many [TFLOP/s]."""
    kind = re.match(r"TPU (v5[ep])", row["gpu"])
    scale = int(re.match(r"\d+", row["op"])[0])  # type: ignore[index]
    if kind is None or (f"tpu-{kind[1]}", scale) not in MAXTEXT:
        return "the model's sizes are in no script of that scale"
    chip = f"tpu-{kind[1]}"
    (batch, again), length = MAXTEXT[chip, scale], 2048
    model = maxtext_model(scale)
    step = model.training(optimizer=None)
    seconds, rung = _seconds(step, f"google/{chip}", batch=batch, seq=length)
    if again == "full":
        forward = dataclasses.replace(step, direction="fwd")
        seconds += _seconds(forward, f"google/{chip}", batch=batch, seq=length)[0]
    c = model.fields
    flop = batch * length * (6 * model.parameters + 6 * c.layers * c.heads * c.head_dim * length)
    assumed = (
        f"{batch} sequences a chip, {'all' if again == 'full' else 'nothing'} computed again, "
        "products unsplit; matrix unit's efficiency assumed"
    )
    return Answer(flop / seconds / 1e12, f"google/{chip}", rung, assumed)
