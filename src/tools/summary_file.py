"""MindInsight summary files, written in this process.

`mindspore.SummaryRecord` passes its events to a process that polls its queue without a pause and so takes a whole core,
half of a small machine. This module calls the packing and the file writer below it directly; the files are the same.
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

# The file names that MindInsight looks for.
PREFIX, SUFFIX = "events", "_MS"


class SummaryFile:
    """An event file in `folder`, to which values are added and then written for a step."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / adapter.get_event_file_name(PREFIX, SUFFIX, str(int(time.time())))
        self._writer = SummaryWriter(str(self.path))
        self._values: list[dict[str, Any]] = []

    def add_scalar(self, name: str, value: float) -> None:
        """Add a point of the curve `name`."""
        self._values.append({"_type": "Scalar", "name": name, "data": np.array(value, np.float32)})

    def add_image(self, name: str, images: np.ndarray) -> None:
        """Add images [B, 3, H, W] with values 0..255."""
        self._values.append({"_type": "Image", "name": name, "data": images.astype(np.float32)})

    def write(self, step: int) -> None:
        """Write and flush what was added as the values of `step`."""
        event = adapter.package_summary_event(self._values, step, time.time())
        self._writer.write(WriterPluginEnum.SUMMARY.value, event.SerializeToString())
        self._writer.flush()
        self._values.clear()

    def write_graph(self, cell: nn.Cell) -> None:
        """Write the compiled graph of `cell`, which must have run; raises `ValueError` without a graph."""
        graph = _cell_graph_executor.get_optimize_graph_proto(cell)
        if graph is None:
            raise ValueError("the cell has not been compiled to a graph")
        self._writer.write(PluginEnum.GRAPH.value, adapter.package_graph_event(graph).SerializeToString())
        self._writer.flush()

    def close(self) -> None:
        """Finish the file and make it read-only, as SummaryRecord does."""
        self._writer.close()
