"""A whole Transformer as an eager framework runs it: one kernel per line of its code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import sympy as sp

from costmodel.cost import Phase, Tensors
from costmodel.layers._base import Layer
from costmodel.layers._kernels import activation, gemm, norm, softmax, stream
from costmodel.symbols import CeilLog2, symbols

B, N, D, F, H, DH, L, V = symbols("batch seq d_model d_ff heads head_dim num_layers vocab")


@dataclass(frozen=True)
class Pass:
    """A memory-bound kernel over one table of a layer.

    Attributes
    ----------
    name : str
        What it computes.
    table : str
        ``scores`` (heads · n × n), ``inner`` (n × d_ff) or ``hidden`` (n × d_model).
    op : str
        Operation under its name in the measurements, whose fitted constants apply.
    reads, writes : int
        Numbers read and written per number of the table; one-byte masks are not counted.
    count : int
        Number of such kernels.
    borrowed : bool
        Whether `op` names another operation, whose constants are borrowed.
    """

    name: str
    table: str
    op: str = "elementwise_mul_scalar"
    reads: int = 1
    writes: int = 1
    count: int = 1
    borrowed: bool = False


@dataclass(frozen=True)
class Style:
    """The kernels that one model family launches besides products, according to its code.

    Attributes
    ----------
    fused_qkv : bool
        Whether one product computes Q, K and V.
    forward, backward : tuple of Pass
        Passes of a layer, and those that autograd runs for them, besides norms, softmax, residual
        branches, dropout and layout changes.
    head : str
        ``logits`` for every position, or a ``pooler`` for one.
    kept_scores, kept_inner : int
        Number of tables of the size of the scores, and of the inner width, that autograd saves per layer: the
        inputs of products, powers and comparisons, the results of exponentials and tanh. Sums, scales and
        masks save none.
    """

    fused_qkv: bool
    forward: tuple[Pass, ...]
    backward: tuple[Pass, ...]
    head: str
    kept_scores: int
    kept_inner: int


_ADD, _MUL = "elementwise_add", "elementwise_mul"
#: Three products read one input: autograd adds their gradients.
_THREE_BRANCHES = Pass("sum of input gradients", "hidden", _ADD, 2, count=2)
#: transformers' modeling_gpt2.py, modeling_bert.py and modeling_opt.py, with eager attention. GPT-2's
#: activation (NewGELU) is written out: power, scale, add, scale, tanh, add, half of x, product.
STYLES = {
    "gpt2": Style(
        fused_qkv=True,
        forward=(
            Pass("scale", "scores"),
            Pass("causal mask", "scores", borrowed=True),
            Pass("activation power", "inner", "elementwise_pow_scalar"),
            Pass("activation scale", "inner", count=3),
            Pass("activation sum", "inner", _ADD, 2),
            Pass("activation tanh", "inner", "tanh"),
            Pass("activation plus one", "inner", "elementwise_add_scalar"),
            Pass("activation product", "inner", _MUL, 2),
        ),
        backward=(
            Pass("scale", "scores"),
            Pass("causal mask", "scores", borrowed=True),
            Pass("activation products", "inner", _MUL, 2, count=3),
            Pass("activation tanh", "inner", _MUL, 2, borrowed=True),
            Pass("activation scales and square", "inner", count=5),
            Pass("activation sums", "inner", _ADD, 2, count=2),
            Pass("concatenation of Q, K and V gradients", "hidden", "elementwise_copy", count=2),
        ),
        head="logits",
        kept_scores=1,  # probabilities
        kept_inner=5,  # x, its tanh, both factors (half of x, 1 + tanh), their product
    ),
    "opt": Style(
        fused_qkv=False,
        forward=(
            Pass("query scale", "hidden"),
            Pass("mask", "scores", borrowed=True),
            Pass("maximum", "scores", borrowed=True),
            Pass("relu", "inner", "relu"),
        ),
        # The gradient of a maximum compares twice, and splits the gradient where both operands were equal.
        backward=(
            Pass("query scale", "hidden"),
            Pass("maximum, scale of ties", "scores", borrowed=True),
            Pass("maximum, comparisons", "scores", reads=1, writes=0, count=2, borrowed=True),
            Pass("maximum, product with the comparison", "scores", _MUL, 2, borrowed=True),
            Pass("maximum, masked fill", "scores", borrowed=True),
            Pass("relu", "inner", _MUL, 2, borrowed=True),
            _THREE_BRANCHES,
        ),
        head="logits",
        kept_scores=2,  # the maximum's input; probabilities
        kept_inner=1,  # the result of relu
    ),
    "bert": Style(
        fused_qkv=False,
        forward=(
            Pass("scale", "scores"),
            Pass("mask", "scores", borrowed=True),
            Pass("gelu", "inner", "gelu"),
        ),
        backward=(
            Pass("scale", "scores"),
            Pass("gelu", "inner", _MUL, 2, borrowed=True),
            _THREE_BRANCHES,
        ),
        head="pooler",
        kept_scores=1,  # probabilities
        kept_inner=2,  # the input and the result of gelu
    ),
}
#: Ops that are functions of one element, with their own arithmetic.
FUNCTIONS = ("tanh", "gelu")


@dataclass(frozen=True, kw_only=True)
class EagerTransformer(Layer):
    """`num_layers` Transformer layers and their head, kernel by kernel, without fusion.

    Forward is the same for inference and training except for `dropout`. Backward runs two
    products for each product, sums the gradients of biases over all tokens,
    and makes the passes that autograd runs for each line of code.

    Parameters
    ----------
    style : str
        ``gpt2``, ``opt`` or ``bert``: the model family whose code is followed.
    dropout : bool
        Training: separate kernels drop out the probabilities and each
        residual branch.
    """

    name: ClassVar[str] = "eager-transformer"
    family: ClassVar[str] = "transformer"
    source: ClassVar[str] = (
        "Hugging Face transformers, modeling_gpt2.py, modeling_bert.py, modeling_opt.py (eager)"
    )
    not_counted: ClassVar[str] = (
        "embedding look-ups, a norm before the head, biases (except the sums of their gradients), loss, "
        "one-byte masks, kernels on tensors smaller than an activation"
    )
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "d_model", "heads", "num_layers", "vocab")
    defaults: ClassVar[dict[str, str | int]] = {"head_dim": "d_model/heads", "d_ff": "4*d_model"}

    style: str = "gpt2"
    dropout: bool = False

    def __post_init__(self) -> None:
        """Check the style."""
        super().__post_init__()
        self.check_options(style=STYLES)

    # -- one layer -------------------------------------------------------------------------

    def _products(self) -> tuple[tuple[str, dict[str, sp.Expr], int], ...]:
        """(name, sizes, number) of the products of one layer."""
        scores = {"batch": B * H, "m": N, "n": N, "k": DH}
        values = {"batch": B * H, "m": N, "n": DH, "k": N}
        width = 3 * D if STYLES[self.style].fused_qkv else D
        return (
            (
                "query, key and value",
                {"m": B * N, "n": width, "k": D},
                1 if STYLES[self.style].fused_qkv else 3,
            ),
            ("scores", scores, 1),
            ("values", values, 1),
            ("output projection", {"m": B * N, "n": D, "k": D}, 1),
            ("up projection", {"m": B * N, "n": F, "k": D}, 1),
            ("down projection", {"m": B * N, "n": D, "k": F}, 1),
        )

    def _run(self, one: Pass, direction: str) -> Phase:
        rows = {"scores": B * H * N, "inner": B * N, "hidden": B * N}[one.table]
        cols = {"scores": N, "inner": F, "hidden": D}[one.table]
        if direction == "fwd" and one.op in FUNCTIONS:
            return activation(self, one.name, one.op, rows=rows, cols=cols)
        return stream(
            self,
            one.name,
            op=one.op,
            borrowed=one.borrowed,
            rows=rows,
            cols=cols,
            reads=one.reads,
            writes=one.writes,
            vector=0 if one.op == "elementwise_copy" else 1,
            depth=0 if one.op == "elementwise_copy" else 1,
        )

    def _passes(self, direction: str) -> tuple[tuple[Phase, int], ...]:
        """Return the memory-bound kernels of one layer, and how often each runs."""
        style, rows = STYLES[self.style], B * N
        common = [
            Pass("head transpose", "hidden", "elementwise_copy", count=4),
            Pass("residual", "hidden", _ADD, 2, count=2),
        ]
        if self.dropout:
            common += [
                Pass("attention dropout", "scores", _MUL, borrowed=True),
                Pass("dropout", "hidden", _MUL, count=2, borrowed=True),
            ]
        own = style.forward if direction == "fwd" else style.backward
        found = [
            (norm(self, "layer", direction, rows=rows, cols=D), 2),
            (softmax(self, "softmax", direction, rows=B * H * N, cols=N), 1),
            *((self._run(one, direction), one.count) for one in (*common, *own)),
        ]
        return tuple(found if direction == "fwd" else (*found, *self._offset_gradients()))

    def _offset_gradients(self) -> tuple[tuple[Phase, int], ...]:
        """Return the bias gradients: sums of the products' output gradients over all tokens."""
        widths = [(s["n"], count) for name, s, count in self._products() if name not in ("scores", "values")]
        return tuple(
            (
                stream(
                    self,
                    "bias gradient",
                    op=_ADD,
                    borrowed=True,
                    rows=B * N,
                    cols=cols,
                    reads=1,
                    writes=0,
                    vector=1,
                    depth=CeilLog2(B * N),
                    extra_write=self.bytes * cols,
                ),
                count,
            )
            for cols, count in widths
        )

    def _head(self) -> tuple[tuple[str, dict[str, sp.Expr]], ...]:
        """Return the products after the last layer."""
        if STYLES[self.style].head == "logits" or self.dropout:
            return (("logits", {"m": B * N, "n": V, "k": D}),)
        return (("pooler", {"m": B, "n": D, "k": D}),)

    # -- the model -------------------------------------------------------------------------

    def forward(self) -> tuple[Phase, ...]:
        """All kernels of a layer, L times; then the head."""
        layer = [
            replace(gemm(self, name, **sizes), repeats=count * L) for name, sizes, count in self._products()
        ]
        layer += [replace(phase, repeats=count * L) for phase, count in self._passes("fwd")]
        return (*layer, *(gemm(self, name, **sizes) for name, sizes in self._head()))

    def backward(self) -> tuple[Phase, ...]:
        """The gradients of both operands of each product, and of biases; autograd's passes over tables."""
        heads = [gradient for name, sizes in self._head() for gradient in self._gradients(name, sizes, 1)]
        layer = [
            g for name, sizes, count in self._products() for g in self._gradients(name, sizes, count * L)
        ]
        layer += [replace(phase, repeats=count * L) for phase, count in self._passes("bwd")]
        return (*heads, *layer)

    def _gradients(self, name: str, sizes: dict[str, sp.Expr], count: sp.Expr | int) -> tuple[Phase, Phase]:
        m, n, k = sizes["m"], sizes["n"], sizes["k"]
        first = gemm(self, f"{name}, gradient of A", **(sizes | {"m": m, "n": k, "k": n}))
        second = gemm(self, f"{name}, gradient of B", **(sizes | {"m": k, "n": n, "k": m}))
        return replace(first, repeats=sp.sympify(count)), replace(second, repeats=sp.sympify(count))

    def tensors(self) -> Tensors:
        """The embedded tokens in; the head's output; all weights."""
        _, head = self._head()[0]
        offsets = self.bytes * L * 2 * D
        return Tensors(
            inputs=self.bytes * B * N * D,
            weights=self.bytes * self.parameters() - offsets,
            offsets=offsets,
            outputs=self.bytes * head["m"] * head["n"],
        )

    def kept(self) -> sp.Expr:
        """What autograd saves per layer, and the head's input.

        Eight tables have the model's width: the inputs of both norms, the inputs of the products (Q, K and V
        share theirs), and Q, K and V. With dropout the dropped-out probabilities are saved too.
        """
        style = STYLES[self.style]
        scores = (style.kept_scores + int(self.dropout)) * B * H * N * N
        _, head = self._head()[0]
        return self.bytes * (L * (B * N * (8 * D + style.kept_inner * F) + scores) + head["m"] * head["k"])

    def passes(self) -> sp.Expr:
        """L: the layers run in turn."""
        return L

    def parameters(self) -> sp.Expr:
        """The products' weights, and the gains of the norms."""
        weights = sum(
            count * s["n"] * s["k"] for name, s, count in self._products() if name not in ("scores", "values")
        )
        return L * (weights + 4 * D) + sum(s["n"] * s["k"] for _, s in self._head())
