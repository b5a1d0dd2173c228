"""What a run prints and records after steps and epochs: progress lines, a live bar, metrics.csv and curves.png."""

import contextlib
import csv
import io
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
from tqdm import tqdm

from src.data.decode import UnreadableImages
from src.files.atomic_file import write_atomically
from src.files.png_file import save_png
from src.pictures.charts import line_charts
from src.trainer.ema import METRIC_PREFIX
from src.trainer.loop import Callback, RunState
from src.trainer.task import Batch, Charts, Metric

logger = logging.getLogger("beit")


class Unessential(Callback):
    """A callback without which a run goes on: the first failure of `callback`, which writes `what`, is one warning."""

    def __init__(self, callback: Callback, what: str) -> None:
        self._callback, self._what = callback, what
        self._warned = False

    def on_train_begin(self, state: RunState) -> None:
        self._try(self._callback.on_train_begin, state)

    def on_epoch_begin(self, state: RunState) -> None:
        self._try(self._callback.on_epoch_begin, state)

    def on_step_end(self, state: RunState, batch: Batch | None) -> None:
        self._try(self._callback.on_step_end, state, batch)

    def on_epoch_end(self, state: RunState) -> None:
        self._try(self._callback.on_epoch_end, state)

    def on_train_end(self, state: RunState) -> None:
        self._try(self._callback.on_train_end, state)

    def on_exception(self, state: RunState) -> None:
        self._try(self._callback.on_exception, state)

    def _try(self, hook: Callable[..., None], *arguments: object) -> None:
        try:
            hook(*arguments)
        except Exception as error:
            if not self._warned:
                self._warned = True
                logger.warning("%s cannot be written (%s): the run goes on without", self._what, error)


class RemovedFolders(Callback):
    """Makes the `folders` of the run again if they were removed. The first callback, before those that write."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders

    def on_step_end(self, state: RunState, batch: Batch | None) -> None:
        self._make()

    def on_epoch_end(self, state: RunState) -> None:
        self._make()

    def on_exception(self, state: RunState) -> None:
        self._make()

    def _make(self) -> None:
        for folder in self._folders:
            with contextlib.suppress(OSError):  # reported by the callback that writes there
                folder.mkdir(parents=True, exist_ok=True)


class PrintedLines(Callback):
    """A line every `every` steps, and lines with the `metrics` over `images` images after each epoch.

    A line has loss and step metrics since the previous line, learning rate, images/s and time left.
    """

    def __init__(self, every: int, metrics: Sequence[Metric] = (), images: int = 0) -> None:
        self._every, self._metrics, self._images = every, metrics, images

    def on_epoch_begin(self, state: RunState) -> None:
        self._mark(state)

    def on_step_end(self, state: RunState, batch: Batch | None) -> None:
        """Print a line if one is due, and after the last step of an epoch."""
        if state.step % self._every and state.step != state.steps_per_epoch:
            return
        meter, before = state.meter, self._before
        meter.drain()
        steps, skipped = meter.steps - before.steps, meter.skipped - before.skipped
        finite = meter.finite - before.finite
        means = (meter.sums - before.sums) / finite if finite else np.full(len(state.step_metrics), np.nan)
        text = progress(state, means, (time.perf_counter() - self._since) / steps)
        overflows = f" ({skipped} of {steps} steps skipped: overflow)" if skipped else ""
        logger.info(f"{state.epoch_text} step {state.step}/{state.steps_per_epoch} {text}{overflows}")
        self._mark(state)

    def on_epoch_end(self, state: RunState) -> None:
        """Print the results of the evaluation, and those of the averaged weights."""
        for prefix, kind in (("", ""), (METRIC_PREFIX, "EMA ")):
            values = [state.metrics[prefix + m.name] for m in self._metrics if prefix + m.name in state.metrics]
            if values:
                text = _texts(self._metrics, values)
                images = f" ({self._images} images)" if self._images else ""
                logger.info(f"{state.epoch_text} {kind}evaluation: {text}{images}")

    def _mark(self, state: RunState) -> None:
        self._since, self._before = time.perf_counter(), replace(state.meter)


class ProgressBar(Callback):
    """A bar over the steps of each epoch, with `status` behind it; only if standard error is a terminal.

    `result` is the metric of the last evaluation to show.
    """

    def __init__(self, result: Metric | None = None) -> None:
        self._result = result
        self._bar = tqdm(disable=True)

    def on_epoch_begin(self, state: RunState) -> None:
        self._since, self._step = time.perf_counter(), state.step
        self._bar = tqdm(
            total=state.steps_per_epoch,
            initial=state.step,
            desc=state.epoch_text,
            bar_format="{desc} |{bar}| {n_fmt}/{total_fmt}{postfix}",
            leave=False,
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )

    def on_step_end(self, state: RunState, batch: Batch | None) -> None:
        """Advance the bar, and remove it after the last step of the epoch."""
        seconds_per_step = (time.perf_counter() - self._since) / (state.step - self._step)
        self._bar.set_postfix_str(self.status(state, seconds_per_step), refresh=False)
        self._bar.update()
        if state.step == state.steps_per_epoch:
            self._bar.close()

    def on_train_end(self, state: RunState) -> None:
        """Remove the bar of an epoch that was stopped in the middle."""
        self._bar.close()

    def status(self, state: RunState, seconds_per_step: float) -> str:
        """Return the progress, with means over the epoch's steps read so far, and the last result."""
        text = progress(state, state.meter.means, seconds_per_step)
        if self._result is None or not state.history:
            return text
        return f"{text} {self._result.text(state.history[-1][self._result.name])}"


