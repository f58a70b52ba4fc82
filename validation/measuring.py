"""The command: measure a plan of kernels on the device in front of us, beside their predictions."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

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
from costmodel.validation.torch_env import Machine, machine

#: How long a campaign may take [s]: with its preparation, 5 minutes on a CPU and 8 on a GPU.
BUDGET_S = {
    ("cpu", False): 240.0,
    ("cuda", False): 400.0,
    ("cpu", True): 4 * 3600.0,
    ("cuda", True): 4 * 3600.0,
}
#: Visits of each case: a CPU's times drift more.
PASSES = {"cpu": 3, "cuda": 2}
#: More visits of a case than these are a slip.
MOST_PASSES = 1000


def journal_path(device: str, *, full: bool = False) -> Path:
    """Return where the visits of a plan are kept, and gone on from."""
    return user_folder() / f"{device}{'-full' if full else ''}.jsonl"


def set_aside(journal: Path) -> Path | None:
    """Give a journal another name, so that the next campaign begins anew; nothing is deleted.

    Returns
    -------
    Path or None
        What it is called now: its old name and when it was last written; None if there is none.

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
            hold(file, journal)  # it is not taken from under a campaign that writes it
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
    """Measure kernels, and return one row for each.

    Parameters
    ----------
    device : {"cpu", "cuda"}
        Where.
    journal : str or Path, optional
        Where visits are kept as they are made, and gone on from; default in the user's cache folder.
    full : bool
        The exhaustive plan: hours, not minutes.
    cases : sequence of Case, optional
        What to measure, in place of a plan.
    budget_s : float, optional
        How long it may take [s].
    passes : int
        Visits of each case, interleaved with those of all others.
    device_name : str, optional
        What the rows are to be called by in the column ``gpu``; default the machine's spec.

    Returns
    -------
    DataFrame
        See `costmodel.validation.record.table`.

    Raises
    ------
    UnavailableError
        If torch is not installed, or the device is not there.
    TableError
        If the journal is not of this device and version.
    OutputError
        If the journal cannot be written.
    SizeError
        If there are no passes, or no time.
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
    """Measure kernels, and return each beside its prediction.

    Parameters
    ----------
    device : {"cpu", "cuda"}
        Where.
    spec_file : Device, str or Path, optional
        The device's spec; default the one of its name, or (CPU) the one measured here, which is
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
    return with_predictions(frame, known, rung=rung)


def known_device(here: Machine, folder: Path | None = None) -> hardware.Device:
    """Return the device that a machine is; its spec is measured and written if there is none.

    Raises
    ------
    UnavailableError
        If there is none, and it does not tell what cannot be measured.
    """
    try:
        return places.find_device(here, folder)
    except UnavailableError:
        path = places.spec_path(here, folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # before half a minute is spent on what goes there
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    return hardware.load(spec.write(spec.measure_spec(here), path))


@contextmanager
def _progress() -> Iterator[campaign.Progress]:
    """Show a bar where standard error is a terminal; say nothing elsewhere."""
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
