"""Number formats and their widths."""

from __future__ import annotations

from dataclasses import dataclass

from costmodel.errors import unknown_name


@dataclass(frozen=True)
class DType:
    """A number format.

    Attributes
    ----------
    name : str
        Its name, as used in options and columns.
    bytes : float
        Size of one stored element [bytes]. ``tf32`` is stored as fp32.
    """

    name: str
    bytes: float

    @property
    def around(self) -> DType:
        """The format of what is around a model's products in this format: the same, but 16 bits at least.

        Inputs and weights of products are rounded to FP8; their results, and all else, keep 16 bits or more
        (Micikevicius et al., arXiv 2209.05433, §3.1).
        """
        return self if self.bytes >= _BF16.bytes else _BF16

    @property
    def gradient_bytes(self) -> float:
        """Size of a weight's gradient [bytes]: that of a product's result."""
        return self.around.bytes


#: Default number of stored weights of a column that share a scale, for 4-bit formats; for others, all do.
GROUP = 128
#: A group size that means the whole column, whatever the format.
COLUMN = 2**40
#: Size of a scale [bytes].
SCALE_BYTES = 2

_BF16 = DType("bf16", 2)
_ALL = (
    DType("fp64", 8),
    DType("fp32", 4),
    DType("tf32", 4),
    _BF16,
    DType("fp16", 2),
    DType("fp8", 1),
    DType("int8", 1),
    DType("fp4", 0.5),
    DType("int4", 0.5),
)
DTYPES = {d.name: d for d in _ALL}

_ALIASES = {
    "float64": "fp64",
    "float32": "fp32",
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "double": "fp64",
    "float": "fp32",
    **dict.fromkeys(("fp8_e4m3", "fp8_e5m2", "float8_e4m3fn", "float8_e5m2", "float8"), "fp8"),
}


def dtype(name: str) -> DType:
    """Return the number format with this name: ``bf16``, or an alias such as ``torch.bfloat16``.

    Raises
    ------
    UnknownNameError
        If there is none.
    """
    key = str(name).lower().removeprefix("torch.")
    key = _ALIASES.get(key, key)
    if key not in DTYPES:
        raise unknown_name("dtype", name, DTYPES)
    return DTYPES[key]


def group_of(weights: str, group: int | None = None) -> int | None:
    """Return the number of stored weights of a column that share a scale; None means all of them."""
    if group is None:
        return GROUP if dtype(weights).bytes < 1 else None
    return group if group < COLUMN else None
