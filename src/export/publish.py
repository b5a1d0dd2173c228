"""Exported files that appear whole or not at all: written and checked under a hidden folder, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.errors import UserError


@contextmanager
def appears_whole(path: Path) -> Iterator[Path]:
    """Give a path of the same name in a temporary folder beside `path`; what lies there at the end becomes `path`.

    Files written beside it (constants of large models) come along under their own names. If the block raises, nothing
    appears, an older export stays as it was, and the folder is removed. Raises `UserError` where the system refuses to
    write.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        try:
            yield folder / path.name
            # the file that the others belong to comes last: whoever sees it sees all of them
            for written in sorted(folder.iterdir(), key=lambda entry: entry.name == path.name):
                _move(written, path.parent / written.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): choose another folder or free some space"
        ) from error


def _move(written: Path, target: Path) -> None:
    """Rename a file or a folder over an older one, once its content is on the disk."""
    for file in [written, *written.rglob("*")]:
        _make_readable(file)
        if file.is_file():
            with open(file, "rb") as stream:
                os.fsync(stream.fileno())
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(written, target)


def _make_readable(file: Path) -> None:
    """Give the permissions of any new file: MindSpore lets only the owner read, and not even the owner write."""
    mask = os.umask(0)
    os.umask(mask)
    file.chmod((0o777 if file.is_dir() else 0o666) & ~mask)
