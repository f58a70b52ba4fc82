"""Evaluate a campaign: rows for the report's page, and whether predictions meet the demanded accuracy."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from costmodel import calibration, hardware, kernels
from costmodel.predict import RUNGS
from costmodel.validation.cells import queued
from costmodel.validation.heldout import held_out
from costmodel.validation.join import with_predictions
from costmodel.validation.record import cases_of
from costmodel.validation.registry import find

#: Allowed error as a multiple of the difference between reruns, if that is larger than the demand.
RERUN_FACTOR = 1.5
#: Required share of pairs of kernels in the right order [%].
ORDER_PERCENT = 95
#: Two kernels are compared if their times differ by more than this factor, …
APART = 1.2
#: … and their FLOPs by no more than this one.
ALIKE = 4.0
#: Median error of a cell above which the diary has to explain it [%].
MISPREDICTED = 30.0
_RECURRENT = ("lstm", "gru")
_ATTENTION = ("sdpa-math", "sdpa-flash", "sdpa-efficient", "sdpa-cudnn")
_MEMORY = ("softmax", "layernorm", "rmsnorm", "add", "mul", "copy", "relu", "gelu", "tanh")


def as_report(frame: pd.DataFrame, device: hardware.Device | str | Path) -> pd.DataFrame:
    """Return measured rows at every available rung, in the form that `costmodel.reports.validation` takes.

    Parameters
    ----------
    frame : DataFrame
        As `costmodel.validation.measure` returns it.
    device : Device, str or Path
        The device it was measured on.

    Returns
    -------
    DataFrame
        One row for each measured case and rung: ``layer``, ``options``, ``device``, ``op``, ``dtype``,
        ``framework``, ``rung``, ``state``, ``measured_s``, ``seconds``, ``lower_s`` [s], ``bound``,
        ``held_out``, ``spread``, ``kernel``, ``direction``, ``launch``, and the columns that
        `costmodel.validation.memory.footprints` reads. Constants are fitted on warm rows, forward or
        backward; all others count as held out.
    """
    good = frame[(frame["status"] == "ok") & frame["latency_s"].notna()].reset_index(drop=True)
    layers = [find(case.bench).layer(case) for case in cases_of(good)]
    fittable = (good["direction"].isin(("fwd", "bwd")) & (good["state"] == "warm")).to_numpy(dtype=bool)
    named = good.assign(
        layer=[layer.name if layer else "" for layer in layers],
        options=[layer.label if layer else "" for layer in layers],
        device=good["gpu"],
        measured_s=good["latency_s"],
        held_out=held_out(good) | ~fittable,
    )
    parts = [with_predictions(named, device, rung=rung) for rung in RUNGS]
    both = pd.concat([part[part["seconds"].notna()] for part in parts], ignore_index=True)
    columns = (
        *("layer", "options", "device", "op", "dtype", "framework", "rung", "state", "measured_s"),
        *("seconds", "lower_s", "bound", "held_out", "spread"),
        *("kernel", "direction", "launch", "case", "peak_bytes", "footprint_bytes"),
    )
    return both[list(columns)]


def fitted_constants(device: hardware.Device) -> pd.DataFrame:
    """Return the constants fitted on a device, with their intervals, as the report shows them.

    Returns
    -------
    DataFrame
        ``op``, ``direction``, ``dtype``, ``constant``, ``value``, ``low``, ``high`` (text, four digits),
        ``unit`` and ``meaning`` of each constant with an interval.
    """
    rows = []
    for section in calibration.own(device):
        described = kernels.model(section.kernel).CONSTANTS
        for name, (low, high) in section.intervals.items():
            numbers = {"value": section.constants[name], "low": low, "high": high}
            rows.append(
                {
                    "op": section.op,
                    "direction": section.direction,
                    "dtype": section.dtype,
                    "constant": name,
                    **{key: f"{value:.4g}" for key, value in numbers.items()},
                    "unit": described[name].unit,
                    "meaning": described[name].meaning,
                }
            )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Demand:
    """A demand on the accuracy of predictions in a campaign.

    Attributes
    ----------
    name : str
        Description.
    kind : str
        Kind of device.
    percent : float
        Largest allowed median absolute error [%].
    rows : callable
        Function that selects the rows it applies to.
    """

    name: str
    kind: str
    percent: float
    rows: Callable[[pd.DataFrame], pd.Series[bool]]


def _of(*benches: str, from_s: float = 0.0) -> Callable[[pd.DataFrame], pd.Series[bool]]:
    return lambda frame: frame["bench"].isin(benches) & (frame["latency_s"] >= from_s)


DEMANDS = (
    Demand("matmul of 1 ms and more", "cpu", 10.0, _of("matmul", "bmm", from_s=1e-3)),
    Demand("attention, math and flash", "cpu", 12.0, _of(*_ATTENTION)),
    Demand("LSTM and GRU", "cpu", 15.0, _of(*_RECURRENT)),
    Demand("memory-bound operations", "cpu", 15.0, _of(*_MEMORY)),
    Demand("matmul", "cuda", 5.0, _of("matmul", "bmm")),
    Demand("attention", "cuda", 8.0, _of(*_ATTENTION)),
    Demand("recurrent", "cuda", 10.0, _of(*_RECURRENT)),
)


def _predicted(frame: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows have both a measurement and a prediction."""
    return (frame["status"] == "ok") & frame["seconds"].notna()


