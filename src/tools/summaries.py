"""The curves, images and graph of a run for MindInsight and TensorBoard.

`mindspore.SummaryRecord` passes its events to a process that polls its queue without a pause and so takes a whole core,
half of a small machine. This module calls the packing and the file writer below it directly; the files are the same.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorboardX
from mindspore import nn
from mindspore.graph.api import _cell_graph_executor
from mindspore.train.summary import _summary_adapter as adapter
from mindspore.train.summary.enums import PluginEnum, WriterPluginEnum
from mindspore.train.summary.writer import SummaryWriter

from src.config import RunConfig
from src.trainer.ema import METRIC_PREFIX
from src.trainer.loop import Callback, RunState
from src.trainer.task import Batch

# The file names that MindInsight looks for.
PREFIX, SUFFIX = "events", "_MS"
FLUSH_SECONDS = 10  # the delay after which TensorBoard sees a point


class Summaries(Callback):
    """An event file of MindInsight in `folder`.

    It has curves of the objective's values and the learning rate every few steps, and of the metrics every epoch.
    A metric that has the name of a value of the objective is called `validation_NAME`. If the options ask for them, the
    file also has images, as the network sees them, and the compiled graph of `step`, and TensorBoard gets the curves.
    """

    def __init__(self, config: RunConfig, folder: Path, step: nn.Cell) -> None:
        self._every, self._images = config.summary_loss_collect_freq, config.collect_input_data
        self._graph = step if config.dump_graph else None
        name = adapter.get_event_file_name(PREFIX, SUFFIX, str(int(time.time())))
        self._mindinsight = SummaryWriter(str(folder / name))
        self._tensorboard = None
        if config.tensorboard:
            self._tensorboard = tensorboardX.SummaryWriter(str(folder / "tensorboard"), flush_secs=FLUSH_SECONDS)

    def on_step_end(self, state: RunState, batch: Batch | None) -> None:
        """Write a point if one is due, and the graph after it was compiled."""
        if self._graph is not None:
            graph = adapter.package_graph_event(_cell_graph_executor.get_optimize_graph_proto(self._graph))
            self._mindinsight.write(PluginEnum.GRAPH.value, graph.SerializeToString())
            self._graph = None
        if state.step % self._every == 0 and state.meter.last_values is not None:
            values = zip(state.step_metrics, state.meter.last_values.asnumpy().tolist())
            scalars = {metric.name: value for metric, value in values} | {"learning_rate": state.learning_rate}
            self._write(state.iteration, scalars, batch.image[:1] if self._images and batch is not None else None)

    def on_epoch_end(self, state: RunState) -> None:
        """Write the metrics of the epoch's evaluation."""
        of_steps = [metric.name for metric in state.step_metrics]
        scalars = {}
        for column, value in state.metrics.items():
            name = column.removeprefix(METRIC_PREFIX)
            curve = f"validation_{name}" if name in of_steps else name
            scalars[column.removesuffix(name) + curve] = value
        self._write(state.iteration, scalars)

    def on_train_end(self, state: RunState) -> None:
        """Finish the files; as SummaryRecord does, make that of MindInsight read-only."""
        self._mindinsight.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _write(self, step: int, scalars: Mapping[str, float], image: np.ndarray | None = None) -> None:
        """Write a point of each curve, and a normalized image [1, 3, H, W] as `input`."""
        values: list[dict[str, Any]] = [
            {"_type": "Scalar", "name": name, "data": np.array(value, np.float32)} for name, value in scalars.items()
        ]
        if image is not None:  # stretched to 0..255, the range that MindInsight shows
            low, high = image.min(), image.max()
            pixels = (image - low) * (255.0 / max(float(high - low), 1e-6))
            values.append({"_type": "Image", "name": "input", "data": pixels.astype(np.float32)})
        event = adapter.package_summary_event(values, step, time.time())
        self._mindinsight.write(WriterPluginEnum.SUMMARY.value, event.SerializeToString())
        self._mindinsight.flush()
        if self._tensorboard is not None:
            for name, value in scalars.items():
                self._tensorboard.add_scalar(name, value, step)
