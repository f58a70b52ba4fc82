"""Command that compares predictions with measurements on this machine: ``validate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from costmodel.cli import options as o
from costmodel.cli import output
from costmodel.errors import CostmodelError, first_line
from costmodel.files import beside, check_writable

if TYPE_CHECKING:
    import pandas as pd

    from costmodel.hardware import Device
    from costmodel.validation.calibrate import Result

#: Exit status: everything done, or everything except the constants.
OK, REFUSED = 0, 2


def validate(
    tables: Annotated[
        list[Path],
        typer.Argument(metavar="TABLE", help="With --fit: tables of measurements to fit, .parquet or .csv."),
    ] = [],
    device: Annotated[str, typer.Option(metavar="KIND", help="What to measure: cpu or cuda.")] = "cpu",
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help="Write the measurements: NAME.parquet, NAME.csv; for a GPU its rates: NAME.micro.csv.",
        ),
    ] = False,
    count: Annotated[
        bool,
        typer.Option("--count", help="Write a GPU's hardware counters (Nsight Compute): NAME.counters.csv."),
    ] = False,
    fit: Annotated[
        bool,
        typer.Option(
            "--fit", help="Fit constants of the device for later predictions; some shapes are held out."
        ),
    ] = False,
    report: Annotated[bool, typer.Option("--report", help="Write a page: NAME.html.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Measure everything: hours, not minutes.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure anew, instead of resuming an earlier campaign.")
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Time limit for measuring; default: 225 on a CPU, 400 on a GPU, 14400 with --full.",
            min=0.0,
        ),
    ] = None,
    spec: Annotated[
        str | None,
        typer.Option(metavar="DEVICE", help="The device, by name or spec file, if it is not recognised."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="NAME",
            help="Name of the files; default: validation-cpu or validation-cuda.",
        ),
    ] = None,
    rung: o.Rung = None,
    force: o.Force = False,
    as_json: o.AsJson = False,
) -> int:
    """Measure kernels here, and compare them with predictions.

    Needs torch: pip install 'costmodel[validation]'. An interrupted campaign resumes when the same command
    is given again.
    """
    name = out or Path(f"validation-{device}")
    micro = record and device == "cuda"
    if count and device != "cuda":
        raise CostmodelError("--count reads the hardware counters of a GPU; give --device cuda too")
    files = (
        (record, ".parquet"),
        (record, ".csv"),
        (micro, ".micro.csv"),
        (count, ".counters.csv"),
        (report, ".html"),
    )
    for wanted, suffix in files:
        if wanted:
            check_writable(beside(name, suffix), overwrite=force)
    if report:
        from costmodel import reports

        reports.check_installed()
    from costmodel.predict import check_rung

    if tables:
        if not fit or record or report or count:
            raise CostmodelError(
                f"{tables[0]}: tables are read by --fit alone, without --record, --report or --count; "
                "`costmodel score` scores a table, and -o NAME names the files to write"
            )
        _fit_tables(tables)
        return OK
    check_rung(rung)
    machine = _device(device, spec, fit)
    _begin(device, full, fresh)
    rows = _measure(device, machine, full, budget)
    machine = _with_clock(rows, machine)
    kept = _record(rows, name, force) if record else None
    if micro:
        _record_rates(device, beside(name, ".micro.csv"), force)
    fitted = _fit_rows(rows, machine, kept) if fit else True
    _print_errors(rows, machine, device, rung, as_json)
    # Counting is last: it takes minutes, and whoever stops it should have the rest.
    counted = _count(machine, beside(name, ".counters.csv"), force) if count else None
    if report:
        _report(rows, machine, counted, beside(name, ".html"), force)
    return OK if fitted else REFUSED


def _begin(kind: str, full: bool, fresh: bool) -> None:
    """Say whether an earlier campaign is resumed, or set it aside."""
    from costmodel.validation import measuring

    journal = measuring.journal_path(kind, full=full)
    if fresh:
        kept = measuring.set_aside(journal)
        if kept:
            output.note(f"earlier measurements: {kept}")
    elif journal.exists():
        # Said in logs too: rows of an earlier day may differ from what is expected.
        output.say(f"resuming the measurements in {journal}; --fresh would measure anew")


def _device(kind: str, spec: str | None, fit: bool) -> Device:
    """Return the device to measure; refuse a spec that does not describe this machine before measuring."""
    from costmodel import hardware
    from costmodel.validation import measuring, places
    from costmodel.validation.torch_env import machine

    here = machine(kind)
    known = hardware.load(spec) if spec else measuring.known_device(here)
    places.check_same(known, here, fit=fit)
    if fit:
        from costmodel.validation.calibrate import check_fittable

        check_fittable(known)
    return known


def _measure(kind: str, device: Device, full: bool, budget: float | None) -> pd.DataFrame:
    from costmodel.validation import measuring, plans, record

    rows = measuring.measure(kind, full=full, budget_s=budget, device_name=device.name)
    left = record.unfinished(rows, len(plans.plan(kind, full=full)), measuring.PASSES[kind])
    if left:
        output.say(left)
    return rows


def _with_clock(rows: pd.DataFrame, device: Device) -> Device:
    """Return the device with the highest clock of the rows, and say so if its measured spec lacks it."""
    from costmodel.units import render
    from costmodel.validation import measuring

    faster = measuring.with_clock_of(rows, device)
    if faster is not device:
        before, seen = (render(each.highest_clock_hz, "Hz") for each in (device, faster))
        output.say(f"a core ran at {seen}, above the {before} of its measured spec, which has it now")
    return faster


def _record(rows: pd.DataFrame, name: Path, force: bool) -> Path:
    """Write the rows; return the table that constants fitted to them refer to."""
    from costmodel.validation.record import save

    return save(rows, name, overwrite=force)[0]


def _record_rates(kind: str, path: Path, force: bool) -> None:
    """Write measured bandwidths, peaks and latencies: the figures of a GPU's spec as reached here."""
    from costmodel.files import write_whole
    from costmodel.validation.microbench import microbenchmarks
    from costmodel.validation.torch_env import machine

    try:
        rates = microbenchmarks(machine(kind))
    except RuntimeError as fault:  # from torch; what was measured so far is still fitted and shown
        output.say(f"no rates recorded: {first_line(fault)}")
        return
    write_whole(path, lambda place: rates.to_csv(place, index=False, float_format="%.5g"), overwrite=force)


