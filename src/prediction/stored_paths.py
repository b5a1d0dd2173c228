"""Lists of paths kept on the disk, so that a folder of a million images takes no memory."""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice

# So many paths are sorted in memory at a time, about 20 MB of them.
SORTED_AT_ONCE = 100_000


class StoredPaths:
    """Paths in a temporary file, which goes with this object. They can be gone through any number of times."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the object)
        self._count = 0
        for path in paths:
            # as JSON, since a file's name may hold a line's end and bytes of no encoding
            self._file.write(json.dumps(path).encode() + b"\n")
            self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        position = 0
        for _ in range(self._count):
            self._file.seek(position)
            line = self._file.readline()
            position = self._file.tell()
            yield json.loads(line)


def sorted_paths(paths: Iterable[str], sorted_at_once: int = SORTED_AT_ONCE) -> Iterator[str]:
    """`paths` in the order of strings. No more than `sorted_at_once` of them are in memory at a time."""
    iterator = iter(paths)
    parts = iter(lambda: sorted(islice(iterator, sorted_at_once)), [])
    return heapq.merge(*[StoredPaths(part) for part in parts])
