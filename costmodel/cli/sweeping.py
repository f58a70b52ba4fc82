"""Command for design spaces: ``sweep`` writes them, searches them, or estimates the time that takes."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from costmodel.cli import options as o
from costmodel.cli import output
from costmodel.cli.uses import say_if_too_long, say_if_wider_than_a_node, sizes_of_use, used
from costmodel.errors import CostmodelError, OutputError, SizeError, unknown_name
from costmodel.files import check_writable, write_whole
from costmodel.units import render

if TYPE_CHECKING:
    import pandas as pd

    from costmodel.hardware import Device
    from costmodel.layers import Layer
    from costmodel.sweep import Engine, Grid

#: Largest number of rows of a table in memory; a Parquet file is written part by part and may have more.
MOST_ROWS = 50_000_000

Where = Annotated[
    str | None,
    typer.Option(metavar="EXPR", help="Keep only these rows: 'seconds < 1e-3 and heads % kv_heads == 0'."),
]
Best = Annotated[
    str | None,
    typer.Option(
        metavar="FORMULA",
        help="Only the row with the least of a column or formula: seconds, cost/batch, -batch (the most).",
    ),
]
By = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMNS", help="With --best: one row for each combination of these columns: layer,seq."
    ),
]
Pareto = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Only the Pareto front of two of these: seconds,cost/batch."),
]
Prices = Annotated[
    list[str],
    typer.Option(
        "--price",
        metavar="DEVICE=PRICE",
        help="Price of a device per hour, for the column cost: h200-sxm=3.5.",
    ),
]
Columns = Annotated[
    str | None, typer.Option(metavar="COLUMNS", help="Columns of the table: layer,seq,seconds; default: all.")
]
EngineName = Annotated[str, typer.Option(metavar="ENGINE", help="What computes: threads, processes or dask.")]
Workers = Annotated[
    int | None,
    typer.Option(metavar="N", help="Number of threads or local processes; default: all processors."),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="With --engine dask: address of the scheduler: tcp://10.0.0.1:8786."
    ),
]
Plan = Annotated[bool, typer.Option("--plan", help="Only estimate the points, the bytes and the time.")]


def sweep(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="LAYER", help="Layers: lstm 'tiled-attention[causal=true]'; with --use, models."
        ),
    ],
    machines: o.Machines,
    defines: o.Defines = [],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="NAME.parquet (of any length), NAME (a folder of parts) or NAME.csv; default: print CSV.",
        ),
    ] = None,
    settings: o.ModelSettings = [],
    use: Annotated[
        str | None, typer.Option(metavar="USE", help="For models: training, prefill or decode.")
    ] = None,
    tensor: Annotated[
        str,
        typer.Option(
            metavar="N,…", help="For models: numbers of devices of a node that share each: 1,2,4,8."
        ),
    ] = "1",
    device_set: o.DeviceSettings = [],
    rung: o.Rung = None,
    state: o.State = "warm",
    framework: o.Framework = None,
    where: Where = None,
    best: Best = None,
    by: By = None,
    pareto: Pareto = None,
    price: Prices = [],
    columns: Columns = None,
    engine: EngineName = "threads",
    workers: Workers = None,
    cluster: Cluster = None,
    plan: Plan = False,
    force: o.Force = False,
    as_json: o.AsJson = False,
) -> None:
    """Predict layers on devices over every combination of sizes.

    With --use, models of the catalogue take the place of layers. With --tensor, counts are those of one of
    the devices that share a model, energy and cost those of all of them.
    A Parquet file is written part by part and may have any number of rows; an interrupted sweep resumes
    when the same command is given again.
    """
    searched = bool(best or pareto)
    _check(out, best, by, pareto, force=force, searched=searched)
    from costmodel.sweep import Engine, make_grid, whole
    from costmodel.sweep.files import Encode

    streamed = out is not None and out.suffix.lower() != ".csv"
    who = Engine(engine, workers, cluster)
    if who != Engine() and not (streamed or searched or plan):
        raise CostmodelError(
            "--engine, --workers and --cluster apply to -o NAME.parquet, --best, --pareto and --plan: "
            "give one of these too"
        )
    names, extra = o.layers_and_devices(names)
    _check_names(names)
    devices = [o.device(name, device_set) for name in (*machines, *extra)]
    sizes = o.sizes(defines)
    shares = _shares(tensor)
    if use is None:
        if shares != [1]:
            raise CostmodelError("--tensor applies to models, with --use prefill or decode")
        layers = o.layers(names, settings)
    else:
        models = [used(name, settings, use, share) for name in names for share in shares]
        # A model whose state does not grow takes no length, and is the same for every length.
        sizes = sizes_of_use("sweep", max(models, key=lambda model: len(model.required)), sizes, use)
        for name, context in dict.fromkeys((model.name, model.context) for model in models):
            say_if_too_long(name, context, sizes)
        say_if_wider_than_a_node(max(shares), *devices)
        layers = [*models]
    o.say_what_is_taken_twice(layers, sizes)
    if not (streamed or searched or plan):
        _check_rows(layers, len(devices), sizes)
    grid = make_grid(
        layers,
        devices,
        sizes,
        rung=rung,
        state=state,
        framework=framework,
        where=where,
        prices=_prices(price),
    )
    if plan:
        _print_plan(grid, who, best, by, pareto, columns, written=out is not None, as_json=as_json)
        return
    signature = output.signature(*(device.spec_hash for device in devices))
    if out is not None and streamed and not searched:
        rows = _streamed(grid, out, columns, who, force=force)
        _say_what_does_not_fit(_too_large_in(out, devices), rows)
        output.note(f"{out}: {rows:,} rows; {signature}")
        if as_json:
            output.print_json({"file": str(out), "rows": rows, "points": grid.points})
        return
    chosen = list(Encode.of(_list(columns), grid).columns)
    found = _searched(grid, who, best, by, pareto) if searched else whole(grid)
    frame = found[chosen]
    _say_what_does_not_fit(_too_large(found, devices), len(found))
    if out is not None:
        write_whole(out, lambda path: output.write_table(frame, path), overwrite=force)
        output.note(f"{out}: {len(frame):,} rows; {signature}")
    if as_json:
        output.print_json(output.in_whole(frame).astype(object).where(frame.notna(), None).to_dict("records"))
    elif out is None:
        print(output.in_whole(frame).to_csv(index=False), end="")


def _streamed(grid: Grid, out: Path, columns: str | None, engine: Engine, *, force: bool) -> int:
    """Write a grid part by part, and return its number of rows."""
    from costmodel.sweep import stream

    try:
        with _Meter(grid.points) as meter:
            return stream(grid, out, columns=_list(columns), engine=engine, overwrite=force, progress=meter)
    except KeyboardInterrupt:
        output.note("interrupted; finished parts are kept: give the same command again to resume")
        raise


def _check(
    out: Path | None, best: str | None, by: str | None, pareto: str | None, *, force: bool, searched: bool
) -> None:
    """Refuse inconsistent options, and an output that cannot be written, before any work."""
    if best and pareto:
        raise CostmodelError("give --best or --pareto, not both")
    if by and not best:
        raise CostmodelError("--by groups the rows that --best searches; give --best too")
    if pareto and len(_list(pareto) or ()) != 2:
        raise CostmodelError(f"--pareto: wanted two columns, such as seconds,footprint_bytes, got {pareto!r}")
    if out is not None and out.name in ("", "-"):
        raise OutputError(f"-o: wanted the name of a file, got {str(out)!r}; without -o CSV is printed")
    folder = out is not None and out.suffix == "" and not searched
    if folder and out is not None and os.path.lexists(out) and not out.is_dir():
        raise OutputError(
            f"cannot write {out}: it is not a folder of parts; give NAME, NAME.parquet or NAME.csv"
        )
    if out is not None and not folder:
        check_writable(out, overwrite=force, suffixes=output.TABLES)


def _check_names(names: Sequence[str]) -> None:
    """Refuse a name that is neither a layer nor a device; among several names it may have meant either."""
    from costmodel.hardware.loader import names as devices
    from costmodel.layers import classes
    from costmodel.models import available
    from costmodel.symbols import GLOSSARY

    known = {*classes(), *available()}  # a model's name is refused later, with the commands that take it
    for name in names:
        kind = name.partition("[")[0]
        if len(names) > 1 and name in GLOSSARY and name not in known:
            raise CostmodelError(f"sweep: wanted -D {name}=VALUE, got {name}")
        if len(names) > 1 and kind not in known and not o.is_configuration(name):
            raise unknown_name("layer or device", kind, [*classes(), *devices()])


def _shares(text: str) -> list[int]:
    """Return numbers of devices, each once."""
    try:
        found = list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise CostmodelError(f"--tensor: wanted numbers of devices, such as 1,2,4,8, got {text!r}")
    return found


def _list(text: str | None) -> list[str] | None:
    return [part.strip() for part in text.split(",") if part.strip()] if text else None


def _prices(texts: Sequence[str]) -> dict[str, float]:
    found = {}
    for name, text in o.pairs(texts, "h200-sxm=3.5").items():
        try:
            found[name] = float(text)
        except ValueError:
            raise CostmodelError(f"price of {name}: wanted a number per hour, got {text!r}") from None
    return found


def _check_rows(layers: Sequence[Layer], devices: int, sizes: Mapping[str, Any]) -> None:
    """Refuse a table that does not fit into memory before making it."""
    lengths = {name: 1 if isinstance(values, float) else len(values) for name, values in sizes.items()}
    rows = devices * sum(
        math.prod(length for name, length in lengths.items() if name in layer.sizes()) for layer in layers
    )
    if rows > MOST_ROWS:
        raise SizeError(
            f"sweep: wanted at most {MOST_ROWS:,} rows, got {rows:,}; "
            "write them with -o NAME.parquet, or search them with --best or --pareto"
        )


def _room(devices: Sequence[Device]) -> dict[str, float]:
    """Return the size of each device's memory [bytes]."""
    return {device.name: device.hbm_capacity for device in devices}


