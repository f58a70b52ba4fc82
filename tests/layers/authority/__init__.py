"""The cost that every layer should have, worked out without the package: papers, loops, integers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from . import (
    attention,
    convolution,
    delta,
    eager,
    exchanges,
    experts,
    exponential,
    fourier,
    gated,
    hashed,
    latent,
    linear,
    masked,
    megatron,
    native,
    optimisers,
    recurrent,
    scans,
    sequence_parallel,
    state_space,
    tables,
    tokens,
)
from .kernels import Expected

#: By layer: the function that works out its expected cost from options and sizes.
AUTHORITY: dict[str, Callable[[dict[str, Any], dict[str, int]], Expected]] = {
    "matmul": tables.matmul,
    "feed-forward": tables.feed_forward,
    "elementwise": tables.elementwise,
    "softmax": tables.softmax_layer,
    "memory-pass": tables.memory_pass,
    "norm": tables.norm_layer,
    "transformer-block": tables.transformer_block,
    "dense-attention": partial(attention.attention, "dense"),
    "decode-attention": attention.decode,
    "split-kv": attention.split,
    "flash-attention-3": partial(attention.attention, "tiled"),
    "mla": latent.mla,
    **{
        name: partial(masked.masked, name)
        for name in ("sliding-window", "longformer", "strided", "bigbird", "block-sparse")
    },
    "combiner": masked.combiner,
    "compressive-memory": masked.compressive,
    "graph-attention": masked.graph,
    "retrieval-memory": masked.retrieval,
    "lsh-attention": hashed.lsh,
    "native-sparse-attention": native.native,
    "tiled-attention": partial(attention.attention, "tiled"),
    **{name: partial(recurrent.recurrent, name) for name in ("rnn", "lstm", "gru")},
    "scan": scans.scan,
    **{name: partial(gated.gated, name) for name in gated.MATRICES},
    "conv": convolution.conv,
    "separable-conv": convolution.separable,
    "implicit-conv": convolution.implicit,
    "causal-conv1d": convolution.causal,
    "long-convolution": fourier.long_convolution,
    "hyena": fourier.hyena,
    "gated-delta-net": delta.gated_delta_net,
    "kimi-delta-attention": delta.kimi_delta_attention,
    "slstm": exponential.slstm,
    "mamba": state_space.mamba,
    "rwkv": state_space.rwkv,
    **{name: partial(linear.gated_linear, name) for name in ("retnet", "gla", "mlstm", "mamba-2")},
    **{name: partial(linear.feature_attention, name) for name in ("linear-attention", "performer")},
    "linformer": linear.linformer,
    "eager-transformer": eager.eager,
    "embedding": tokens.embedding,
    "logits": tokens.logits,
    "rotary": tokens.rotary,
    "dropout": tokens.dropout_layer,
    "swiglu": experts.swiglu,
    "moe": experts.moe,
    "expert-parallel": experts.expert_parallel,
    "optimizer-step": optimisers.optimizer_step,
    "collective": exchanges.collective,
    **sequence_parallel.AUTHORITIES,
    "megatron": megatron.megatron,
}
