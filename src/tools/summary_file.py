"""MindInsight's summary files, written in this process.

`mindspore.SummaryRecord` hands its events to a process of its own that polls its queue without a pause: idle, it takes
a whole core, which on a CPU is half of a small machine. The packing and the file writer underneath it are used here
directly; what they write is the same, to the byte order of the events.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import nn
from mindspore.graph.api import _cell_graph_executor
from mindspore.train.summary import _summary_adapter as adapter
from mindspore.train.summary.enums import PluginEnum, WriterPluginEnum
from mindspore.train.summary.writer import SummaryWriter

# The form of name that SummaryRecord gives its files and MindInsight looks for.
PREFIX, SUFFIX = "events", "_MS"


class SummaryFile:
    """An event file in `folder`, to which values are added and then written for a step."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / adapter.get_event_file_name(PREFIX, SUFFIX, str(int(time.time())))
        self._writer = SummaryWriter(str(self.path))
        self._values: list[dict[str, Any]] = []

    def add_scalar(self, name: str, value: float) -> None:
        """A point of the curve `name`."""
        self._values.append({"_type": "Scalar", "name": name, "data": np.array(value, np.float32)})

    def add_image(self, name: str, images: np.ndarray) -> None:
        """Pictures [B, 3, H, W] of values 0..255."""
        self._values.append({"_type": "Image", "name": name, "data": images.astype(np.float32)})

    def write(self, step: int) -> None:
        """Write what was added as that of `step`, so that a reader sees it at once."""
        event = adapter.package_summary_event(self._values, step, time.time())
        self._writer.write(WriterPluginEnum.SUMMARY.value, event.SerializeToString())
        self._writer.flush()
        self._values.clear()

    def write_graph(self, cell: nn.Cell) -> None:
        """Write the compiled graph of `cell`, which must have run; raises `ValueError` where there is none."""
        graph = _cell_graph_executor.get_optimize_graph_proto(cell)
        if graph is None:
            raise ValueError("the cell has not been compiled to a graph")
        self._writer.write(PluginEnum.GRAPH.value, adapter.package_graph_event(graph).SerializeToString())
        self._writer.flush()

    def close(self) -> None:
        """Finish the file; it is read-only from then on, as SummaryRecord leaves it."""
        self._writer.close()
