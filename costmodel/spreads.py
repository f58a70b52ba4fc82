"""Prediction errors by origin of the constants: the device's own, a relative's, or another kernel's."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from costmodel import implementations
from costmodel.calibration import Quantiles, Section, Spread, Wanted
from costmodel.hardware import Device
from costmodel.hardware.tables import FOLDER, table


def own(section: Section, wanted: Wanted, device: Device) -> tuple[Spread, ...]:
    """Return the errors of predictions with a device's own constants."""
    return _of_kernel(section.spread, section, wanted, device, device)


def of_defaults(kernel: str, rows: int, q: Quantiles, *, fitted_there: bool) -> tuple[Spread, ...]:
    """Return the errors of predictions with a kernel model's defaults, which were fitted.

    On architectures that they were not fitted on, they count as another generation's.
    """
    found = (Spread(above=0.0, rows=rows, q=q),)
    return found if fitted_there else widest(found, transfer(kernel, "generation"))


def carried(
    section: Section, wanted: Wanted, lender: Device, device: Device, relation: str
) -> tuple[Spread, ...]:
    """Return the errors of predictions with the constants of a device of that relation."""
    spread = widest(section.spread, transfer(section.kernel, relation))
    return _of_kernel(spread, section, wanted, lender, device)


def _of_kernel(
    spread: tuple[Spread, ...], section: Section, wanted: Wanted, lender: Device, device: Device
) -> tuple[Spread, ...]:
    """Return a spread, widened to another generation's for constants of another kernel or operation."""
    library = implementations.library(wanted.kernel, wanted.op, wanted.framework, wanted.label, device)
    fitted = implementations.library(section.kernel, section.op, *section.implementation, lender)
    named = wanted.label is None or not section.kernels or wanted.label in section.kernels
    fitted_on = wanted.op == section.op and not wanted.borrowed
    theirs = fitted_on and wanted.framework in (None, section.framework)
    same = theirs and (named or library == fitted is not None)
    # Sections with too few rows to hold any out have no spread: they count as another generation's.
    other = () if same and spread else transfer(section.kernel, "generation")
    return _either_way(widest(spread, other), section, wanted)


def _either_way(spread: tuple[Spread, ...], section: Section, wanted: Wanted) -> tuple[Spread, ...]:
    """Return a spread, multiplied by another generation's for a backward pass with a forward's constants."""
    if wanted.direction.startswith(section.direction):
        return spread
    return tuple(
        part.model_copy(update={"q": tuple(a * b for a, b in zip(part.q, other.q, strict=True))})
        for part in spread
        for other in transfer(section.kernel, "generation") or (part,)
    )


def widest(own: tuple[Spread, ...], transferred: tuple[Spread, ...]) -> tuple[Spread, ...]:
    """Return a section's regimes, each at least as wide as the spread of transferred constants.

    Transferred constants have one spread for all times, and are never surer than on their own device.
    """
    if not own or not transferred:
        return own or transferred
    (other,) = transferred
    return tuple(spread.model_copy(update={"q": _outermost((spread.q, other.q))}) for spread in own)


def _outermost(quantiles: Iterable[Quantiles]) -> Quantiles:
    """Return the lower of the lower ends and the higher of the upper ends."""
    low, inner_low, inner_high, high = zip(*quantiles, strict=True)
    return min(low), min(inner_low), max(inner_high), max(high)


@lru_cache(maxsize=1)
def _transfers() -> dict[str, dict[str, Any]]:
    return table("transfer.yaml") if (FOLDER / "transfer.yaml").is_file() else {}


def transfer(kernel: str, relation: str) -> tuple[Spread, ...]:
    """Return the errors of a kernel model with constants from a device of that relation; () if unknown.

    They come from predicting each open device with the constants of its nearest relative
    (``hardware/transfer.yaml``, written by `costmodel.validation.accuracy`). If this model has none for the
    relation, those of all models together are returned.
    """
    told = _transfers()
    for name in (kernel, "any"):
        if relation in told.get(name, {}):
            entry = told[name][relation]
            return (Spread(above=0.0, rows=entry["rows"], q=entry["q"]),)
    return ()
