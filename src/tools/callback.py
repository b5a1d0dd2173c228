"""What a run tells its user: lines of progress, a live bar, metrics.csv and MindInsight summaries."""

from __future__ import annotations

import csv
import io
import logging
import math
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import numpy as np
from mindspore import nn
from tqdm import tqdm

from src.data.imagenet import TrainBatch
from src.tools.summary_file import SummaryFile
from src.trainer.loop import Callback, RunState
from src.weights.atomic_file import write_atomically

logger = logging.getLogger("beit")


class ProgressLines(Callback):
    """A line every `every` steps: epoch, step, loss (mean since the last line), learning rate, images/s, time left."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_epoch_begin(self, state: RunState) -> None:
        """Start the clock; evaluation between epochs does not count."""
        self._take_note(state)

    def on_step_end(self, state: RunState, batch: TrainBatch | None) -> None:
        """Print a line where one is due; the last step of an epoch always has one."""
        if state.step % self.every and state.step != state.steps_per_epoch:
            return
        meter = state.meter
        meter.drain()
        steps, finite = meter.steps - self._steps, meter.finite - self._finite
        loss = (meter.loss_sum - self._loss_sum) / finite if finite else math.nan
        skipped = meter.skipped - self._skipped
        seconds_per_step = (time.perf_counter() - self._since) / steps
        left = (state.epochs * state.steps_per_epoch - state.iteration) * seconds_per_step
        logger.info(
            "epoch %d/%d step %d/%d loss %.4f lr %.3e %.1f images/s left %s%s",
            state.epoch + 1,
            state.epochs,
            state.step,
            state.steps_per_epoch,
            loss,
            state.learning_rate,
            state.images_per_step / seconds_per_step,
            timedelta(seconds=round(left)),
            f" ({skipped} of {steps} steps skipped: overflow)" if skipped else "",
        )
        self._take_note(state)

    def _take_note(self, state: RunState) -> None:
        """Where the meter stands: the next line is about what follows."""
        meter = state.meter
        self._since = time.perf_counter()
        self._steps, self._finite, self._skipped = meter.steps, meter.finite, meter.skipped
        self._loss_sum = meter.loss_sum


class ProgressBar(Callback):
    """A bar over the steps of each epoch, on a terminal; nothing where standard error is not one."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def on_epoch_begin(self, state: RunState) -> None:
        """Draw the bar of this epoch."""
        self._bar = tqdm(
            total=state.steps_per_epoch,
            initial=state.step,
            desc=f"epoch {state.epoch + 1}/{state.epochs}",
            unit="step",
            leave=False,
            disable=not sys.stderr.isatty(),
        )

    def on_step_end(self, state: RunState, batch: TrainBatch | None) -> None:
        """Move the bar on, and take it away with the epoch's last step."""
        if self._bar is not None:
            self._bar.update()
            if state.step == state.steps_per_epoch:
                self._bar.close()

    def on_train_end(self, state: RunState) -> None:
        """Take the bar away where the run was stopped in the middle of an epoch."""
        if self._bar is not None:
            self._bar.close()


class EvaluationLines(Callback):
    """A line with the evaluation after each epoch."""

    def on_epoch_end(self, state: RunState) -> None:
        """Print the results of the weights and, where there is one, of their moving average."""
        for name, result in (("", state.result), ("EMA ", state.ema_result)):
            if result is not None:
                logger.info(
                    "epoch %d/%d %sevaluation: loss %.4f top-1 %.2f top-5 %.2f (%d images)",
                    state.epoch + 1,
                    state.epochs,
                    name,
                    result.loss,
                    result.top1,
                    result.top5,
                    result.images,
                )


class MetricsCsv(Callback):
    """The run's history in `path`, a row per epoch. A resumed run has that of the epochs before in its checkpoint."""

    # column: how its number is written
    FIELDS: ClassVar[dict[str, str]] = {
        "epoch": "d",
        "train_loss": ".6f",
        "learning_rate": ".6e",
        "skipped_steps": "d",
        "loss": ".6f",
        "top1": ".4f",
        "top5": ".4f",
        "ema_loss": ".6f",
        "ema_top1": ".4f",
        "ema_top5": ".4f",
        "images_per_second": ".1f",
        "seconds": ".1f",
    }

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, state: RunState) -> None:
        """Write the head, and the rows of earlier epochs where the run continues."""
        if not state.history and state.epoch and self.path.exists():
            state.history = self._rows(state.epoch)
        self._write(state)

    def on_epoch_end(self, state: RunState) -> None:
        """Write the file anew with the epoch's row; the columns of the moving average stay empty without one."""
        self._write(state)

    def _rows(self, epochs: int) -> list[dict[str, float]]:
        """The rows of the first `epochs` epochs, for a run that was told its `start_epoch` and knows no more."""
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]
        whole = [name for name, form in self.FIELDS.items() if form == "d"]
        return [row | {name: int(row[name]) for name in whole} for row in rows if row["epoch"] <= epochs]

    def _write(self, state: RunState) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.FIELDS)
        writer.writeheader()
        for record in state.history:
            writer.writerow({name: format(record[name], form) for name, form in self.FIELDS.items() if name in record})
        write_atomically(self.path, lambda file: file.write(text.getvalue().encode()))


class Summaries(Callback):
    """MindInsight summaries in `folder`: loss and learning rate every `every` steps, accuracy every epoch.

    Args:
        network: what `graph` draws: the cell that is called for a step.
        images: whether to add the first image of a batch with every point, as the network sees it.
        graph: whether to add the compiled graph, once.
    """

    def __init__(self, folder: Path, every: int, network: nn.Cell, *, images: bool, graph: bool) -> None:
        self._every, self._images = every, images
        self._network = network if graph else None
        self._file = SummaryFile(folder)

    def on_step_end(self, state: RunState, batch: TrainBatch | None) -> None:
        """Add a point where one is due, and the graph once it is compiled."""
        if self._network is not None:
            self._file.write_graph(self._network)
            self._network = None
        if state.step % self._every or state.meter.last_loss is None:
            return
        self._file.add_scalar("loss", float(state.meter.last_loss.asnumpy()))
        self._file.add_scalar("learning_rate", state.learning_rate)
        if self._images and batch is not None:
            self._file.add_image("input", _as_picture(batch.image[:1]))
        self._file.write(state.iteration)

    def on_epoch_end(self, state: RunState) -> None:
        """Add the results of the epoch's evaluation."""
        for prefix, result in (("", state.result), ("ema_", state.ema_result)):
            if result is not None:
                self._file.add_scalar(f"{prefix}top1", result.top1)
                self._file.add_scalar(f"{prefix}top5", result.top5)
                self._file.add_scalar(f"{prefix}validation_loss", result.loss)
        self._file.write(state.iteration)

    def on_train_end(self, state: RunState) -> None:
        """Finish the file."""
        self._file.close()


def _as_picture(image: np.ndarray) -> np.ndarray:
    """A normalised batch [B, 3, S, S] stretched to 0..255, which is what MindInsight shows."""
    low, high = image.min(), image.max()
    return (image - low) * (255.0 / max(float(high - low), 1e-6))
