"""Intervals of predictions with another device's constants, from leave-one-device-out errors.

Each open device is predicted with the constants of its nearest relative. The ratios of measured to predicted
time, by kernel model and relation, give the intervals of carried constants (``hardware/transfer.yaml``).
Devices differ more than the rows of one device, and there are few devices. Each device therefore has the same
weight, and the intervals are stretched until intervals from all other devices cover, on average, the promised
share of rows of the device left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel import hardware
from costmodel.calibration import LEVELS, QUANTILES
from costmodel.validation.cells import kernel_of

Array = NDArray[np.float64]
#: Natural logarithms of measured over predicted time, by device.
Ratios = Mapping[str, Array]

#: Kernel model of recurrences; operation names of its rows are this name and the direction.
RECURRENCE = "recurrence"
#: Least number of devices that shows how much a device left out differs from the rest.
_FEWEST = 3
#: Largest stretch; intervals stretched further would have no information.
_MOST = 4.0


def ratios(scored: pd.DataFrame) -> dict[tuple[str, str], dict[str, Array]]:
    """Return the ratios of rows predicted with a relative's constants, by kernel model and relation.

    Parameters
    ----------
    scored : DataFrame
        Rows as `costmodel.validation.accuracy.scored_rows` returns them at rung ``kernel``.
    """
    known = scored[(scored["reason"] == "") & (scored["constants_from"] != "none")]
    ratio = (known["latency_s"] / known["seconds"]).transform(np.log)
    ops = known["op"].unique()
    kernels = known["op"].map({op: RECURRENCE if op.startswith(RECURRENCE) else kernel_of(op) for op in ops})
    # The relative's name may be followed by the format of its constants in brackets.
    whose = known["constants_from"].str.partition(" (")[0]
    pairs = {
        (gpu, other): next(relation for name, relation in hardware.relatives(gpu, [other]) if name == other)
        for gpu, other in {*zip(known["gpu"], whose, strict=True)}
    }
    related = [pairs[pair] for pair in zip(known["gpu"], whose, strict=True)]
    found: dict[tuple[str, str], dict[str, Array]] = {}
    for (kernel, relation, gpu), part in ratio.groupby([kernels, pd.Index(related), known["gpu"]]):
        found.setdefault((str(kernel), str(relation)), {})[str(gpu)] = part.to_numpy(dtype=np.float64)
    return found


def table(groups: Mapping[tuple[str, str], Ratios]) -> dict[str, dict[str, dict[str, object]]]:
    """Return the ends of intervals by kernel model and relation, as in ``hardware/transfer.yaml``.

    Those of ``any``, in which all kernel models have equal weight, are for models without such a relation.
    """
    by, out = stretch(groups.values()), dict[str, dict[str, dict[str, object]]]()
    related: dict[str, list[Ratios]] = {}
    for (kernel, relation), devices in groups.items():
        related.setdefault(relation, []).append(devices)
        out.setdefault(kernel, {})[relation] = _entry([devices], by)
    out["any"] = {relation: _entry(kernels, by) for relation, kernels in related.items()}
    return out


def _entry(groups: Sequence[Ratios], by: Mapping[int, float]) -> dict[str, object]:
    return {
        "devices": len({name for devices in groups for name in devices}),
        "rows": sum(part.size for devices in groups for part in devices.values()),
        "q": [float(f"{end:.4g}") for end in np.exp(ends(groups, by))],
    }


def ends(groups: Sequence[Ratios], by: Mapping[int, float]) -> Array:
    """Return the four ends of the intervals, stretched from the median.

    All kernel models have equal weight, and so have all devices of each.
    """
    parts = [(part, len(devices) * part.size) for devices in groups for part in devices.values()]
    values = np.concatenate([part for part, _ in parts])
    weights = np.concatenate([np.full(part.size, 1 / count) for part, count in parts])
    order = np.argsort(values)
    below = np.cumsum(weights[order]) / len(groups)
    shares = np.array([50.0, *QUANTILES]) / 100
    found = values[order][np.searchsorted(below, shares, side="left").clip(max=values.size - 1)]
    middle, q = found[0], found[1:]
    factor = np.array([by[95], by[80], by[80], by[95]])
    q = middle + factor * (q - middle)
    return np.array([min(q[:2]), q[1], q[2], max(q[2:])])


def stretch(groups: Collection[Ratios]) -> dict[int, float]:
    """Return the factor by level by which intervals have to be wider to cover devices left out as promised.

    One factor serves all kernel models, because each has too few devices for its own. It is at least 1.
    """
    many = [devices for devices in groups if len(devices) >= _FEWEST]
    return {level: _stretched(many, level) for level in LEVELS}


def _stretched(groups: Sequence[Ratios], level: int) -> float:
    """Return the factor for one level, by bisection: coverage only grows with it."""
    low, high = 1.0, _MOST
    if not groups or _held(groups, level, low) >= level:
        return low
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if _held(groups, level, middle) >= level else (middle, high)
    return high


def _held(groups: Sequence[Ratios], level: int, factor: float) -> float:
    """Return the average coverage [%] of devices left out by intervals from the other devices."""
    by = dict.fromkeys(LEVELS, factor)
    inside = [
        within(devices[name], ends([_less(devices, name)], by), level)
        for devices in groups
        for name in devices
    ]
    return float(np.mean(inside))


def within(found: Array, around: Array, level: int) -> float:
    """Return the share of the ratios [%] inside the interval of a level, given the four `ends`."""
    low, high = (around[end] for end in LEVELS[level])
    return 100.0 * float(np.mean((found >= low) & (found <= high)))


def _less(devices: Ratios, name: str) -> dict[str, Array]:
    return {other: found for other, found in devices.items() if other != name}


def left_out(groups: Mapping[tuple[str, str], Ratios]) -> pd.DataFrame:
    """Return the coverage of each device by intervals that were made without it.

    The stretch, too, comes from the other devices only. Wider regimes of the relative itself, which
    `costmodel.choosing` also uses, are not included, so the shipped coverage is no less.

    Returns
    -------
    DataFrame
        A row for each kernel model, relation and device, if another device has such a relative: ``rows``, and
        for each level ``covered`` [%] and ``width`` (upper over lower end).
    """
    return pd.DataFrame(_left_out(groups))


def _left_out(groups: Mapping[tuple[str, str], Ratios]) -> Iterator[dict[str, object]]:
    factors: dict[str, dict[int, float]] = {}
    for (kernel, relation), devices in groups.items():
        for name, found in devices.items():
            others = _less(devices, name)
            if not others:
                continue
            if name not in factors:
                factors[name] = stretch([_less(group, name) for group in groups.values()])
            around = ends([others], factors[name])
            line: dict[str, object] = {
                "kernel": kernel,
                "relation": relation,
                "gpu": name,
                "rows": found.size,
            }
            for level, (low, high) in LEVELS.items():
                line[f"covered_{level}"] = within(found, around, level)
                line[f"width_{level}"] = float(np.exp(around[high] - around[low]))
            yield line