def _count(device: Device, path: Path, force: bool) -> pd.DataFrame:
    """Write and return the hardware counters of some cases, or why there are none."""
    from costmodel.files import write_whole
    from costmodel.validation import memory, plans

    counted = memory.traffic(plans.counted(), device)
    write_whole(path, lambda place: counted.to_csv(place, index=False, float_format="%.6g"), overwrite=force)
    failed = counted[counted["status"] != "ok"]
    if len(failed):
        output.say(f"not counted: {len(failed)} of {len(counted)} cases: {failed['reason'].iloc[0]}")
    return counted


def _fit_tables(tables: Sequence[Path]) -> None:
    from costmodel.validation.calibrate import calibrate_tables
    from costmodel.validation.calibrate_collectives import calibrate_collectives, is_collectives
    from costmodel.validation.calibrate_posted import calibrate_posted, is_posted
    from costmodel.validation.calibrate_published import calibrate_published, is_published

    results, measured = [], []
    for table in tables:
        if is_published(table):
            results += calibrate_published(table.parent)
        elif is_posted(table):
            results += calibrate_posted(table)
        elif is_collectives(table):
            results += calibrate_collectives(table)
        else:
            measured.append(table)
    results += calibrate_tables(measured) if measured else []
    for result in results:
        print("\n".join(_write_fit(result)))


def _fit_rows(rows: pd.DataFrame, device: Device, table: Path | None) -> bool:
    """Fit and write constants, or say why none could be fitted, so that other outputs still follow.

    If the rows are in a `table`, its name and hash are stored with the constants.
    """
    from costmodel.validation import calibrate
    from costmodel.validation.cells import digest

    hashes = {table.name: digest(table)} if table else {}
    if table:
        rows = rows.assign(table=table.name)
    try:
        for line in _write_fit(calibrate.calibrate(rows, device, hashes=hashes), device.calibration):
            output.say(line)
    except CostmodelError as error:
        output.say(str(error))
        return False
    return True


