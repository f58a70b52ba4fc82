"""Score predictions on held-out rows (``make accuracy``).

The command reads the shared tables by path, scores their held-out shapes with the shipped constants, and
writes ``ACCURACY.md`` beside this file and ``tests/golden/accuracy.csv``. `compare` uses the latter as a
gate: it lists the cells that a change has made worse.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from costmodel import hardware
from costmodel.files import write_text, write_whole
from costmodel.layers.recurrent import GATES
from costmodel.measured import framework
from costmodel.score import score, summary
from costmodel.validation import intervals, posted, published, transfers
from costmodel.validation.accuracy_page import markdown
from costmodel.validation.cells import TABLES
from costmodel.validation.far import far
from costmodel.validation.heldout import held_out, kept_aside
from costmodel.validation.residuals import errors

FOLDER = Path(__file__).parent
GATE = FOLDER.parent / "tests" / "golden" / "accuracy.csv"
#: Increase of a cell's mean error that the gate tolerates [percentage points].
SLACK = 0.5
CELL = ["gpu", "op", "dtype", "framework"]
#: Columns of a prediction that the tables are made from.
ANSWERS = (
    *("seconds", "lower_s", "rung", "constants_from", "reason"),
    *("lo80_s", "hi80_s", "lo95_s", "hi95_s"),
)


def held_out_rows(folder: Path) -> pd.DataFrame:
    """Return the held-out rows of the shared tables, of published recurrences and of posted kernels on AMD.

    Rows of devices kept aside are excluded, because intervals of carried constants are made from these rows.
    """
    frames = [pd.read_parquet(folder / f"{name}.parquet") for name in TABLES]
    chains = published.chains(folder.parent / "reference").drop(columns="reason")
    frames.append(chains.assign(gpu=chains["device"].str.partition("/")[2]))
    frames.append(posted.fitted())
    rows = pd.concat([frame[held_out(frame)] for frame in frames], ignore_index=True)
    return rows[~kept_aside(rows)].reset_index(drop=True)


def scored_rows(rows: pd.DataFrame, *, rung: str | None = None) -> pd.DataFrame:
    """Return rows with their predictions, and with the framework's name without its release.

    Recurrent ops of one direction count as one operation, because they are fitted together and some have only
    a row or two.
    """
    named = rows.assign(framework=rows["framework"].map(lambda text: framework(text)[0]))
    answers = score(rows, rung=rung)[[*ANSWERS]]
    recurrent = rows["op"].isin(GATES)
    named["op"] = rows["op"].mask(recurrent, f"{transfers.RECURRENCE} " + rows["direction"].astype(str))
    return named.assign(**answers)


def table_of(scored: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of each device × op × dtype × framework, and the coverage of its intervals.

    See `costmodel.score.summary`; `scored` is from `scored_rows`.
    """
    table = summary(scored).set_index(CELL)
    grouped = scored.groupby(CELL, observed=True)
    table["rung"] = grouped["rung"].agg(lambda column: "/".join(sorted(set(column))))
    table["constants_from"] = grouped["constants_from"].agg(lambda column: "/".join(sorted(set(column))))
    table["source"] = grouped["source"].agg(lambda column: "; ".join(sorted(set(column))))
    held = intervals.coverage(scored, CELL).drop(columns="judged")
    return table.join(held).reset_index()


def with_other_half(table: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the coverage of intervals on rows they were not taken from; see `intervals`."""
    other = intervals.coverage(judged, CELL).add_suffix("_other")
    return table.merge(other.reset_index(), on=CELL, how="left")


def whole_models(folder: Path) -> pd.DataFrame:
    """Return the errors of whole passes of eager models by device and use: held-out shapes, and all."""
    rows = pd.read_parquet(folder / "model.parquet")
    rows = rows[rows["op"] == "model_end_to_end"].reset_index(drop=True)
    scored = score(rows)
    error = errors(scored["seconds"], scored["latency_s"])
    frame = scored[["gpu", "mode", "direction"]].assign(error=error, out=held_out(rows))
    whole = frame.assign(gpu="all", mode="", direction="")
    return pd.DataFrame(_whole_line(name, part) for name, part in _groups(pd.concat([frame, whole])))


def _groups(frame: pd.DataFrame) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    for name, part in frame.groupby(["gpu", "mode", "direction"], sort=False):
        yield tuple(str(word) for word in name), part


def _whole_line(name: tuple[str, ...], part: pd.DataFrame) -> dict[str, object]:
    out = part.loc[part["out"], "error"]
    return {
        **dict(zip(("device", "use", "pass"), name, strict=True)),
        "held out": len(out),
        "mean ": float(out.abs().mean()),
        "bias ": float(out.median()),
        "all": len(part),
        "mean": float(part["error"].abs().mean()),
        "bias": float(part["error"].median()),
    }


def carried_ratios(scored: pd.DataFrame) -> dict[tuple[str, str], dict[str, transfers.Array]]:
    """Return the ratios that intervals of carried constants are made from: those of our own tables.

    Posted rows are of other libraries and years than their relatives', which tells more than the devices do.
    """
    return transfers.ratios(scored[~scored["source"].isin(posted.fitted()["source"])])


def compare(now: pd.DataFrame, then: pd.DataFrame) -> list[str]:
    """Return a line for each cell whose mean error grew by more than ``SLACK`` points, or that is missing."""
    both = then.merge(now, on=CELL, how="left", suffixes=("_then", "_now"))
    before, after = (both[f"mean_ape_{when}"].to_numpy(dtype=float) for when in ("then", "now"))
    names = both[CELL].astype(str).agg(" ".join, axis=1)
    worse = []
    for name, old, new in zip(names, before, after, strict=True):
        if np.isnan(new):
            worse.append(f"{name}: no prediction any more")
        elif new > old + SLACK:
            worse.append(f"{name}: {old:.1f} % → {new:.1f} % mean error")
    return worse


def main() -> None:
    """Write ``ACCURACY.md`` and the reference table of the gate."""
    parser = argparse.ArgumentParser(description="Score the held-out rows of measured tables.")
    parser.add_argument("measurements", type=Path, nargs="?", default=Path("../shared/measurements"))
    folder = parser.parse_args().measurements
    rows = held_out_rows(folder)
    scored = scored_rows(rows)
    judged = intervals.judged(scored)
    own, carried = with_other_half(table_of(scored), judged), scored_rows(rows, rung="kernel")
    ratios = carried_ratios(carried)
    page = markdown(
        own,
        table_of(carried),
        intervals.by_regime(judged),
        whole_models(folder),
        transfers.left_out(ratios),
        far(scored, CELL),
    )
    write_text(FOLDER / "ACCURACY.md", page, overwrite=True)
    write_whole(
        GATE,
        lambda path: own.to_csv(path, index=False, float_format="%.2f"),
        overwrite=True,
    )
    header = "# Written by `make accuracy`: measured over predicted time with the constants of a relative.\n"
    text = header + yaml.safe_dump(transfers.table(ratios), default_flow_style=None)
    place = Path(hardware.__file__).parent / "transfer.yaml"
    write_text(place, text, overwrite=True)
    devices = {hardware.load(label).name for label in own["gpu"]}
    print(f"{len(rows)} held-out rows in {len(own)} cells on {len(devices)} devices")


if __name__ == "__main__":
    main()
