"""Predict the training of LLaMA on long sequences over several devices as a sum of layers.

The iteration times of DistFlashAttn (Li et al., arXiv 2310.03294, Tables 1 and 3) are of whole models: each
system's own attention, and kernels that all systems share. A device's work is predicted layer by layer and
added up. No constant is fitted on these rows, but the choice of attention library, of the network, and of
what is hidden was made after seeing the first errors.

Counted: 32 layers forward, backward and recomputed; the logits and the loss; where the sequence is
partitioned, gathering weights twice and scattering gradients once (ZeRO-3), without overlap. Left out: the
optimiser's step, the embedding, rotary embedding, the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from costmodel import hardware, kernels
from costmodel.layers import Layer
from costmodel.layers.dist_flash_attention import DistFlashAttention
from costmodel.layers.matmul import Matmul
from costmodel.layers.megatron import Megatron
from costmodel.layers.pointwise import Elementwise, Norm, Softmax
from costmodel.layers.ring_attention import RingAttention
from costmodel.layers.ring_self_attention import RingSelfAttention
from costmodel.layers.ulysses import Ulysses
from costmodel.predict import RUNGS, predict
from costmodel.validation.published_training import Answer

#: Devices per node: a DGX A100 has 8. The paper's two nodes were connected by InfiniBand of 100 Gbit/s (arXiv
#: 2310.03294, §4; from memory), which is taken as one port per device.
DEVICE, NODE, NETWORK = "nvidia/a100-sxm-80gb", 8, "12.5 GB/s"
DTYPE = "bf16"
#: Framework whose constants are used: vLLM's attention is FlashAttention-2, as in these systems.
FRAMEWORK = "vllm"


@dataclass(frozen=True)
class Model:
    """A LLaMA of 32 layers (Touvron et al., arXiv 2302.13971, Table 2), with heads of 128.

    Attributes
    ----------
    heads, kv_heads : int
        Number of query heads, and of key and value heads.
    """

    heads: int
    kv_heads: int
    head_dim: int = 128
    d_model: int = 4096
    d_ff: int = 11008
    num_layers: int = 32
    vocab: int = 32000

    @property
    def products(self) -> tuple[tuple[int, int], ...]:
        """(Output, input) widths of a layer's products: Q, K and V; O; gate and up; down."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        wide = self.d_model
        return ((queries + 2 * keys, wide), (wide, queries), (2 * self.d_ff, wide), (wide, self.d_ff))

    @property
    def parameters(self) -> int:
        """Number of parameters, without norms."""
        return self.num_layers * sum(n * k for n, k in self.products) + 2 * self.vocab * self.d_model


MODELS = {"LLaMA-7B": Model(32, 32), "LLaMA-GQA": Model(32, 8), "LLaMA-33H": Model(33, 33)}

#: Attention of the systems that partition the sequence, forward and backward.
SYSTEMS: dict[str, Layer] = {
    "ring-attention": RingAttention(dtype=DTYPE, direction="fwd+bwd", causal=True),
    "ring-self-attention": RingSelfAttention(dtype=DTYPE, direction="fwd+bwd"),
    "ulysses": Ulysses(dtype=DTYPE, direction="fwd+bwd", causal=True),
    "dist-flash-attention": DistFlashAttention(dtype=DTYPE, direction="fwd+bwd", checkpoint="attention"),
}
#: The only system whose checkpoint is after attention. The others have it at each layer's input, as in
#: Hugging Face's code, so that attention is recomputed, too.
REMATERIALISES = "dist-flash-attention"
#: A row of the published table, and its name of a system → layer.
PRINTED = r"^(LLaMA-\w+) training iteration$"
_PRINTED_SYSTEMS = {
    "DistFlashAttn": "dist-flash-attention",
    "Megatron-LM+FlashAttention": "megatron",
    "Ring Self-Attention": "ring-self-attention",
}


def iteration(
    system: str, model: Model, device: hardware.Device, seq: int, devices: int
) -> tuple[float, str]:
    """Return the time of a training iteration on one sequence [s], and the lowest rung of its layers.

    Parameters
    ----------
    system : str
        ``megatron`` or one of ``SYSTEMS``.
    model : Model
        The model that is trained.
    device : Device
        The kind of all devices.
    seq, devices : int
        Length of the sequence; number of devices, in nodes of ``NODE``.
    """
    found = [
        (repeats, predict(layer, device, sizes, framework=FRAMEWORK))
        for repeats, layer, sizes in _layers(system, model, seq, devices)
    ]
    layers_s = sum(repeats * float(one.seconds) for repeats, one in found)
    beside_s = 0.0 if system == "megatron" else _zero_s(model, device, devices)
    return layers_s + beside_s, min((one.rung for _, one in found), key=RUNGS.index)


