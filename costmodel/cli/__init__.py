"""The command line ``costmodel COMMAND …`` and its exit status: 0, or 2 with a one-line error.

Heavy imports are deferred until a command needs them: a prediction starts in about the time that sympy and
numpy take.
"""

from __future__ import annotations

import codecs
import errno
import gc
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import typer

from costmodel.cli.app import arguments, command
from costmodel.errors import CostmodelError, shown

__all__ = ["main"]

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit the process with its status.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; default: those of this process.
    """
    # Startup creates many objects and no garbage; collecting would take a tenth of a prediction's time.
    gc.set_threshold(1_000_000)
    _open_streams()
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def _open_streams() -> None:
    """Make sure there are output streams; letters that cannot be encoded print as "?", and µ as "u"."""
    # Of those that the parent process closed, writing an answer fails, and writing an error does not.
    for name, mode in (("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, mode), "w"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error("costmodel", _in_other_letters)
        sys.stdout.reconfigure(errors="costmodel")


def _in_other_letters(error: UnicodeError) -> tuple[str, int]:
    """Return the replacement for letters that cannot be encoded; a unit's µ stays readable as "u"."""
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
    except (UnicodeEncodeError, MemoryError) as error:
        return _refuse(_beyond(error))
    return status if isinstance(status, int) else 0


def _status(words: Sequence[str]) -> Any:
    """Return a command's result; raise BrokenPipeError where typer would exit with status 1."""
    try:
        return command(words).main(words, prog_name="costmodel", standalone_mode=False)
    except SystemExit as left:
        if isinstance(left.__context__, BrokenPipeError):
            raise left.__context__ from None
        raise


def _unread(error: typer.TyperException) -> str:
    """Return the message for a bad argument; for a bad value, with the value, which typer leaves out."""
    text: str = error.format_message().rstrip(".")
    faults: list[Any] = getattr(error.__cause__, "errors", list)()
    if faults:
        text = text.partition(", unable to parse")[0] + f", got {faults[0]['input']!r}"
    text = re.sub("Input should be (?=greater|less)", "wanted a number ", text).replace(
        "Input should be", "wanted"
    )
    context = getattr(error, "ctx", None)
    if context is None:
        return text
    hint = f"; `{context.command_path} --help` has an example" if text.startswith("Missing") else ""
    command = "" if context.parent is None else f"{context.info_name}: "
    return f"{command}{text[0].lower()}{text[1:]}{hint}"


def _beyond(error: UnicodeEncodeError | MemoryError) -> str:
    """Return the message for what neither a table nor the machine can hold."""
    if isinstance(error, MemoryError):
        return "not enough memory for that many rows; give fewer sizes at a time"
    # Tables are in UTF-8, and so are the names of Parquet files; a name in a shell can be any bytes.
    return f"wanted a name in UTF-8, got {shown(error.object)}; rename the file"


def _unwritten(error: OSError) -> int:
    """Return the exit status if a file failed, or if standard output is closed or full."""
    if error.filename is not None:
        return _refuse(f"{error.filename}: {error.strerror}")
    # Keep the interpreter from flushing standard output again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return 0  # the reader has seen enough
    closed = error.errno == errno.EBADF
    reason = "standard output is closed" if closed else error.strerror or error
    return _refuse(f"cannot write the answer: {reason}")


def _refuse(text: str) -> int:
    line = " ".join(text.split())
    print(f"costmodel: {line}", file=sys.stderr)
    return 2
