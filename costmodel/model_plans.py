"""Plans for training a whole model on several devices: the fastest layouts, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from costmodel.errors import CostmodelError
from costmodel.evaluate import as_one_size
from costmodel.hardware import Device
from costmodel.models import Architecture
from costmodel.parallel import Cluster, plan, stack_of

#: Number of layouts shown per plan.
MOST_LAYOUTS = 8


def plans(
    architecture: Architecture,
    places: Mapping[str, Device],
    clusters: Iterable[int],
    *,
    batch: int,
    seq: int,
    dtype: str = "bf16",
    attention: str = "tiled",
    rung: str | None = None,
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the fastest layouts for training a model, and why a cluster has none.

    Parameters
    ----------
    architecture : Architecture
        The model.
    places : mapping of str to Device
        Devices by their names in the table.
    clusters : iterable of int
        Cluster sizes [devices].
    batch, seq : int
        Sequences per step and device, and tokens of each.
    dtype, attention, rung
        See `Transformer` and `predict`; eager attention is planned as attention that stores its scores.

    Returns
    -------
    DataFrame
        The columns of `costmodel.parallel.plan`, with where, cluster, rank, found (number of layouts that
        fit), layout, short; empty if there is no plan.
    tuple of str
        Reasons why clusters have no plan.
    """
    numbers = [as_one_size("devices", number) for number in clusters]
    try:
        kind = "dense" if attention == "eager" else attention
        stack = stack_of(architecture, dtype=dtype, attention=kind)
    except CostmodelError as error:
        return pd.DataFrame(), (str(error),) if numbers else ()
    frames: list[pd.DataFrame] = []
    refused: list[str] = []
    for where, device in places.items():
        for number in numbers:
            name = "one device" if number == 1 else f"{number} devices"
            try:
                cluster = Cluster(device=device, devices=number)
                found = plan(stack, cluster, batch=batch * number, seq=seq, rung=rung)
            except CostmodelError as error:
                refused.append(f"{name} of {where}: {error}")
                continue
            frames.append(_best(found).assign(where=where, cluster=name))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(), tuple(refused)


def _best(found: pd.DataFrame) -> pd.DataFrame:
    """Return the fastest layouts of a plan, ranked and described."""
    best = found.head(MOST_LAYOUTS)
    rows = best.to_dict("records")
    return best.assign(
        rank=np.arange(1, len(best) + 1),
        found=len(found),
        layout=[_layout(row) for row in rows],
        short=[_short(row) for row in rows],
    )


def _layout(row: dict[Any, Any]) -> str:
    """Return a layout in a few words."""
    said = [
        f"{row[name]} {word}"
        for name, word in (("tensor", "tensor"), ("pipeline", "stages"), ("data", "copies"))
        if row[name] > 1
    ]
    words = [" × ".join(said) or "one device", f"micro-batch {row['micro_batch']}"]
    words += [f"experts over {row['expert']}"] if row["expert"] > 1 else []
    words += [f"each split over {row['expert_tensor']}"] if row["expert_tensor"] > 1 else []
    words += [f"interleaved {row['interleave']}"] if row["interleave"] > 1 else []
    words += ["sequence parallel"] if row["sequence_parallel"] else []
    words += [f"{row['recompute']} recomputation"] if row["recompute"] != "none" else []
    words += [f"ZeRO {row['zero']}"] if row["zero"] else []
    return ", ".join(words)


def _short(row: dict[Any, Any]) -> str:
    """Return a layout in short letters, for charts."""
    letters = [("T", "tensor"), ("P", "pipeline"), ("v", "interleave"), ("D", "data"), ("E", "expert")]
    letters += [("X", "expert_tensor")]
    words = [f"{letter}{row[name]}" for letter, name in letters if row[name] > 1] + [f"b{row['micro_batch']}"]
    words += ["SP"] if row["sequence_parallel"] else []
    words += [f"Z{row['zero']}"] if row["zero"] else []
    words += [row["recompute"]] if row["recompute"] != "none" else []
    return " ".join(words)
