"""Fit the constants of mixtures' experts to posted times: of Ampere and Hopper together, and of Blackwell.

They are the defaults of ``costmodel.kernels.experts``, written there by hand after running

    python -m costmodel.validation.fit_experts

A row is the time of a whole call, so that all kernels but the experts' products are predicted, and kept. The
loss is soft-L1 on log(predicted/measured) at a scale of 3 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel import hardware
from costmodel.hardware import Device
from costmodel.kernels import experts
from costmodel.predict import predict
from costmodel.validation.log_fit import least_log_error
from costmodel.validation.posted_experts import FITTED, series, sizes

Array = NDArray[np.float64]

#: Kernel models that `costmodel.validation.calibrate` fits here: none, because a row times several kernels.
MODELS: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Series:
    """Calls of one layer: measured times and those of other kernels [s]; products' sizes and options."""

    device: Device
    measured: Array
    others: Array
    products: tuple[tuple[Mapping[str, Any], Mapping[str, Any]], ...]

    def seconds(self, constants: Mapping[str, float]) -> Array:
        """Return the predicted times [s]."""
        total = self.others
        for given, options in self.products:
            total = total + experts.seconds(self.device, constants, **given, **options).seconds
        return total


def fitted(rows: pd.DataFrame) -> dict[str, float]:
    """Return the constants that predict the rows best."""
    prepared = [_prepared(layer, part) for layer, part in series(rows)]
    measured = np.concatenate([one.measured for one in prepared])

    def found(constants: Mapping[str, float]) -> Array:
        return np.concatenate([one.seconds(constants) for one in prepared])

    return least_log_error(found, measured, experts.CONSTANTS, experts.FITTED, ({}, {"peak_share": 0.4}))[1]


def _prepared(layer: Any, rows: pd.DataFrame) -> _Series:
    device = hardware.load(str(rows["gpu"].iloc[0]))
    found = predict(layer, device, sizes(rows))
    others, products = np.zeros(len(rows)), []
    each = zip(found.plan.phases, found.kernel_sizes, found.phase_seconds, strict=True)
    for part, (_, given), seconds in each:
        if part.kernel == "experts":
            products.append((given, part.options))
        else:
            others = others + seconds
    return _Series(device, rows["latency_s"].to_numpy(dtype=np.float64), others, tuple(products))


def by_architecture() -> dict[str, dict[str, float]]:
    """Return the constants of Blackwell, and of all other architectures together (``defaults``)."""
    rows = pd.read_csv(FITTED)
    newer = rows["gpu"].map(lambda label: hardware.load(str(label)).family == "blackwell")
    return {"defaults": fitted(rows[~newer]), "blackwell": fitted(rows[newer])}


def main() -> None:
    """Print the constants."""
    for name, constants in by_architecture().items():
        print(name, {constant: float(f"{constants[constant]:.3g}") for constant in experts.FITTED})


if __name__ == "__main__":
    main()