def _write_fit(result: Result, place: Path | None = None) -> list[str]:
    """Write fitted constants; return the lines to print about them and about refused fits."""
    from costmodel.validation import calibrate

    place = calibrate.write(result, place)
    refused = (f"  not fitted: {reason}" for reason in result.refused)
    return [f"{place}: {len(result.file.sections)} cells", *refused]


def _report(
    rows: pd.DataFrame, device: Device, counted: pd.DataFrame | None, path: Path, force: bool
) -> None:
    from costmodel import reports
    from costmodel.validation.memory import footprints
    from costmodel.validation.report import as_report, fitted_constants

    predicted = as_report(rows, device)
    page = reports.validation(
        predicted,
        constants=fitted_constants(device),
        memory=footprints(predicted[predicted["rung"] == "bound"]),
        traffic=counted,
        command=output.command(),
    )
    reports.save(page, path, overwrite=force)


def _print_errors(rows: pd.DataFrame, device: Device, kind: str, rung: str | None, as_json: bool) -> None:
    from costmodel.validation.join import with_predictions
    from costmodel.validation.record import disturbance
    from costmodel.validation.report import ORDER_PERCENT, mispredicted, order, verdicts

    joined = with_predictions(rows, device, rung=rung)
    found = verdicts(joined, kind).to_dict("records")
    pairs, right = order(joined)
    wrong = mispredicted(joined).to_dict("records")
    under = joined[joined["under_lower"]]
    if as_json:
        answer = {**output.made_with(device.spec_hash), "device": device.name, "verdicts": found}
        answer |= {"order": {"pairs": pairs, "right": right}, "mispredicted": wrong}
        output.print_json({**answer, "under_lower": len(under)})
        return
    shown = ("median", "mean", "bias", "reruns", "limit")
    cells = [
        [row["demand"], str(row["rows"]), *(_percent(row[n]) for n in shown), "yes" if row["met"] else "no"]
        for row in found
    ]
    output.print_table(["held-out shapes", "rows", *(f"{n} %" for n in shown), "met"], cells)
    _print_borrowed(joined)
    if pairs:
        print(f"the faster of two told right in {right:.1%} of {pairs:,} pairs; wanted {ORDER_PERCENT} %")
    if wrong:
        _print_mispredicted(wrong)
    if len(under):
        _print_under(under)
    print(disturbance(rows))


def _print_borrowed(joined: pd.DataFrame) -> None:
    """Say how many rows were predicted without this device's constants: they say little about the models."""
    origins = joined.loc[joined["seconds"].notna() & (joined["rung"] != "bound"), "constants_from"]
    borrowed = origins[origins != "self"]
    if len(borrowed):
        # A call of several kernels has several origins.
        names = {name for origin in borrowed for name in origin.split(", ")}
        whose = ", ".join(sorted(names - {"none", "self"})) or "none: assumed"
        print(
            f"{len(borrowed):,} of {len(origins):,} rows are predicted without constants of this device "
            f"({whose}); --fit makes them"
        )


def _print_under(rows: pd.DataFrame) -> None:
    """Print how many rows are faster than their lower bound, and the worst of them: a fault to be found."""
    from costmodel.validation.record import cases_of

    worst = rows.iloc[[int((rows["lower_s"] / rows["latency_s"]).argmax())]]
    times = float((worst["lower_s"] / worst["latency_s"]).iloc[0])
    print(
        f"{len(rows):,} rows are faster than their lower bound, a fault in a count, the spec or the timer; "
        f"most of all, {times:.2f} times: {cases_of(worst)[0]}"
    )


def _percent(value: float) -> str:
    """Return a share [%], or a dash if it is unknown."""
    return "-" if isnan(value) else f"{value:.1f}"


def _print_mispredicted(cells: Sequence[Mapping[Any, Any]]) -> None:
    """Print the cells with large errors, which the diary has to explain."""
    from costmodel.validation.report import MISPREDICTED

    names, shown = ("bench", "dtype", "direction", "launch", "state"), ("error", "bias", "spread")
    output.print_table(
        [f"off by over {MISPREDICTED:.0f} %", "rows", *(f"{name} %" for name in shown)],
        [
            [" ".join(cell[name] for name in names), str(cell["rows"]), *(_percent(cell[n]) for n in shown)]
            for cell in cells
        ],
    )


COMMANDS = (("validate", validate, "costmodel validate --device cpu --budget 60 --record --report"),)
