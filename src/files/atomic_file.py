"""Files that appear whole or not at all: temporary name in the same folder, fsync, check, rename."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from src.errors import UserError

# A killed process leaves at most files of this ending behind; nothing reads them, and they may be deleted.
TEMPORARY_SUFFIX = ".partial"


def write_atomically(
    path: Path, write: Callable[[BinaryIO], object], check: Callable[[Path], None] | None = None
) -> None:
    """Write `path` through `write(file)`; the file appears under its name only after `check(temporary path)` passed.

    Whatever goes wrong, an older file of that name stays as it was and no temporary file is left (but after a kill).
    Raises `UserError` where the system refuses to write, or where `check` refuses what was written.
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
    """Make the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
