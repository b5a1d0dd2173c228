"""An image inside a MindRecord shard, read without MindSpore, at once and by any thread.

MindSpore's own reader goes through a shard from its beginning; training needs any image at any time. A shard is a header
and pages of one size. A record of two fields of bytes lies in one page: the number of bytes that follow (8 bytes,
little-endian), then for each field, in the order of the names, its number of bytes (8, big-endian) and its bytes.
"""

import io
import os
from dataclasses import dataclass
from typing import IO

from src.files.regular_file import open_regular

IMAGE, NAME = "image", "name"  # the fields of a record: the file's bytes, and its path inside the packed folder
LENGTH = 8  # bytes of a length
OVERHEAD = 3 * LENGTH  # bytes of a record besides image and name


class DamagedRecord(ValueError):
    """A record whose lengths contradict its index."""


@dataclass(frozen=True)
class PackedImage:
    """The record of `size` bytes from byte `offset` of the file `shard` on."""

    shard: str
    offset: int
    size: int

    def open(self) -> "Section":
        """Open the image file inside the record. Raises `DamagedRecord`, and `OSError` where the system refuses."""
        file = open_regular(self.shard)
        try:
            length = self._length(file)
        except BaseException:
            file.close()
            raise
        return Section(file, self.offset + 2 * LENGTH, length)

    def name(self) -> str:
        """Return the path of the image inside the folder that was packed. Raises as `open`."""
        with open_regular(self.shard) as file:
            start = OVERHEAD + self._length(file)
            return os.fsdecode(os.pread(file.fileno(), self.size - start, self.offset + start))

    def __str__(self) -> str:
        """Return the shard and the path inside it, or the place of a damaged record."""
        try:
            return f"{self.shard}{os.sep}{self.name()}"
        except (OSError, DamagedRecord):
            return f"{self.shard}{os.sep}byte {self.offset}"

    def _length(self, file: IO[bytes]) -> int:
        """Return the number of bytes of the image."""
        begin = os.pread(file.fileno(), 2 * LENGTH, self.offset)
        image = int.from_bytes(begin[LENGTH:], "big")
        if int.from_bytes(begin[:LENGTH], "little") != self.size - LENGTH or image > self.size - OVERHEAD:
            raise DamagedRecord
        end = os.pread(file.fileno(), LENGTH, self.offset + 2 * LENGTH + image)
        if int.from_bytes(end, "big") != self.size - OVERHEAD - image:
            raise DamagedRecord
        return image


class Section(io.RawIOBase):
    """`size` bytes of `file` from `start` on, as a file. Closes `file`."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        super().__init__()
        self.size = size
        self._file, self._start, self._place = file, start, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size}[whence]
        self._place = max(0, begin + offset)
        return self._place

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        left = max(0, self.size - self._place)
        count = os.preadv(self._file.fileno(), [memoryview(buffer)[:left]], self._start + self._place)
        self._place += count
        return count

    def readall(self) -> bytes:
        """Return the rest in as few reads as the system allows; that of the base class reads 8 kB at a time."""
        parts = []
        while part := os.pread(self._file.fileno(), max(0, self.size - self._place), self._start + self._place):
            parts.append(part)
            self._place += len(part)
        return b"".join(parts)

    def close(self) -> None:
        self._file.close()
        super().close()


ImageFile = str | os.PathLike[str] | PackedImage
"""Where an image is: a path, or a record of a shard. `str` gives its name for messages."""
