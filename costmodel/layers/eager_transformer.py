"""A whole Transformer as an eager framework runs it: one kernel for every line of its code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import sympy as sp

from costmodel.cost import Phase, Tensors
from costmodel.errors import unknown_name
from costmodel.layers._base import Layer
from costmodel.layers._kernels import activation, gemm, norm, softmax, stream
from costmodel.symbols import symbols

B, N, D, F, H, DH, L, V = symbols("batch seq d_model d_ff heads head_dim num_layers vocab")


@dataclass(frozen=True)
class Style:
    """What one family of models launches besides its products, as its code is written.

    Attributes
    ----------
    fused_qkv : bool
        One product makes Q, K and V.
    score_passes : tuple of (str, int)
        Passes over the n × n scores besides softmax: name, tables read.
    activation_passes : tuple of str
        Elementwise kernels of the activation, over the inner width.
    norms_outside : bool
        One more norm: of the embeddings (BERT) or of the last layer's output.
    head : str
        ``logits`` of every position, or a ``pooler`` of one.
    """

    fused_qkv: bool
    score_passes: tuple[tuple[str, int], ...]
    activation_passes: tuple[str, ...]
    head: str


#: transformers' modeling_gpt2.py, modeling_bert.py and modeling_opt.py, eager attention. GPT-2's
#: activation (NewGELU) is written out: power, scale, add, scale, tanh, add, half of x, product.
STYLES = {
    "gpt2": Style(
        fused_qkv=True,
        score_passes=(("scale", 1), ("causal mask", 1)),
        activation_passes=("pow-scalar", "mul", "add", "mul", "tanh", "add", "mul", "mul"),
        head="logits",
    ),
    "opt": Style(
        fused_qkv=False,
        score_passes=(("mask", 1), ("maximum", 1)),
        activation_passes=("relu",),
        head="logits",
    ),
    "bert": Style(
        fused_qkv=False,
        score_passes=(("scale", 1), ("mask", 1)),
        activation_passes=("gelu",),
        head="pooler",
    ),
}
TRANSCENDENTAL = ("tanh", "gelu")


@dataclass(frozen=True, kw_only=True)
class EagerTransformer(Layer):
    """`num_layers` Transformer layers and their head, kernel by kernel, without fusion.

    Forward is inference or training alike but for `dropout`. Backward runs two
    products for each product, and passes over the same tables as forward.

    Parameters
    ----------
    style : str
        ``gpt2``, ``opt`` or ``bert``: how the code of these models is written.
    dropout : bool
        Training: probabilities, and each residual branch, are dropped by
        kernels of their own.
    """

    name: ClassVar[str] = "eager-transformer"
    family: ClassVar[str] = "transformer"
    source: ClassVar[str] = (
        "Hugging Face transformers, modeling_gpt2.py, modeling_bert.py, modeling_opt.py (eager)"
    )
    not_counted: ClassVar[str] = "embedding look-ups, loss, kernels on less than one activation"
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "d_model", "heads", "num_layers", "vocab")
    defaults: ClassVar[dict[str, str | int]] = {"head_dim": "d_model/heads", "d_ff": "4*d_model"}

    style: str = "gpt2"
    dropout: bool = False

    def __post_init__(self) -> None:
        """Check the style."""
        super().__post_init__()
        if self.style not in STYLES:
            raise unknown_name(f"style of {self.name}", self.style, STYLES)

    # -- one layer -------------------------------------------------------------------------

    def _products(self) -> tuple[tuple[str, dict[str, sp.Expr], int], ...]:
        """(name, sizes, how many) of the products of one layer."""
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

    def _pass(self, name: str, op: str, rows: sp.Expr, cols: sp.Expr, reads: int = 1) -> Phase:
        return stream(self, name, op=op, rows=rows, cols=cols, reads=reads, writes=1, vector=1)

    def _passes(self, direction: str) -> tuple[tuple[Phase, int], ...]:
        """Return the memory-bound kernels of one layer, and how often each runs."""
        style, rows, scores = STYLES[self.style], B * N, B * H * N
        found = [
            (norm(self, "layer", direction, rows=rows, cols=D), 2),
            (
                stream(
                    self, "head layout", op="elementwise_copy", rows=rows, cols=D, reads=1, writes=1, depth=0
                ),
                4,
            ),
            (softmax(self, "softmax", direction, rows=scores, cols=N), 1),
            (self._pass("residual", "elementwise_add", rows, D, reads=2), 2),
        ]
        found += [
            (self._pass(name, "elementwise_mul_scalar", scores, N, reads), 1)
            for name, reads in style.score_passes
        ]
        for op in style.activation_passes:
            if op in TRANSCENDENTAL:
                found.append((activation(self, op, op, rows=rows, cols=F), 1))
            else:
                found.append(
                    (
                        self._pass(
                            op, op if op == "relu" else f"elementwise_{op.replace('-', '_')}", rows, F
                        ),
                        1,
                    )
                )
        if self.dropout:
            found.append((self._pass("attention dropout", "elementwise_mul", scores, N), 1))
            found.append((self._pass("dropout", "elementwise_mul", rows, D), 2))
        return tuple(found)

    def _head(self) -> tuple[tuple[str, dict[str, sp.Expr]], ...]:
        """Return the products after the last layer."""
        if STYLES[self.style].head == "logits" or self.dropout:
            return (("logits", {"m": B * N, "n": V, "k": D}),)
        return (("pooler", {"m": B, "n": D, "k": D}),)

    # -- the model -------------------------------------------------------------------------

    def forward(self) -> tuple[Phase, ...]:
        """All kernels of a layer, L times; the head."""
        layer = [
            replace(gemm(self, name, **sizes), repeats=count * L) for name, sizes, count in self._products()
        ]
        layer += [replace(phase, repeats=count * L) for phase, count in self._passes("fwd")]
        return (*layer, *(gemm(self, name, **sizes) for name, sizes in self._head()))

    def backward(self) -> tuple[Phase, ...]:
        """The gradients of both operands of each product; passes over the same tables."""
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
        """Every kernel's input: nothing is computed again."""
        style = STYLES[self.style]
        scores = (2 + len(style.score_passes)) * B * H * N * N
        inner = (1 + len(style.activation_passes)) * F
        return self.bytes * L * (B * N * (10 * D + inner) + scores)

    def passes(self) -> sp.Expr:
        """L, one layer after the other."""
        return L

    def parameters(self) -> sp.Expr:
        """The products' weights, and the gains of the norms."""
        weights = sum(
            count * s["n"] * s["k"] for name, s, count in self._products() if name not in ("scores", "values")
        )
        return L * (weights + 4 * D) + sum(s["n"] * s["k"] for _, s in self._head())
