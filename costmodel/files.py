"""Files that are whole or not there, and what rests on them: written beside their place, then moved."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

from costmodel.errors import OutputError

#: How to forget what each function remembers.
_REMEMBERED: list[Callable[[], None]] = []

F = TypeVar("F", bound=Callable[..., Any])


def remembered(maxsize: int) -> Callable[[F], F]:
    """Return a decorator like `functools.lru_cache`, of answers that rest on files; see `forget`."""

    def wrap(function: F) -> F:
        cached = lru_cache(maxsize=maxsize)(function)
        _REMEMBERED.append(cached.cache_clear)
        return cast("F", cached)

    return wrap


def forget() -> None:
    """Forget all such answers: a calibration has been written."""
    for clear in _REMEMBERED:
        clear()


def beside(path: Path, suffix: str) -> Path:
    """Return a path with a suffix, in place of one that files of ours have; other dots are the name's."""
    ours = path.suffix.lower() in (".parquet", ".csv", ".html")
    return path.with_suffix(suffix) if ours else path.with_name(path.name + suffix)


def check_writable(path: Path, *, overwrite: bool = False, suffixes: tuple[str, ...] = ()) -> None:
    """Refuse a path that cannot be written, before any work is done for it.

    Parameters
    ----------
    path : Path
        Where a file is to be.
    overwrite : bool
        Whether a file that is there may be replaced.
    suffixes : tuple of str
        What its name may end in; empty: anything.

    Raises
    ------
    OutputError
        If something is there already, the folder is not, or the ending is none of those.
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
    """Write a file so that at no moment half of it is there.

    Parameters
    ----------
    path : Path
        Where it is to be.
    write : callable
        Writes the content to the path it is given: a temporary file in the same folder.
    overwrite : bool
        Whether a file that is there may be replaced.

    Raises
    ------
    OutputError
        See `check_writable`; also if the disk is full or may not be written. What was there
        before is then as it was.
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
    """Write a file of text, as UTF-8; see `write_whole`."""
    write_whole(path, lambda place: place.write_text(text, encoding="utf-8"), overwrite=overwrite)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def user_folder() -> Path:
    """Return the folder for what is measured on this machine; not made before something is written."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "costmodel"
