"""The project's own question, on the shipped devices: recurrence or attention, and what limits each.

Compared are the Transformer of Vaswani et al. 2017 (encoder layers, base and big) and an LSTM stack of the
same width and number of layers. The tables are made here; `costmodel.reports` shows them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from costmodel import hardware, reports, systems
from costmodel.arguments import typed
from costmodel.crossing import QUANTITIES, crossover
from costmodel.errors import CostmodelError, TableError, UnavailableError
from costmodel.evaluate import evaluate
from costmodel.explain import what_if
from costmodel.facts import facts_of
from costmodel.layers import Layer, get
from costmodel.parallel.limits import largest
from costmodel.predict import as_device, predict
from costmodel.prediction import Prediction
from costmodel.reports.frames import check_columns
from costmodel.sweep import as_frame, concat, log2_range

DEVICES = (
    "nvidia/p100-sxm2-16gb",
    "nvidia/v100-sxm2-16gb",
    "nvidia/a100-sxm-80gb",
    "nvidia/h100-sxm",
    "nvidia/h200-sxm",
    "nvidia/b200-sxm",
    "amd/mi300x",
    "google/tpu-v4",
    "google/tpu-v5e",
    "google/tpu-v5p",
)
LENGTHS = log2_range(128, 131072)
BATCH = 8
#: Length [tokens] of the what-ifs, which are made for the first model and inference.
CHANGED_AT = 8192
#: Vaswani et al. 2017, Table 3, rows base and big; heads of 64.
MODELS = {"base": {"width": 512, "heads": 8, "d_ff": 2048}, "big": {"width": 1024, "heads": 16, "d_ff": 4096}}
NUM_LAYERS = 6
WORKS = {"inference (forward)": "fwd", "training (forward and backward)": "fwd+bwd"}


@dataclass(frozen=True)
class Case:
    """One device in one number format, one model, one direction.

    Attributes
    ----------
    device : Device
        The device.
    dtype : str
        The number format: the device's own 16-bit one, or fp32.
    model : str
        ``base`` or ``big``.
    work : str
        A key of `WORKS`.
    rung : str or None
        See `predict`.
    """

    device: hardware.Device
    dtype: str
    model: str
    work: str
    rung: str | None

    @property
    def keys(self) -> dict[str, str]:
        """The columns that tell cases apart, with their values."""
        size = MODELS[self.model]
        model = f"{self.model} (d = {size['width']}, {size['heads']} heads, d_ff = {size['d_ff']})"
        return {"where": f"{_short(self.device)} · {self.dtype}", "model": model, "work": self.work}

    @property
    def layers(self) -> dict[str, Layer]:
        """The layers compared, by their names in the report."""
        same = {"dtype": self.dtype, "direction": WORKS[self.work]}
        block = get("transformer-block")
        return {
            "Transformer (tiled)": block(**same, activation="relu"),  # type: ignore[call-arg]
            "Transformer (stored)": block(**same, activation="relu", attention="dense"),  # type: ignore[call-arg]
            "LSTM": get("lstm")(**same),
        }

    def sizes(self, layer: Layer) -> dict[str, Any]:
        """Return all sizes but the length."""
        size = MODELS[self.model]
        every = {
            "batch": BATCH,
            "num_layers": NUM_LAYERS,
            "d_model": size["width"],
            "hidden": size["width"],
            "heads": size["heads"],
            "d_ff": size["d_ff"],
        }
        return {name: value for name, value in every.items() if name in layer.sizes()}

    def predict(self, layer: Layer, lengths: int | Sequence[int] | np.ndarray) -> Prediction:
        """Return the prediction of one of the layers over lengths."""
        return predict(layer, self.device, rung=self.rung, seq=np.asarray(lengths), **self.sizes(layer))


def _short(device: hardware.Device) -> str:
    """Return a device's everyday name: ``NVIDIA Tesla P100 SXM2 16 GB → P100``."""
    words = [word for word in device.title.split() if word not in (device.vendor, "Tesla", "Instinct")]
    return " ".join(words[:2] if words[0] == "TPU" else words[:1])


