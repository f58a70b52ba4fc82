"""Read published runtimes as rows that the package can predict, or with a reason why it cannot.

The table (``../shared/reference/published_runtimes.csv``) quotes papers, blogs and repositories in their own
words. ``op`` and ``impl`` together decide what a row measures: Linformer under the name of attention is not
dense attention. Each row is converted to the package's names and to seconds where that is possible, and
otherwise gets a ``reason``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from costmodel.errors import TableError
from costmodel.layers.recurrent import GATES
from costmodel.measured import LOOP, is_loop
from costmodel.validation.heldout import NEVER_FITTED

#: The table's name.
FILE = "published_runtimes.csv"
#: Prefix of the printed op → layer.
_OPS = {
    "vanilla_rnn": "rnn",
    "elman_rnn": "rnn",
    "rnn": "rnn",
    "lstm": "lstm",
    "gru": "gru",
    "attention_core": "attention",
    "gemm": "gemm",
}
#: Names of GPUs in the tables, in addition to those of device_names.csv.
_GPUS = {
    "T4": "nvidia/t4",
    "A30": "nvidia/a30",
    "A100 80GB PCIe": "nvidia/a100-pcie-80gb",
    "H100 PCIe": "nvidia/h100-pcie",
}
_DENSE = (
    "FlashAttention",
    "Apex FMHA",
    "PyTorch",
    "Standard",
    "Megatron",
    "cuDNN",
    "flash_attn",
    "tvm.tl",
    "Triton",
    "xformers",
    "FlexAttention",
)
_NOT_DENSE = ("Block-Sparse", "Block Sparse")
_DTYPES = (
    ("fp8", "fp8"),
    ("bf16", "bf16"),
    ("fp16", "fp16"),
    ("fp32", "fp32"),
    ("int8", "int8"),
    ("fp64", "fp64"),
)
_SIZES = {
    "batch": "batch",
    "seq": "seq",
    "hidden": "hidden",
    "input": "input",
    "layers": "num_layers",
    "heads": "heads",
    "kv_heads": "kv_heads",
    "head_dim": "head_dim",
    "M": "m",
    "N": "n",
    "K": "k",
}
COLUMNS = (
    *("source", "where", "framework", "kernel", "op", "gpu", "device", "dtype", "direction"),
    *("batch", "seq", "seq_kv", "hidden", "input", "num_layers", "bidirectional", "recurrent_only"),
    *("heads", "kv_heads", "head_dim", "causal", "m", "n", "k", "latency_s", "reason"),
)


def printed(reference: Path) -> pd.DataFrame:
    """Return the published runtimes as their sources print them.

    Raises
    ------
    TableError
        If the table is missing or cannot be read.
    """
    return _csv(reference / FILE)


def _csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, low_memory=False)
    except (OSError, ValueError) as error:
        raise TableError(f"cannot read the published runtimes in {path.parent}: {error}") from error


def read(reference: Path) -> pd.DataFrame:
    """Return the published runtimes in the package's names and units.

    Parameters
    ----------
    reference : Path
        Folder with ``published_runtimes.csv`` and ``device_names.csv``.

    Returns
    -------
    DataFrame
        One row for each of the table, in its order, with ``COLUMNS``; ``reason`` is empty if op, device,
        dtype and seconds are all known. AMD's ``bwd`` of the recurrent rows is the gradient of the data only.

    Raises
    ------
    TableError
        If a file is missing or has the wrong content.
    """
    table, names = printed(reference), _csv(reference / "device_names.csv")
    text = {
        name: table[name].fillna("").astype(str)
        for name in ("op", "impl", "gpu", "dtype", "unit", "note", "direction")
    }
    out = pd.DataFrame({"source": table["source"], "where": table["where"]})
    out["framework"] = text["impl"].str.lower()
    out["kernel"] = text["impl"]
    out["op"] = text["op"].map(_op)
    out["gpu"] = text["gpu"]
    out["device"] = (
        text["gpu"].map({**dict(zip(names["label"], names["device"], strict=True)), **_GPUS}).fillna("")
    )
    out["dtype"] = text["dtype"].map(_dtype)
    recurrent = out["op"].isin(GATES)
    out["direction"] = text["direction"].mask(
        recurrent & (text["direction"] == "bwd") & out["device"].str.startswith("amd/"), "bwd_data"
    )
    for theirs, ours in _SIZES.items():
        out[ours] = table[theirs]
    out["seq_kv"] = out["seq"]
    out["bidirectional"] = table["directions"].eq(2)
    out["recurrent_only"] = text["op"].str.contains("recurrent")
    out["causal"] = _causal(table["causal"])
    out["latency_s"] = _latency(table, out)
    facts = zip(
        *(out[name] for name in ("op", "device", "dtype", "latency_s", "heads")),
        text["op"],
        text["impl"],
        text["note"],
        strict=True,
    )
    out["reason"] = [_reason(*fact) for fact in facts]
    return out[list(COLUMNS)]


def chains(reference: Path) -> pd.DataFrame:
    """Return the rows of cuDNN and MIOpen on which recurrences are fitted and judged.

    They are layers without input products, as DeepBench timed them, on devices that may be fitted on.

    Raises
    ------
    TableError
        See `read`.
    """
    rows = read(reference)
    rows = rows[rows["op"].isin(GATES) & (rows["reason"] == "") & rows["recurrent_only"]]
    return rows[rows["framework"].str.startswith(("cudnn", "miopen")) & ~rows["device"].isin(NEVER_FITTED)]


def _causal(column: pd.Series) -> pd.Series:
    """Return whether attention is causal; unknown where the table has ``?`` or is empty."""
    return column.astype("string").map({"0": False, "1": True, "0.0": False, "1.0": True}).astype("boolean")


def _op(printed: str) -> str:
    return next((op for prefix, op in _OPS.items() if printed.startswith(prefix)), "")


def _dtype(printed: str) -> str:
    return next((name for part, name in _DTYPES if part in printed), "")


def _latency(table: pd.DataFrame, out: pd.DataFrame) -> pd.Series:
    """Return the time of one call [s], as printed or from a rate and the FLOP that its unit names."""
    unit = table["unit"].fillna("").astype(str)
    scale = unit.map({"ms": 1e-3, "ms per batch": 1e-3, "us": 1e-6, "s": 1.0}).astype(float)
    seconds = table["value"] * scale
    factor = unit.str.extract(r"FLOPs=(?:([\d.]+)\*)?4\*B\*N\^2", expand=False).astype(float).fillna(1.0)
    rated = unit.str.contains("FLOPs=", regex=False)
    pairs = np.where(out["causal"].fillna(False).astype(bool), 0.5, 1.0)
    flops = factor * 4 * out["batch"] * out["seq"] ** 2 * out["heads"] * out["head_dim"] * pairs
    return seconds.mask(rated, flops / (table["value"] * 1e12))


def _reason(
    op: str, device: str, dtype: str, latency: float, heads: float, printed: str, impl: str, note: str
) -> str:
    """Return why a row is not comparable, or an empty text."""
    recurrent = op in GATES
    checks = (
        ("OUTLIER" in note, "the source marks it as an outlier"),
        (not op, f"no layer describes {printed!r}"),
        (not device, "the GPU is not stated, or has no spec"),
        (not dtype, "the dtype is not stated"),
        (op == "attention" and not _is_dense(impl), f"{impl} is not dense attention"),
        (recurrent and is_loop(impl), LOOP),
        ("block-diagonal" in printed and heads != 1, "block-diagonal recurrence"),
        (recurrent and " + " in printed, "more than the recurrent layers"),
        (not (np.isfinite(latency) and latency > 0), "no time, or a unit that is not one"),
    )
    return next((reason for failed, reason in checks if failed), "")


def _is_dense(impl: str) -> bool:
    return any(name in impl for name in _DENSE) and not any(name in impl for name in _NOT_DENSE)
