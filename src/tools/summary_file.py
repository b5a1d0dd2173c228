"""MindInsight summary files, written in this process.

`mindspore.SummaryRecord` passes its events to a process that polls its queue without a pause and so takes a whole core,
half of a small machine. This module calls the packing and the file writer below it directly; the files are the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
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
    """An event file in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / adapter.get_event_file_name(PREFIX, SUFFIX, str(int(time.time())))
        self._writer = SummaryWriter(str(self.path))

    def write(self, step: int, scalars: Mapping[str, float], image: np.ndarray | None = None) -> None:
        """Write and flush a point of each curve, and an image [1, 3, H, W] with values 0..255 as `input`."""
        values: list[dict[str, Any]] = [
            {"_type": "Scalar", "name": name, "data": np.array(value, np.float32)} for name, value in scalars.items()
        ]
        if image is not None:
            values.append({"_type": "Image", "name": "input", "data": image.astype(np.float32)})
        event = adapter.package_summary_event(values, step, time.time())
        self._writer.write(WriterPluginEnum.SUMMARY.value, event.SerializeToString())
        self._writer.flush()

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
