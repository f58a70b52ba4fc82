"""What layers are called elsewhere: a user who asks for `gemm` is told `matmul`."""

from __future__ import annotations

#: For each layer or layers, the names that frameworks and papers use, in lowercase letters and digits only.
_CALLED: dict[tuple[str, ...], tuple[str, ...]] = {
    ("matmul",): ("gemm", "bmm", "mm", "linear", "dense", "fc", "fullyconnected", "projection", "lmhead"),
    ("tiled-attention", "dense-attention"): ("attention", "selfattention", "sdpa", "mha", "gqa", "mqa"),
    ("tiled-attention", "flash-attention-3"): (
        "flashattention",
        "flashattn",
        "flashattention2",
        "fa2",
        "fa3",
    ),
    ("decode-attention", "split-kv"): ("flashdecoding", "pagedattention", "kvcache", "decode", "decoding"),
    ("feed-forward", "swiglu"): ("ffn", "mlp", "geglu"),
    ("norm",): ("layernorm", "rmsnorm"),
    ("collective",): ("allreduce", "allgather", "reducescatter", "alltoall", "nccl", "rccl"),
    ("optimizer-step",): ("adam", "adamw", "sgd", "optimizer", "optimiser"),
    ("elementwise",): ("gelu", "relu", "silu", "tanh", "sigmoid", "activation", "add", "residual"),
    ("memory-pass",): ("copy", "cast", "concat", "memcpy"),
    ("mamba-2",): ("ssd", "mamba2"),
    ("mamba", "mamba-2"): ("ssm", "s6", "selectivescan"),
    ("rg-lru",): ("rglru", "lru", "griffin", "hawk"),
    ("long-convolution",): ("s4", "fftconv", "flashfftconv", "longconv"),
    ("hyena", "long-convolution"): ("h3", "hyenaoperator", "stripedhyena"),
    ("gated-delta-net",): ("gdn", "deltanet", "gateddeltanet"),
    ("kimi-delta-attention",): ("kda", "kimi", "kimilinear"),
    ("moe", "expert-parallel"): ("mixtureofexperts", "experts", "router"),
    ("logits",): ("crossentropy", "loss", "unembedding"),
    ("rotary",): ("rope",),
    ("native-sparse-attention",): ("nsa", "nativesparse"),
    ("lsh-attention",): ("reformer", "lsh", "lshselfattention"),
    ("sliding-window", "longformer"): ("swa", "localattention", "slidingwindowattention"),
    ("mlstm", "slstm"): ("xlstm",),
    ("transformer-block", "eager-transformer"): ("transformer", "block", "encoderlayer", "decoderlayer"),
    ("megatron",): ("tensorparallel", "tensorparallelism", "tp"),
    ("ring-attention", "ulysses"): ("contextparallel", "sequenceparallel"),
}
_MEANT = {said: layers for layers, names in _CALLED.items() for said in names}
#: Modules that are no layer here, but can be captured from torch.
_CAPTURED = ("conv2d", "conv3d", "batchnorm", "resnet", "vit", "unet", "cnn")


def meant_by(name: str) -> tuple[str, ...]:
    """Return the layers that are meant by a name used elsewhere; none if it is not known."""
    return _MEANT.get(_plain(name), ())


def is_captured(name: str) -> bool:
    """Return whether a name is that of a torch module for which there is no layer."""
    return _plain(name).startswith(_CAPTURED)


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))
