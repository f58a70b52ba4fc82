"""Kimi delta attention with its projections: a delta rule with a decay for each channel of a key."""

from __future__ import annotations

from collections.abc import Iterator

from costmodel.models._blocks import Use, convolution, gate, keeping, linear, norm, pointwise, with_extra
from costmodel.models._fields import Field, Fields, read
from costmodel.models._part import Part

#: The published configuration's mapping of what concerns delta attention; it has layers counted from 1.
GIVEN = "linear_attn_config"


def _given(c: Fields) -> Fields:
    """Return what the published configuration's mapping says, else what Hugging Face's own keys say."""
    table = {
        "heads": Field(("num_heads",), c.own_heads),
        "width": Field(("head_dim",), c.own_width),
        "kernel": Field(("short_conv_kernel_size",), c.own_kernel),
        "full": Field(("full_attn_layers",), (), list),
        "delta": Field(("kda_layers",), (), list),
    }
    return read(c.mapping, table, GIVEN)


#: Fields of delta attention, by the keys of the architectures that have the mapping.
DELTA_FIELDS = {
    "own_heads": Field(("linear_num_heads",), 32),
    "own_width": Field(("linear_head_dim",), 128),
    "own_kernel": Field(("linear_conv_kernel_dim",), 4),
    "mapping": Field((GIVEN,), {}, dict),
    "given": Field((), _given),
    "delta_heads": Field((), lambda f: f.given.heads),
    "delta_width": Field((), lambda f: f.given.width),
    "kernel": Field((), lambda f: f.given.kernel),
}


def delta_attention(c: Fields, use: Use, *, narrow: bool = True) -> Iterator[Part]:
    """Yield Q, K and V; the gates' products; convolution; delta rule; gated norm; output.

    Each channel has a decay, softplus of a product's result and an offset, times one factor of its head; or a
    sigmoid of that, times a bound.

    Parameters
    ----------
    c : Fields
        The sizes: `d_model`, `delta_heads`, `delta_width` and `kernel`.
    use : Use
        The use of the model.
    narrow : bool
        Whether decay and output gate are products of low rank, a head's width.
    """
    width = c.delta_heads * c.delta_width
    yield linear(use, "query, key and value", c.d_model, 3 * width)
    # Decay, output gate, and β; the first product keeps the same input.
    if narrow:
        yield keeping(linear(use, "gates down-projection", c.d_model, 2 * c.delta_width + c.delta_heads), 0)
        yield with_extra(linear(use, "decay up-projection", c.delta_width, width), width + c.delta_heads)
    else:
        gates = linear(use, "decay, output gate and beta", c.d_model, 2 * width + c.delta_heads)
        yield keeping(with_extra(gates, width + c.delta_heads), 0)
    yield pointwise(use, "decay", "sigmoid", width)
    yield convolution(use, 3 * width, c.kernel)
    core = use.layer("kimi-delta-attention", form="recurrent" if use.decoding else "chunked")
    yield Part.of("delta rule", core, **use.tokens, heads=c.delta_heads, head_dim=c.delta_width)
    if narrow:
        yield linear(use, "output gate up-projection", c.delta_width, width)
    yield norm(use, "gated norm", c.delta_width, rows=use.rows * c.delta_heads)
    yield gate(use, "output gate", width, "sigmoid")
    yield linear(use, "output projection", width, c.d_model)