def cases(devices: Iterable[hardware.Device], rung: str | None) -> list[Case]:
    """Return the story's cases: each device in its native 16-bit format or fp32; Pascal in both."""
    found = []
    for device in devices:
        dtypes = [device.native_16bit or "fp32", *(["fp32"] if device.family == "pascal" else [])]
        found += [Case(device, d, m, w, rung) for d in dict.fromkeys(dtypes) for m in MODELS for w in WORKS]
    return found


@typed
def story(
    *,
    rung: str | None = None,
    devices: Sequence[str] = DEVICES,
    lengths: Sequence[int] | np.ndarray = LENGTHS,
) -> reports.Frames:
    """Return the frames of the project's own report.

    Parameters
    ----------
    rung : str, optional
        See `predict`; default: the best rung available for each device.
    devices : sequence of str
        Names of devices.
    lengths : sequence of int
        Sequence lengths [tokens].
    """
    if not devices or not np.size(lengths):
        raise CostmodelError("story: wanted one device or more and one length or more")
    every = cases([hardware.load(name) for name in devices], rung)
    times, parts, fastest, longest = [], [], [], []
    for case in every:
        predictions = {name: case.predict(layer, lengths) for name, layer in case.layers.items()}
        times += [_times(case, *item) for item in predictions.items()]
        parts += [_parts(case, *item) for item in predictions.items()]
        fastest += _fastest(case, lengths)
        longest += [_longest(case, *item) for item in case.layers.items()]
    rows = concat(times).dropna(axis="columns", how="all")  # no intervals at rung bound
    places = {case.keys["where"]: (case.device, case.dtype) for case in every}
    return reports.Frames(
        rows=rows,
        parts=pd.concat(parts, ignore_index=True),
        fastest=_named([*_fewest(every, lengths), *fastest], list(every[0].layers)),
        longest=pd.DataFrame(longest),
        changes=_changes(every),
        systems=systems.times([(where, *place) for where, place in places.items()], rung=rung),
        growth=systems.growth(),
        facts=facts_of(rows, {case.device.name: case.device for case in every}),
    )


def _named(segments: list[dict[str, object]], series: list[str]) -> pd.DataFrame:
    """Return segments as the charts take them; every layer is a category, even one that is never fastest."""
    frame = pd.DataFrame(segments).rename(columns={"where": "row"})
    return frame.assign(series=pd.Categorical(frame["series"], series))


def _times(case: Case, series: str, prediction: Prediction) -> pd.DataFrame:
    """Return a layer's times and counts over the lengths, with 80 % prediction intervals."""
    frame = as_frame(prediction).assign(series=series, label=f"{series} · {case.dtype}", **case.keys)
    low, high = prediction.interval(80)
    return frame.assign(lo80_s=low, hi80_s=high)


def _parts(case: Case, series: str, prediction: Prediction) -> pd.DataFrame:
    """Return the time of each kind of kernel over the lengths."""
    frames = [
        pd.DataFrame({"seq": prediction.shapes["seq"], "part": phase["kernel"], "seconds": phase["seconds"]})
        for phase in prediction.phases
    ]
    summed = pd.concat(frames).groupby(["seq", "part"], as_index=False, sort=False)[["seconds"]].sum()
    return summed.assign(series=series, label=f"{series} · {case.dtype}", **case.keys)


def _fastest(case: Case, lengths: Sequence[int] | np.ndarray) -> list[dict[str, object]]:
    """Return which layer is fastest over which range of lengths, exact to the token."""
    found = _segments(case, lengths, "seconds")
    return [{**case.keys, "of": "time", **segment} for segment in found]


def _fewest(every: Sequence[Case], lengths: Sequence[int] | np.ndarray) -> list[dict[str, object]]:
    """Return which layer has the fewest FLOPs and dependent steps; these counts are the same on every device.

    Traffic is left out because it is not: a device reads again what it cannot keep on chip.
    """
    names = {"flops": "FLOPs", "depth": "steps"}
    found = []
    last = {(case.model, case.work): case for case in every}
    for case, (of, name) in itertools.product(last.values(), names.items()):
        keys = case.keys | {"where": f"fewest {name}"}
        found += [{**keys, "of": name, **segment} for segment in _segments(case, lengths, of)]
    return found


