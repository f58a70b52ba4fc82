"""Read tables of measured kernels: map their rows to layers and sizes.

A row names an operation, its sizes, a device, a dtype and the framework whose kernel was timed. An
`Operation` says which columns are sizes of which layer, and raises the reason where no layer describes a row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel import hardware
from costmodel.errors import UnavailableError
from costmodel.kernels import _tiles
from costmodel.layers import Layer
from costmodel.layers.causal_conv1d import CausalConv1d
from costmodel.layers.decode_attention import DecodeAttention
from costmodel.layers.eager_transformer import EagerTransformer
from costmodel.layers.gated_delta_net import GatedDeltaNet
from costmodel.layers.implicit_conv import ImplicitConv
from costmodel.layers.matmul import Matmul
from costmodel.layers.memory_pass import OPERATIONS as PASS_OPERATIONS
from costmodel.layers.memory_pass import MemoryPass
from costmodel.layers.pointwise import OPERATIONS, Elementwise, Norm, Softmax
from costmodel.layers.recurrent import GRU, LSTM, RNN
from costmodel.layers.tiled_attention import TiledAttention

Sizes = dict[str, NDArray[np.float64]]

#: Value of a table's ``timer`` column → harness: four different things are called latency.
TIMERS = {
    "cudagraph-event-mean": "graph-replay",
    "cudagraph-event-median": "graph-replay",
    "queued-event-median": "kernel-time",
    "event-best5of25": "eager-events",
    "kineto-kernel-median-1us": "kernel-time",
    "host-walltime-median50": "host-wall",
}

#: Words in the names of implementations that run a recurrence as a loop of framework calls, step by step.
_LOOPS = ("loop", "theano", "torch7", "tensorflow", "tf lstm", "keras", "lasagne", "lstmcell", "baseline")
#: How error messages describe such rows.
LOOP = "a framework's loop"


def is_loop(implementation: str) -> bool:
    """Return whether an implementation of a recurrence is a loop of framework calls rather than cuDNN."""
    name = implementation.lower()
    return "cudnn" not in name and any(word in name for word in _LOOPS)


@dataclass(frozen=True)
class Operation:
    """How to read the rows of one op.

    Attributes
    ----------
    columns : mapping of str to str
        Column of the table → size of the layer.
    optional : mapping of str to str
        Columns that may be missing or empty; the layer's default then holds.
    layer : callable
        (dtype, static columns of the row) → layer.
    meaningless : mapping of str to str
        Flag → optional column to ignore where the flag is set.
    one : mapping of str to str
        Column that has to be 1 or empty → what a row with more would be, which no layer describes.
    """

    columns: Mapping[str, str]
    layer: Callable[[str, Mapping[str, Any]], Layer]
    optional: Mapping[str, str] = field(default_factory=dict)
    meaningless: Mapping[str, str] = field(default_factory=dict)
    one: Mapping[str, str] = field(default_factory=dict)

    def of(self, row: Mapping[str, Any]) -> Operation:
        """Return the operation for rows with these flags, without optional columns that they void."""
        left_out = {column for flag, column in self.meaningless.items() if _flag(row, flag)}
        return replace(self, optional={c: size for c, size in self.optional.items() if c not in left_out})


def _attention(causal: bool) -> Operation:
    def layer(dtype: str, row: Mapping[str, Any]) -> Layer:
        said = _flag(row, "causal", unsaid=causal)
        if said and not causal:
            raise UnavailableError(f"causal is {row['causal']}, but op is {row['op']}")
        return TiledAttention(dtype=dtype, causal=said, direction=_direction(row))

    return Operation(
        columns={"batch": "batch", "seq_q": "seq", "heads_q": "heads", "head_dim": "head_dim"},
        optional={"seq_kv": "seq_kv", "heads_kv": "kv_heads"},
        layer=layer,
    )


def _plain(of: type[Layer], **options: Any) -> Callable[[str, Mapping[str, Any]], Layer]:
    """Return a function that makes a layer with these options; only the direction comes from the row."""
    return lambda dtype, row: of(dtype=dtype, direction=_direction(row), **options)


def _table(of: type[Layer], **options: Any) -> Operation:
    return Operation(columns={"m": "m", "n": "n"}, layer=_plain(of, **options))


def _elementwise(op: str) -> Operation:
    def layer(dtype: str, row: Mapping[str, Any]) -> Layer:
        in_place, shared = _flag(row, "in_place"), _flag(row, "shared")
        return Elementwise(dtype=dtype, direction=_direction(row), op=op, in_place=in_place, shared=shared)

    return Operation(columns={"m": "m", "n": "n"}, layer=layer)


def _recurrent(kind: type[RNN] | type[LSTM] | type[GRU]) -> Operation:
    def layer(dtype: str, row: Mapping[str, Any]) -> Layer:
        for name in ("framework", "kernel"):
            if is_loop(str(row.get(name) or "")):
                raise UnavailableError(f"no layer describes {row[name]!r}: {LOOP}")
        return kind(
            dtype=dtype,
            direction=_direction(row),
            bidirectional=_flag(row, "bidirectional"),
            # cuDNN overlaps the layers of a stack (Appleyard et al., arXiv 1604.01946).
            wavefront=_cudnn(row) and not _flag(row, "bidirectional"),
            recurrent_only=_flag(row, "recurrent_only"),
        )

    return Operation(
        columns={"batch": "batch", "seq": "seq", "hidden": "hidden"},
        optional={"input": "input", "num_layers": "num_layers"},
        layer=layer,
        meaningless={"recurrent_only": "input"},
        one={"heads_q": "a block-diagonal recurrence"},
    )


_PRODUCT = {"m": "m", "n": "n", "k": "k"}
#: A ``gemm`` is one product; several are op ``bmm``.
_ONE_PRODUCT = {"b": "a gemm of several products, which op bmm names"}


def _matmul(batched: bool) -> Operation:
    return Operation(
        columns={"b": "batch", **_PRODUCT} if batched else _PRODUCT,
        layer=_plain(Matmul, batched=batched),
        one={} if batched else _ONE_PRODUCT,
    )


def _delta_net(form: str) -> Operation:
    return Operation(
        columns={"batch": "batch", "seq_q": "seq", "heads_q": "heads", "head_dim": "head_dim"},
        optional={"heads_kv": "kv_heads"},
        layer=_plain(GatedDeltaNet, form=form),
    )


def _implicit_conv(grouping: str) -> Operation:
    stated = ("m", "n", "k", "taps", "read_bytes", "written_bytes", "least_bytes")
    return Operation(
        columns=({} if grouping == "none" else {"b": "batch"}) | {name: name for name in stated},
        layer=lambda dtype, row: ImplicitConv(
            dtype=dtype, direction=_direction(row), grouping=grouping, transposed=_flag(row, "transposed")
        ),
        one={"b": "a convolution in groups, which op convolution_grouped names"}
        if grouping == "none"
        else {},
    )


def _convolution(decode: bool) -> Operation:
    columns = {"batch": "batch", "seq_q": "seq", "n": "d_model", "k": "k"}
    return Operation(columns=columns, layer=_plain(CausalConv1d, decode=decode))


def _pass(op: str) -> Operation:
    return Operation(
        columns={"m": "m", "n": "n", "written_bytes": "written_bytes"},
        optional={name: name for name in ("read_bytes", "least_bytes", "least_written_bytes")},
        layer=lambda dtype, row: MemoryPass(
            dtype=dtype, direction=_direction(row), op=op, in_place=_flag(row, "in_place")
        ),
    )


#: Operation → the pass over memory that it is (``costmodel.layers.memory_pass``), for rows that state bytes.
PASSES = {f"pass_{op.replace('-', '_')}": op for op in PASS_OPERATIONS}
OPERATIONS_MEASURED: dict[str, Operation] = {
    "gemm": _matmul(batched=False),
    "bmm": _matmul(batched=True),
    "gemm_fp8_dynquant": Operation(columns=_PRODUCT, layer=_plain(Matmul, quantise=True), one=_ONE_PRODUCT),
    "attention_prefill": _attention(causal=True),
    "attention_prefill_noncausal": _attention(causal=False),
    "attention_decode": Operation(
        columns={"batch": "batch", "seq_kv": "seq_kv", "heads_q": "heads", "head_dim": "head_dim"},
        optional={"heads_kv": "kv_heads"},
        layer=_plain(DecodeAttention),
        one={"seq_q": "a step of several queries a sequence"},
    ),
    "softmax": _table(Softmax),
    "layernorm": _table(Norm, kind="layer"),
    "rmsnorm": _table(Norm, kind="rms"),
    # By torch's name alone, or with the prefix ``elementwise_``.
    **{
        f"{prefix}{op.replace('-', '_')}": _elementwise(op)
        for prefix in ("", "elementwise_")
        for op in OPERATIONS
    },
    **{name: _pass(op) for name, op in PASSES.items()},
    "convolution": _implicit_conv("none"),
    "convolution_grouped": _implicit_conv("grouped"),
    "convolution_depthwise": _implicit_conv("depthwise"),
    "gdn_chunk_prefill": _delta_net("chunked"),
    "gdn_recurrent_decode": _delta_net("recurrent"),
    "causal_conv1d_prefill": _convolution(decode=False),
    "causal_conv1d_decode": _convolution(decode=True),
    "model_end_to_end": Operation(
        columns={
            "batch": "batch",
            "seq_q": "seq",
            "heads_q": "heads",
            "d_model": "d_model",
            "n_layers": "num_layers",
            "vocab": "vocab",
        },
        optional={"d_ff": "d_ff", "head_dim": "head_dim"},
        layer=lambda dtype, row: EagerTransformer(
            dtype=dtype, style=_style(row), dropout=row.get("mode") == "train", direction=_direction(row)
        ),
    ),
    "rnn": _recurrent(RNN),
    "lstm": _recurrent(LSTM),
    "gru": _recurrent(GRU),
}

#: Columns with text or flags that decide the layer or the implementation.
STATIC = (
    "gpu",
    "op",
    "dtype",
    "framework",
    "timer",
    "kernel",
    "direction",
    "mode",
    "causal",
    "bidirectional",
    "recurrent_only",
    "in_place",
    "shared",
    "transposed",
)
#: Columns with numbers: sizes, thread blocks of the launch (``grid``), measured times.
NUMERIC = (
    *dict.fromkeys(
        column
        for operation in OPERATIONS_MEASURED.values()
        for column in (*operation.columns, *operation.optional, *operation.one)
    ),
    *("grid", "latency_s"),
)


def _direction(row: Mapping[str, Any]) -> str:
    value = row.get("direction")
    return "fwd" if value is None or pd.isna(value) or value == "" else str(value)


def _cudnn(row: Mapping[str, Any]) -> bool:
    """Return whether cuDNN ran a row: named itself, or called by torch on an NVIDIA GPU."""
    if str(row.get("framework") or "").lower().startswith("cudnn"):
        return True
    gpu = str(row.get("gpu") or "")
    if framework(row.get("framework"))[0] != "pytorch" or not gpu:
        return False
    return hardware.load(gpu).name.startswith("nvidia/")


def _style(row: Mapping[str, Any]) -> str:
    """Return the code style of the model named in ``kernel``; GPT-3 and unnamed models count as GPT-2."""
    kernel = str(row.get("kernel") or "").strip().lower()
    if not kernel:
        return EagerTransformer.style
    name = re.match(r"[a-z]+", kernel)
    found = {"gpt": "gpt2", "bert": "bert", "opt": "opt"}.get(name.group(0) if name else "")
    if found is None:
        raise UnavailableError(
            f"no layer describes the model {row.get('kernel')!r}; gpt2, gpt3, bert and opt would do"
        )
    return found


#: Spellings of a flag in tables.
_YES, _NO = ("1", "1.0", "true", "t", "yes", "y"), ("0", "0.0", "false", "f", "no", "n")


def _flag(row: Mapping[str, Any], name: str, *, unsaid: bool = False) -> bool:
    value = row.get(name)
    if value is None or pd.isna(value) or not str(value).strip():
        return unsaid
    said = str(value).strip().lower()
    if said not in _YES + _NO:
        raise UnavailableError(f"{name}: wanted true or false, got {value!r}")
    return said in _YES


#: Other names that frameworks go by.
_FRAMEWORKS = {"trt-llm": "trtllm", "tensorrt-llm": "trtllm", "tensorrt_llm": "trtllm", "torch": "pytorch"}


def framework(text: Any) -> tuple[str | None, str]:
    """Split a framework's name and release, such as ``"trtllm 1.3.0rc20"`` or ``"vllm==0.24.0"``.

    ``sarathi/vllm torch`` profiles cuBLAS and PyTorch kernels, so it is a name of its own.
    """
    if text is None or pd.isna(text) or not str(text).strip():
        return None, ""
    name = re.split(r"[\s(]|[-_/=@:]+v?(?=\d)", str(text).strip().lower())[0].replace("/", "-")
    release = re.search(r"\d+(\.\d+)+\S*", str(text))
    return _FRAMEWORKS.get(name, name), release.group(0) if release else ""


def harness(timer: Any) -> str | None:
    """Return how a time was taken (``graph-replay``, ``eager-events``, …), or None if unknown."""
    if timer is None or pd.isna(timer):
        return None
    return TIMERS.get(str(timer), str(timer) or None)


def uncounted(row: Mapping[str, Any]) -> dict[str, int]:
    """Return what to add to a row's sizes: vLLM 0.14's decode rows on A100 leave the new token out."""
    name, release = framework(row.get("framework"))
    left_out = row["op"] == "attention_decode" and name == "vllm" and release.startswith("0.14")
    return {"seq_kv": 1} if left_out and "a100" in str(row["gpu"]).lower() else {}


#: Operations for which a framework has several kernels, which differ by name.
_NAMED = ("attention_", "gdn_", "rnn", "lstm", "gru", "model_")
#: Part of a GEMM kernel's name that gives its tile.
_TILE = re.compile(r"(?:sgemm_|MT|tilesize)\d+x\d+\S*")
#: Kernels whose ``grid`` counts thread blocks (AMD's counts threads).
_COUNTED = "sgemm_"


def with_parts(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the split-K factor appended to GEMM kernels' names, where ``grid`` reveals it.

    A launch has one thread block per tile of the result and part of K: ``…sgemm_128x64_tn`` with 10 blocks
    for a result of 2 tiles becomes ``…sgemm_128x64_tn_parts5``. Rows that are not forward products, or whose
    number of blocks is not a multiple of the number of tiles, stay as they are.

    Parameters
    ----------
    table : DataFrame
        Rows of measured kernels, in any order.
    """
    if not {"grid", "kernel", "op", "m", "n"} <= set(table):
        return table
    codes, names = pd.factorize(table["kernel"].astype(object).where(table["kernel"].notna(), ""))
    tile_m, tile_n, _, _ = (of[codes] for of in _tiles.from_names(names))
    grid, m, n = (
        pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        for name in ("grid", "m", "n")
    )
    parts = grid / (np.ceil(m / tile_m) * np.ceil(n / tile_n))
    told = (parts >= 1) & (parts % 1 == 0) & (table["op"] == "gemm").to_numpy()
    told &= np.array([_COUNTED in str(name) for name in names], dtype=bool)[codes]
    if "direction" in table:
        told &= (table["direction"].fillna("fwd") == "fwd").to_numpy()
    if not told.any():
        return table
    pairs, distinct = pd.factorize(np.where(told, parts, 0) * len(names) + codes)
    whole, of = np.divmod(distinct.astype(np.int64), len(names))
    named = [
        f"{names[code]}{_tiles.PARTS}{number}" if number else names[code]
        for number, code in zip(whole, of, strict=True)
    ]
    return table.assign(kernel=np.array(named, dtype=object)[pairs])


