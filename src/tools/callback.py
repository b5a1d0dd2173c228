"""What a run tells its user: lines of progress, a live bar, metrics.csv and MindInsight summaries."""

from __future__ import annotations

import csv
import io
import logging
import math
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from mindspore import nn
from tqdm import tqdm

from src.data.imagenet import TrainBatch
from src.data.unreadable import UnreadableImages
from src.files.atomic_file import write_atomically
from src.tools.summary_file import SummaryFile
from src.trainer.loop import Callback, RunState

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
    """A bar over the steps of each epoch, on a terminal; nothing where standard error is not one.

    It also tells loss, learning rate, images/s, the time left to the run and the last evaluation's top-1: see `status`.
    """

    FORMAT = "{desc} |{bar}| {n_fmt}/{total_fmt}{postfix}"

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def on_epoch_begin(self, state: RunState) -> None:
        """Draw the bar of this epoch."""
        self._since, self._step = time.perf_counter(), state.step
        self._bar = tqdm(
            total=state.steps_per_epoch,
            initial=state.step,
            desc=f"epoch {state.epoch + 1}/{state.epochs}",
            bar_format=self.FORMAT,
            leave=False,
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )

    def on_step_end(self, state: RunState, batch: TrainBatch | None) -> None:
        """Move the bar on, and take it away with the epoch's last step."""
        if self._bar is not None:
            seconds_per_step = (time.perf_counter() - self._since) / (state.step - self._step)
            self._bar.set_postfix_str(status(state, seconds_per_step), refresh=False)
            self._bar.update()
            if state.step == state.steps_per_epoch:
                self._bar.close()

    def on_train_end(self, state: RunState) -> None:
        """Take the bar away where the run was stopped in the middle of an epoch."""
        if self._bar is not None:
            self._bar.close()


def status(state: RunState, seconds_per_step: float) -> str:
    """What stands behind the bar; the loss is the mean of the epoch's steps read so far, so that nothing waits."""
    left = (state.epochs * state.steps_per_epoch - state.iteration) * seconds_per_step
    words = [
        f"loss {state.meter.mean_loss:.4f}",
        f"lr {state.learning_rate:.2e}",
        f"{state.images_per_step / seconds_per_step:.1f} images/s",
        f"left {timedelta(seconds=round(left))}",
    ]
    if state.history:
        words.append(f"top-1 {state.history[-1]['top1']:.2f}")
    return " ".join(words)


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


class UnreadableLines(Callback):
    """A line after an epoch in which images could not be read; on every rank, and the last of its callbacks.

    Args:
        unreadable: what this rank's loader could not read.
        total: adds up a number over all ranks, which come here together.
    """

    def __init__(self, unreadable: UnreadableImages, total: Callable[[int], int]) -> None:
        self._unreadable, self._total = unreadable, total

    def on_epoch_end(self, state: RunState) -> None:
        """Say how many; raises `UserError` where those of all ranks together are too many."""
        count = self._total(self._unreadable.count(state.epoch))
        if count:
            logger.warning(
                "epoch %d/%d: %d of %d training images could not be read and were replaced by others",
                state.epoch + 1,
                state.epochs,
                count,
                self._unreadable.images,
            )
        self._unreadable.check(count, "all ranks together; their log files name them")


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


class ScalarFile(Protocol):
    """What curves are written into: points are added, and written as those of a step."""

    def add_scalar(self, name: str, value: float) -> None: ...

    def write(self, step: int) -> None: ...

    def close(self) -> None: ...


class Scalars(Callback):
    """Loss and learning rate every `every` steps, losses and accuracies every epoch, as curves in `file`."""

    def __init__(self, file: ScalarFile, every: int) -> None:
        self._scalars, self._every = file, every

    def on_step_end(self, state: RunState, batch: TrainBatch | None) -> None:
        """Add a point where one is due."""
        if state.step % self._every or state.meter.last_loss is None:
            return
        self._scalars.add_scalar("loss", float(state.meter.last_loss.asnumpy()))
        self._scalars.add_scalar("learning_rate", state.learning_rate)
        self._add_more(batch)
        self._scalars.write(state.iteration)

    def on_epoch_end(self, state: RunState) -> None:
        """Add the results of the epoch's evaluation."""
        for prefix, result in (("", state.result), ("ema_", state.ema_result)):
            if result is not None:
                self._scalars.add_scalar(f"{prefix}top1", result.top1)
                self._scalars.add_scalar(f"{prefix}top5", result.top5)
                self._scalars.add_scalar(f"{prefix}validation_loss", result.loss)
        self._scalars.write(state.iteration)

    def on_train_end(self, state: RunState) -> None:
        """Finish the file."""
        self._scalars.close()

    def _add_more(self, batch: TrainBatch | None) -> None:
        """What else belongs to the point of a step."""


class Summaries(Scalars):
    """MindInsight summaries in `folder`: the curves of `Scalars`, and what only MindInsight shows.

    Args:
        network: what `graph` draws: the cell that is called for a step.
        images: whether to add the first image of a batch with every point, as the network sees it.
        graph: whether to add the compiled graph, once.
    """

    def __init__(self, folder: Path, every: int, network: nn.Cell, *, images: bool, graph: bool) -> None:
        self._file = SummaryFile(folder)
        super().__init__(self._file, every)
        self._images = images
        self._network = network if graph else None

    def on_step_end(self, state: RunState, batch: TrainBatch | None) -> None:
        """Add a point where one is due, and the graph once it is compiled."""
        if self._network is not None:
            self._file.write_graph(self._network)
            self._network = None
        super().on_step_end(state, batch)

    def _add_more(self, batch: TrainBatch | None) -> None:
        if self._images and batch is not None:
            self._file.add_image("input", _as_picture(batch.image[:1]))


def _as_picture(image: np.ndarray) -> np.ndarray:
    """A normalized batch [B, 3, S, S] stretched to 0..255, which is what MindInsight shows."""
    low, high = image.min(), image.max()
    return (image - low) * (255.0 / max(float(high - low), 1e-6))
