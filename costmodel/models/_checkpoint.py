"""Storage formats of a checkpoint's weights, from ``quantization_config`` of its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from costmodel.dtypes import COLUMN, SCALE_BYTES
from costmodel.errors import CostmodelError, shown

#: Formats by number of bits, for integers and for floating point.
WHOLE, REAL = {4: "int4", 8: "int8"}, {4: "fp4", 8: "fp8"}


def stored(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Architecture.storing` for a Hugging Face configuration.

    Scales are counted as if each had 2 bytes; groups are sized so that the bytes come out right: one byte per
    32 numbers (MXFP4) counts as one scale per 64. Zero points are not counted.

    Raises
    ------
    CostmodelError
        If the storage method is unknown.
    """
    told = config.get("quantization_config")
    if told is None:
        return {}
    method = str(told.get("quant_method", "")) if isinstance(told, Mapping) else ""
    if method not in METHODS:
        known = ", ".join(METHODS)
        raise CostmodelError(
            f"quantization_config: wanted a quant_method that is known ({known}), got {method or told!r}; "
            "without that key, weights are counted in the compute format"
        )
    found: dict[str, Any] = METHODS[method](told)
    return found | _cached(told)


def _cached(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cache's format, as compressed-tensors and ModelOpt write it."""
    cache = told.get("kv_cache_scheme")
    if cache is None:
        return {}
    if not isinstance(cache, Mapping):
        raise CostmodelError(f"quantization_config: wanted a kv_cache_scheme of fields, got {shown(cache)}")
    return {"cache": _format(cache, _kinds(cache), "a cache")}


def _kinds(told: Mapping[str, Any]) -> Mapping[int, str]:
    """Return the formats by bits for the number type: floating point or integers."""
    return REAL if told.get("type") == "float" else WHOLE


def _format(told: Mapping[str, Any], kinds: Mapping[int, str], of: str) -> str:
    """Return the format with the configured number of bits."""
    bits = told.get("bits", told.get("num_bits"))
    if not isinstance(bits, int) or bits not in kinds:
        wanted = " or ".join(map(str, kinds))
        raise CostmodelError(f"quantization_config: wanted {of} of {wanted} bits, got {shown(bits)}")
    return kinds[bits]


def _packed(told: Mapping[str, Any], kinds: Mapping[int, str] = WHOLE) -> dict[str, Any]:
    """GPTQ and AWQ: one scale per group; without a group size, or with −1, per column. FP4: byte scales."""
    kind, size = _format(told, kinds, "weights"), told.get("group_size")
    if size is not None and not isinstance(size, int):
        raise CostmodelError(f"quantization_config: wanted a group_size like 128, got {shown(size)}")
    if size is None or size <= 0:
        return {"weights": kind, "group": COLUMN}
    return {"weights": kind, "group": size * (SCALE_BYTES if kind == "fp4" else 1)}


def _bitsandbytes(told: Mapping[str, Any]) -> dict[str, Any]:
    """4 bits (a table of 16 values), 64 numbers per scale of 4 bytes, or of about 1 if double-quantised."""
    if told.get("load_in_4bit"):
        scale = 1 if told.get("bnb_4bit_use_double_quant") else 4
        return {"weights": "fp4", "group": 64 * SCALE_BYTES // scale}
    return {"weights": "int8", "group": COLUMN}


def _compressed(told: Mapping[str, Any]) -> dict[str, Any]:
    """compressed-tensors: groups of layers, of which the first says how weights are stored."""
    groups = told.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    if not isinstance(weights, Mapping):
        raise CostmodelError("quantization_config: wanted config_groups that say how weights are stored")
    return _packed(weights, _kinds(weights))


def _modelopt(told: Mapping[str, Any]) -> dict[str, Any]:
    """NVIDIA ModelOpt: FP8, or FP4 with a scale of one byte per 16 numbers."""
    kinds: dict[str, dict[str, Any]] = {
        "FP8": {"weights": "fp8", "group": COLUMN},
        "NVFP4": {"weights": "fp4", "group": 16 * SCALE_BYTES},
    }
    kind = str(told.get("quant_algo"))
    if kind not in kinds:
        raise CostmodelError(f"quantization_config: wanted quant_algo {' or '.join(kinds)}, got {kind}")
    return kinds[kind]


def _fp8(_: Mapping[str, Any]) -> dict[str, Any]:
    """FP8 with scales per block of 128 × 128 (DeepSeek-V3) or per row: too few to count by group."""
    return {"weights": "fp8", "group": COLUMN}


def _mxfp4(_: Mapping[str, Any]) -> dict[str, Any]:
    """OCP microscaling: a scale of one byte per 32 numbers."""
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
