"""Fit recurrent layers to published runtimes: cuDNN's and MIOpen's recurrences, as DeepBench timed them.

There are few shapes, so the ops of one device, dtype, library and direction are fitted together (see
``fit_recurrence``), and each gets its own section.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel import calibration, choosing, hardware
from costmodel.calibration import Section, Spread
from costmodel.errors import TableError
from costmodel.kernels import recurrence
from costmodel.measured import framework
from costmodel.validation import fit_recurrence, published
from costmodel.validation.calibrate import Result
from costmodel.validation.cells import arguments, digest, repeats
from costmodel.validation.heldout import held_out, parted
from costmodel.validation.residuals import checked, spread
from costmodel.validation.sections import file_of, section, six_digits

Array = NDArray[np.float64]


def is_published(path: Path) -> bool:
    """Return whether a table is that of published runtimes, which has columns of its own."""
    return path.name == published.FILE


def calibrate_published(reference: Path, *, date: str | None = None) -> list[Result]:
    """Return a calibration of each device with published recurrent rows.

    Parameters
    ----------
    reference : Path
        Folder with ``published_runtimes.csv``.
    date : str, optional
        Date of the fit; default today.

    Raises
    ------
    TableError
        If the tables cannot be read.
    """
    rows = published.chains(reference).assign(table=published.FILE, licence="Apache-2.0")
    hashes = {published.FILE: digest(reference / published.FILE)}
    found: dict[str, list[_Fit]] = {}
    refused: dict[str, list[str]] = {}
    for key, cell in rows.groupby(["device", "dtype", "framework", "direction"], sort=True):
        name, *words = (str(word) for word in key)
        found.setdefault(name, [])
        try:
            found[name].append(_fit(cell, hardware.load(name), hashes))
        except TableError as error:
            refused.setdefault(name, []).append(f"recurrence {' '.join(words)}: {error}")
    spreads = _spreads([fit for fits in found.values() for fit in fits])
    results = []
    for name, fits in found.items():
        sections = [_with_spread(each, spreads) for fit in fits for each in fit.sections]
        part = rows[rows["device"] == name]
        held = part[held_out(part)]
        results.append(Result(file_of(name, sections, date), held, tuple(refused.get(name, ()))))
    return results


@dataclass(frozen=True)
class _Fit:
    """A joint fit, with predicted and measured times of its held-out rows [s]."""

    sections: list[Section]
    predicted: Array
    measured: Array


def _spreads(fits: Sequence[_Fit]) -> dict[tuple[str, str], tuple[Spread, ...]]:
    """Return the residuals of a library's recurrences of one direction on all devices together.

    Only one or two rows of a device's ops are held out, too few for quantiles.
    """
    alike: dict[tuple[str, str], list[_Fit]] = {}
    for fit in fits:
        alike.setdefault((fit.sections[0].framework, fit.sections[0].direction), []).append(fit)
    return {
        key: spread(
            np.concatenate([fit.predicted for fit in group]), np.concatenate([fit.measured for fit in group])
        )
        for key, group in alike.items()
    }


def _with_spread(own: Section, spreads: Mapping[tuple[str, str], tuple[Spread, ...]]) -> Section:
    """Return a section with the residuals of all devices if its own are too few."""
    return own if own.spread else own.model_copy(update={"spread": spreads[own.framework, own.direction]})


def _fit(rows: pd.DataFrame, device: hardware.Device, hashes: Mapping[str, str]) -> _Fit:
    """Return one section for each op of a device, dtype, library and direction.

    They are fitted and judged together, because one or two held-out rows of an op would judge by chance.
    """
    fitted, judged = parted(rows)
    sections, own, others, measured = [], [], [], []
    for op, found in fit_recurrence.fit_ops(fitted, device).items():
        used, left = (part[part["op"] == op] for part in (fitted, judged))
        first, constants = used.iloc[0], six_digits(found)
        wanted = calibration.Wanted(
            kernel="recurrence",
            op=op,
            dtype=first["dtype"],
            direction=first["direction"],
            framework=framework(first["framework"])[0],
        )
        own.append(_seconds(device, constants, left))
        others.append(_seconds(device, choosing.choose(device, wanted, own=False).constants, left))
        measured.append(left["latency_s"].to_numpy(dtype=np.float64))
        sizes = {"steps": used["seq"], "batch": used["batch"], "hidden": used["hidden"]}
        sections.append(
            section(
                wanted,
                constants,
                fitted=used,
                judged=left,
                predicted=own[-1],
                sizes={name: values.to_numpy(dtype=np.float64) for name, values in sizes.items()},
                hashes=hashes,
            )
        )
    predicted, times = np.concatenate(own), np.concatenate(measured)
    checked(predicted, np.concatenate(others), times)
    return _Fit(sections, predicted, times)


def _seconds(device: hardware.Device, constants: Mapping[str, float], rows: pd.DataFrame) -> Array:
    if rows.empty:
        return np.zeros(0)
    return repeats(rows) * recurrence.seconds(device, constants, **arguments(rows, device)).seconds
