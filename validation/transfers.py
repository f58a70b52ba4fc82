"""How far off predictions are with another device's constants, and how sure that makes a new device's.

Each open device is predicted with the constants of its nearest relative; the ratios of measured over
predicted time, by kernel model and by how the two are related, are what intervals of carried constants are
made of (``hardware/transfer.yaml``). Devices differ by more than the rows of one do, and there are few: each
counts for as much as the others, and the intervals are stretched until those taken from all other devices
hold, on average, as many rows of the one left out as they promise.
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

#: Kernel model of recurrent chains, and what rows of them are called: by it and their direction.
RECURRENCE = "recurrence"
#: Fewer devices do not say by how much one that is left out differs from the rest.
_FEWEST = 3
#: Stretching further than this would say nothing any more.
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
    # Behind the relative stands the format that its constants were fitted in, where it is another.
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
    """Return the ends of intervals as ``hardware/transfer.yaml`` has them: by kernel model, by relation.

    Those of ``any`` kernel model, each of which counts the same, are for models of which none was carried so.
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

    Each kernel model counts the same, and each of its devices.
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
    """Return by how much intervals of each level have to be wider, so that devices left out are as promised.

    One factor for all kernel models: each has too few devices to tell its own. 1 where none is needed.
    """
    many = [devices for devices in groups if len(devices) >= _FEWEST]
    return {level: _stretched(many, level) for level in LEVELS}


def _stretched(groups: Sequence[Ratios], level: int) -> float:
    """Return the factor for one level, by bisection: what intervals hold only grows with it."""
    low, high = 1.0, _MOST
    if not groups or _held(groups, level, low) >= level:
        return low
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if _held(groups, level, middle) >= level else (middle, high)
    return high


def _held(groups: Sequence[Ratios], level: int, factor: float) -> float:
    """Return how many rows [%] of a device left out lie inside what the others say, on average of devices."""
    by = dict.fromkeys(LEVELS, factor)
    inside = [
        within(devices[name], ends([_less(devices, name)], by), level)
        for devices in groups
        for name in devices
    ]
    return float(np.mean(inside))


def within(found: Array, around: Array, level: int) -> float:
    """Return how many of the ratios [%] lie in an interval of that level, by its four `ends`."""
    low, high = (around[end] for end in LEVELS[level])
    return 100.0 * float(np.mean((found >= low) & (found <= high)))


def _less(devices: Ratios, name: str) -> dict[str, Array]:
    return {other: found for other, found in devices.items() if other != name}


def left_out(groups: Mapping[tuple[str, str], Ratios]) -> pd.DataFrame:
    """Return what intervals hold of a device of which nothing was known when they were made.

    The stretch, too, is then of the other devices alone. Regimes of the relative's own that are wider,
    which `costmodel.choosing` takes too, are not counted: what is shipped holds no less.

    Returns
    -------
    DataFrame
        A row for each kernel model, relation and device, where another device has such a relative:
        ``rows``, and of each level ``covered`` [%] and ``width``, the upper over the lower end.
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
