"""Fit operations of few rows together, and pool the errors of like fits.

Of some kernels each operation has only a few published shapes, one or two of which are held out. What one
code computes is then fitted and judged together, and each operation gets its own section.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel import choosing, kernels
from costmodel.calibration import Section, Wanted
from costmodel.hardware import Device
from costmodel.validation.cells import arguments, repeats
from costmodel.validation.residuals import checked, spread
from costmodel.validation.sections import section, six_digits

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
class Fit:
    """The sections of a joint fit, with predicted and measured times of its held-out rows [s]."""

    sections: list[Section]
    predicted: Array
    measured: Array


def fit_of(operations: Iterable[Operation], device: Device, hashes: Mapping[str, str]) -> Fit:
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
        own.append(seconds(each.wanted.kernel, device, constants, each.judged))
        others.append(seconds(each.wanted.kernel, device, without, each.judged))
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
    return Fit(sections, predicted, times)


def seconds(kernel: str, device: Device, constants: Mapping[str, float], rows: pd.DataFrame) -> Array:
    """Return the predicted times of one operation's rows [s]; there may be none."""
    if rows.empty:
        return np.zeros(0)
    estimate = kernels.model(kernel).seconds(device, constants, **arguments(rows, device))
    return np.asarray(repeats(rows) * estimate.seconds, dtype=np.float64)


def sections_of(found: Mapping[str, Sequence[Fit]]) -> dict[str, list[Section]]:
    """Return the sections of each device.

    Sections with too few held-out rows for quantiles have the residuals of their library and direction on all
    devices.
    """
    alike: dict[tuple[str, str], list[Fit]] = {}
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
