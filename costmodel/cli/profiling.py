"""A torch program's own profile beside the predictions: ``profile``."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from costmodel.cli import options as o
from costmodel.cli import output
from costmodel.files import check_writable, write_whole

if TYPE_CHECKING:
    import pandas as pd

    from costmodel.traces import Breakdown

#: So many operations without a prediction are named, those that take most time.
OTHERS = 5
#: So many reasons are given.
REASONS = 3
#: What a row's direction is called.
_DIRECTIONS = {"bwd": "backward", "bwd_data": "input gradient", "bwd_weights": "weight gradient"}


def profile(
    trace: Annotated[
        Path,
        typer.Argument(metavar="TRACE", help="What torch.profiler exported: .json or .json.gz."),
    ],
    machine: Annotated[
        str | None,
        typer.Option(
            "-m", "--machine", metavar="DEVICE", help="Where it ran; default: the GPU that the trace names."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT", help="Write all rows: a .csv or .parquet file."),
    ] = None,
    top: Annotated[
        int, typer.Option(metavar="N", help="How many operations to list, most time first.", min=1)
    ] = 15,
    rung: o.Rung = None,
    force: o.Force = False,
    as_json: o.AsJson = False,
) -> None:
    """Say where a torch program's time went, beside its limits.

    Each operation that torch.profiler recorded with record_shapes=True, with its prediction and its lower
    bound on the device. "slower" and "faster" mark times outside the 95 % interval of the prediction, where
    one is known.
    """
    if out:
        check_writable(out, overwrite=force, suffixes=output.TABLES)
    from costmodel.score import score
    from costmodel.traces import breakdown, read_trace

    scored = score(read_trace(trace, gpu=machine), rung=rung)
    found = breakdown(scored)
    if out:
        write_whole(out, lambda path: output.write_table(scored, path), overwrite=force)
        output.note(f"{out}: {len(scored):,} rows")
    if as_json:
        output.print_json(_as_json(found))
        return
    _print(found, top)


def _called(row: Mapping[Hashable, Any], *, exactly: bool = False) -> str:
    """Return what a row's operation is called: ``layernorm bf16 backward``, ``cast fp32 (aten::copy_)``."""
    from costmodel.measured import PASSES

    op = row["op"]
    words = [PASSES.get(op, op), row["dtype"], _DIRECTIONS.get(str(row.get("direction")), "")]
    words += ["transposed"] if row.get("transposed") is True else []
    if exactly or op in PASSES:
        words.append(f"({row['torch_op']})")
    return " ".join(filter(None, words))


def _short(name: str) -> str:
    """Return the name of a kernel without its types: ``at::native::reduce_kernel``."""
    bare = name.removeprefix("void ").replace("(anonymous namespace)::", "")
    return re.split(r"[<(]", bare)[0].strip() or name


def _sizes(row: Mapping[Hashable, Any]) -> str:
    """Return the sizes of a row, in the order in which its operation names them."""
    import pandas as pd

    from costmodel.measured import OPERATIONS_MEASURED, PASSES

    if row["op"] in PASSES:
        read = output.count(row["read_bytes"], "bytes") if pd.notna(row.get("read_bytes")) else "nothing"
        return f"m={row['m']} n={row['n']}: {read} in, {output.count(row['written_bytes'], 'bytes')} out"
    of = OPERATIONS_MEASURED[row["op"]]
    named = [name for name in (*of.columns, *of.optional) if not name.endswith("_bytes")]
    known = {name: row[name] for name in named if pd.notna(row.get(name))}
    return output.sizes(known) + (" bidirectional" if row.get("bidirectional") is True else "")


def _print(found: Breakdown, top: int) -> None:
    """Print the rows that take most time, what they add up to, and what has no prediction."""
    _print_rows(found, top)
    whole, covered, predicted, least = (
        output.seconds(value)
        for value in (found.measured_s, found.covered_s, found.predicted_s, found.lower_s)
    )
    share = 100 * found.rows["share"].sum()
    print(
        f"{whole} in all; with a prediction {share:.1f} % of it: "
        f"measured {covered}, predicted {predicted}, at least {least}"
    )
    _print_others(found)
    _print_grounds(found.rows)


def _print_rows(found: Breakdown, top: int) -> None:
    """Print the rows that take most time; those that would look the same with torch's name."""
    listed = found.rows.head(top).to_dict("records")
    looks = Counter((_called(row), _sizes(row)) for row in listed)
    rows = [
        (
            f"{100 * row['share']:.1f}",
            _called(row, exactly=looks[_called(row), _sizes(row)] > 1),
            _sizes(row),
            f"{row['calls']:,}",
            *(output.seconds(row[name]) for name in ("latency_s", "seconds", "lower_s")),
            row["bound"],
            row["verdict"],
        )
        for row in listed
    ]
    headers = ("time %", "operation", "sizes", "calls", "measured", "predicted", "at least", "limit", "")
    if rows:
        output.print_table(headers, rows, left=0)
    left = len(found.rows) - len(rows)
    if left > 0:
        share = 100 * found.rows["share"].iloc[top:].sum()
        print(f"and {left:,} more, {share:.1f} % of the time; --top {len(found.rows)} lists them all")


def _print_others(found: Breakdown) -> None:
    """Print which operations have no prediction, kernels of one name together, and why."""
    whole_s = found.measured_s or 1.0
    if found.others:
        times: dict[str, float] = defaultdict(float)
        for name, seconds in found.others.items():
            times[_short(name)] += seconds
        most = sorted(times.items(), key=lambda each: -each[1])
        named = ", ".join(f"{name} {100 * s / whole_s:.1f} %" for name, s in most[:OTHERS])
        more = f", {len(most) - OTHERS} more" if len(most) > OTHERS else ""
        print(f"not predicted: {named}{more}")
    for reason, seconds in list(found.reasons.items())[:REASONS]:
        print(f"{100 * seconds / whole_s:.1f} % of the time is not predicted because {reason}")


def _print_grounds(rows: pd.DataFrame) -> None:
    """Print which devices the predictions are of, the lowest rung of each, and whose constants they have."""
    from costmodel import hardware
    from costmodel.predict import together

    devices = [hardware.load(str(gpu)) for gpu in rows["gpu"].unique()]
    for device, (_, own) in zip(devices, rows.groupby("gpu", sort=False), strict=True):
        rung, origins = together(zip(own["rung"], own["constants_from"], strict=True))
        print(f"on {device.name}: rung {rung}, constants from {origins}")
    if devices:
        print(output.signature(*(device.spec_hash for device in devices)))


def _as_json(found: Breakdown) -> dict[str, Any]:
    rows = output.in_whole(found.rows.drop(columns="reason"))
    said = rows.notna() & (rows != "")
    return {
        "measured_s": found.measured_s,
        "covered_s": found.covered_s,
        "predicted_s": found.predicted_s,
        "lower_s": found.lower_s,
        "others": found.others,
        "reasons": found.reasons,
        "rows": [
            {name: row[name] for name in rows if said.at[place, name]}
            for place, row in enumerate(rows.to_dict("records"))
        ],
    }


COMMANDS = (("profile", profile, "costmodel profile trace.json -m xeon-8480plus"),)