def _too_large(rows: pd.DataFrame, devices: Sequence[Device]) -> int:
    """Return how many rows do not fit."""
    room = rows["device"].map(_room(devices)).astype(float)
    return int((rows["footprint_bytes"] > room).sum())


def _too_large_in(out: Path, devices: Sequence[Device]) -> int:
    """Return how many rows of a Parquet file or folder do not fit; 0 if its columns do not tell."""
    import pyarrow.dataset

    table, column = pyarrow.dataset.dataset(out, format="parquet"), pyarrow.dataset.field
    if not {"device", "footprint_bytes"} <= set(table.schema.names):
        return 0
    # Only the two columns are read, batch by batch, and parts whose statistics exclude such rows not at all.
    too_large = [
        (column("device") == name) & (column("footprint_bytes") > room)
        for name, room in _room(devices).items()
    ]
    return int(table.count_rows(filter=functools.reduce(operator.or_, too_large)))


def _say_what_does_not_fit(lacking: int, rows: int) -> None:
    """Warn of rows whose data the device's memory cannot hold: their times are those of a larger one."""
    if lacking:
        output.say(
            f"{lacking:,} of {rows:,} rows do not fit their device's memory: see column footprint_bytes"
        )


def _searched(
    grid: Grid, engine: Engine, best: str | None, by: str | None, pareto: str | None
) -> pd.DataFrame:
    from costmodel.sweep import best as least
    from costmodel.sweep import front

    with _Meter(grid.points) as meter:
        if best:
            groups = _list(by) or []
            return _ordered(least(grid, best, by=groups, engine=engine, progress=meter), groups)
        one, other = _list(pareto) or ("", "")
        return front(grid, one, other, engine=engine, progress=meter)


