"""What a person sees of a prediction while it runs."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm


class Progress:
    """A line per image on standard output and, on a terminal, a bar with images/s and the time left; a context manager.

    `total` images, of which `done` were predicted by an earlier run. `quiet` shows neither.
    """

    def __init__(self, total: int, done: int, *, quiet: bool) -> None:
        self._quiet = quiet
        hidden = quiet or not sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=done, unit=" images", leave=False, disable=hidden)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self._bar.close()

    def image_done(self, line: str | None) -> None:
        """Count an image and print its line, where it has one."""
        if line is not None and not self._quiet:
            with self._bar.external_write_mode(sys.stdout):
                print(line, flush=True)
        self._bar.update()
