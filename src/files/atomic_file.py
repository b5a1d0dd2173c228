"""Atomic writing of a file: temporary name in the same folder, fsync, check, rename."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from src.errors import UserError

# A killed process may leave a file with this suffix; nothing reads it, and it can be deleted.
TEMPORARY_SUFFIX = ".partial"


def write_atomically(
    path: Path, write: Callable[[BinaryIO], object], check: Callable[[Path], None] | None = None
) -> None:
    """Write `path` through `write(file)`; the file gets its name only after `check(temporary path)` passed.

    On any failure an older file stays unchanged and the temporary file is removed (except after SIGKILL). Raises
    `UserError` where the system refuses to write, and where `check` raises it.
    """
    path = Path(os.path.realpath(path))
    temporary = _temporary(path)
    try:
        try:
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            if check is not None:
                _check(path, temporary, check)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): choose another folder or free some space"
        ) from error


def link_atomically(source: Path, path: Path) -> None:
    """Make `path` a second name of the file `source`, or a copy of it on a disk without hard links.

    An older file of that name is replaced at once. Raises `UserError` if the system refuses.
    """
    temporary = _temporary(path)
    try:
        os.link(source, temporary)
    except OSError:
        with open(source, "rb") as file:
            write_atomically(path, lambda copy: shutil.copyfileobj(file, copy))
        return
    os.replace(temporary, path)
    temporary.unlink(missing_ok=True)  # os.replace leaves it if `path` was the same file already
    _sync_folder(path.parent)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")


def _check(path: Path, temporary: Path, check: Callable[[Path], None]) -> None:
    try:
        check(temporary)
    except UserError as error:
        raise UserError(
            f"{path} was not written: reading it back failed ({error}); check the disk and try again"
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make the rename survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
