"""Building blocks of models, as parts: products with weights, norms, halves of a layer, both ends.

The functions return parts for one use of the model: all positions of a sequence at once (training,
prefill), or one new token against what is cached (decode).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import sympy as sp

from costmodel.dtypes import dtype as parse_dtype
from costmodel.errors import CostmodelError
from costmodel.layers import Layer, get
from costmodel.models._decoding import StateUpdate
from costmodel.models._fields import Fields
from costmodel.models._formats import in_format
from costmodel.models._part import Part
from costmodel.models.stack import Stack
from costmodel.symbols import symbols

B, N, S = symbols("batch seq seq_kv")

Size: TypeAlias = sp.Expr | int

#: Norms: the kind of layer, and the learned vectors: a gain, an offset.
NORMS = {
    "rms": ("rms", 1),
    "rms-bare": ("rms", 0),
    "layer": ("layer", 2),
    "layer-gain": ("layer", 1),
    "layer-bare": ("layer", 0),
}

#: How attention handles its scores: on the chip; through memory; or through memory as eager frameworks do,
#: with separate kernels for the mask and, in training, for dropout.
ATTENTION = ("tiled", "dense", "eager")


@dataclass(frozen=True)
class Use:
    """What a model is used for, and its number format.

    Attributes
    ----------
    mode : str
        ``training`` and ``prefill`` see `seq` positions of each of `batch`
        sequences at once, ``decode`` one new token of each, with `seq_kv`
        positions (its own included) in the cache.
    dtype : str
        Format of weights and activations; of 8 bits and fewer, of products with weights only (`in_format`).
    attention : str
        How scores are handled if all positions are seen at once; see ``ATTENTION``.
    length : Symbol
        The sequence's length: `seq`, or `seq_kv` for the encoder of an encoder-decoder.
    """

    mode: str
    dtype: str = "bf16"
    attention: str = "tiled"
    length: sp.Symbol = N

    @property
    def decoding(self) -> bool:
        """Whether one new token per sequence is computed."""
        return self.mode == "decode"

    @property
    def positions(self) -> sp.Expr:
        """Tokens of one sequence that pass through a layer at once."""
        return sp.Integer(1) if self.decoding else self.length

    @property
    def rows(self) -> sp.Expr:
        """Tokens of all sequences that pass through a layer at once."""
        return B * self.positions

    @property
    def tokens(self) -> dict[str, sp.Expr]:
        """Sequences and their tokens as sizes of a layer."""
        return {"batch": B, "seq": self.positions}

    def scores(self, *, causal: bool) -> Layer:
        """Return the layer that attends over a whole sequence."""
        if self.attention != "eager":
            return self.layer(f"{self.attention}-attention", causal=causal)
        return self.layer("dense-attention", causal=causal, mask=causal, dropout=self.mode == "training")

    def layer(self, name: str, **options: object) -> Layer:
        """Return the layer of that name in this use's format."""
        made = get(name)(dtype=self.around, **options)  # type: ignore[arg-type]
        return in_format(made, self.dtype)

    @property
    def around(self) -> str:
        """Format of what is around the products."""
        return parse_dtype(self.dtype).around.name


def repeated(parts: Iterable[Part], times: Size) -> Stack:
    """Return a stack of `times` layers with these parts."""
    return Stack(tuple(parts), sp.sympify(times))


def stacks(kinds: Iterable[tuple[Any, ...]], layer: Callable[..., Iterable[Part]]) -> Iterator[Stack]:
    """Yield one stack for each kind of layer, in the order in which the kinds first occur.

    Parameters
    ----------
    kinds : iterable of tuple, or Counter
        The kind of every layer, or the number of layers of each kind.
    layer : callable
        Returns the parts of a layer; its arguments are the kind's.
    """
    for kind, count in Counter(kinds).items():
        yield repeated(layer(*kind), count)


def with_extra(part: Part, numbers: Size) -> Part:
    """Return the part with more learned numbers: biases, gains, mixing weights, position tables."""
    return dataclasses.replace(part, extra=part.extra + numbers)


def keeping(part: Part, share: Size) -> Part:
    """Return the part with the share of what it keeps that no other part keeps; see `Part.keeps`."""
    return dataclasses.replace(part, keeps=sp.sympify(share))


# -- one kernel each ---------------------------------------------------------------------------