def with_sequences(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with `batch` and `seq_q` filled in for convolutions given as `m` tokens.

    Tables give a convolution as m tokens, n channels and k taps. If neither `batch` nor `seq_q` is given, a
    decoding step has one token of each sequence, and any other row is one sequence. If one of them is given,
    the other follows from the number of tokens.

    Parameters
    ----------
    table : DataFrame
        Rows of measured kernels, in any order.
    """
    steps, whole = (
        table["op"].isin([op]).to_numpy() for op in ("causal_conv1d_decode", "causal_conv1d_prefill")
    )
    rows = steps | whole
    if "m" not in table or not rows.any():
        return table
    nothing = pd.Series(np.nan, index=table.index)
    given = {name: table.get(name, nothing) for name in ("m", "batch", "seq_q")}
    unsaid = {name: rows & column.isna().to_numpy() for name, column in given.items() if name != "m"}
    if not any(empty.any() for empty in unsaid.values()):
        return table
    tokens, batch, seq = (
        pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        for column in given.values()
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "batch": np.where(unsaid["seq_q"], np.where(steps, tokens, 1.0), tokens / seq),
            "seq_q": np.where(unsaid["batch"], np.where(steps, 1.0, tokens), tokens / batch),
        }
    return table.assign(
        **{name: given[name].astype(object).mask(empty, found[name]) for name, empty in unsaid.items()}
    )


def label(op: Any, kernel: Any) -> str:
    """Return the part of a kernel's name that matters for an op: all of it, a GEMM's tile, or nothing."""
    name = "" if kernel is None or pd.isna(kernel) else str(kernel)
    if str(op).startswith(_NAMED):
        return name
    tile = _TILE.search(name) if op in ("gemm", "bmm") else None
    return tile.group(0) if tile else ""
