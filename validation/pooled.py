"""Fit operations of few rows together, and pool the errors of like fits.

Of some kernels each operation has only a few published shapes, one or two of which are held out. What one
code computes is then fitted and judged together, and each operation gets its own section.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel import choosing, hardware, kernels
from costmodel.calibration import Section, Wanted
from costmodel.errors import TableError
from costmodel.hardware import Device
from costmodel.validation.calibrate import Result
from costmodel.validation.cells import arguments, repeats
from costmodel.validation.heldout import held_out, parted
from costmodel.validation.residuals import checked, spread
from costmodel.validation.sections import file_of, section, six_digits

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Operation:
    """An operation of a joint fit: its constants, its fitted and held-out rows, and the sizes to report."""

    wanted: Wanted
    constants: Mapping[str, float]
    fitted: pd.DataFrame
    judged: pd.DataFrame
    sizes: Mapping[str, Any]


@dataclass(frozen=True)
class _Fit:
    """The sections of a joint fit, with predicted and measured times of its held-out rows [s]."""

    sections: list[Section]
    predicted: Array
    measured: Array


def fit_together(
    rows: pd.DataFrame,
    by: Sequence[str],
    operations: Callable[[pd.DataFrame, pd.DataFrame, Device], Iterable[Operation]],
    *,
    what: str,
    hashes: Mapping[str, str],
    date: str | None,
) -> list[Result]:
    """Return a calibration of each device, whose operations are fitted and judged together.

    Parameters
    ----------
    rows : DataFrame
        Measured rows.
    by : sequence of str
        Columns that tell joint fits apart; the first is the device.
    operations : callable
        Fits the operations of a joint fit, given its rows to fit on, its held-out rows and the device.
    what : str
        What is fitted, for the reasons of refusals.
    hashes : mapping of str to str
        Hash of each table named in the column ``table``.
    date : str, optional
        Date of the fit; default today.
    """
    found: dict[str, list[_Fit]] = {}
    refused: dict[str, list[str]] = {}
    for key, cell in rows.groupby(list(by), sort=True):
        label, *words = (str(word) for word in key)
        device = hardware.load(label)
        fits = found.setdefault(device.name, [])
        try:
            fits.append(_fit_of(operations(*parted(cell), device), device, hashes))
        except TableError as error:
            refused.setdefault(device.name, []).append(f"{what} {' '.join(words)}: {error}")
    held = rows[held_out(rows)]
    devices = held[by[0]].map(lambda label: hardware.load(label).name)
    return [
        Result(file_of(name, sections, date), held[devices == name], tuple(refused.get(name, ())))
        for name, sections in _sections_of(found).items()
    ]


def _fit_of(operations: Iterable[Operation], device: Device, hashes: Mapping[str, str]) -> _Fit:
    """Return a section for each operation of a joint fit, judged together.

    Raises
    ------
    TableError
        If they predict the held-out rows clearly worse than the constants used otherwise.
    """
    sections, own, others, measured = [], [], [], []
    for each in operations:
        constants = six_digits(each.constants)
        without = choosing.choose(device, each.wanted, apart_from=each.wanted.framework).constants
        own.append(_seconds(each.wanted.kernel, device, constants, each.judged))
        others.append(_seconds(each.wanted.kernel, device, without, each.judged))
        measured.append(each.judged["latency_s"].to_numpy(dtype=np.float64))
        sections.append(
            section(
                each.wanted,
                constants,
                fitted=each.fitted,
                judged=each.judged,
                predicted=own[-1],
                sizes=each.sizes,
                hashes=hashes,
            )
        )
    predicted, times = np.concatenate(own), np.concatenate(measured)
    checked(predicted, np.concatenate(others), times)
    return _Fit(sections, predicted, times)


def _seconds(kernel: str, device: Device, constants: Mapping[str, float], rows: pd.DataFrame) -> Array:
    """Return the predicted times of one operation's rows [s]; there may be none."""
    if rows.empty:
        return np.zeros(0)
    estimate = kernels.model(kernel).seconds(device, constants, **arguments(rows, device))
    return np.asarray(repeats(rows) * estimate.seconds, dtype=np.float64)


def _sections_of(found: Mapping[str, Sequence[_Fit]]) -> dict[str, list[Section]]:
    """Return the sections of each device.

    Sections with too few held-out rows for quantiles have the residuals of their library and direction on all
    devices.
    """
    alike: dict[tuple[str, str], list[_Fit]] = {}
    for fit in (fit for fits in found.values() for fit in fits):
        alike.setdefault(_library(fit.sections[0]), []).append(fit)
    shared = {
        key: spread(
            np.concatenate([fit.predicted for fit in fits]), np.concatenate([fit.measured for fit in fits])
        )
        for key, fits in alike.items()
    }
    return {
        name: [
            each if each.spread else each.model_copy(update={"spread": shared[_library(each)]})
            for fit in fits
            for each in fit.sections
        ]
        for name, fits in found.items()
    }


def _library(section: Section) -> tuple[str, str]:
    return section.framework, section.direction
