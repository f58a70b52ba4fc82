"""Gemma 4: layers with a window and wider global ones, keys that later layers share, inputs of each layer.

The mixtures have experts beside the feed-forward layer. The small models look up a second, narrow embedding
for every layer, and their last layers attend to the keys and values of earlier ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial

from costmodel.errors import CostmodelError
from costmodel.models._blocks import (
    Use,
    between_ends,
    embedding,
    experts,
    feed_forward,
    gate,
    keeping,
    linear,
    norm,
    pointwise,
    residual,
    stacks,
)
from costmodel.models._family import Family
from costmodel.models._fields import (
    ACT,
    DENSE,
    PER_LAYER,
    TIED,
    Field,
    Fields,
    check_overridden,
    function_of,
    of_layers,
    overridden,
    same,
)
from costmodel.models._heads import Heads, self_attention
from costmodel.models._part import Part
from costmodel.models.families.llama import LAYER_TYPES
from costmodel.models.stack import Stack

#: Of so many layers by default the last is global.
PATTERN = 6
#: What ``per_layer_config`` may say of global layers.
OVERRIDDEN = ("head_dim", "num_key_value_heads")
#: Width of global heads if a configuration says nothing.
GLOBAL_HEAD_DIM = 512


def _global_head_dim(c: Fields) -> int:
    """Return the default width of global heads: the usual one, or no other if layers are listed."""
    return GLOBAL_HEAD_DIM if c.per_layer is None else int(c.head_dim)


def _global_kv_heads(c: Fields) -> int:
    """Return the heads of global keys: those said of them count only if the values are the keys."""
    return int(c.said_kv_heads or c.kv_heads) if c.keys_only else int(c.kv_heads)


FIELDS = {
    **DENSE,
    "d_ff": Field(("intermediate_size",)),
    "kv_heads": Field(("num_key_value_heads",)),
    "head_dim": Field(("head_dim",)),
    "per_layer": PER_LAYER,
    "keys_only": Field(("attention_k_eq_v",), False, bool),
    "said_kv_heads": Field(("num_global_key_value_heads",), 0),
    "global_head_dim": Field(("global_head_dim",), overridden("head_dim", _global_head_dim)),
    "global_kv_heads": Field((), overridden("num_key_value_heads", _global_kv_heads)),
    "attention_bias": Field(("attention_bias",), False, bool),
    "both_ways": Field(("use_bidirectional_attention",), "", str),
    "window": Field(("sliding_window",)),
    "layer_types": Field(("layer_types",), (), list),
    "reading": Field(("num_kv_shared_layers",), 0),
    "wide": Field(("use_double_wide_mlp",), False, bool),
    "d_input": Field(("hidden_size_per_layer_input",), 0),
    "vocab_input": Field(("vocab_size_per_layer_input",), same("vocab")),
    "mixture": Field(("enable_moe_block",), False, bool),
    "experts": Field(("num_experts",), 0),
    "top_k": Field(("top_k_experts",), 0),
    "d_expert": Field(("moe_intermediate_size",), 0),
    "act": ACT,
    "tied": TIED,
}

#: Defaults of Gemma4TextConfig and Gemma4UnifiedTextConfig (transformers, configuration_gemma4.py and
#: configuration_gemma4_unified.py).
_BOTH = {
    "vocab_size": 262144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
}
_GEMMA4 = {
    **_BOTH,
    "sliding_window": 512,
    "vocab_size_per_layer_input": 262144,
    "hidden_size_per_layer_input": 256,
    "max_position_embeddings": 131072,
}
_UNIFIED = {**_BOTH, "sliding_window": 1024, "max_position_embeddings": 262144}
LEFT_TO_DEFAULTS = {
    "gemma4": _GEMMA4,
    "gemma4_text": _GEMMA4,
    "gemma4_unified": _UNIFIED,
    "gemma4_unified_text": _UNIFIED,
}


def kinds(c: Fields) -> Counter[tuple[bool, bool]]:
    """Return the number of layers of each kind: (has a window, reads the keys and values of another).

    Raises
    ------
    CostmodelError
        If layers read keys that no earlier layer of their type makes, or positions see later ones.
    """
    if c.both_ways == "all":
        raise CostmodelError("use_bidirectional_attention: wanted vision or null, got 'all'")
    listed = of_layers(c, LAYER_TYPES) or [LAYER_TYPES[(i + 1) % PATTERN > 0] for i in range(c.layers)]
    # The last layer is global whatever the list says.
    local = [*(name == "sliding_attention" for name in listed[:-1]), False]
    check_overridden(c, OVERRIDDEN, [i for i, windowed in enumerate(local) if not windowed])
    return sharing(c, local)


def sharing(c: Fields, local: list[bool]) -> Counter[tuple[bool, bool]]:
    """Return the number of layers of each kind, of which the last `reading` read; see `kinds`."""
    first = c.layers - c.reading
    if c.reading and (first < 1 or set(local[:first]) != set(local)):
        raise CostmodelError(
            f"num_kv_shared_layers: wanted a layer of each type before those that share, got {c.reading} of "
            f"{c.layers}"
        )
    return Counter((windowed, i >= first) for i, windowed in enumerate(local))


def layer(c: Fields, use: Use, local: bool, reads: bool) -> Iterator[Part]:
    """Yield one layer: attention, the feed-forward layer and its experts, the layer's own input."""
    heads = Heads(
        d_model=c.d_model,
        heads=c.heads,
        kv_heads=c.kv_heads if local else c.global_kv_heads,
        head_dim=c.head_dim if local else c.global_head_dim,
        bias=c.attention_bias,
        out_bias=c.attention_bias,
        qk_norm="head",
        window=c.window if local else None,
        values="key" if c.keys_only and not local else "own",
        value_norm=True,
        reads=reads,
    )
    yield from residual(use, "attention", c.d_model, self_attention(use, heads), after=True)
    yield from residual(use, "feed-forward", c.d_model, feeding(c, use, reads), after=True)
    if c.d_input:
        yield from own_input(c, use)