def _segments(case: Case, lengths: Sequence[int] | np.ndarray, of: str) -> list[dict[str, object]]:
    """Return the range of lengths cut at every crossover, with the layer of the least value in each piece."""
    layers, low, high = case.layers, int(min(lengths)), int(max(lengths))
    cuts = {low}
    for first, second in itertools.combinations(layers.values(), 2):
        sizes = case.sizes(first) | case.sizes(second)
        device = case.device if of == "seconds" else None
        found = crossover(first, second, device, over="seq", of=of, rung=case.rung, limit=high, **sizes)
        cuts |= {size for size in found.sizes if low < size <= high}
    edges = sorted(cuts)
    values = {name: _values(case, layer, edges, of) for name, layer in layers.items()}
    segments: list[dict[str, object]] = []
    for i, start in enumerate(edges):
        least = _least({name: value[i] for name, value in values.items()})
        if not segments or segments[-1]["series"] != least:
            segments.append({"series": least, "from_seq": start})
    ends = [*(segment["from_seq"] for segment in segments[1:]), high]
    return [{**segment, "to_seq": end} for segment, end in zip(segments, ends, strict=True)]


def _values(case: Case, layer: Layer, lengths: Sequence[int], of: str) -> np.ndarray:
    if of == "seconds":
        return np.asarray(case.predict(layer, lengths).seconds)
    counts = evaluate(layer, seq=np.asarray(lengths), **case.sizes(layer))
    return np.asarray(counts[QUANTITIES[of]])


def _least(values: dict[str, float]) -> str:
    """Return the name of the least value; among equals the first."""
    return min(values, key=lambda name: values[name])


def _changes(every: Sequence[Case]) -> pd.DataFrame:
    """Return the speedup of each layer with one thing changed, on every device; see `what_if`.

    Other number formats are left out: each device computes in its own.
    """
    found = []
    first: dict[str, Case] = {}
    for case in every:
        first.setdefault(case.keys["where"], case)
    for where, case in first.items():
        for series, layer in case.layers.items():
            changes = what_if(case.predict(layer, CHANGED_AT))
            found.append(
                changes[changes["kind"] != "format"].assign(where=where, series=series, seq=CHANGED_AT)
            )
    frame = pd.concat(found, ignore_index=True).drop(columns=["rung", "alike"])
    return frame.assign(series=pd.Categorical(frame["series"], list(every[0].layers)))


def _longest(case: Case, series: str, layer: Layer) -> dict[str, object]:
    """Return the longest sequence whose footprint the device's memory holds (0: not even one token)."""

    def fits(length: int) -> bool:
        return bool(evaluate(layer, seq=length, **case.sizes(layer))["footprint_bytes"] <= capacity)

    capacity = case.device.hbm_capacity
    return {**case.keys, "series": series, "longest_seq": largest(fits), "hbm_capacity_bytes": capacity}


def page(
    file: Path | None = None,
    *,
    devices: Iterable[hardware.Device | str | Path] = (),
    rung: str | None = None,
    command: str | None = None,
) -> reports.Page:
    """Return the report of a sweep's file or, without a file, the project's own report.

    Parameters
    ----------
    file : Path, optional
        CSV or Parquet, as written by `sweep`.
    devices : iterable of Device, str or Path, optional
        Devices in the file that are not shipped with the package: a page shows their figures, too.
    rung : str, optional
        Rung of the project's own report; a file has its own.
    command : str, optional
        The command that made the report, shown on it.

    Raises
    ------
    UnavailableError
        If a rung is given together with a file, whose predictions are already made.
    TableError
        If the file is not a sweep's, or lacks one of the devices.
    """
    own = {device.name: device for device in map(as_device, devices)}
    if file is None:
        if own:
            raise CostmodelError("-m names devices of a FILE; the project's own report has its ten")
        return reports.story(story(rung=rung), command=command or "costmodel report -o REPORT.html")
    if rung is not None:
        raise UnavailableError(f"{file} holds predictions already; give --rung to costmodel sweep instead")
    frame = reports.read(file)
    check_columns(frame)
    named = frame["device"].astype(str).unique()
    for name in own:
        if name not in named:
            raise TableError(f"{file} has no rows of {name}; its devices: {', '.join(named)}")
    facts = facts_of(frame, own)
    return reports.compare(frame, facts=facts, command=command or f"costmodel report {file.name}")