def _judged(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that predictions are judged by: held-out shapes, without host-limited times."""
    return frame[_predicted(frame) & held_out(frame) & ~queued(frame)]


def verdicts(frame: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return each demand and the accuracy that was reached.

    Parameters
    ----------
    frame : DataFrame
        As `costmodel.validation.run` returns it.
    kind : str
        ``cpu`` or ``cuda``.

    Returns
    -------
    DataFrame
        For each demand: ``demand``, ``rows`` (warm and forward, of held-out shapes; only graphs if any were
        measured, because other calls may be limited by the host's dispatch), ``median``, ``mean`` and
        ``bias`` [%], ``reruns`` (median difference between visits [%]), ``limit`` (the demand, or 1.5 times
        ``reruns`` if that is larger [%]) and ``met``.
    """
    judged = _judged(frame)
    judged = judged[(judged["direction"] == "fwd") & (judged["state"] == "warm")]
    rows = []
    for demand in DEMANDS:
        if demand.kind != kind:
            continue
        part = judged[demand.rows(judged)]
        error = 100 * (part["ratio"] - 1)
        reruns = 100 * float(part["spread"].median()) if len(part) else float("nan")
        limit = float(np.nanmax([demand.percent, RERUN_FACTOR * reruns]))
        rows.append(
            {
                "demand": demand.name,
                "rows": len(part),
                "median": float(error.abs().median()),
                "mean": float(error.abs().mean()),
                "bias": float(error.median()),
                "reruns": reruns,
                "limit": limit,
                "met": bool(error.abs().median() <= limit),
            }
        )
    return pd.DataFrame(rows)


def order(frame: pd.DataFrame) -> tuple[int, float]:
    """Return the number of comparable pairs of kernels, and the share that is ordered correctly.

    Pairs are of held-out shapes and of different layers or backends, within a factor of 4 in FLOPs, and with
    measured times more than 20 % apart; only graphs are used if any were measured.
    """
    good = _judged(frame)
    good = good[good["matrix_flops"] > 0]
    benches, flops = good["bench"].to_numpy(), good["matrix_flops"].to_numpy(dtype=np.float64)
    measured, predicted = (good[name].to_numpy(dtype=np.float64) for name in ("latency_s", "seconds"))
    right = []
    for one, other in itertools.combinations(range(len(good)), 2):
        ratio = measured[one] / measured[other]
        if benches[one] == benches[other] or not min(ratio, 1 / ratio) < 1 / APART:
            continue
        if max(flops[one], flops[other]) <= ALIKE * min(flops[one], flops[other]):
            right.append((measured[one] > measured[other]) == (predicted[one] > predicted[other]))
    return len(right), float(np.mean(right)) if right else float("nan")


def mispredicted(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of a campaign whose median error exceeds ``MISPREDICTED``, for the diary.

    Returns
    -------
    DataFrame
        ``bench``, ``dtype``, ``direction``, ``launch``, ``state``, ``rows``, ``error`` and ``bias``
        (medians [%]), ``spread`` (between visits [%]), the worst first.
    """
    good = frame[_predicted(frame)]
    error = 100 * (good["ratio"] - 1)
    keys = ["bench", "dtype", "direction", "launch", "state"]
    grouped = good[keys].assign(error=error.abs(), bias=error, spread=100 * good["spread"]).groupby(keys)
    table = grouped.median().assign(rows=grouped.size()).reset_index()
    return table[table["error"] > MISPREDICTED].sort_values("error", ascending=False, ignore_index=True)
