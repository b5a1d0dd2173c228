"""What a run prints and records: progress lines, a live bar, metrics.csv, MindInsight and TensorBoard files."""

from __future__ import annotations

import csv
import io
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
from mindspore import nn
from tqdm import tqdm

from src.data.unreadable import UnreadableImages
from src.files.atomic_file import write_atomically
from src.tools.summary_file import SummaryFile
from src.tools.tensorboard_file import TensorBoardFile
from src.trainer.loop import Callback, RunState
from src.trainer.task import Batch, Metric

logger = logging.getLogger("beit")

LOSS = Metric("loss", "loss", ".6f", ".4f")  # the first value of every objective
EMA = "ema_"  # begins the names of the averaged weights' metrics


class ProgressLines(Callback):
    """A line every `every` steps: loss and step metrics since the last line, learning rate, images/s, time left."""

    def __init__(self, every: int, step_metrics: Sequence[Metric] = ()) -> None:
        self._every, self._metrics = every, (LOSS, *step_metrics)

    def on_epoch_begin(self, state: RunState) -> None:
        self._mark(state)

    def on_step_end(self, state: RunState, batch: Batch | None) -> None:
        """Print a line if one is due, and after the last step of an epoch."""
        if state.step % self._every and state.step != state.steps_per_epoch:
            return
        meter = state.meter
        meter.drain()
        steps, finite, skipped = meter.steps - self._steps, meter.finite - self._finite, meter.skipped - self._skipped
        means = (meter.sums - self._sums) / finite if finite else np.full(len(self._metrics), np.nan)
        text = progress(state, self._metrics, means, (time.perf_counter() - self._since) / steps)
        overflows = f" ({skipped} of {steps} steps skipped: overflow)" if skipped else ""
        logger.info(f"{state.epoch_text} step {state.step}/{state.steps_per_epoch} {text}{overflows}")
        self._mark(state)

    def _mark(self, state: RunState) -> None:
        meter = state.meter
        self._since = time.perf_counter()
        self._steps, self._finite, self._skipped, self._sums = meter.steps, meter.finite, meter.skipped, meter.sums


class ProgressBar(Callback):
    """A bar over the steps of each epoch, with `status` behind it; only if standard error is a terminal.

    `result` is the metric of the last evaluation to show.
    """

    FORMAT = "{desc} |{bar}| {n_fmt}/{total_fmt}{postfix}"

    def __init__(self, step_metrics: Sequence[Metric] = (), result: Metric | None = None) -> None:
        self._metrics, self._result = (LOSS, *step_metrics), result
        self._bar: tqdm | None = None

    def on_epoch_begin(self, state: RunState) -> None:
        self._since, self._step = time.perf_counter(), state.step
        self._bar = tqdm(
            total=state.steps_per_epoch,
            initial=state.step,
            desc=state.epoch_text,
            bar_format=self.FORMAT,
            leave=False,
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )

    def on_step_end(self, state: RunState, batch: Batch | None) -> None:
        """Advance the bar, and remove it after the last step of the epoch."""
        if self._bar is not None:
            seconds_per_step = (time.perf_counter() - self._since) / (state.step - self._step)
            self._bar.set_postfix_str(self.status(state, seconds_per_step), refresh=False)
            self._bar.update()
            if state.step == state.steps_per_epoch:
                self._bar.close()

    def on_train_end(self, state: RunState) -> None:
        """Remove the bar of an epoch that was stopped in the middle."""
        if self._bar is not None:
            self._bar.close()

    def status(self, state: RunState, seconds_per_step: float) -> str:
        """Return the progress, with means over the epoch's steps read so far, and the last result."""
        text = progress(state, self._metrics, state.meter.means, seconds_per_step)
        if self._result is None or not state.history:
            return text
        return f"{text} {self._result.text(state.history[-1][self._result.name])}"


def progress(state: RunState, metrics: Sequence[Metric], means: np.ndarray, seconds_per_step: float) -> str:
    """Return means, learning rate, speed and time left as text."""
    speed, left = (
        state.images_per_step / seconds_per_step,
        timedelta(seconds=round(state.steps_left * seconds_per_step)),
    )
    return f"{_texts(metrics, means)} lr {state.learning_rate:.3e} {speed:.1f} images/s left {left}"


class EvaluationLines(Callback):
    """A line with `metrics` over `images` images after each epoch, and one for the averaged weights."""

    def __init__(self, metrics: Sequence[Metric], images: int) -> None:
        self._metrics, self._images = metrics, images

    def on_epoch_end(self, state: RunState) -> None:
        for prefix, kind in (("", ""), (EMA, "EMA ")):
            values = [state.metrics[prefix + m.name] for m in self._metrics if prefix + m.name in state.metrics]
            if values:
                text = _texts(self._metrics, values)
                logger.info(f"{state.epoch_text} {kind}evaluation: {text} ({self._images} images)")