def linear(
    use: Use, name: str, inner: Size, outer: Size, *, bias: bool = False, rows: sp.Expr | None = None
) -> Part:
    """Return the product with a weight of inner × outer, with its bias if it has one."""
    part = Part.of(name, use.layer("matmul"), m=use.rows if rows is None else rows, n=outer, k=inner)
    return with_extra(part, outer if bias else 0)


def norm(use: Use, name: str, width: Size, kind: str = "rms", *, rows: sp.Expr | None = None) -> Part:
    """Return a norm over rows of that width, with a gain (layer norm: also an offset).

    Of a norm without an offset (``layer-gain``) or without both (``rms-bare``, ``layer-bare``) the time still
    includes reading them, which is little.
    """
    of, learned = NORMS[kind]
    part = Part.of(name, use.layer("norm", kind=of), m=use.rows if rows is None else rows, n=width)
    if not learned:
        return dataclasses.replace(part, shared=True)
    return with_extra(part, learned * width - part.expression(part.layer.parameters()))


def pointwise(use: Use, name: str, op: str, width: Size, *, rows: sp.Expr | None = None) -> Part:
    """Return an elementwise kernel."""
    return Part.of(name, use.layer("elementwise", op=op), m=use.rows if rows is None else rows, n=width)


def gate(use: Use, name: str, width: Size, function: str = "silu") -> Part:
    """Return the product of a tensor with an equally large gate f(z): two reads, one write."""
    return pointwise(use, name, f"{function}-and-mul", width)


def convolution(use: Use, channels: Size, kernel: int, *, bias: bool = False) -> Part:
    """Return a short causal convolution of each channel; in decoding, with the positions that it keeps."""
    layer = use.layer("causal-conv1d", decode=use.decoding)
    part = Part.of("convolution", layer, **use.tokens, d_model=channels, k=kernel)
    return with_extra(part, channels if bias else 0)


def state(use: Use, name: str, numbers: Size) -> Part:
    """Return a recurrent state of `numbers` fp32 numbers per sequence, read and written in place."""
    return Part.of(name, StateUpdate(dtype=use.around), batch=B, hidden=numbers)


# -- feed-forward ------------------------------------------------------------------------------


def feed_forward(
    use: Use,
    d_model: int,
    width: int,
    function: str,
    *,
    gated: bool = False,
    bias: bool = False,
    name: str = "feed-forward",
) -> Part:
    """Return a feed-forward layer: the product up (and the gate), the activation, the product down."""
    layer = use.layer("swiglu" if gated else "feed-forward", activation=function)
    part = Part.of(name, layer, **use.tokens, d_model=d_model, d_ff=width)
    return with_extra(part, (2 if gated else 1) * width + d_model if bias else 0)


def experts(
    c: Fields,
    use: Use,
    *,
    function: str = "silu",
    plain: bool = False,
    shared: int = 0,
    gated: bool = False,
    extra: int = 0,
    router: bool = True,
) -> Iterator[Part]:
    """Yield a router with its experts, and the shared expert that every token passes.

    Parameters
    ----------
    c : Fields
        Their sizes: `d_model`, `d_expert`, `experts` and `top_k`.
    use : Use
        The use of the model.
    function : str
        Activation of the experts.
    plain : bool
        Whether experts have two products, up and down, and no gate.
    shared : int
        Width of the shared expert; 0: none.
    gated : bool
        Whether the shared expert's output is scaled by one number per token, made by a product.
    extra : int
        Further learned numbers, such as offsets of the router.
    router : bool
        Whether the router is one product; if not, it is not among these parts.

    Raises
    ------
    CostmodelError
        If experts have no width, or a token passes none.
    """
    if not c.d_expert or not c.top_k:
        raise CostmodelError(
            f"experts: wanted a width and experts per token of at least 1, got {c.d_expert} and {c.top_k} of "
            f"{c.experts}"
        )
    alike, odd = divmod(shared, c.d_expert)
    layer = use.layer("moe", activation=function, gated=not plain, shared=0 if odd else alike, router=router)
    sizes = {"d_model": c.d_model, "d_ff": c.d_expert, "experts": c.experts, "top_k": c.top_k}
    yield with_extra(Part.of("experts", layer, **use.tokens, **sizes), extra)
    if odd:
        yield feed_forward(use, c.d_model, shared, function, gated=not plain, name="shared expert")
    if gated:
        yield keeping(linear(use, "shared expert gate", c.d_model, 1), 0)  # the router keeps the same input


