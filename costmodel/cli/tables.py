"""Commands that read tables: ``score`` and ``report``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from costmodel.cli import options as o
from costmodel.cli import output
from costmodel.files import check_writable, write_whole

#: Headers of the columns of `score.summary`.
HEADERS = {"median_ape": "median %", "mean_ape": "mean %", "bias": "bias %", "under_lower": "under bound %"}
#: Words in the names of columns that may hold measured times.
_TIMES = ("latency", "time", "second", "duration", "measured")
#: Number of reasons for missing predictions that are printed.
REASONS = 3


def score(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="Table of measured kernels, .csv or .parquet.")
    ],
    out: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="Table to write, .csv or .parquet.")
    ],
    rung: o.Rung = None,
    force: o.Force = False,
    as_json: o.AsJson = False,
) -> None:
    """Predict every row of a table of measured kernels.

    Each row needs gpu, op, dtype and the sizes of its op: gemm has m, n, k; attention_prefill has batch,
    seq_q, heads_q, head_dim and, if they differ, seq_kv, heads_kv; softmax has m rows of n. With a column
    latency_s, in seconds, errors are reported. All ops: docs/accuracy.md, "Your own measurements".
    """
    check_writable(out, overwrite=force, suffixes=output.TABLES)
    from costmodel import score as scoring

    measured = scoring.read_measured(table)
    kept = scoring.kept_names(measured)
    scored = scoring.score(measured, rung=rung)
    write_whole(out, lambda path: output.write_table(scored, path), overwrite=force)
    if kept:
        output.say(f"the table's own {', '.join(kept)}: kept as {', '.join(kept.values())}")
    reasons = scored.loc[scored["reason"] != "", "reason"].value_counts()
    output.note(f"{out}: {len(scored):,} rows, {int(reasons.sum()):,} without a prediction")
    for reason, number in reasons.head(REASONS).items():
        output.say(f"{number:,} of {len(scored):,} rows not predicted: {reason}")
    if len(reasons) > REASONS:
        output.say(f"{reasons[REASONS:].sum():,} more not predicted: see column reason of {out}")
    if "latency_s" not in scored:
        _say_no_errors(map(str, measured))
        if as_json:
            output.print_json([])
        return
    unusable = scoring.unusable(scored)
    if unusable:
        output.say(f"{unusable:,} of {len(scored):,} rows have no latency_s above 0: not in the errors")
    other = scoring.unit(scored)
    if other is not None:
        output.say(f"latency_s is in seconds, but most values look like {other}: convert them if so")
    cells = scoring.summary(scored)
    if as_json:
        output.print_json(cells.to_dict("records"))
        return
    rows = [[_cell(value) for value in row] for row in cells.itertuples(index=False)]
    headers = [HEADERS.get(str(name), str(name)) for name in cells]
    output.print_table(headers, rows, left=sum(name in scoring.CELL for name in cells))


def _say_no_errors(columns: Iterable[str]) -> None:
    """Say why there are no errors; always if columns look like latencies but are not read."""
    close = [name for name in columns if any(word in name.lower() for word in _TIMES)]
    if close:
        output.say(f"no errors: they need latency_s, in seconds; the table has {', '.join(close)}")
    else:
        output.note("no errors: the table has no latency_s, the measured seconds")


def _cell(value: str | float) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.1f}"
    return str(value)


def report(
    out: Annotated[Path, typer.Option("-o", "--output", metavar="REPORT.html", help="The page to write.")],
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="Table of a sweep; default: the project's own report."),
    ] = None,
    machines: Annotated[
        list[str],
        typer.Option(
            "-m", "--machine", metavar="SPEC.yaml", help="Spec files of devices in FILE that are not shipped."
        ),
    ] = [],
    rung: o.Rung = None,
    force: o.Force = False,
) -> None:
    """Write an HTML page about a sweep, or the project's own report.

    The page has charts, findings, sources and all numbers, and needs no network. The project's own report
    compares Transformer and LSTM on ten devices.
    """
    check_writable(out, overwrite=force, suffixes=(".html",))
    from costmodel import story

    page = story.page(file, devices=machines, rung=rung, command=output.command())
    output.write_page(page, out, overwrite=force)


COMMANDS = (
    ("score", score, "costmodel score measured.csv -o scored.csv"),
    ("report", report, "costmodel report sweep.csv -o report.html"),
)
