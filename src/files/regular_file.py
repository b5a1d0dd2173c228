"""Opening files that must be regular ones: a FIFO blocks, a device may never end, a link may lead elsewhere."""

import os
import stat
from typing import IO

from src.errors import UserError

FLAGS = {"rb": os.O_RDONLY, "a+b": os.O_RDWR | os.O_CREAT | os.O_APPEND}
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a symbolic link",
}


class IrregularFile(UserError):
    """`path` is not a regular file or is too large: `reason` says which, and `fix` how to mend it."""

    def __init__(self, path: str | os.PathLike[str], reason: str, fix: str = "give a regular file") -> None:
        super().__init__(f"{os.fspath(path)} {reason}; {fix}")
        self.reason = reason


def open_regular(
    path: str | os.PathLike[str], mode: str = "rb", *, limit: int | None = None, follow: bool = True
) -> IO[bytes]:
    """Open a regular file of at most `limit` bytes; never blocks, and never opens a device.

    `mode` is "rb", or "a+b", which makes a missing file and truncates none. Without `follow`, a symbolic link is
    refused. Raises `IrregularFile`, and `OSError` where the system refuses.
    """
    flags = FLAGS[mode] | os.O_NONBLOCK | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
    try:  # before opening, which has effects on some devices
        require_regular(path, os.stat(path, follow_symlinks=follow), limit)
    except FileNotFoundError:
        if mode == "rb":
            raise
    descriptor = os.open(path, flags, 0o666)
    try:  # again, because another file may have taken the name since
        require_regular(path, os.fstat(descriptor), limit)
    except IrregularFile:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, mode)


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes; raises as `open_regular` does."""
    with open_regular(path, limit=limit) as file:
        data = file.read(limit + 1) or b""  # files of /proc have content but no size
    if len(data) > limit:
        raise _too_large(path, limit)
    return data


def require_regular(path: str | os.PathLike[str], status: os.stat_result, limit: int | None = None) -> None:
    """Raise `IrregularFile` unless `status`, that of `path`, is of a regular file of at most `limit` bytes."""
    if not stat.S_ISREG(status.st_mode):
        raise IrregularFile(path, f"is {KINDS.get(stat.S_IFMT(status.st_mode), 'not a regular file')}")
    if limit is not None and status.st_size > limit:
        raise _too_large(path, limit)


def leads_to_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether `entry` is a folder or a link to one; False for a link that leads to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def check_regular(path: str | os.PathLike[str], limit: int) -> None:
    """Raise `UserError` unless a library may open `path`: a readable regular file of at most `limit` bytes."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", error)
        raise UserError(f"{os.fspath(path)} cannot be read ({reason}): check the path") from error
    require_regular(path, status, limit)


def _too_large(path: str | os.PathLike[str], limit: int) -> IrregularFile:
    return IrregularFile(path, f"is larger than {limit / 1e6:g} MB", "give a smaller file")
