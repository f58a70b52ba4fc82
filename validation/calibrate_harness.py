"""Fit the overhead of an eager framework's host in a chain of kernels to whole models.

The kernels' constants come from single calls. Whole passes show how much of the dispatch is hidden because
the host runs ahead, and where launching takes longer than the kernels. The fit uses 70 % of the shapes of
``model_end_to_end``; ``python -m costmodel.validation.calibrate_harness`` writes ``hardware/harness.yaml``.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from costmodel import hardware
from costmodel.files import write_text
from costmodel.harness import Host
from costmodel.measured import OPERATIONS_MEASURED, framework, harness
from costmodel.predict import measured_as
from costmodel.prediction import Prediction
from costmodel.tables import read_table
from costmodel.validation.cells import digest
from costmodel.validation.heldout import held_out, kept_aside
from costmodel.validation.residuals import errors

#: Candidates for the hidden share of the dispatch.
SHARES = np.linspace(0.0, 1.0, 11)
#: A pass is host-bound if the kernels explain less than this share of it, and its time per launch is the
#: least.
EXPLAINED = 0.8


@dataclass(frozen=True)
class Pass:
    """One measured pass of a whole model, and its prediction without a host."""

    row: pd.Series
    prediction: Prediction

    @property
    def device(self) -> str:
        """Name of the device that it was measured on."""
        return hardware.load(self.row["gpu"]).name

    @property
    def launches(self) -> float:
        """Number of kernel launches."""
        return float(self.prediction.launches)

    def seconds(self, host: Host) -> float:
        """Return its predicted time with a given host [s]."""
        plan = self.prediction.plan.launched_by(host)
        return float(replace(self.prediction, plan=plan).seconds)


def passes(rows: pd.DataFrame) -> list[Pass]:
    """Return the passes of whole models in measured rows, on devices that may be fitted on."""
    operation = OPERATIONS_MEASURED["model_end_to_end"]
    found = []
    for _, row in rows[(rows["op"] == "model_end_to_end") & ~kept_aside(rows)].iterrows():
        optional = {c: s for c, s in operation.optional.items() if c in row and pd.notna(row[c])}
        sizes = {size: float(row[column]) for column, size in {**operation.columns, **optional}.items()}
        layer = operation.layer(str(row["dtype"]), {str(name): value for name, value in row.items()})
        whose = framework(row["framework"])[0]
        found.append(Pass(row, measured_as((whose, None, None), layer, row["gpu"], sizes)))
    return found


def fit(measured: list[Pass]) -> dict[str, Any]:
    """Return the hidden share of the dispatch, and the launch times of hosts that limit passes.

    Each pass gives an upper bound of its host's time per launch. The least bound is taken as that time if the
    kernels explain less than ``EXPLAINED`` of the pass.
    """
    # The mean error is used, as passes limited by hosts have errors for any share.
    means = [np.mean(np.abs(_errors(measured, [Host(hidden=share)] * len(measured)))) for share in SHARES]
    hidden = float(SHARES[int(np.argmin(means))].round(1))
    launch_s: dict[str, dict[str, float]] = {}
    groups: dict[tuple[str, str], list[Pass]] = {}
    for one in measured:
        groups.setdefault((one.device, str(one.row["direction"])), []).append(one)
    for (device, direction), group in sorted(groups.items()):
        least = min(group, key=lambda one: float(one.row["latency_s"]) / one.launches)
        seconds = float(least.row["latency_s"])
        if least.seconds(Host(hidden=hidden)) < EXPLAINED * seconds:
            launch_s.setdefault(device, {})[direction] = float(f"{seconds / (least.launches - 1):.4g}")
    return {"hidden": hidden, "launch_s": launch_s}


def _errors(measured: list[Pass], hosts: list[Host]) -> NDArray[np.float64]:
    """Return the signed errors of passes [%], each with its host."""
    seconds = np.array([one.seconds(host) for one, host in zip(measured, hosts, strict=True)])
    return errors(seconds, np.array([one.row["latency_s"] for one in measured]))


def judge(measured: list[Pass], found: dict[str, Any]) -> dict[str, float]:
    """Return mean and median absolute error and bias [%] of passes with the fitted hosts."""
    least = found["launch_s"]
    launch_s = [least.get(one.device, {}).get(str(one.row["direction"]), 0.0) for one in measured]
    error = _errors(measured, [Host(found["hidden"], seconds) for seconds in launch_s])
    return {
        "mape": round(float(np.mean(np.abs(error))), 2),
        "mdape": round(float(np.median(np.abs(error))), 2),
        "bias": round(float(np.median(error)), 2),
    }


def calibrate(path: Path) -> dict[str, Any]:
    """Return the content of ``harness.yaml``, fitted on a table's passes of whole models."""
    rows = read_table(path)
    rows = rows[rows["op"] == "model_end_to_end"].reset_index(drop=True)
    out, timed = held_out(rows), rows["timer"].map(harness)
    table: dict[str, Any] = {}
    for name in sorted(timed.dropna().unique()):
        fitted, judged = (passes(rows[(timed == name) & part]) for part in (~out, out))
        found = fit(fitted)
        table[str(name)] = found | {
            "provenance": {
                "source": "; ".join(sorted(rows["source"].unique())),
                "licence": "; ".join(sorted(rows["licence"].unique())),
                "table_hash": f"{path.name} {digest(path)}",
                "rows_fitted": len(fitted),
                "rows_held_out": len(judged),
                **judge(judged, found),
            }
        }
    return table


def main() -> None:
    """Write ``harness.yaml`` beside the specs."""
    parser = argparse.ArgumentParser(description="Fit what hosts cost between kernels on whole models.")
    parser.add_argument("table", type=Path, nargs="?", default=Path("../shared/measurements/model.parquet"))
    table = calibrate(parser.parse_args().table)
    text = "# Written by `python -m costmodel.validation.calibrate_harness`; not edited by hand.\n"
    text += "# hidden: share of a kernel's dispatch that the kernels before it hide. launch_s [s]: least\n"
    text += "# time from launch to launch, where that was what limited a pass.\n"
    text += yaml.safe_dump(table, sort_keys=False, default_flow_style=None)
    place = Path(hardware.__file__).parent / "harness.yaml"
    write_text(place, text, overwrite=True)
    print(text)


if __name__ == "__main__":
    main()
