"""TensorBoard event files, written by tensorboardX."""

from __future__ import annotations

from pathlib import Path

from tensorboardX import SummaryWriter

FLUSH_SECONDS = 10  # the delay after which TensorBoard sees a point


class TensorBoardFile:
    """An event file in `folder`, to which scalars are added and then written for a step."""

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder), flush_secs=FLUSH_SECONDS)
        self._values: dict[str, float] = {}

    def add_scalar(self, name: str, value: float) -> None:
        """Add a point of the curve `name`."""
        self._values[name] = value

    def write(self, step: int) -> None:
        """Write what was added as the values of `step`."""
        for name, value in self._values.items():
            self._writer.add_scalar(name, value, step)
        self._values.clear()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