class UnreadableLines(Callback):
    """A line after an epoch with unreadable images. Add it on every rank, as the last callback.

    Args:
        unreadable: the images that this rank's loader could not read.
        total: sums a number over all ranks, which call it together.
    """

    def __init__(self, unreadable: UnreadableImages, total: Callable[[int], int]) -> None:
        self._unreadable, self._total = unreadable, total

    def on_epoch_end(self, state: RunState) -> None:
        """Print the number over all ranks; raises `UserError` if it is too large."""
        count = self._total(self._unreadable.count(state.epoch))
        if count:
            images = f"{count} of {self._unreadable.images} training images"
            logger.warning(f"{state.epoch_text}: {images} could not be read and were replaced by others")
        self._unreadable.check(count, "all ranks together; their log files name them")


class MetricsCsv(Callback):
    """The history of the run in `path`, one row per epoch. Without EMA, the columns of averaged weights stay empty."""

    def __init__(self, path: Path, step_metrics: Sequence[Metric], metrics: Sequence[Metric]) -> None:
        self._path = path
        self._columns = {  # name: number format
            "epoch": "d",
            "train_loss": LOSS.csv_format,
            **{f"train_{metric.name}": metric.csv_format for metric in step_metrics},
            "learning_rate": ".6e",
            "skipped_steps": "d",
            **{prefix + metric.name: metric.csv_format for prefix in ("", EMA) for metric in metrics},
            "images_per_second": ".1f",
            "seconds": ".1f",
        }

    def on_train_begin(self, state: RunState) -> None:
        """Write the header and the rows of earlier epochs."""
        if not state.history and state.epoch and self._path.exists():
            state.history = self._rows(state.epoch)
        self._write(state)

    def on_epoch_end(self, state: RunState) -> None:
        self._write(state)

    def _rows(self, epochs: int) -> list[dict[str, float]]:
        """Read the rows of the first `epochs` epochs, for a run with a `start_epoch` and no checkpoint state."""
        with self._path.open(newline="", encoding="utf-8") as file:
            rows = [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]
        integers = [name for name, form in self._columns.items() if form == "d"]
        return [row | {name: int(row[name]) for name in integers} for row in rows if row["epoch"] <= epochs]

    def _write(self, state: RunState) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        for record in state.history:
            writer.writerow({name: format(record[name], f) for name, f in self._columns.items() if name in record})
        write_atomically(self._path, lambda file: file.write(text.getvalue().encode()))


class Scalars(Callback):
    """Curves in `file`: the objective's values and the learning rate every `every` steps, and metrics every epoch.

    A metric of the evaluation that has the name of a curve of the steps is called `validation_NAME`.
    """

    def __init__(self, file: SummaryFile | TensorBoardFile, every: int, step_metrics: Sequence[Metric] = ()) -> None:
        self._file, self._every = file, every
        self._names = [metric.name for metric in (LOSS, *step_metrics)]

    def on_step_end(self, state: RunState, batch: Batch | None) -> None:
        """Write a point if one is due."""
        if state.step % self._every == 0 and state.meter.last_values is not None:
            values = dict(zip(self._names, state.meter.last_values.asnumpy().tolist()))
            self._write_step(state.iteration, values | {"learning_rate": state.learning_rate}, batch)

    def on_epoch_end(self, state: RunState) -> None:
        """Write the metrics of the epoch's evaluation."""
        points = {}
        for key, value in state.metrics.items():
            prefix, name = (EMA, key.removeprefix(EMA)) if key.startswith(EMA) else ("", key)
            points[prefix + (f"validation_{name}" if name in self._names else name)] = value
        self._file.write(state.iteration, points)

    def on_train_end(self, state: RunState) -> None:
        self._file.close()

    def _write_step(self, step: int, values: Mapping[str, float], batch: Batch | None) -> None:
        self._file.write(step, values)


class Summaries(Scalars):
    """MindInsight summaries in `folder`: the curves of `Scalars`, images and the graph.

    Args:
        images: whether to add the first image of a batch with every point, as the network sees it.
        graph: the cell whose compiled graph is added once; None for no graph.
    """

    def __init__(
        self, folder: Path, every: int, step_metrics: Sequence[Metric] = (), *, images: bool, graph: nn.Cell | None
    ) -> None:
        self._summaries = SummaryFile(folder)
        super().__init__(self._summaries, every, step_metrics)
        self._images, self._graph = images, graph

    def on_step_end(self, state: RunState, batch: Batch | None) -> None:
        """Write a point if one is due, and the graph after it was compiled."""
        if self._graph is not None:
            self._summaries.write_graph(self._graph)
            self._graph = None
        super().on_step_end(state, batch)

    def _write_step(self, step: int, values: Mapping[str, float], batch: Batch | None) -> None:
        image = _as_picture(batch.image[:1]) if self._images and batch is not None else None
        self._summaries.write(step, values, image)


def _as_picture(image: np.ndarray) -> np.ndarray:
    """Stretch a normalized batch [B, 3, S, S] to 0..255, the range that MindInsight shows."""
    low, high = image.min(), image.max()
    return (image - low) * (255.0 / max(float(high - low), 1e-6))


def _texts(metrics: Sequence[Metric], values: Sequence[float] | np.ndarray) -> str:
    return " ".join(metric.text(value) for metric, value in zip(metrics, values))
