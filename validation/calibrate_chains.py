"""Calibrate kernels that are only measured as part of chains, after those measured alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel import choosing
from costmodel.calibration import Section
from costmodel.errors import CostmodelError, TableError
from costmodel.hardware import Device
from costmodel.validation.chains import Chain, Kernel, chains
from costmodel.validation.fit_cpu import fit_chained
from costmodel.validation.heldout import held_out
from costmodel.validation.residuals import checked
from costmodel.validation.sections import section, six_digits
from costmodel.validation.uncertainty import intervals


@dataclass
class Calibrated:
    """Results of a device's calibration so far.

    Attributes
    ----------
    sections : list of Section
        Sections with fitted constants.
    held_out : list of DataFrame
        Held-out rows of each cell, with ``seconds``, ``without_s`` and ``cell``.
    refused : list of str
        Cells without constants, and the reasons.
    tried : list of Kernel
        Kernels whose fit was attempted.
    """

    sections: list[Section] = field(default_factory=list)
    held_out: list[pd.DataFrame] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    tried: list[Kernel] = field(default_factory=list)


def calibrate_chains(
    rows: pd.DataFrame, device: Device, hashes: Mapping[str, str], found: Calibrated
) -> None:
    """Fit each kernel without constants that is the only such kernel in its chains.

    A fitted kernel may be the one that another chain lacked, so the search is repeated until nothing is left.

    Parameters
    ----------
    rows : DataFrame
        As `costmodel.validation.chains.chained` returns them.
    device : Device
        A CPU.
    hashes : mapping of str to str
        Hash of each table named in the column ``table``.
    found : Calibrated
        Results so far, to which new ones are added.
    """
    while todo := list(chains(rows, device, found.sections, found.tried)):
        for chain in todo:
            found.tried.append((chain.open.kernel, chain.open.op, chain.open.direction))
            try:
                _calibrate(chain, device, hashes, found)
            except CostmodelError as error:
                found.refused.append(f"{chain}: {error}")


def _calibrate(chain: Chain, device: Device, hashes: Mapping[str, str], found: Calibrated) -> None:
    rows, wanted = chain.rows, chain.open
    out = held_out(rows)
    if not out.any():
        raise TableError("no held-out row to judge by")
    nearest = choosing.best(found.sections, wanted)
    before = dict(nearest.constants) if nearest else {}
    others = chain.others_seconds(device, found.sections)
    places = np.flatnonzero(~out)
    fitted = fit_chained(chain, device, others, places, before)
    constants = six_digits(fitted)
    measured = rows["latency_s"].to_numpy(dtype=np.float64)[out]
    predicted, without = ((others + chain.own_seconds(device, c))[out] for c in (constants, before))
    found.held_out.append(rows[out].assign(seconds=predicted, without_s=without, cell=str(chain)))
    checked(predicted, without, measured)

    def refit(drawn: NDArray[np.intp]) -> dict[str, float]:
        return fit_chained(chain, device, others, places[drawn], constants)

    found.sections.append(
        section(
            wanted,
            constants,
            fitted=rows[~out],
            judged=rows[out],
            predicted=predicted,
            sizes=chain.sizes_of(~out),
            hashes=hashes,
            intervals=intervals(rows[~out], constants, before, refit),
        )
    )