def progress(state: RunState, means: np.ndarray, seconds_per_step: float) -> str:
    """Return means, learning rate, speed and time left as text."""
    speed = state.images_per_step / seconds_per_step
    left = timedelta(seconds=round(state.steps_left * seconds_per_step))
    return f"{_texts(state.step_metrics, means)} lr {state.learning_rate:.3e} {speed:.1f} images/s left {left}"


class UnreadableLines(Callback):
    """A line after an epoch with unreadable images. Add it on every rank, as the last callback.

    `total` sums a number over all ranks, which call it together.
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

    def __init__(self, path: Path, metrics: Sequence[Metric]) -> None:
        self._path, self._metrics = path, metrics

    def on_train_begin(self, state: RunState) -> None:
        """Write the header and the rows of earlier epochs."""
        self._columns = {  # name: number format
            "epoch": "d",
            **{f"train_{metric.name}": metric.csv_format for metric in state.step_metrics},
            "learning_rate": ".6e",
            "skipped_steps": "d",
            **{prefix + metric.name: metric.csv_format for prefix in ("", METRIC_PREFIX) for metric in self._metrics},
            "images_per_second": ".1f",
            "seconds": ".1f",
        }
        if not state.history and state.epoch and self._path.exists():
            state.history = self._rows(state.epoch)
        self.on_epoch_end(state)

    def on_epoch_end(self, state: RunState) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        for record in state.history:
            writer.writerow({name: format(record[name], f) for name, f in self._columns.items() if name in record})
        write_atomically(self._path, lambda file: file.write(text.getvalue().encode()))

    def _rows(self, epochs: int) -> list[dict[str, float]]:
        """Read the rows of the first `epochs` epochs, for a run with a `start_epoch` and no checkpoint state."""
        kinds = {name: int if form == "d" else float for name, form in self._columns.items()}
        with self._path.open(newline="", encoding="utf-8") as file:
            rows = [{n: kinds.get(n, float)(text) for n, text in row.items() if text} for row in csv.DictReader(file)]
        return [row for row in rows if row["epoch"] <= epochs]


class CurvesPicture(Callback):
    """The `charts` over all epochs of the run in the PNG file `path`, up to date at the end of the run.

    Drawing takes half a second. In a run with epochs of a few seconds it is repeated less often: it takes at most one
    part in `PAUSE` of the time.
    """

    PAUSE = 20

    def __init__(self, path: Path, charts: Charts) -> None:
        self._path, self._charts = path, charts
        self._earliest = 0.0

    def on_train_begin(self, state: RunState) -> None:
        """Draw the epochs of a resumed run, which may have been killed before it drew them."""
        self._draw(state)

    def on_epoch_end(self, state: RunState) -> None:
        if time.monotonic() >= self._earliest:
            self._draw(state)

    def on_train_end(self, state: RunState) -> None:
        self._draw(state)

    def on_exception(self, state: RunState) -> None:
        self._draw(state)

    def _draw(self, state: RunState) -> None:
        begin = time.monotonic()
        if charts := charts_of(state.history, self._charts):
            save_png(line_charts(charts, "epoch", first=1, last=state.epochs), self._path)
            self._earliest = begin + self.PAUSE * (time.monotonic() - begin)


def charts_of(
    history: Sequence[Mapping[str, float]], charts: Charts
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return the points of each line by chart and name; columns that no record has are left out."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for title, columns in charts.items():
        for name, column in columns.items():
            if points := [(record["epoch"], record[column]) for record in history if column in record]:
                found.setdefault(title, {})[name] = points
    return found


def _texts(metrics: Sequence[Metric], values: Sequence[float] | np.ndarray) -> str:
    return " ".join(metric.text(value) for metric, value in zip(metrics, values))
