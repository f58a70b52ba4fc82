"""Facts behind predictions, as tables: figures of devices with their sources, and sources of layers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import pandas as pd

from costmodel import hardware
from costmodel._version import __version__
from costmodel.arguments import typed
from costmodel.dtypes import DTYPES
from costmodel.errors import UnknownNameError
from costmodel.hardware.tables import sources
from costmodel.layers import Layer, get
from costmodel.reports import Facts

T = TypeVar("T")


@typed
def facts_of(frame: pd.DataFrame, devices: Mapping[str, hardware.Device] | None = None) -> Facts:
    """Return the facts about the devices and layers that a sweep's table names.

    Parameters
    ----------
    frame : DataFrame
        A table with the columns ``device``, ``dtype`` and ``layer``.
    devices : mapping of str to Device, optional
        Devices by their names in the table, beside the shipped ones of those names. A device that is neither
        has no facts, and the report says so.
    """
    known = {**_known(frame["device"].astype(str), hardware.load), **(devices or {})}
    layers = _known(frame["layer"].astype(str), get)
    figures = _figures(known)
    return Facts(
        devices=_devices(known),
        figures=figures,
        sources=_sources(figures),
        layers=_layers(layers),
        version=__version__,
    )


def _known(names: Iterable[str], find: Callable[[str], T]) -> dict[str, T]:
    """Return what `find` returns for each name; names it does not know (what-if devices, …) are left out."""
    found = {}
    for name in dict.fromkeys(names):
        with contextlib.suppress(UnknownNameError):
            found[name] = find(name)
    return found


def _devices(devices: Mapping[str, hardware.Device]) -> pd.DataFrame:
    """Return one row for each device and dtype it computes in: the figures of its roofline."""
    rows = []
    for name, device in devices.items():
        rows += [
            {
                "device": name,
                "title": device.title,
                "dtype": dtype,
                "peak_flops": device.peak(dtype),
                "hbm_bandwidth": device.hbm_bandwidth,
                "hbm_capacity_bytes": device.hbm_capacity,
                "spec_hash": device.spec_hash,
                "missing": ", ".join(device.missing),
            }
            for dtype in DTYPES
            if device.has(dtype)
        ]
    roofs = ("device", "title", "dtype", "peak_flops", "hbm_bandwidth", "hbm_capacity_bytes")
    return pd.DataFrame(rows, columns=[*roofs, "spec_hash", "missing"])


def _figures(devices: Mapping[str, hardware.Device]) -> pd.DataFrame:
    """Return one row for each figure of each device, with status, source and note."""
    rows = []
    for name, device in devices.items():
        for path, figure in device.quantities.items():
            span = getattr(figure, "range", None)
            notes = [figure.note, figure.reason, f"range {span[0]} to {span[1]}" if span else None]
            rows.append(
                {
                    "device": name,
                    "figure": path,
                    "value": str(figure.value),
                    "status": figure.status,
                    "source": ", ".join(figure.source),
                    "note": "; ".join(note for note in notes if note),
                }
            )
    return pd.DataFrame(rows, columns=["device", "figure", "value", "status", "source", "note"])


def _sources(figures: pd.DataFrame) -> pd.DataFrame:
    """Return the documents that the figures' source keys stand for."""
    documents = sources()
    cited = {key for text in figures["source"] for key in text.split(", ") if key}
    rows = [{"source": key, "document": documents.get(key, "")} for key in sorted(cited)]
    return pd.DataFrame(rows, columns=["source", "document"])


def _layers(layers: Mapping[str, type[Layer]]) -> pd.DataFrame:
    """Return one row for each layer: what it is, its source, and what its counts leave out."""
    rows = [
        {
            "layer": name,
            "what": (layer.__doc__ or "").strip().splitlines()[0].replace("`", ""),
            "source": layer.source,
            "not_counted": layer.not_counted,
        }
        for name, layer in layers.items()
    ]
    return pd.DataFrame(rows, columns=["layer", "what", "source", "not_counted"])