def _ordered(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return rows in the order of the columns they are grouped by; names stay in the order they came in."""
    import pandas as pd

    def rank(column: pd.Series[Any]) -> pd.Series[Any]:
        numeric = pd.api.types.is_numeric_dtype(column)
        return column if numeric else pd.Series(pd.factorize(column)[0], index=column.index)

    columns = [name for name in by if name in frame]
    return frame.sort_values(columns, key=rank, kind="stable", ignore_index=True) if columns else frame


def _print_plan(
    grid: Grid, engine: Engine, best: str | None, by: str | None, pareto: str | None, columns: str | None,
    *, written: bool, as_json: bool,
) -> None:  # fmt: skip
    from costmodel.sweep import estimate, job_of

    job = job_of(grid, best=best, by=_list(by) or (), pareto=_list(pareto), columns=_list(columns))
    found = estimate(grid, job, engine)
    if as_json:
        output.print_json(dataclasses.asdict(found))
        return
    parts = "1 part" if found.parts == 1 else f"{found.parts:,} parts"
    cases = "1 layer on a device" if len(grid.cases) == 1 else f"{len(grid.cases):,} layers on devices"
    lines = [f"points  {found.points:,} of {cases}, in {parts}"]
    if found.bytes:
        lines.append(f"file    about {render(found.bytes, 'bytes', 3)}{'' if written else ' as Parquet'}")
    lines.append(
        f"time    about {_duration(found.seconds)}, at {found.points_per_s:,.3g} points/s "
        f"(measured on {found.sampled:,} of them)"
    )
    print("\n".join(lines))


# -- progress ----------------------------------------------------------------------------------


class _Meter:
    """A progress line on the terminal, if there is one: share done, rate, time left."""

    def __init__(self, points: int) -> None:
        self._points = points
        self._shown = False
        self._began = self._last = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int) -> None:
        """Update the line with the number of points done."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._began = done, now  # points of an earlier run do not count for the rate
        if not sys.stderr.isatty() or (now - self._last < 0.2 and done < self._points):
            return
        self._last, self._shown = now, True
        rate = (done - self._first) / max(now - self._began, 1e-9)
        left = f", {_duration((self._points - done) / rate)} left" if rate > 0 else ""
        share = 100 * done / self._points
        text = f"{share:5.1f} % of {self._points:,} points, {rate:,.3g}/s{left}"
        print(f"\r{text:<78}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> _Meter:
        """Start."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the line."""
        if self._shown:
            print(file=sys.stderr)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
