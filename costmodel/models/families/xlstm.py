"""xLSTM as in its 7B model: matrix memories (mLSTM) between gated feed-forward layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from costmodel.errors import CostmodelError
from costmodel.models._blocks import (
    Use,
    between_ends,
    feed_forward,
    gate,
    keeping,
    linear,
    norm,
    repeated,
    residual,
    with_extra,
)
from costmodel.models._family import Family
from costmodel.models._fields import D_MODEL, HEADS, LAYERS, UNTIED, VOCAB, Field, Fields, fraction
from costmodel.models._part import Part
from costmodel.models.stack import Stack

#: Largest width.
WIDEST = Field(()).most


def _width(factor: str, multiple: str) -> Callable[[Fields], int]:
    """Return a default: a factor times the model's width, truncated, then rounded up to a multiple.

    Raises
    ------
    CostmodelError
        When the default is used and is not a valid size.
    """

    def default(c: Fields) -> int:
        step, width = int(getattr(c, multiple)), c.d_model * getattr(c, factor)
        if not 1 <= width <= WIDEST:
            said = FIELDS[factor].names[0]
            raise CostmodelError(f"{said} of {c.d_model} should be 1 to {WIDEST:,}, got {width:g}")
        return -(-int(width) // step) * step

    return default


FIELDS = {
    "vocab": VOCAB,
    "d_model": D_MODEL,
    "layers": LAYERS,
    "heads": HEADS,
    "key_factor": Field(("qk_dim_factor",), 0.5, float),
    "value_factor": Field(("v_dim_factor",), 1.0, float),
    "ff_factor": Field(("ffn_proj_factor",), 2.667, float),
    "ff_multiple": Field(("ffn_round_up_to_multiple_of",), 64),
    "key_multiple": Field(("mlstm_round_up_to_multiple_of",), 64),
    "chunk": Field(("chunk_size",), 64),
    "tied": UNTIED,
    "bias": Field(("use_bias",), False, bool),
    # Sizes that follow from these and are in no configuration.
    "keys": Field((), _width("key_factor", "key_multiple")),
    "values": Field((), _width("value_factor", "key_multiple")),
    "d_ff": Field((), _width("ff_factor", "ff_multiple")),
    "key_dim": Field((), fraction("keys", "heads")),
    "value_dim": Field((), fraction("values", "heads")),
}


def mixer(c: Fields, use: Use) -> Iterator[Part]:
    """Yield Q, K, V, output gate; input and forget gates; the matrix memory; norm, gate, projection out."""
    keys, values = c.keys, c.values
    yield linear(use, "query, key, value and gate", c.d_model, 2 * keys + 2 * values, bias=c.bias)
    # It reads the layer's input, which the first product keeps already.
    yield keeping(linear(use, "input and forget gates", c.d_model, 2 * c.heads, bias=True), 0)
    memory = use.layer("mlstm", form="recurrent" if use.decoding else "chunked")
    sizes = {"heads": c.heads, "head_dim": c.key_dim, "value_dim": c.value_dim, "block": c.chunk}
    yield Part.of("matrix memory", memory, **use.tokens, **sizes)
    # Each head is normed separately, with its own gains; the memory already keeps the norm's input.
    part = norm(use, "head norm", c.value_dim, rows=use.rows * c.heads)
    yield keeping(with_extra(part, values - c.value_dim + (values if c.bias else 0)), 0)
    yield gate(use, "output gate", values, "sigmoid")
    yield linear(use, "output projection", values, c.d_model, bias=c.bias)


def half(c: Fields, use: Use, name: str, inner: Iterable[Part]) -> Iterator[Part]:
    """Yield half a layer; its norm has an offset if products have biases (the final norm never has one)."""
    first, *rest = residual(use, name, c.d_model, inner)
    yield with_extra(first, c.d_model if c.bias else 0)
    yield from rest


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits."""
    inner = feed_forward(use, c.d_model, c.d_ff, "silu", gated=True, bias=c.bias)
    layer = [*half(c, use, "mixer", mixer(c, use)), *half(c, use, "feed-forward", [inner])]
    return between_ends(c, use, [repeated(layer, c.layers)])


XLSTM = Family(
    types=("xlstm",),
    fields=FIELDS,
    parts=parts,
    source="Beck et al., arXiv 2405.04517 and 2503.13427; Hugging Face transformers, modeling_xlstm.py",
    cut={"heads": "heads", "keys": "keys' width", "values": "values' width", "d_ff": "inner width"},
)
