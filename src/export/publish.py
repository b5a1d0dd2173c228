"""Atomic publication of exported files: written and checked in a hidden folder, then renamed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.errors import UserError, doing
from src.files.unfinished import unfinished


@contextmanager
def appears_whole(path: Path) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder beside `path`, and rename it to `path` at the end.

    Other files in the temporary folder (constants of large models) keep their names. If the block raises, the folder is
    removed and an older export stays unchanged. Raises `UserError` where the system refuses to write.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        try:
            with doing(f"exporting to {path}"), unfinished(folder):
                yield folder / path.name
                # `path` comes last, so that a reader who finds it finds the other files
                for written in sorted(folder.iterdir(), key=lambda entry: entry.name == path.name):
                    _move(written, path.parent / written.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): choose another folder or free some space"
        ) from error


def _move(written: Path, target: Path) -> None:
    """Rename a file or folder over an older one after its content is on disk, with the permissions of a new file."""
    mask = os.umask(0)
    os.umask(mask)
    for file in [written, *written.rglob("*")]:
        # MindSpore's files are readable for the owner only, and not writable
        file.chmod((0o777 if file.is_dir() else 0o666) & ~mask)
        if file.is_file():
            with open(file, "rb") as stream:
                os.fsync(stream.fileno())
    if target.is_dir() and not target.is_symlink():
        if not written.is_dir():
            raise UserError(f"{target} is a folder, where the export writes a file: move it away")
        shutil.rmtree(target)
    os.replace(written, target)
