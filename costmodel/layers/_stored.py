"""Weights and caches that are stored in a narrower format than the layer computes in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase
from costmodel.dtypes import SCALE_BYTES, DType, group_of
from costmodel.dtypes import dtype as parse_dtype
from costmodel.errors import CostmodelError
from costmodel.layers._base import Layer
from costmodel.layers._kernels import gemm
from costmodel.symbols import ceil_div


def check_narrower(layer: Layer, option: str, kind: DType) -> None:
    """Refuse a storage format that saves nothing, and narrow storage of weights that are trained.

    Parameters
    ----------
    layer : Layer
        The layer whose weights or cache are stored.
    option : str
        ``weights`` or ``cache``.
    kind : DType
        The storage format.

    Raises
    ------
    CostmodelError
        If the format is no narrower than the layer's, if weights would have more than 8 bits (such
        formats have no scales), or if the direction is not ``fwd``.
    """
    if kind.bytes >= parse_dtype(layer.dtype).bytes:
        raise CostmodelError(
            f"{option} of {layer.name}: wanted a format narrower than {layer.dtype}, got {kind.name}"
        )
    if option == "weights" and kind.bytes > 1:
        raise CostmodelError(f"weights of {layer.name}: wanted a format of 8 or 4 bits, got {kind.name}")
    layer.check_forward_only(f"{option}={kind.name}", chosen=True)


def _checked(layer: Layer, option: str) -> None:
    """Replace an alias in the option by the format's canonical name, and check the format."""
    given = getattr(layer, option)
    if given is not None:
        kind = parse_dtype(given)
        object.__setattr__(layer, option, kind.name)
        check_narrower(layer, option, kind)


def saves(layer: Layer, option: str, kind: str) -> bool:
    """Return whether a format is narrower than the one stored now; False if the layer lacks the option."""
    if option not in layer.option_types() or getattr(layer, "batched", False):
        return False  # the operands of a batched product are activations, or weights made for it
    present = getattr(layer, option) or layer.dtype
    return parse_dtype(kind).bytes < parse_dtype(present).bytes


@dataclass(frozen=True, kw_only=True)
class StoredWeights(Layer):
    """A layer whose weights may be stored in a narrow format and dequantised on the way to the product.

    This is weight-only quantisation: memory traffic is that of the narrow numbers and their scales; the
    arithmetic is in `dtype`.

    Parameters
    ----------
    weights : str, optional
        Storage format of the weights (``int8``, ``fp8``, ``int4``, ``fp4``); default `dtype`.
        Forward only.
    group : int, optional
        Number of weights of a column, along the summed dimension, that share a scale of 2 bytes; default
        128 for 4-bit formats, else the whole column.
    """

    weights: str | None = None
    group: int | None = None

    def __post_init__(self) -> None:
        """Check the format."""
        super().__post_init__()
        _checked(self, "weights")
        if self.group is not None and self.weights is None:
            raise CostmodelError(
                f"group of {self.name}: applies to weights that are stored narrow; give weights=int4 too, "
                f"or leave out group={self.group}"
            )

    def product(self, name: str, **sizes: sp.Expr) -> Phase:
        """Return the product of an activation with a weight matrix, with the stored weights dequantised.

        Group scales multiply every weight once; column scales multiply every result. Changing a number's
        format counts no FLOP.
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
        """Return the size of a stored weight matrix with its scales; the sum runs over its rows [bytes]."""
        if self.weights is None:
            return self.bytes * rows * columns
        group = group_of(self.weights, self.group)
        scales = ONE if group is None else ceil_div(rows, sp.Integer(group))
        return (sp.Rational(parse_dtype(self.weights).bytes) * rows + SCALE_BYTES * scales) * columns


@dataclass(frozen=True, kw_only=True)
class StoredCache(Layer):
    """A layer that reads a cache of earlier positions, which may be stored in a narrower format than `dtype`.

    Parameters
    ----------
    cache : str, optional
        Storage format of the cached keys and values (``fp8``); default `dtype`. Scales are per table, and
        not counted.
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

    def passed_over(self) -> sp.Expr:
        """Return the size of the part of the cache that is kept but not read [bytes]."""
        return ZERO

    def cache_options(self) -> dict[str, str]:
        """Return the kernel's option for the cache: its format, if it differs from the layer's."""
        return {} if self.cache is None else {"kv_dtype": self.cache}
