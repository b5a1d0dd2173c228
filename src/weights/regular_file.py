"""A file is looked at before it is opened: reading a pipe or a device may never end."""

import os
import stat
from pathlib import Path

from src.errors import UserError

# BEiT-large with averaged weights and optimizer takes 5 GB. A sparse file may pretend any size.
MAX_WEIGHTS_BYTES = 16 * 2**30


def require_regular(path: Path, max_bytes: int = MAX_WEIGHTS_BYTES) -> int:
    """Return the size of `path` in bytes. Raises `UserError` unless it is a regular file of at most `max_bytes`."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"{path} cannot be read ({getattr(error, 'strerror', error)}): check the path") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "Is a directory" if stat.S_ISDIR(status.st_mode) else "Is a pipe, socket or device"
        raise UserError(f"{path} cannot be read ({kind}): give a regular file")
    if status.st_size > max_bytes:
        raise UserError(f"{path} has {status.st_size} bytes, more than the limit of {max_bytes}: give another file")
    return status.st_size
