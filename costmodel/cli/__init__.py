"""The command line: ``costmodel COMMAND …``, and how it ends: 0, or 2 with one clear line.

Nothing heavy is imported before a command asks for it: a prediction starts in
about the time that sympy and numpy take.
"""

from __future__ import annotations

import codecs
import gc
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from costmodel.cli.app import arguments, command
from costmodel.errors import CostmodelError

__all__ = ["main"]

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and leave the process with its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        What follows the program's name; default that of this process.
    """
    # Starting makes many objects and no garbage: looking for it takes a tenth of a prediction's time.
    gc.set_threshold(1_000_000)
    _open_streams()
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def _open_streams() -> None:
    """Have somewhere to print to, and print letters that it has not, such as Σ, as question marks, µ as u."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started us
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error("costmodel", _in_other_letters)
        sys.stdout.reconfigure(errors="costmodel")


def _in_other_letters(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for letters that cannot be printed; a unit stays one."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join("u" if letter in "\u00b5\u03bc" else "?" for letter in text), error.end


def run(argv: Sequence[str]) -> int:
    """Run a command and return its exit status: 0, 2 on bad input, 130 on Ctrl-C."""
    words = arguments(argv or ["--help"])
    try:
        status = _status(words)
        sys.stdout.flush()
    except CostmodelError as error:
        return _refuse(str(error))
    except typer.TyperException as error:
        return _refuse(_unread(error))
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except OSError as error:
        return _unwritten(error)
    except MemoryError:
        return _refuse("not enough memory for that many rows; give fewer sizes at a time")
    return status if isinstance(status, int) else 0


def _status(words: Sequence[str]) -> Any:
    """Return what a command returns; where its reader is gone, typer would leave with 1."""
    try:
        return command(words).main(words, prog_name="costmodel", standalone_mode=False)
    except SystemExit as left:
        if isinstance(left.__context__, BrokenPipeError):
            raise left.__context__ from None
        raise


def _unread(error: typer.TyperException) -> str:
    """Return what is wrong with an argument; of a value also which came, which its reader does not say."""
    text: str = error.format_message()
    faults: list[Any] = getattr(error.__cause__, "errors", list)()
    came = f", got {faults[0]['input']!r}" if faults else ""
    return text.replace("Input should be", "wanted") + came


def _unwritten(error: OSError) -> int:
    """Return the exit status where a file failed, or standard output is gone or full."""
    if error.filename is not None:
        return _refuse(f"{error.filename}: {error.strerror}")
    # The interpreter must not try standard output again at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return 0  # whoever read it has seen enough
    return _refuse(f"cannot write the answer: {error.strerror or error}")


def _refuse(text: str) -> int:
    line = " ".join(text.split())
    print(f"costmodel: {line}", file=sys.stderr)
    return 2
