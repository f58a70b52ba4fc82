"""NVIDIA's published training throughputs, and predictions of steps in the same layouts.

Rows are those of Megatron Bridge's page for container 25.11 whose layout `costmodel.parallel` has: without
context parallelism, and in bf16 or in FP8 with a scale per tensor. Nothing is fitted on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from costmodel import hardware
from costmodel.models import load
from costmodel.parallel import Cluster, Layout, Training, stack_of
from costmodel.validation import posted
from costmodel.validation.published_training import PORT, Answer

TABLE = posted.FOLDER / "pretraining.csv"


def pretraining() -> Iterator[tuple[dict[str, Any], Answer]]:
    """Yield each published row, in the columns of `whole_models`, with its prediction."""
    for _, row in pd.read_csv(TABLE).iterrows():
        about = {
            "source": "Megatron Bridge 25.11, performance summary",
            "where": f"{row['devices']} × {row['gpu']}",
            "model": f"{row['model']} training step",
            "impl": f"Megatron, {row['dtype']}",
            "quantity": "train",
            "unit": "s",
        }
        seconds = row["batch"] * row["seq"] / row["tokens_per_s"] / row["devices"]
        yield {**about, "published": float(f"{seconds:.4g}")}, step(row)


def step(row: pd.Series) -> Answer:
    """Return the time of one step in the row's layout [s]."""
    device = hardware.load(row["gpu"]).replace(network=PORT)
    layout = Layout(
        tensor=row["tensor"],
        pipeline=row["pipeline"],
        data=row["devices"] // (row["tensor"] * row["pipeline"]),
        micro_batch=row["micro_batch"],
        interleave=row["virtual"],
        expert=row["expert"],
        zero=row["zero"],
        sequence_parallel=row["tensor"] > 1,
    )
    training = Training(
        model=stack_of(load(row["model"]), dtype=row["dtype"]),
        cluster=Cluster(device=device, devices=row["devices"]),
        layout=layout,
        batch=row["batch"],
        seq=row["seq"],
    )
    assumed = (
        f"ZeRO {row['zero']}; nothing recomputed; gradients and weights exchanged meanwhile, tokens of "
        "experts not; rounding to fp8 not counted"
    )
    return Answer(float(training.seconds), device.name.rstrip("*"), "kernel", assumed)
