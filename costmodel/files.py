"""Atomic writing of files (to a temporary file that is then moved), and caches of what was read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

from costmodel.errors import OutputError

#: For each function decorated with `remembered`, the call that clears its cache.
_REMEMBERED: list[Callable[[], None]] = []

F = TypeVar("F", bound=Callable[..., Any])


def remembered(maxsize: int) -> Callable[[F], F]:
    """Return a decorator like `functools.lru_cache` for answers that depend on files; see `forget`."""

    def wrap(function: F) -> F:
        cached = lru_cache(maxsize=maxsize)(function)
        _REMEMBERED.append(cached.cache_clear)
        return cast("F", cached)

    return wrap


def forget() -> None:
    """Clear the caches of all `remembered` functions, after a calibration has been written."""
    for clear in _REMEMBERED:
        clear()


def beside(path: Path, suffix: str) -> Path:
    """Return a path with another suffix, which replaces ``.parquet``, ``.csv`` and ``.html`` only."""
    ours = path.suffix.lower() in (".parquet", ".csv", ".html")
    return path.with_suffix(suffix) if ours else path.with_name(path.name + suffix)


def check_writable(path: Path, *, overwrite: bool = False, suffixes: tuple[str, ...] = ()) -> None:
    """Refuse a path that cannot be written, before any work is done for it.

    Parameters
    ----------
    path : Path
        The path to write.
    overwrite : bool
        Whether an existing file may be replaced.
    suffixes : tuple of str
        Endings allowed for the name; empty: any.

    Raises
    ------
    OutputError
        If the path exists, its folder does not, or its ending is not allowed.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise OutputError(f"cannot write {path}: wanted a name that ends in {' or '.join(suffixes)}")
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder; give the name of a file")
    if os.path.lexists(path) and not overwrite:
        replaced = "replace it: --force, in Python overwrite=True"
        raise OutputError(f"cannot write {path}: it exists; give another name, or {replaced}")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}")


def write_whole(path: Path, write: Callable[[Path], object], *, overwrite: bool = False) -> None:
    """Write a file atomically: it is complete or not there at any moment.

    Parameters
    ----------
    path : Path
        The path to write.
    write : callable
        A function that writes the content to the path it is given: a temporary file in the same folder.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    OutputError
        As for `check_writable`, and if the disk is full or read-only. An existing file is then left
        unchanged.
    """
    check_writable(path, overwrite=overwrite)
    temporary = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}-", suffix=path.suffix)
        temporary = Path(name)
        os.close(handle)
        write(temporary)
        temporary.chmod(0o666 & ~_umask())  # mkstemp's files are private
        check_writable(path, overwrite=overwrite)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, overwrite: bool = False) -> None:
    """Write a text file in UTF-8; see `write_whole`."""
    write_whole(path, lambda place: place.write_text(text, encoding="utf-8"), overwrite=overwrite)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def user_folder() -> Path:
    """Return the folder for measurements on this machine; it is created when something is first written."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "costmodel"
