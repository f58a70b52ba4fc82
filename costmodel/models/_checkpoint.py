"""How a checkpoint stores its weights, as its configuration says: ``quantization_config``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from costmodel.dtypes import SCALE_BYTES
from costmodel.errors import CostmodelError

#: Numbers to a scale where a whole column has one.
COLUMN = 2**40
#: Formats by their bits, of numbers that are whole and of others.
WHOLE, REAL = {4: "int4", 8: "int8"}, {4: "fp4", 8: "fp8"}


def stored(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Architecture.storing` for a configuration of Hugging Face.

    Scales of another size than 2 bytes are counted as as many of 2 bytes as hold as much: a byte for 32
    numbers (MXFP4) is one for 64. Zero points are not counted.

    Raises
    ------
    CostmodelError
        If weights are stored in a way that is not known.
    """
    told = config.get("quantization_config")
    if told is None:
        return {}
    method = str(told.get("quant_method", "")) if isinstance(told, Mapping) else ""
    if method not in METHODS:
        known = ", ".join(METHODS)
        raise CostmodelError(
            f"quantization_config: wanted a quant_method that is known ({known}), got {method or told!r}; "
            "without that key weights count as they are computed in"
        )
    found: dict[str, Any] = METHODS[method](told)
    return found


def _packed(told: Mapping[str, Any], formats: Mapping[int, str] = WHOLE) -> dict[str, Any]:
    """GPTQ and AWQ: a scale for each group; −1: for each column."""
    bits, size = told.get("bits", told.get("num_bits")), told.get("group_size")
    if bits not in formats:
        wanted = " or ".join(map(str, formats))
        raise CostmodelError(f"quantization_config: wanted weights of {wanted} bits, got {bits!r}")
    shared = size if isinstance(size, int) and size > 0 else COLUMN
    return {"weights": formats[bits], "group": shared}


def _bitsandbytes(told: Mapping[str, Any]) -> dict[str, Any]:
    """4 bits of a table of 16 values, 64 numbers to a scale of 4 bytes, or, quantised in turn, of about 1."""
    if told.get("load_in_4bit"):
        scale = 1 if told.get("bnb_4bit_use_double_quant") else 4
        return {"weights": "fp4", "group": 64 * SCALE_BYTES // scale}
    return {"weights": "int8", "group": COLUMN}


def _compressed(told: Mapping[str, Any]) -> dict[str, Any]:
    """compressed-tensors: groups of layers; the first says how weights are stored."""
    groups = told.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    if not isinstance(weights, Mapping):
        raise CostmodelError("quantization_config: wanted config_groups that say how weights are stored")
    return _packed(weights, REAL if weights.get("type") == "float" else WHOLE)


def _modelopt(told: Mapping[str, Any]) -> dict[str, Any]:
    """NVIDIA's: FP8, or FP4 with a byte for 16 numbers."""
    kinds: dict[str, dict[str, Any]] = {
        "FP8": {"weights": "fp8", "group": COLUMN},
        "NVFP4": {"weights": "fp4", "group": 16 * SCALE_BYTES},
    }
    kind = str(told.get("quant_algo"))
    if kind not in kinds:
        raise CostmodelError(f"quantization_config: wanted quant_algo {' or '.join(kinds)}, got {kind}")
    return kinds[kind]


def _fp8(_: Mapping[str, Any]) -> dict[str, Any]:
    """DeepSeek-V3's blocks of 128 × 128, or rows: too few scales to count by group."""
    return {"weights": "fp8", "group": COLUMN}


def _mxfp4(_: Mapping[str, Any]) -> dict[str, Any]:
    """OCP's microscaling: a byte for 32 numbers."""
    return {"weights": "fp4", "group": 32 * SCALE_BYTES}


METHODS = {
    "gptq": _packed,
    "awq": _packed,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed,
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "modelopt": _modelopt,
    "mxfp4": _mxfp4,
}
