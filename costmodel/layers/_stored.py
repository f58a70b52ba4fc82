"""Learned matrices and caches that are stored in a narrower format than the one that is computed in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import sympy as sp

from costmodel.cost import ONE, Phase
from costmodel.dtypes import SCALE_BYTES, DType, group_of
from costmodel.dtypes import dtype as parse_dtype
from costmodel.errors import CostmodelError
from costmodel.layers._base import Layer
from costmodel.layers._kernels import gemm
from costmodel.symbols import ceil_div


def check_narrower(layer: Layer, option: str, kind: DType) -> None:
    """Refuse to store in a format that saves nothing, or what is trained.

    Parameters
    ----------
    layer : Layer
        Whose weights, or cache.
    option : str
        Which: ``weights`` or ``cache``.
    kind : DType
        The format to store it in.

    Raises
    ------
    CostmodelError
        If it is no narrower than the layer's, weights have more than 8 bits (they would have no scales), or
        the direction is another than ``fwd``.
    """
    if kind.bytes >= parse_dtype(layer.dtype).bytes:
        raise CostmodelError(
            f"{option} of {layer.name}: wanted a format narrower than {layer.dtype}, got {kind.name}"
        )
    if option == "weights" and kind.bytes > 1:
        raise CostmodelError(f"weights of {layer.name}: wanted a format of 8 or 4 bits, got {kind.name}")
    layer.check_forward_only(f"{option}={kind.name}", chosen=True)


def _checked(layer: Layer, option: str) -> None:
    """Write the format that an option names by its own name, and check it."""
    given = getattr(layer, option)
    if given is not None:
        kind = parse_dtype(given)
        object.__setattr__(layer, option, kind.name)
        check_narrower(layer, option, kind)


def saves(layer: Layer, option: str, kind: str) -> bool:
    """Return whether a format is narrower than what the option now stores, of a layer that has the option."""
    if option not in layer.option_types() or getattr(layer, "batched", False):
        return False  # a product of a batch is one of activations, or of weights made for it
    present = getattr(layer, option) or layer.dtype
    return parse_dtype(kind).bytes < parse_dtype(present).bytes


@dataclass(frozen=True, kw_only=True)
class StoredWeights(Layer):
    """A layer whose learned matrices may be stored narrow, and are widened on their way to the product.

    Weight-only quantisation: memory serves the narrow numbers and their scales, arithmetic is that of
    `dtype`.

    Parameters
    ----------
    weights : str, optional
        Format that the matrices are stored in (``int8``, ``fp8``, ``int4``, ``fp4``); default `dtype`.
        Forward only.
    group : int, optional
        Numbers of a column, along what is summed over, that share a scale of 2 bytes; default 128 for
        formats of 4 bits, else the whole column.
    """

    weights: str | None = None
    group: int | None = None

    def __post_init__(self) -> None:
        """Check the format."""
        super().__post_init__()
        _checked(self, "weights")
        if self.group is not None and self.weights is None:
            raise CostmodelError(
                f"group of {self.name}: is of weights that are stored narrow; say weights=int4"
            )

    def product(self, name: str, **sizes: sp.Expr) -> Phase:
        """Return the product of an activation with a learned matrix: `gemm`, and what is stored widened.

        Scales of groups multiply each number, once; those of columns each result. To change a number's
        format is no FLOP.
        """
        plain = gemm(self, name, **sizes)
        if self.weights is None:
            return plain
        batch, m, n, k = (plain.sizes[size] for size in ("batch", "m", "n", "k"))
        by_group = group_of(self.weights, self.group) is not None
        return replace(
            plain,
            op=f"gemm_{self.weights}_weights",
            options={**plain.options, "weights": self.weights, "group": self.group},
            flops={**plain.flops, ("vector", self.accumulate): batch * n * (k if by_group else m)},
            read=sp.expand(plain.read - batch * (self.bytes * k * n - self.held(k, n))),
        )

    def held(self, rows: sp.Expr, columns: sp.Expr) -> sp.Expr:
        """Return the size of a learned matrix, what is summed over along its rows, and its scales [bytes]."""
        if self.weights is None:
            return self.bytes * rows * columns
        group = group_of(self.weights, self.group)
        scales = ONE if group is None else ceil_div(rows, sp.Integer(group))
        return (sp.Rational(parse_dtype(self.weights).bytes) * rows + SCALE_BYTES * scales) * columns


@dataclass(frozen=True, kw_only=True)
class StoredCache(Layer):
    """A layer that reads a cache of earlier positions, which may be stored narrower than `dtype`.

    Parameters
    ----------
    cache : str, optional
        Format of the cached keys and values (``fp8``); default `dtype`. Scales are of whole tables, and not
        counted.
    """

    cache: str | None = None

    def __post_init__(self) -> None:
        """Check the format."""
        super().__post_init__()
        _checked(self, "cache")

    @property
    def cached_bytes(self) -> sp.Expr:
        """Size of one number of the cache [bytes]."""
        return sp.Rational(parse_dtype(self.cache or self.dtype).bytes)

    def cache_size(self) -> sp.Expr:
        """Return the size of the cache [bytes]."""
        raise NotImplementedError

    def cache_options(self) -> dict[str, str]:
        """Return what the kernel is told of the cache: its format, where it is another than the layer's."""
        return {} if self.cache is None else {"kv_dtype": self.cache}
