"""Compare published times of whole models with predictions, and state what had to be assumed.

The rows are those of ``../shared/reference/published_runtimes.csv`` that are not kernels (training steps,
training runs, training throughputs), the mixtures of experts of `published_mixtures`, and NVIDIA's trainings
of `published_pretraining`. ``python -m costmodel.validation.whole_models ../shared`` prints the page
WHOLE_MODELS.md.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from costmodel.score import score
from costmodel.tables import read_table
from costmodel.validation import long_context, published
from costmodel.validation.heldout import held_out
from costmodel.validation.published_mixtures import mixtures
from costmodel.validation.published_pretraining import pretraining
from costmodel.validation.published_training import Answer, bert, gpt2, gpt3, maxtext, transformer

COLUMNS = (
    *("source", "where", "model", "impl", "device", "quantity", "unit"),
    *("published", "predicted", "error", "rung", "assumed", "reason"),
)

#: Pattern of a row's op → function that predicts it, or the reason why there is no prediction.
_KINDS: tuple[tuple[str, Callable[[pd.Series], Answer | str] | str], ...] = (
    (r"Transformer (base|big)", transformer),
    (r"GPT-2 (small|medium) OpenWebText", gpt2),
    (r"GPT3-", gpt3),
    (r"BERT-large train", bert),
    (long_context.PRINTED, long_context.training),
    (r"\d+B dense LM training", maxtext),
    (r"training step runtime ratio", "a ratio of two programs, one of which is a loop run by a framework"),
)


def table(reference: Path) -> pd.DataFrame:
    """Return the published whole-model rows with a prediction, or the reason why there is none.

    Parameters
    ----------
    reference : Path
        Folder with ``published_runtimes.csv``.

    Returns
    -------
    DataFrame
        ``COLUMNS``; `error` is predicted over published, less 1.

    Raises
    ------
    TableError
        If the table cannot be read.
    """
    return pd.DataFrame(_lines(published.printed(reference)), columns=list(COLUMNS))


def _lines(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for _, row in rows.iterrows():
        kind = next((kind for pattern, kind in _KINDS if re.match(pattern, str(row["op"]))), None)
        if kind is None:
            continue
        about = {
            "source": row["source"],
            "where": row["where"],
            "model": row["op"],
            "impl": row["impl"],
            "device": row["gpu"],
            "quantity": row["direction"],
            "unit": str(row["unit"]).partition(" (")[0],
            "published": float(row["value"]),
        }
        yield _described(about, kind if isinstance(kind, str) else kind(row))


def _described(row: dict[str, Any], found: Answer | str) -> dict[str, Any]:
    """Return a published row in ``COLUMNS``, with its prediction or the reason why there is none."""
    if isinstance(found, str):
        return {**row, "predicted": np.nan, "error": np.nan, "rung": "", "assumed": "", "reason": found}
    answer = {"device": found.device, "predicted": found.value, "error": found.value / row["published"] - 1}
    return {**row, **answer, "rung": found.rung, "assumed": found.assumed, "reason": ""}


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the number of rows, median and mean absolute error and bias [%] by source and implementation."""
    known = frame[frame["reason"] == ""].assign(absolute=lambda f: f["error"].abs() * 100)
    groups = known.groupby(["source", "impl"], sort=False)
    return groups.agg(
        rows=("error", "size"),
        median=("absolute", "median"),
        mean=("absolute", "mean"),
        bias=("error", lambda e: e.median() * 100),
    ).reset_index()


def recorded(measurements: Path) -> pd.DataFrame:
    """Return the end-to-end passes of eager models in ``../shared/measurements``, scored as in `table`.

    Only held-out shapes are used, because ``harness.yaml`` was fitted on the others.

    Raises
    ------
    TableError
        If the table cannot be read.
    """
    rows = read_table(measurements / "model.parquet")
    passes = rows[(rows["op"] == "model_end_to_end") & held_out(rows)]
    scored = score(passes.reset_index(drop=True))
    return pd.DataFrame(
        {
            "source": scored["source"],
            "where": "recorded passes",
            "model": scored["kernel"],
            "impl": "eager, " + scored["direction"] + ", held-out shapes",
            "device": scored["gpu"],
            "quantity": scored["direction"],
            "unit": "s",
            "published": scored["latency_s"],
            "predicted": scored["seconds"],
            "error": scored["seconds"] / scored["latency_s"] - 1,
            "rung": scored["rung"],
            "assumed": "",
            "reason": scored["reason"],
        },
        columns=list(COLUMNS),
    )


def on_many_devices() -> pd.DataFrame:
    """Return the published training on many devices in the form of `table`."""
    rows = [_described(row, answer) for row, answer in (*mixtures(), *pretraining())]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def markdown(published: pd.DataFrame, passes: pd.DataFrame) -> str:
    """Return a Markdown page with the published rows and the errors of both tables."""
    lines = [
        "# Whole models beside their published times",
        "",
        "Written by `costmodel.validation.whole_models`. Nothing was fitted on these rows. Communication "
        "between devices is left out, except for mixtures of experts, Megatron Bridge and DistFlashAttn's "
        "table. The error is predicted over published time, minus 1.",
        "",
        "| source | rows | median % | mean % | bias % |",
        "|---|---|---|---|---|",
    ]
    for _, r in summary(pd.concat([published, passes])).iterrows():
        numbers = f"{r['median']:.1f} | {r['mean']:.1f} | {r['bias']:+.1f}"
        lines.append(f"| {r['source']}: {r['impl']} | {r['rows']} | {numbers} |")
    lines += [
        "",
        "| model | where | published | predicted | error | rung | assumed, or why not |",
        "|---|---|---|---|---|---|---|",
    ]
    for _, r in published.iterrows():
        name = f"{r['model']}, {r['impl']}"
        value = f"{r['published']:g} {r['unit']}"
        found = f"{r['predicted']:.3g} | {r['error']:+.0%}" if not r["reason"] else "– | –"
        why = r["assumed"] or r["reason"]
        lines.append(f"| {name} | {r['source']}, {r['where']} | {value} | {found} | {r['rung']} | {why} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    shared = Path(sys.argv[1])
    rows = pd.concat([table(shared / "reference"), on_many_devices()], ignore_index=True)
    print(markdown(rows, recorded(shared / "measurements")), end="")