# -- ends --------------------------------------------------------------------------------------


def embedding(use: Use, vocab: int, width: int, *, tied: bool) -> Part:
    """Return the look-up of one table row per token; a tied table belongs to `logits`."""
    return Part.of("embedding", use.layer("embedding"), **use.tokens, vocab=vocab, d_model=width, shared=tied)


def logits(use: Use, vocab: int, width: int) -> Part:
    """Return the scores of all words: in training of every position, with the loss; else of the last one."""
    training = use.mode == "training"
    layer = use.layer("logits", head="cross-entropy" if training else "none")
    seq = use.positions if training else 1
    return Part.of("logits", layer, batch=B, seq=seq, vocab=vocab, d_model=width)


def between_ends(
    c: Fields, use: Use, layers: Iterable[Part | Stack], *, kind: str = "rms", bias: bool = False
) -> Iterator[Part | Stack]:
    """Yield the embedding, the layers, the final norm and the logits, with their biases if they have any."""
    yield embedding(use, c.vocab, c.d_model, tied=c.tied)
    yield from layers
    yield norm(use, "final norm", c.d_model, kind)
    yield with_extra(logits(use, c.vocab, c.d_model), c.vocab if bias else 0)


# -- halves of a layer -------------------------------------------------------------------------


def residual(
    use: Use,
    name: str,
    width: Size,
    half: Iterable[Part],
    *,
    kind: str = "rms",
    before: bool = True,
    after: bool = False,
) -> Iterator[Part]:
    """Yield half a layer: the half itself, with a norm before it, after it or both; the residual addition."""
    if before:
        yield norm(use, f"{name} norm", width, kind)
    yield from half
    if after:
        yield norm(use, f"post-{name} norm", width, kind)
    yield pointwise(use, "residual", "add", width)


def feeding(
    c: Fields,
    use: Use,
    sparse: bool,
    *,
    function: str = "silu",
    shared: int = 0,
    gated: bool = False,
    extra: int = 0,
    after: bool = False,
) -> Iterator[Part]:
    """Yield the second half of a layer: experts, or one feed-forward layer with a gate.

    Parameters
    ----------
    c : Fields
        Its sizes: `d_model`, and those of `experts`, or `d_ff`.
    use : Use
        The use of the model.
    sparse : bool
        Whether the layer has experts.
    function, shared, gated, extra
        See `experts`; all but the first are of experts alone.
    after : bool
        Whether it has a norm after it too.
    """
    half: Iterable[Part] = [feed_forward(use, c.d_model, c.d_ff, function, gated=True)]
    if sparse:
        half = experts(c, use, function=function, shared=shared, gated=gated, extra=extra)
    return residual(use, "feed-forward", c.d_model, half, after=after)


def residual_then_norm(
    use: Use, name: str, width: Size, half: Iterable[Part], *, kind: str = "layer"
) -> Iterator[Part]:
    """Yield half a layer of the original Transformer: the half, the residual addition, a layer norm."""
    yield from half
    yield pointwise(use, "residual", "add", width)
    yield norm(use, f"{name} norm", width, kind)


def parallel(
    use: Use, width: Size, attention: Iterable[Part], inner: Iterable[Part], *, kind: str, norms: int = 1
) -> Iterator[Part]:
    """Yield a layer whose halves read the same input, after one norm or one each; both are added to it.

    The second of two norms, or else the second half, keeps no input for backward: it is that of the first.
    """
    inner = list(inner)
    yield norm(use, "attention norm" if norms == 2 else "norm", width, kind)
    if norms == 2:
        yield keeping(norm(use, "feed-forward norm", width, kind), 0)
    else:
        inner[0] = _of_kept_input(inner[0])
    yield from attention
    yield from inner
    yield pointwise(use, "residual", "add", width)
    yield pointwise(use, "residual", "add", width)


def _of_kept_input(part: Part) -> Part:
    """Return a part that keeps no input for backward, because another part keeps it."""
    size, kept = (part.expression(e) for e in (part.layer.tensors().inputs, part.layer.kept()))
    return keeping(part, 1 - sp.cancel(size / kept))
