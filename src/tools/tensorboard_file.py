"""TensorBoard event files, written by tensorboardX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

FLUSH_SECONDS = 10  # the delay after which TensorBoard sees a point


class TensorBoardFile:
    """An event file in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder), flush_secs=FLUSH_SECONDS)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write a point of each curve."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