def _layers(system: str, model: Model, seq: int, devices: int) -> Iterator[tuple[int, Layer, dict[str, int]]]:
    """Yield how often each layer runs in an iteration, the layer, and its sizes."""
    rows = -(-seq // devices)
    yield 1, Matmul(dtype=DTYPE, direction="fwd+bwd"), {"m": rows, "n": model.vocab, "k": model.d_model}
    yield 1, Softmax(dtype=DTYPE, direction="fwd+bwd"), {"m": rows, "n": model.vocab}  # the loss
    one = _megatron(model, seq, devices) if system == "megatron" else _cut(system, model, seq, devices)
    for layer, sizes in one:
        yield model.num_layers, layer, sizes


def _zero_s(model: Model, device: hardware.Device, devices: int) -> float:
    """Return the time of ZeRO-3's communication: two all-gathers and a reduce-scatter [s]."""
    sizes = {"size": 2 * model.parameters, "devices": devices, "node": min(NODE, devices)}
    timed = kernels.model("collective").seconds
    ways = ("all-gather", "all-gather", "reduce-scatter")
    return float(sum(timed(device, {}, collective=way, **sizes).seconds for way in ways))


def _megatron(model: Model, seq: int, devices: int) -> Iterator[tuple[Layer, dict[str, int]]]:
    """Yield one layer with tensor parallelism and full recomputation.

    SwiGLU's three products of width d_ff have as many FLOP as two of width 3/2 d_ff.
    """
    layer = Megatron(
        dtype=DTYPE,
        direction="fwd+bwd",
        attention="tiled",
        causal=True,
        recompute="full",
        activation="silu",
        norm="rms",
    )
    shape = {"batch": 1, "seq": seq, "d_model": model.d_model, "d_ff": 3 * model.d_ff // 2}
    heads = {"heads": model.heads, "kv_heads": model.kv_heads, "head_dim": model.head_dim}
    yield layer, shape | heads | {"devices": devices, "node": min(NODE, devices)}


def _cut(system: str, model: Model, seq: int, devices: int) -> Iterator[tuple[Layer, dict[str, int]]]:
    """Yield one layer with the sequence partitioned: only attention communicates."""
    rows, wide = -(-seq // devices), model.d_model
    # Forward, then recomputation with the backward pass.
    for direction in ("fwd", "fwd+bwd"):
        for n, k in model.products:
            yield Matmul(dtype=DTYPE, direction=direction), {"m": rows, "n": n, "k": k}
        for _ in range(2):
            yield Norm(dtype=DTYPE, kind="rms", direction=direction), {"m": rows, "n": wide}
            yield Elementwise(dtype=DTYPE, op="add", direction=direction), {"m": rows, "n": wide}
        gate = Elementwise(dtype=DTYPE, op="silu-and-mul", direction=direction)
        yield gate, {"m": rows, "n": model.d_ff}
    sizes = {"batch": 1, "heads": model.heads, "kv_heads": model.kv_heads, "head_dim": model.head_dim}
    sizes |= {"seq": seq, "devices": devices, "node": min(NODE, devices)}
    if system != REMATERIALISES:
        yield replace(SYSTEMS[system], direction="fwd"), sizes
    yield SYSTEMS[system], sizes


def read(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the training iterations among published rows, in their order.

    Parameters
    ----------
    rows : DataFrame
        Rows as `published.printed` returns them.

    Returns
    -------
    DataFrame
        ``source``, ``where``, ``system``, ``model``, ``seq``, ``devices``, ``latency_s``.
    """
    ours = rows[rows["op"].astype(str).str.match(PRINTED)].reset_index(drop=True)
    return pd.DataFrame(
        {
            "source": ours["source"],
            "where": ours["where"],
            "system": ours["impl"].map(_PRINTED_SYSTEMS),
            "model": ours["op"].str.extract(PRINTED, expand=False),
            "seq": ours["seq"].astype(np.int64),
            "devices": ours["gpu"].str.extract(r"^(\d+)x A100 80GB", expand=False).astype(np.int64),
            "latency_s": ours["value"].astype(float),
        }
    )


def training(row: pd.Series) -> Answer:
    """Return the time of a published training iteration [s]; see `iteration`."""
    (case,) = read(pd.DataFrame([row])).to_dict("records")
    system, seq, devices = case["system"], case["seq"], case["devices"]
    model, device = MODELS[case["model"]], hardware.load(DEVICE).replace(network=NETWORK)
    seconds, rung = iteration(system, model, device, seq, devices)
    shared = "tensor parallelism" if system == "megatron" else "ZeRO-3 without overlap"
    again = "without attention" if system == REMATERIALISES else "with attention"
    return Answer(
        seconds,
        DEVICE,
        rung,
        f"{seq:,} tokens on {devices} devices; {shared}; recomputed {again}; no optimizer step",
    )


def compare(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `read` with ``seconds``, the prediction, and ``error``, (prediction − time)/time."""
    a100 = hardware.load(DEVICE).replace(network=NETWORK)
    cases = zip(*(rows[name].tolist() for name in ("system", "model", "seq", "devices")), strict=True)
    seconds = [
        iteration(system, MODELS[model], a100, seq, devices)[0] for system, model, seq, devices in cases
    ]
    compared = rows.assign(seconds=seconds)
    return compared.assign(error=compared["seconds"] / compared["latency_s"] - 1)
