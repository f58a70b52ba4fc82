"""A prediction as plain numbers and text for JSON, and as a table for a notebook."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from costmodel import notebook
from costmodel._version import __version__
from costmodel.units import render

if TYPE_CHECKING:
    from costmodel.prediction import Prediction

#: Version of the schema of JSON answers.
SCHEMA = 1


def as_dict(p: Prediction) -> dict[str, Any]:
    """Return the whole answer as plain numbers, lists and text, for JSON."""
    answer: dict[str, Any] = {
        "schema": SCHEMA,
        "version": __version__,
        "layer": p.layer.name,
        "device": p.device.name,
        "spec_hash": p.device.spec_hash,
        "rung": p.rung,
        "state": p.state,
        "constants_from": p.constants_from,
        "shapes": p.sizes,
        "options": {k: list(v) if isinstance(v, tuple) else v for k, v in p.layer.options.items()},
        "seconds": p.seconds,
        "lower_s": p.lower_s,
        "serial_s": p.serial_s,
        "bound": p.bound,
        "limits_s": {name: plain(time) for name, time in p.limits_s.items()},
        "utilisation": p.utilisation,
        "fits": p.fits,
        **{name: getattr(p, name) for name in ("lo80_s", "hi80_s", "lo95_s", "hi95_s", "in_range")},
        **p.counts,
        "missing": list(p.missing),
        "assumed": list(p.device.assumed),
        "phases": [{k: plain(v) for k, v in phase.items()} for phase in p.phases],
        "nearest_fitted": [{k: plain(v) for k, v in kernel.items()} for kernel in p.nearest_fitted],
    }
    return {name: plain(value) for name, value in answer.items()}


def plain(value: Any) -> Any:
    """Return a value that JSON can hold: whole floats as int, arrays as lists, NaN as None."""
    if isinstance(value, np.ndarray):
        return [plain(v) for v in value.tolist()]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    return value


def kernels_run(p: Prediction) -> list[dict[str, Any]]:
    """Return the rows of `Prediction.phases` to show to a person: without kernels that run zero times.

    JSON has all kernels, with ``repeats``, so that the list is the same at every size.
    """
    return [row for row in p.phases if np.any(row["repeats"])]


def as_html(p: Prediction) -> str:
    """Return the answer as HTML for a notebook: a row per kernel or, for arrays, a row per size."""
    title = f"{p.layer.label} on {p.device.name}"
    said = {
        "rung": f"{p.rung} ({p.state}), constants from {p.constants_from}",
        "no figure in the spec for": ", ".join(p.missing),
    }
    if p.shape:
        return notebook.block(title, said, _sizes_html(p))
    time = f"{render(p.seconds, 's')}, limited by {p.bound}"
    at = ", ".join(f"{name} = {size:,}" for name, size in p.sizes.items())
    said = {"at": at, "time": time, "lower bound": render(p.lower_s, "s"), **said}
    rows = (
        (row["phase"], render(row["seconds"], "s"), row["bound"], row["constants_from"])
        for row in kernels_run(p)
    )
    return notebook.block(
        title, said, notebook.table(("kernel", "time", "limited by", "constants from"), rows)
    )


def _sizes_html(p: Prediction) -> str:
    """Return a table with a row for each size."""
    varied = [name for name, size in p.shapes.items() if np.ndim(size)]
    columns = [np.broadcast_to(p.shapes[name], p.shape).ravel() for name in varied]
    rows = [
        [*(f"{size:,.0f}" for size in sizes), render(seconds, "s"), render(lower, "s"), str(limit)]
        for *sizes, seconds, lower, limit in zip(
            *columns, p.seconds.ravel(), p.lower_s.ravel(), p.bound.ravel(), strict=True
        )
    ]
    headings = (*varied, "time", "lower bound", "limited by")
    return notebook.table(headings, notebook.shortened(rows), f"{len(rows):,} predictions")
