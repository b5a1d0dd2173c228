"""Atomic writing of a file: temporary name in the same folder, fsync, check, rename."""

import os
import secrets
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from src.errors import UserError, doing
from src.files.unfinished import unfinished

# A killed process may leave a file with this suffix; nothing reads it, and it can be deleted.
TEMPORARY_SUFFIX = ".partial"


def write_atomically(
    path: Path, write: Callable[[BinaryIO], object], check: Callable[[Path], None] | None = None
) -> None:
    """Write `path` through `write(file)`; the file gets its name only after `check(temporary path)` passed.

    On any failure an older file stays unchanged and the temporary file is removed (except after SIGKILL). Behind a
    symbolic link, the file it points to is replaced. Raises `UserError` where the system refuses to write, where `path`
    is a device or anything else that is not a file, and where `check` raises it.
    """
    path = Path(os.path.realpath(path))
    temporary = _temporary(path)
    try:
        _require_replaceable(path)
        with doing(f"writing {path}"), unfinished(temporary):
            try:
                with open(temporary, "xb") as file:  # "x" neither follows a link nor takes a file that exists
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


def _require_replaceable(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is not a file that can be replaced: give the name of a file")


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
    """Return a name beside `path` that no file has."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


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
