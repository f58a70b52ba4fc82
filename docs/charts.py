"""The charts of the tour, drawn when the site is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

import costmodel as cm
from costmodel.reports import style
from costmodel.symbols import symbols

LENGTHS = cm.log2_range(128, 65536)
H200 = "nvidia/h200-sxm"


def _lines(frame: pd.DataFrame, y: str, title: str, labels: str, x: str = "seq") -> alt.LayerChart:
    """Return a line per ``label`` on logarithmic axes, in the style of the reports."""
    base = alt.Chart(frame).encode(style.length_axis(x), style.log_y(y, title, labels))
    names = list(dict.fromkeys(frame["label"]))
    lines = base.mark_line(strokeWidth=2.5).encode(*style.series_line("label", names))
    points = base.mark_point(strokeWidth=0, size=35, opacity=1).encode(style.series_fill("label", names))
    return style.lined(lines + points, names).properties(width=440, height=260).configure(background="white")


def _sweep(layers: Mapping[str, Any], device: Any = H200, **sizes: Any) -> pd.DataFrame:
    """Return a sweep of named layers, each with those of the sizes that it takes."""
    parts = []
    for name, layer in layers.items():
        taken = {size: value for size, value in sizes.items() if size in layer.sizes()}
        parts.append(cm.sweep([layer], [device], taken).assign(label=name))
    return pd.concat(parts, ignore_index=True)


# -- steps -----------------------------------------------------------------------------------------


def hardware() -> Any:
    """Return an LSTM and attention on a device, and with ten times its units, bandwidth and power."""
    faster = cm.hardware.load(H200).replace(hbm="48 TB/s", units=1320, power="7 kW")
    layers = {"LSTM": cm.LSTM(dtype="bf16"), "tiled attention": cm.TiledAttention(dtype="bf16")}
    sizes = {"batch": 4, "heads": 16, "head_dim": 64, "hidden": 1024, "seq": LENGTHS}
    frames = [
        _sweep({f"{name}, {what}": layer for name, layer in layers.items()}, machine, **sizes)
        for what, machine in (("H200", H200), ("ten times the device", faster))
    ]
    return _lines(pd.concat(frames, ignore_index=True), "seconds", "time [s]", style.SECONDS)


def batch() -> Any:
    """Return a recurrence and attention over the number of sequences."""
    layers = {"LSTM": cm.LSTM(dtype="bf16"), "tiled attention": cm.TiledAttention(dtype="bf16")}
    sizes = {"seq": 1024, "heads": 16, "head_dim": 64, "hidden": 1024}
    frame = _sweep(layers, batch=cm.log2_range(1, 1024), **sizes)
    return _lines(frame, "seconds", "time [s]", style.SECONDS, "batch")


# -- work ------------------------------------------------------------------------------------------


def race() -> Any:
    """Return a vanilla recurrence and attention with its projections, both 768 wide."""
    layers = {"recurrence": cm.RNN(dtype="bf16"), "attention": cm.TiledAttention(projections=True)}
    sizes = {"batch": 1, "heads": 12, "head_dim": 64, "hidden": 768, "seq": LENGTHS}
    return _lines(_sweep(layers, **sizes), "seconds", "time [s]", style.SECONDS)


def work() -> Any:
    """Return the FLOPs of attention's core and of a whole layer."""
    layers = {"core": cm.DenseAttention(), "whole layer": cm.TransformerBlock()}
    frame = _sweep(layers, batch=1, heads=32, head_dim=128, d_model=4096, seq=LENGTHS)
    return _lines(frame, "matrix_flops", "matrix work [FLOP]", style.PLAIN)


# -- memory ----------------------------------------------------------------------------------------


def memory() -> Any:
    """Return the memory that training one layer of attention takes."""
    layers = {
        "stored scores": cm.DenseAttention(direction="fwd+bwd"),
        "tiled": cm.TiledAttention(direction="fwd+bwd"),
    }
    frame = _sweep(layers, batch=4, heads=16, head_dim=64, seq=LENGTHS)
    return _lines(frame, "footprint_bytes", "memory [B]", style.BYTES)


def intensity() -> Any:
    """Return the arithmetic intensity of attention, and the ridge of an A100."""
    device = cm.hardware.load("nvidia/a100-sxm-80gb")
    layers = {"stored scores": cm.DenseAttention(), "tiled": cm.TiledAttention()}
    frame = _sweep(layers, device, batch=1, heads=16, head_dim=64, seq=LENGTHS)
    ridge = frame[["seq"]].drop_duplicates().assign(label="ridge of the A100")
    ridge["intensity"] = device.peak("bf16") / device.hbm_bandwidth
    frame["intensity"] = frame["matrix_flops"] / frame["hbm_bytes"]
    both = pd.concat([frame, ridge], ignore_index=True)
    return _lines(both, "intensity", "arithmetic intensity [FLOP/B]", style.WRITTEN_OUT)


def cache() -> Any:
    """Return the size of one sequence's KV cache in published models."""
    rows = [
        {"label": name, "seq": n, "bytes": _cached(name, n)}
        for name in ("llama-2-7b", "llama-2-70b", "mistral-7b")
        for n in LENGTHS
    ]
    return _lines(pd.DataFrame(rows), "bytes", "cache [B]", style.BYTES)


def _cached(name: str, tokens: int) -> float:
    batch, length = symbols("batch seq_kv")
    return float(cm.models.load(name).cache_bytes("bf16").subs({batch: 1, length: tokens}))


# -- more devices, fewer pairs ---------------------------------------------------------------------


def devices() -> Any:
    """Return the memory of one of several devices that share attention over 262,144 tokens."""
    layers = {
        "DistFlashAttn": cm.DistFlashAttention(direction="fwd+bwd"),
        "Ring Self-Attention": cm.RingSelfAttention(direction="fwd+bwd"),
    }
    sizes = {"batch": 1, "heads": 32, "head_dim": 128, "seq": 2**18}
    frame = _sweep(layers, H200, devices=cm.log2_range(2, 1024), **sizes)
    return _lines(frame, "footprint_bytes", "memory of a device [B]", style.BYTES, "devices")


def pairs() -> Any:
    """Return the FLOPs of full and of sparse attention."""
    layers = {
        "all pairs": cm.DenseAttention(),
        "combiner": cm.Combiner(),
        "window of 1,024": cm.SlidingWindow(),
        "bigbird": cm.BigBird(),
    }
    frame = _sweep(layers, batch=1, heads=16, head_dim=64, window=1024, seq=cm.log2_range(2048, 2**18))
    return _lines(frame, "matrix_flops", "matrix work [FLOP]", style.PLAIN)


def linear() -> Any:
    """Return exact, linear and gated-delta attention with 32 heads of 128."""
    layers = {
        "exact, causal": cm.TiledAttention(causal=True),
        "linear, causal": cm.LinearAttention(causal=True),
    }
    exact = _sweep(layers, batch=1, heads=32, head_dim=128, seq=LENGTHS)
    # Qwen3-Next's: 16 key heads, 32 value heads.
    heads = {"heads": 16, "kv_heads": 32, "head_dim": 128}
    delta = _sweep({"gated delta net": cm.GatedDeltaNet()}, batch=1, seq=LENGTHS, **heads)
    return _lines(pd.concat([exact, delta], ignore_index=True), "seconds", "time [s]", style.SECONDS)


_ALL = (hardware, batch, race, work, memory, intensity, cache, devices, pairs, linear)
#: Charts by the name that pages use: ``![…](chart:name)``.
CHARTS = {chart.__name__: chart for chart in _ALL}
