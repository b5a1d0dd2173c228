"""What a run tells its user: lines of progress, a live bar, metrics.csv and MindInsight summaries."""

from __future__ import annotations

import csv
import logging
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
from mindspore import nn
from tqdm import tqdm

from src.data.imagenet import TrainBatch
from src.tools.summary_file import SummaryFile
from src.trainer.loop import Callback, RunState

logger = logging.getLogger("beit")


class ProgressLines(Callback):
    """A line every `every` steps: epoch, step, loss (mean since the last line), learning rate, images/s, time left."""

    def __init__(self, every: int) -> None:
        self.every = every
        self._since = 0.0
        self._steps = 0

    def on_epoch_begin(self, state: RunState) -> None:
        """Start the clock; evaluation between epochs does not count."""
        self._since, self._steps = time.perf_counter(), 0

    def on_step_end(self, state: RunState, batch: TrainBatch | None) -> None:
        """Print a line where one is due; the last step of an epoch always has one."""
        self._steps += 1
        if state.step % self.every and state.step != state.steps_per_epoch:
            return
        loss, skipped = state.meter.drain()
        now = time.perf_counter()
        seconds_per_step = (now - self._since) / self._steps
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
            f" ({skipped} of {self._steps} steps skipped: overflow)" if skipped else "",
        )
        self._since, self._steps = now, 0


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
    """A row per epoch in `path`. A run that continues adds its rows to those of the epochs before its first."""

    FIELDS = (
        "epoch",
        "train_loss",
        "learning_rate",
        "skipped_steps",
        "loss",
        "top1",
        "top5",
        "ema_loss",
        "ema_top1",
        "ema_top5",
        "images_per_second",
        "seconds",
    )

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, state: RunState) -> None:
        """Write the head, and the rows of earlier epochs where the run continues."""
        rows = []
        if state.iteration and self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= state.epoch]
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.FIELDS)
            writer.writeheader()
            writer.writerows(rows)

    def on_epoch_end(self, state: RunState) -> None:
        """Add the epoch's row; the columns of the moving average stay empty without one."""
        row: dict[str, object] = {
            "epoch": state.epoch + 1,
            "train_loss": f"{state.meter.loss_sum / max(state.meter.steps, 1):.6f}",
            "learning_rate": f"{state.learning_rate:.6e}",
            "skipped_steps": state.meter.skipped,
            "images_per_second": f"{state.meter.steps * state.images_per_step / state.epoch_seconds:.1f}",
            "seconds": f"{state.epoch_seconds:.1f}",
        }
        for prefix, result in (("", state.result), ("ema_", state.ema_result)):
            if result is not None:
                row |= {
                    f"{prefix}loss": f"{result.loss:.6f}",
                    f"{prefix}top1": f"{result.top1:.4f}",
                    f"{prefix}top5": f"{result.top5:.4f}",
                }
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.FIELDS).writerow(row)


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
