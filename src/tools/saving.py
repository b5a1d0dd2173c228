"""The checkpoints that a run writes: when, under which names, and which of them it keeps."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from src.files.atomic_file import link_atomically
from src.trainer.loop import Callback, RunState
from src.trainer.task import Batch, Metric
from src.weights.checkpoint import Checkpoint, save_checkpoint

logger = logging.getLogger("beit")

BEST_FILE = "best.ckpt"

Snapshot = Callable[[], Checkpoint]


def checkpoint_place(path: Path, arch: str) -> tuple[int, ...]:
    """Return the epochs begun and the steps done in the last of them, from the file's name; () for other files."""
    match = re.fullmatch(rf"{re.escape(arch)}-(\d+)_(\d+)\.ckpt", path.name)
    return (int(match[1]), int(match[2])) if match else ()


def current_checkpoints(folder: Path, arch: str) -> list[Path]:
    """Return the current checkpoints in `folder` in the order of their run."""
    places = {path: checkpoint_place(path, arch) for path in folder.glob("*.ckpt")}
    return sorted(filter(places.get, places), key=places.__getitem__)


class CurrentCheckpoints(Callback):
    """The whole state of the run, written after each epoch and, if asked for, every few steps or seconds.

    Args:
        folder: place of the files ARCH-EPOCH_STEP.ckpt: epochs begun, and steps done in the last of them.
        keep: number of files to keep; the oldest is deleted after one more is written.
        every_steps, every_seconds: 0 writes none between epochs.
        snapshot: returns the state to write.
    """

    def __init__(
        self, folder: Path, arch: str, keep: int, every_steps: int, every_seconds: int, snapshot: Snapshot
    ) -> None:
        self._folder, self._arch, self._keep = folder, arch, keep
        self._every_steps, self._every_seconds = every_steps, every_seconds
        self._snapshot = snapshot
        self._written: list[Path] = []
        self._last = time.monotonic()

    def on_train_begin(self, state: RunState) -> None:
        """Start the clock, and list the files of an earlier part of this run, so that they are rotated too.

        Files beyond the place of a resumed run are damaged, else it would have resumed there: they are deleted first.
        """
        here = (state.epoch + 1, state.step)
        left = current_checkpoints(self._folder, self._arch)
        self._written = sorted(left, key=lambda path: checkpoint_place(path, self._arch) <= here)
        self._last = time.monotonic()

    def on_step_end(self, state: RunState, batch: Batch | None) -> None:
        """Write between epochs if the number of steps or seconds is reached."""
        if state.step == state.steps_per_epoch:
            return  # the end of the epoch writes one, after its evaluation
        by_steps = self._every_steps and state.iteration % self._every_steps == 0
        by_time = self._every_seconds and time.monotonic() - self._last >= self._every_seconds
        if by_steps or by_time:
            self._write(state)

    def on_epoch_end(self, state: RunState) -> None:
        self._write(state)

    def on_train_end(self, state: RunState) -> None:
        """Write if the run was stopped in the middle of an epoch, and print its place."""
        if not state.stopping:
            return
        if state.step:
            self._write(state)
        epoch, step = (state.epoch + 1, state.step) if state.step else (state.epoch, state.steps_per_epoch)
        logger.info("stopped at epoch %d step %d; saved %s", epoch, step, self._written[-1])

    def _write(self, state: RunState) -> None:
        path = self._folder / f"{self._arch}-{state.epoch + 1}_{state.step}.ckpt"
        save_checkpoint(path, self._snapshot())
        if path in self._written:
            self._written.remove(path)
        self._written.append(path)
        while len(self._written) > self._keep:
            self._written.pop(0).unlink(missing_ok=True)
        self._last = time.monotonic()


@dataclass(frozen=True, order=True)
class BestFile:
    """A file of best weights. The smallest is the best: highest value, then first epoch, then raw before averaged."""

    negated: float  # the value times -1, for the order
    epoch: int
    averaged: bool
    path: Path = field(compare=False)


