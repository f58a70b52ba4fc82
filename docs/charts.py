"""The pictures of the tour: a few lines each, drawn when the site is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

import costmodel as cm

SIZES: Mapping[str, Any] = {"batch": 4, "heads": 16, "head_dim": 64, "hidden": 1024}
LENGTHS = cm.log2_range(128, 65536)


def _lines(frame: pd.DataFrame, y: str, title: str) -> alt.Chart:
    """Return lines over the length, both axes logarithmic."""
    scale = alt.Scale(type="log")
    return (
        alt.Chart(frame)
        .mark_line(point=True)
        .encode(
            alt.X("seq:Q", scale=scale, title="sequence length [tokens]"),
            alt.Y(f"{y}:Q", scale=scale, title=title, axis=alt.Axis(format=".1~s")),
            alt.Color("series:N", title=None),
            alt.StrokeDash("series:N", title=None),
        )
        .properties(width=520, height=300)
    )


def _sweep(layers: Mapping[str, Any], device: Any, **sizes: Any) -> pd.DataFrame:
    parts = []
    for name, layer in layers.items():
        taken = {size: value for size, value in sizes.items() if size in layer.sizes()}
        parts.append(cm.sweep([layer], [device], seq=LENGTHS, **taken).assign(series=name))
    return pd.concat(parts, ignore_index=True)


def hardware() -> alt.Chart:
    """Return recurrence and attention on a device, and on one of ten times its units and bandwidth."""
    device = cm.hardware.load("nvidia/h200-sxm")
    faster = device.replace(hbm="48 TB/s", units=1320)
    layers = {"LSTM": cm.LSTM(dtype="bf16"), "tiled attention": cm.TiledAttention(dtype="bf16")}
    frames = [
        _sweep({f"{name}, {what}": layer for name, layer in layers.items()}, machine, **SIZES)
        for what, machine in (("H200", device), ("ten times the device", faster))
    ]
    return _lines(pd.concat(frames, ignore_index=True), "seconds", "time [s]")


def work() -> alt.Chart:
    """Return the FLOPs of attention's core and of a whole layer."""
    layers = {"core": cm.DenseAttention(), "whole layer": cm.TransformerBlock()}
    frame = _sweep(layers, "nvidia/h200-sxm", batch=1, heads=32, head_dim=128, d_model=4096)
    return _lines(frame, "matrix_flops", "matrix work [FLOP]")


def memory() -> alt.Chart:
    """Return what training one layer of attention occupies."""
    layers = {
        "stored scores": cm.DenseAttention(direction="fwd+bwd"),
        "tiled": cm.TiledAttention(direction="fwd+bwd"),
    }
    return _lines(_sweep(layers, "nvidia/h200-sxm", **SIZES), "footprint_bytes", "memory [bytes]")


def linear() -> alt.Chart:
    """Return exact, linear and gated-delta attention with 32 heads of 128."""
    layers = {
        "exact, causal": cm.TiledAttention(causal=True),
        "linear, causal": cm.LinearAttention(causal=True),
    }
    exact = _sweep(layers, "nvidia/h200-sxm", batch=1, heads=32, head_dim=128)
    # Qwen3-Next's: 16 key heads, 32 value heads.
    delta = _sweep(
        {"gated delta net": cm.GatedDeltaNet()},
        "nvidia/h200-sxm",
        batch=1,
        heads=16,
        kv_heads=32,
        head_dim=128,
    )
    return _lines(pd.concat([exact, delta], ignore_index=True), "seconds", "time [s]")


#: What a page asks for as ``![…](chart:name)``.
CHARTS = {chart.__name__: chart for chart in (hardware, work, memory, linear)}
