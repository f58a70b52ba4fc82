"""Measure a plan of kernels on this machine's device, and compare them with predictions."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import yaml

from costmodel import hardware
from costmodel.arguments import typed
from costmodel.errors import OutputError, SizeError, UnavailableError
from costmodel.evaluate import as_whole
from costmodel.files import user_folder
from costmodel.predict import as_device, check_rung
from costmodel.validation import campaign, places, plans, record, spec
from costmodel.validation.case import Case
from costmodel.validation.join import with_predictions
from costmodel.validation.journal import Journal, hold
from costmodel.validation.spec_cpu import with_highest_clock
from costmodel.validation.torch_env import Machine, machine

#: Time budget of a campaign [s]; with its preparation it takes 5 minutes on a CPU and 8 on a GPU.
BUDGET_S = {
    ("cpu", False): 225.0,
    ("cuda", False): 400.0,
    ("cpu", True): 4 * 3600.0,
    ("cuda", True): 4 * 3600.0,
}
#: Visits per case; a CPU's times drift more.
PASSES = {"cpu": 3, "cuda": 2}
#: Largest number of visits per case; more is taken for a typing error.
MOST_PASSES = 1000


def journal_path(device: str, *, full: bool = False) -> Path:
    """Return the path of the journal in which a plan's visits are kept and from which it continues."""
    return user_folder() / f"{device}{'-full' if full else ''}.jsonl"


def set_aside(journal: Path) -> Path | None:
    """Rename a journal, so that the next campaign starts anew; nothing is deleted.

    Returns
    -------
    Path or None
        Its new path: the old name with the time of the last write; None if there is no journal.

    Raises
    ------
    OutputError
        If it cannot be renamed, or a campaign is writing it.
    """
    if not journal.exists():
        return None
    written = datetime.fromtimestamp(journal.stat().st_mtime, tz=UTC)
    kept = journal.with_name(f"{journal.stem}-{written:%Y%m%dT%H%M%S}{journal.suffix}")
    try:
        with journal.open("a", encoding="utf-8") as file:
            hold(file, journal)  # fails if a campaign is writing it
        journal.rename(kept)
    except OSError as error:
        raise OutputError(f"cannot rename {journal}: {error.strerror or error}") from error
    return kept


@typed
def measure(
    device: str = "cpu",
    *,
    journal: str | Path | None = None,
    full: bool = False,
    cases: Sequence[Case] | None = None,
    budget_s: float | None = None,
    passes: int | None = None,
    device_name: str | None = None,
) -> pd.DataFrame:
    """Measure kernels, and return one row per kernel.

    Parameters
    ----------
    device : {"cpu", "cuda"}
        Kind of device to measure.
    journal : str or Path, optional
        File to which visits are written and from which they continue; default in the user's cache folder.
    full : bool
        Whether to use the exhaustive plan, which takes hours.
    cases : sequence of Case, optional
        Cases to measure instead of a plan.
    budget_s : float, optional
        Time budget [s].
    passes : int
        Visits per case, interleaved with those of all other cases.
    device_name : str, optional
        Name for the column ``gpu``; default that of the machine's spec.

    Returns
    -------
    DataFrame
        See `costmodel.validation.record.table`.

    Raises
    ------
    UnavailableError
        If torch is not installed, or the device is missing.
    TableError
        If the journal is not of this device and version.
    OutputError
        If the journal cannot be written.
    SizeError
        If `passes` or `budget_s` is not positive.
    """
    here = machine(device)
    each = int(as_whole("passes", PASSES[device] if passes is None else passes, MOST_PASSES))
    if budget_s is not None and not budget_s > 0:
        raise SizeError(f"measure: wanted budget_s above 0 [s], got {budget_s}")
    path = Path(journal) if journal else journal_path(device, full=full)
    wanted = list(cases) if cases is not None else plans.plan(device, full=full)
    book = Journal(path, here)
    with book, _progress() as progress:
        campaign.run_campaign(
            wanted,
            here,
            book,
            budget_s=BUDGET_S[device, full] if budget_s is None else budget_s,
            passes=each,
            progress=progress,
        )
    keys = {case.key for case in wanted}
    visits = [row for row in book.rows if row["key"] in keys]
    return record.table(visits, here, device_name or places.find_device(here).name)


@typed
def run(
    device: str = "cpu",
    *,
    spec_file: hardware.Device | str | Path | None = None,
    rung: str | None = None,
    journal: str | Path | None = None,
    full: bool = False,
    cases: Sequence[Case] | None = None,
    budget_s: float | None = None,
    passes: int | None = None,
) -> pd.DataFrame:
    """Measure kernels, and return each with its prediction.

    Parameters
    ----------
    device : {"cpu", "cuda"}
        Kind of device to measure.
    spec_file : Device, str or Path, optional
        The device's spec; default the one of its name, or on a CPU the one measured on this machine, which is
        measured first if there is none.
    rung : str, optional
        See `costmodel.predict`.
    journal, full, cases, budget_s, passes
        See `measure`.

    Returns
    -------
    DataFrame
        See `costmodel.validation.join.with_predictions`.
    """
    check_rung(rung)
    here = machine(device)
    known = as_device(spec_file) if spec_file is not None else known_device(here)
    frame = measure(
        device,
        journal=journal,
        full=full,
        cases=cases,
        budget_s=budget_s,
        passes=passes,
        device_name=known.name,
    )
    return with_predictions(frame, with_clock_of(frame, known), rung=rung)


def known_device(here: Machine, folder: Path | None = None) -> hardware.Device:
    """Return the device of a machine; its spec is measured and written if there is none.

    Raises
    ------
    UnavailableError
        If there is no spec, and the machine does not report what cannot be measured.
    """
    try:
        return places.find_device(here, folder)
    except UnavailableError:
        path = places.spec_path(here, folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # fail before spending half a minute on measuring
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    return hardware.load(spec.write(spec.measure_spec(here), path))


def with_clock_of(rows: pd.DataFrame, device: hardware.Device, folder: Path | None = None) -> hardware.Device:
    """Return the device with the highest clock that measured rows state, if its spec was measured here.

    Others may have shared the cores all the time in which a CPU's spec was measured. The lower bound would
    then rest on a lower clock than the rows' own, and be above some of them. The spec's file gets the clock,
    too; other specs and those of GPUs, whose clocks their drivers state, are left as they are.
    """
    seen = float(rows["clock_hz"].max())
    path = places.named_path(device.name, folder)
    if not (device.name.startswith("cpu/") and path.is_file() and seen > device.highest_clock_hz):
        return device
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return hardware.load(spec.write(with_highest_clock(content, seen), path, overwrite=True))


@contextmanager
def _progress() -> Iterator[campaign.Progress]:
    """Show a progress bar if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _done, _planned, _what: None
        return
    from rich.console import Console  # noqa: PLC0415 - nobody else needs it
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=None)

        def show(done: int, planned: int, what: str) -> None:
            bar.update(task, completed=done, total=planned, description=what[:60])

        yield show