class BestCheckpoints(Callback):
    """The `keep` best weights by a metric, raw and averaged weights apart, and the best of them all as best.ckpt.

    Args:
        folder: place of the files ARCH-[ema-]best-EPOCH_METRIC_VALUE.ckpt.
        metric: higher is better.
        snapshots: return the weights to write, by the prefix of their metric: "" and, with EMA, "ema_".
    """

    def __init__(self, folder: Path, arch: str, keep: int, metric: Metric, snapshots: Mapping[str, Snapshot]) -> None:
        self._folder, self._arch, self._keep, self._metric = folder, arch, keep, metric
        self._snapshots = snapshots
        self._files: list[BestFile] = []

    def on_train_begin(self, state: RunState) -> None:
        """List the files of an earlier part of this run, and write those that a kill prevented."""
        name = rf"{re.escape(self._arch)}-(ema-)?best-(\d+)_{self._metric.name}_(-?[\d.]+)\.ckpt"
        for path in self._folder.glob("*.ckpt"):
            if match := re.fullmatch(name, path.name):
                self._files.append(BestFile(-float(match[3]), int(match[2]), bool(match[1]), path))
        if state.step == 0:
            self._consider(state, {(file.epoch, file.averaged) for file in self._files})
        self._update()

    def on_epoch_end(self, state: RunState) -> None:
        """Write the weights if they are among the best, and delete the file that no longer is."""
        self._consider(state, set())
        self._update()

    def on_train_end(self, state: RunState) -> None:
        if self._files:
            best = min(self._files)
            text = f"{'EMA ' if best.averaged else ''}{self._metric.text(-best.negated)}, epoch {best.epoch}"
            logger.info("best weights: %s (%s)", self._folder / BEST_FILE, text)

    def _consider(self, state: RunState, written: set[tuple[int, bool]]) -> None:
        """Write the weights of the last epoch if they are among the best and not yet `written`."""
        for prefix, snapshot in self._snapshots.items():
            record = state.history[-1] if state.history else {}
            value, epoch, averaged = record.get(prefix + self._metric.name), int(record.get("epoch", 0)), bool(prefix)
            if value is None or (epoch, averaged) in written:
                continue
            kind = "ema-best" if averaged else "best"
            path = self._folder / f"{self._arch}-{kind}-{epoch}_{self._metric.name}_{value:.4f}.ckpt"
            new = BestFile(-round(value, 4), epoch, averaged, path)
            # an epoch that is trained again, on another device for example, replaces its earlier file
            old = [file for file in self._files if (file.epoch, file.averaged) == (epoch, averaged)]
            self._files = [file for file in self._files if file not in old]
            rivals = [file for file in self._files if file.averaged == averaged]
            is_best = new in sorted([new, *rivals])[: self._keep]
            if is_best:
                save_checkpoint(path, snapshot())
                self._files.append(new)
            for file in old:
                if not is_best or file.path != path:
                    file.path.unlink(missing_ok=True)

    def _update(self) -> None:
        """Point best.ckpt to the best file, then delete the files beyond `keep`."""
        if self._files:
            link_atomically(min(self._files).path, self._folder / BEST_FILE)
        for averaged in (False, True):
            for file in sorted(file for file in self._files if file.averaged == averaged)[self._keep :]:
                file.path.unlink(missing_ok=True)
                self._files.remove(file)


class LastCheckpoint(Callback):
    """The weights of the last epoch as best.ckpt, for a task that no metric ranks."""

    def __init__(self, folder: Path, snapshot: Snapshot) -> None:
        self._path, self._snapshot = folder / BEST_FILE, snapshot

    def on_train_begin(self, state: RunState) -> None:
        """Write the weights of a run that resumes after an epoch; a kill may have prevented that."""
        if state.history and state.step == 0:
            save_checkpoint(self._path, self._snapshot())

    def on_epoch_end(self, state: RunState) -> None:
        save_checkpoint(self._path, self._snapshot())

    def on_train_end(self, state: RunState) -> None:
        if state.history:
            logger.info("best weights: %s (the last, epoch %d)", self._path, int(state.history[-1]["epoch"]))
