"""Predict published training times of whole models.

Details that a row leaves open (sequences per device, recomputation, overlap) are assumed here, and stated
with the answer. Communication between devices is left out everywhere.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

import pandas as pd

from costmodel.layers import Layer
from costmodel.layers.optimizer_step import OptimizerStep
from costmodel.layers.pointwise import Elementwise
from costmodel.models import Architecture, from_config, load
from costmodel.predict import predict
from costmodel.validation.amp_gpt2 import largest_pass

#: Optimiser steps, and sequences of 1,024 tokens per step, of FlashAttention's GPT-2 runs (its appendix E.2).
GPT2_STEPS, GPT2_SEQUENCES = 400_000, 512
#: NVIDIA's BERT in MLPerf 1.1: sequences per GPU and largest number of steps (its config_DGXA100_1x8x56x1.sh,
#: which leaves padding out); its time [min] (FlashAttention, Table 1); average tokens of a sequence, assumed,
#: of at most 512.
BERT_SEQUENCES, BERT_STEPS, BERT_MINUTES, BERT_LENGTH = 56, 7_100, 20.0, 256
GPUS, DAY = 8, 86400.0
#: One-way bandwidth of each device's port to other nodes: 400 Gbit/s InfiniBand [B/s].
PORT = "50 GB/s"


@dataclass(frozen=True)
class Answer:
    """A predicted number in the published unit, with device, rung and assumptions."""

    value: float
    device: str
    rung: str
    assumed: str


def _seconds(layer: Layer, device: str, **sizes: float) -> tuple[float, str]:
    found = predict(layer, device, sizes)
    return float(found.seconds), found.rung


# -- Attention Is All You Need -----------------------------------------------------------------


def transformer(row: pd.Series) -> Answer | str:
    """Return a training step of the Transformer on one of 8 P100 [s]."""
    name = "transformer-big" if "big" in row["op"] else "transformer-base"
    length, tokens = 25, 25_000 // GPUS
    model = load(name).training("fp32", attention="dense", optimizer="adam")
    step, rung = _seconds(model, "nvidia/p100-sxm2-16gb", batch=tokens // length, seq=length, seq_kv=length)
    steps = re.search(r"\((\d+) steps\)", row["op"])
    value = step * int(steps[1]) / 3600 if steps else step
    assumed = f"{tokens} source and target tokens per GPU, sentences of {length}; no dropout, no all-reduce"
    return Answer(value, "nvidia/p100-sxm2-16gb", rung, assumed)


# -- FlashAttention's GPT-2 runs ---------------------------------------------------------------


#: Code → whether attention is one kernel; whether chains of pointwise operations are; description.
GPT2_CODE = {
    "HuggingFace": (False, False, "one kernel per line of HuggingFace's code"),
    "Megatron-LM": (False, True, "stored scores, with dropout; chains of pointwise operations fused"),
    "FlashAttention": (True, True, "attention and chains of pointwise operations fused"),
}


def gpt2(row: pd.Series) -> Answer | str:
    """Return the time of a GPT-2 training run on one of 8 A100 [days].

    All runs use PyTorch's automatic mixed precision, with as many sequences at a time as fit into memory
    (FlashAttention, appendix E.2).
    """
    name = "gpt2-medium" if "medium" in row["op"] else "gpt2"
    length, device = int(row["seq"]), "nvidia/a100-sxm-40gb"
    tiled, fused, how = GPT2_CODE[row["impl"]]
    step = largest_pass(name, device, length, tiled=tiled, fused=fused)
    passes = GPT2_SEQUENCES * 1024 // (GPUS * step.batch * length)
    model = load(name)
    update = OptimizerStep(dtype="fp32", implementation="foreach")
    last, _ = _seconds(update, device, params=model.parameters)
    seconds = passes * (step.seconds + _pass_over(model, device)) + last
    assumed = (
        f"{how}; automatic mixed precision; {passes} micro-batches of {step.batch} sequences per step "
        "(the largest that fit into 40 GB); no all-reduce, no data loading"
    )
    return Answer(seconds * GPT2_STEPS / DAY, device, step.rung, assumed)


# -- BERT in MLPerf 1.1 ------------------------------------------------------------------------


def bert(row: pd.Series) -> Answer | str:
    """Return the time of training BERT-large with FlashAttention on one of 8 A100 [min].

    It is NVIDIA's time scaled by a ratio of predictions. Neither the number of steps nor the length of
    sequences without padding is published. Both are equal in the two rows, so one time follows from the
    other.
    """
    theirs, rung = _bert_step("dense")
    if row["impl"] != "FlashAttention":
        most = theirs * BERT_STEPS / 60
        return (
            f"steps and padding are not published; {BERT_STEPS:,} steps (the largest number allowed) of "
            f"{BERT_SEQUENCES} sequences per GPU with {BERT_LENGTH} tokens would take {most:.1f} min"
        )
    ours, _ = _bert_step("tiled")
    assumed = (
        f"NVIDIA's {BERT_MINUTES} min times the ratio of two predicted steps, {ours * 1e3:.0f} ms with tiled "
        f"attention over {theirs * 1e3:.0f} ms with stored probabilities; {BERT_SEQUENCES} sequences per GPU "
        f"of {BERT_LENGTH} tokens, no padding; logits at all positions"
    )
    return Answer(BERT_MINUTES * ours / theirs, "nvidia/a100-sxm-80gb", rung, assumed)


def _bert_step(attention: str) -> tuple[float, str]:
    model = load("bert-large").training("fp16", attention=attention, optimizer="adam")
    return _seconds(model, "nvidia/a100-sxm-80gb", batch=BERT_SEQUENCES, seq=BERT_LENGTH)


# -- FlashAttention-2's GPT-3 throughputs ------------------------------------------------------


#: Tokens per pass of GPT-3 with tiled attention on 80 GB (the authors' repository,
#: training/configs/experiment/pile, gpt3xl-flash.yaml and gpt3-2.7B-flash-hdim128.yaml); with stored scores
#: (assumed).
GPT3_TOKENS = {"gpt3-1.3b": 16_384, "gpt3-2.7b": 8_192}
STORED_TOKENS = 8_192


def gpt3(row: pd.Series) -> Answer | str:
    """Return the throughput of training GPT-3 on one of 8 A100, as the paper counts FLOP [TFLOP/s].

    Kernels are fused and use 16 bits. Automatic mixed precision (``precision`` in the configurations) adds to
    each pass casts of weights and of their gradients, and the accumulation of gradients in fp32.
    """
    impl = row["impl"]
    if impl == "FlashAttention":
        return "whole models have no kernels of FlashAttention 1"
    name = "gpt3-2.7b" if "2.7B" in row["op"] else "gpt3-1.3b"
    model, length, device = load(name), int(row["seq"]), "nvidia/a100-sxm-80gb"
    attention = "eager" if impl.startswith("without") else "tiled"
    batch = (GPT3_TOKENS[name] if attention == "tiled" else STORED_TOKENS) // length
    layer = model.training("fp16", attention=attention, optimizer=None)
    seconds, rung = _seconds(layer, device, batch=batch, seq=length)
    seconds += 2 * _pass_over(model, device)
    c = model.fields
    flop = batch * (6 * length * model.parameters + 12 * c.layers * c.d_model * length**2)
    assumed = (
        f"{attention} attention; micro-batch {batch}; fp16, with casts of weights and gradients and fp32 "
        "accumulation of gradients; no optimizer step, no all-reduce"
    )
    return Answer(flop / seconds / 1e12, device, rung, assumed)


def _pass_over(model: Architecture, device: str) -> float:
    """Return the time of accumulating gradients in fp32, with two reads and one write [s].

    Casting weights to 16 bits and gradients from 16 bits moves as many bytes.
    """
    rows, width = model.parameters // model.fields.d_model, model.fields.d_model
    return _seconds(Elementwise(dtype="fp32", op="add"), device, m=rows, n=width)[0]


# -- MaxText on TPUs ---------------------------------------------------------------------------

#: (TPU, scale) → sequences of 2,048 tokens per chip, and recomputation in the backward pass: MaxText's
#: configs/v5e/*.sh and configs/experimental/*.sh. `minimal` keeps the results of all products with weights.
MAXTEXT = {
    ("tpu-v5e", 16): (6, "full"), ("tpu-v5e", 32): (4, "full"), ("tpu-v5e", 64): (2, "full"),
    ("tpu-v5e", 128): (1, "minimal"), ("tpu-v5p", 32): (8, "minimal"), ("tpu-v5p", 64): (4, "minimal"),
    ("tpu-v5p", 128): (2, "minimal"), ("tpu-v5p", 256): (2, "minimal"), ("tpu-v5p", 512): (1, "minimal"),
    ("tpu-v5p", 1024): (1, "full"),
}  # fmt: skip


def maxtext_model(scale: int) -> Architecture:
    """Return MaxText's default model at a ``global_parameter_scale``, a power of two.

    Heads and inner width are doubled first, then the width, then the layers (its `get_individual_scales`).
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
        return "no MaxText script of that scale gives the model's sizes"
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
        f"{batch} sequences per chip, {'full' if again == 'full' else 'no'} recomputation, products not "
        "split over chips; assumed efficiency of the matrix unit"
    )
    return Answer(flop / seconds / 1e12, f"google/{chip}", rung, assumed)