def feeding(c: Fields, use: Use, reads: bool) -> Iterator[Part]:
    """Yield the feed-forward layer and, in mixtures, the experts beside it; each result is normed.

    Experts and router have norms of their own over what the feed-forward layer's norm reads, which keeps it
    for backward. The router's norm has a gain per channel as every other, and each expert a scale.
    """
    function, width = function_of(c, "gelu-tanh"), c.d_ff * (2 if c.wide and reads else 1)
    yield feed_forward(use, c.d_model, width, function, gated=True)
    if not c.mixture:
        return
    yield norm(use, "post-dense norm", c.d_model)
    yield norm(use, "router norm", c.d_model)  # what it keeps stands for its result, which the router reads
    yield keeping(norm(use, "experts norm", c.d_model), 0)
    yield from experts(c, use, function=function, extra=c.experts)
    yield norm(use, "post-experts norm", c.d_model)
    yield pointwise(use, "sum of dense and experts", "add", c.d_model)


def own_input(c: Fields, use: Use, *, streams: int = 1) -> Iterator[Part]:
    """Yield the layer's own input: the product for its gate, the gate, the product back, norm, addition.

    It is added to so many residual streams.
    """
    function = function_of(c, "gelu-tanh")
    yield linear(use, "own input gate", c.d_model, c.d_input)
    yield gate(use, "own input", c.d_input, function)
    yield linear(use, "own input projection", c.d_input, c.d_model)
    yield norm(use, "own input norm", c.d_model)
    yield pointwise(use, "residual", "add", streams * c.d_model)


def inputs(c: Fields, use: Use) -> Iterator[Part]:
    """Yield what makes the inputs of all layers: a look-up, a product of the embedding, its norm, the sum."""
    width = c.layers * c.d_input
    yield embedding(use, c.vocab_input, width, tied=False)
    yield linear(use, "layers' inputs", c.d_model, width)
    yield norm(use, "norm of layers' inputs", c.d_input, rows=use.rows * c.layers)
    yield pointwise(use, "sum of layers' inputs", "add", width)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers' inputs, the layers, the norm and the logits."""
    made = inputs(c, use) if c.d_input else ()
    return between_ends(c, use, (*made, *stacks(kinds(c), partial(layer, c, use))))


GEMMA4 = Family(
    types=tuple(LEFT_TO_DEFAULTS),
    fields=FIELDS,
    parts=parts,
    source="Hugging Face transformers, modeling_gemma4.py and modeling_gemma4_unified.py (the text models)",
    left_out=(
        "dropout, masks, scaling and clipping by constants, sampling; the models of images and sound; that "
        "only the last position of a prompt has to pass the layers that share keys; rotation is counted for "
        "whole heads, of which a quarter is rotated in global layers"
    ),
    cut={
        "heads": "heads",
        "kv_heads": "key and value heads",
        "global_kv_heads": "key and value heads of global layers",
        "d_ff": "inner width",
    },
    alternates=True,
    left_to_defaults=LEFT_TO_DEFAULTS,
)
