"""Fit all-reduces of one node to what inference engines' kernels and NCCL took in a CUDA graph.

Fitted on are two and eight devices; four devices judge the constants. Every row states its algorithm (empty:
NCCL chose), so a device's rows determine the constants of NCCL's and of the engines' kernels together.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel import hardware
from costmodel.calibration import Wanted
from costmodel.errors import TableError
from costmodel.kernels import collective
from costmodel.tables import read_table
from costmodel.validation import posted
from costmodel.validation.calibrate import Result
from costmodel.validation.cells import digest
from costmodel.validation.log_fit import defaults, least_log_error
from costmodel.validation.residuals import checked
from costmodel.validation.sections import file_of, section, six_digits

Array = NDArray[np.float64]

#: The engine that chose the algorithms.
FRAMEWORK = "vllm"
#: Share of NVLink that rings reach: all-reduces of 1 GiB on 2, 4 and 8 A100, 2 and 4 H200, and 2 and 4 B200
#: all come to it, with one more pass over the buffer (``local_share``). Two devices alone do not tell the two
#: apart.
RING_SHARE = 0.94
#: What rows within a node determine: no network, and trees only of messages that NCCL does not get here.
_FREE = ("ring_start_s", "local_share", "hop_s", "peer_s", "peer_share")
_FREE_BY_SWITCH = ("switch_share", "switch_fill_s", "multicast_share")


def is_collectives(path: Path) -> bool:
    """Return whether a table is that of all-reduces to fit on."""
    return path.name == posted.COLLECTIVES_FITTED.name


def calibrate_collectives(path: Path = posted.COLLECTIVES_FITTED, *, date: str | None = None) -> list[Result]:
    """Return a calibration of each device with all-reduces to fit on.

    Parameters
    ----------
    path : Path
        The table. Rows of the same device and source in ``collectives.csv`` judge.
    date : str, optional
        Date of the fit; default today.

    Raises
    ------
    TableError
        If the table cannot be read.
    """
    fitted, judged = _rows(path), _rows(posted.COLLECTIVES)
    hashes = {table.name: digest(table) for table in (path, posted.COLLECTIVES)}
    return [_result(rows, judged, hashes, date) for _, rows in fitted.groupby("gpu", sort=True)]


def _rows(path: Path) -> pd.DataFrame:
    """Return a table with its sources."""
    sources = pd.read_csv(posted.FOLDER / "sources.csv")
    told = read_table(path).fillna({"algorithm": ""}).merge(sources, on="source", validate="many_to_one")
    return told.assign(table=path.name, framework=FRAMEWORK)


def _result(rows: pd.DataFrame, judged: pd.DataFrame, hashes: Mapping[str, str], date: str | None) -> Result:
    device = hardware.load(rows["gpu"].iloc[0])
    held = judged[judged["source"] == rows["source"].iloc[0]]
    constants = six_digits(fit(rows, device))
    measured = held["latency_s"].to_numpy(dtype=np.float64)
    predicted = seconds(device, constants, held)
    wanted = Wanted("collective", "all_reduce", "bf16", framework=FRAMEWORK, harness="graph-replay")
    sizes = {"size": rows["bytes"].to_numpy(dtype=np.float64), "devices": rows["devices"].to_numpy()}
    try:
        checked(predicted, seconds(device, {}, held), measured)
    except TableError as error:
        return Result(file_of(device.name, (), date), held, (f"all_reduce: {error}",))
    made = section(
        wanted, constants, fitted=rows, judged=held, predicted=predicted, sizes=sizes, hashes=hashes
    )
    return Result(file_of(device.name, (made,), date), held, ())


def fit(rows: pd.DataFrame, device: hardware.Device) -> dict[str, float]:
    """Return the constants of a device's all-reduces.

    Parameters
    ----------
    rows : DataFrame
        Columns ``algorithm``, ``bytes``, ``devices`` and ``latency_s`` [s].
    device : Device
        The device they ran on.
    """
    free = _FREE + (_FREE_BY_SWITCH if device.switch_sums else ())
    begin = {name: constant.default for name, constant in collective.CONSTANTS.items()}
    begin |= {"ring_share": RING_SHARE, "local_share": 0.3}
    found = least_log_error(
        lambda values: seconds(device, values, rows),
        rows["latency_s"].to_numpy(dtype=np.float64),
        collective.CONSTANTS,
        free,
        [begin],
        expected=defaults(collective.CONSTANTS, free),
    )[1]
    return {"ring_share": RING_SHARE, **{name: found[name] for name in free}}


def seconds(device: hardware.Device, constants: Mapping[str, float], rows: pd.DataFrame) -> Array:
    """Return the predicted times of all-reduces [s]."""
    times = np.empty(len(rows))
    for algorithm in rows["algorithm"].unique():
        ours = (rows["algorithm"] == algorithm).to_numpy()
        estimate = collective.seconds(
            device,
            constants,
            size=rows["bytes"].to_numpy(dtype=np.float64)[ours],
            devices=rows["devices"].to_numpy(dtype=np.float64)[ours],
            algorithm=algorithm or None,
        )
        times[ours] = estimate.seconds
    return times
