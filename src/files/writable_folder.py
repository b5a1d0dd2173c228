"""Folders for outputs."""

import tempfile
from pathlib import Path

from src.errors import UserError


def make_folder(folder: Path) -> Path:
    """Make `folder` and its parents, and return it; raises `UserError` if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"on a full disk an empty file can be made, but not filled")
    except OSError as error:
        reason = "it is not a folder" if isinstance(error, FileExistsError) else error.strerror
        raise UserError(f"{folder} cannot be written ({reason}): choose another folder") from None
    return folder
