"""The journal of a running campaign: one line per visit, so that no measurement is lost.

The first line identifies the device and versions; each further line is one visit of one case. A campaign that
is killed leaves at most one broken line, the last, which is cut off when the file is opened again. During a
visit the last line says which one it is. If nothing follows it, the process ended in that visit (a library
crashed, or a kernel did not end); it is then recorded as failed and not repeated. Rows of another device or
version are refused, and so is a second campaign while one is writing, because each would measure the other's
load.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from costmodel.errors import CostmodelError, OutputError, TableError
from costmodel.validation.case import from_dict
from costmodel.validation.torch_env import Machine

#: Version of the journal's format.
SCHEMA = 1
#: Advice where a journal cannot be continued.
_ANEW = "begin anew with --fresh, which keeps the file under another name"

#: Key of the line that announces a visit, and the reason recorded if nothing follows it.
_BEGUN = "begun"
_ENDED = "the process ended in this visit: a crash, a kernel without end, or it was killed"

Row = dict[str, Any]


class Journal:
    """An append-only file of measured visits.

    Parameters
    ----------
    path : Path
        Path of the file; its folder is created.
    machine : Machine
        The machine that is being measured.

    Raises
    ------
    TableError
        If the file is not a journal, is broken before its last line, or is of another device, software
        version or format.
    OutputError
        If it cannot be written, or another campaign is writing it.
    """

    def __init__(self, path: Path, machine: Machine) -> None:
        self.path = path
        self.rows: list[Row] = []
        self._machine = machine
        self._file: TextIO | None = None
        self._begun = 0  # offset of the line that announces the current visit [bytes]; 0 if there is none
        if path.exists():
            self.rows, _ = read(path, machine)

    def __enter__(self) -> Self:
        """Open for appending with an exclusive lock; write the header of a new file."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
            hold(self._file, self.path)
            # Read again: another campaign may have added visits before the lock was taken.
            records, whole = _records(self.path, self._machine)
            self.rows = _visits(records)
            self._file.truncate(whole)  # remove the partial line of a killed campaign
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error
        if whole == 0:
            self._write(header(self._machine))
        elif _BEGUN in records[-1]:
            self._begun = whole - len(_line(records[-1]))
            self.append({**records[-1][_BEGUN], "status": "failed", "reason": _ENDED})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close; an interrupted visit will be repeated."""
        if self._file is not None:
            # Errors of unflushed data were reported when it was written.
            with contextlib.suppress(OSError):
                self._unsay()
                self._file.close()
            self._file = None

    def begin(self, visit: Row) -> None:
        """Announce the next visit: its case, key and pass."""
        assert self._file is not None, "a journal is written inside its with-block"
        self._begun = os.fstat(self._file.fileno()).st_size
        self._write({_BEGUN: visit})

    def _unsay(self) -> None:
        """Remove the line that announces the current visit, which has ended."""
        if self._begun and self._file is not None:
            self._file.truncate(self._begun)
            self._begun = 0

    def append(self, row: Row) -> None:
        """Write one visit, and flush it before the next one begins.

        Raises
        ------
        OutputError
            If the disk is full or gone; earlier visits are kept and can be continued from.
        """
        self._unsay()
        self._write(row)
        self.rows.append(row)

    def _write(self, row: Mapping[str, Any]) -> None:
        assert self._file is not None, "a journal is written inside its with-block"
        try:
            self._file.write(_line(row))
            self._file.flush()
        except OSError as error:
            raise OutputError(
                f"cannot write {self.path}: {error.strerror or error}; the {len(self.rows)} visits before "
                "are kept: make room and run the same command again to go on"
            ) from error


def hold(file: TextIO, path: Path) -> None:
    """Lock a journal against other writers until its file is closed, where the system supports that.

    Raises
    ------
    OutputError
        If another campaign holds the lock; the file is then closed.
    """
    try:
        locks = importlib.import_module("fcntl")
        locks.flock(file, locks.LOCK_EX | locks.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise OutputError(
            f"cannot write {path}: another campaign is measuring, and each would see the other's load; "
            "run the same command again when it has ended"
        ) from None
    except (ImportError, OSError):
        pass  # this system or disk has no such locks


def header(machine: Machine) -> Row:
    """Return the first line of a journal."""
    return {"schema": SCHEMA, "machine": machine.identity, "host": machine.host}


def read(path: Path, machine: Machine | None = None) -> tuple[list[Row], int]:
    """Return the visits of a journal, and the length of its whole lines [bytes].

    Parameters
    ----------
    path : Path
        A journal.
    machine : Machine, optional
        The machine that its rows have to be of.

    Raises
    ------
    TableError
        See `Journal`.
    """
    records, whole = _records(path, machine)
    return _visits(records), whole


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, allow_nan=False) + "\n"


def _visits(records: list[Row]) -> list[Row]:
    return [record for record in records[1:] if _BEGUN not in record]


def _records(path: Path, machine: Machine | None) -> tuple[list[Row], int]:
    """Return the records of all whole lines, including an announced visit, and the lines' length [bytes]."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TableError(f"cannot read {path}: {error.strerror or error}") from None
    whole = content.rfind(b"\n") + 1
    lines = content[:whole].splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or (number > 1 and not _is_visit(record, last=number == len(lines))):
            raise TableError(f"{path}: line {number} is not a record of a campaign; {_ANEW}")
        records.append(record)
    if records:
        _check_header(path, records[0], machine)
    return records, whole


def _is_visit(record: Row, *, last: bool) -> bool:
    """Return whether a record is a visit: case, pass, status, and times if it succeeded.

    The last line may announce a visit that did not end.
    """
    if last and isinstance(record.get(_BEGUN), dict):
        return _is_visit({**record[_BEGUN], "status": ""}, last=False)
    kinds: dict[str, Any] = {"key": str, "pass": int, "case": dict, "status": str}
    if record.get("status") == "ok":
        kinds |= {"timer": str} | dict.fromkeys(("median_s", "q1_s", "q3_s", "samples"), int | float)
    if not all(isinstance(record.get(name), kind) for name, kind in kinds.items()):
        return False
    try:
        return bool(from_dict(record["case"]).key == record["key"])
    except (CostmodelError, AttributeError, KeyError, TypeError, ValueError):
        return False


def _check_header(path: Path, found: Row, machine: Machine | None) -> None:
    if found.get("schema") != SCHEMA:
        raise TableError(f"{path}: not a journal of format {SCHEMA}; {_ANEW}")
    theirs = found.get("machine")
    if not isinstance(theirs, dict):
        raise TableError(f"{path}: line 1 does not say what was measured; {_ANEW}")
    if machine is None:
        return
    ours = machine.identity
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise TableError(
                f"{path}: its rows are of {name} {theirs.get(name)!r}, this is {value!r}; "
                f"rows of both do not go into one table: {_ANEW}"
            )
